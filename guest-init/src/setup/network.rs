//! The box's interfaces, by the kernel's own calls (netdevice(7)): loopback, and the one with the given address. Nothing
//! is asked of a network and no program is needed.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use gtvp_model::guest::GuestNetwork;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::SetupFailed;

/// How long a driver may take to show its interface.
const INTERFACE_WAIT: Duration = Duration::from_secs(5);

/// Brings loopback up, and the interface if there is one.
pub fn up(network: Option<&GuestNetwork>) -> Result<(), SetupFailed> {
    let failed = |what: &str, e: io::Error| SetupFailed::new("network", what, e);
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| failed("there is no IPv4", e.into()))?;
    Interface::new("lo").and_then(|lo| lo.up(&socket)).map_err(|e| failed("loopback does not come up", e))?;
    let Some(network) = network else { return Ok(()) };
    let name = wait_for_one().ok_or_else(|| {
        failed("no interface", io::Error::new(io::ErrorKind::NotFound, "the kernel shows none"))
    })?;
    let mask = mask_of(network.prefix)
        .ok_or_else(|| failed("prefix", io::Error::new(io::ErrorKind::InvalidInput, "longer than 32")))?;
    let interface = Interface::new(&name).map_err(|e| failed(&name, e))?;
    interface
        .set_hardware_address(&socket, &network.mac)
        .map_err(|e| failed(&format!("{name}: hardware address {}", network.mac), e))?;
    let address = |what: &str, call, value| {
        interface.set_address(&socket, call, value).map_err(|e| failed(&format!("{name}: {what}"), e))
    };
    address("address", libc::SIOCSIFADDR, network.address)?;
    address("mask", libc::SIOCSIFNETMASK, mask)?;
    interface.up(&socket).map_err(|e| failed(&format!("{name} does not come up"), e))?;
    default_route(&socket, network.gateway)
        .map_err(|e| failed(&format!("no route by {}", network.gateway), e))
}

/// The interface of a device, as soon as the kernel shows it: a box has one. Its hardware address says nothing: in a machine that was
/// started from a template it is still the template's.
fn wait_for_one() -> Option<String> {
    let end = Instant::now() + INTERFACE_WAIT;
    loop {
        let ours = |dir: &fs::DirEntry| dir.path().join("device").exists();
        let found = fs::read_dir("/sys/class/net").ok()?.flatten().find(ours);
        if let Some(dir) = found {
            return dir.file_name().into_string().ok();
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn mask_of(prefix: u8) -> Option<Ipv4Addr> {
    let host_bits = 32u32.checked_sub(prefix.into())?;
    Some(Ipv4Addr::from(u32::MAX.checked_shl(host_bits).unwrap_or(0)))
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let ours = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes of plain numbers; Linux defines sockaddr_in to be passed as sockaddr.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(ours) }
}

struct Interface(libc::ifreq);

impl Interface {
    fn new(name: &str) -> io::Result<Self> {
        // SAFETY: a C structure of numbers and arrays, for which all zeros is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays NUL.
        if name.len() >= request.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        Ok(Self(request))
    }

    fn set_address(&self, socket: &OwnedFd, call: libc::Ioctl, address: Ipv4Addr) -> io::Result<()> {
        let mut request = self.0;
        request.ifr_ifru.ifru_addr = socket_address(address);
        // SAFETY: the call reads an ifreq with an address in it.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), call, &request) })
    }

    /// Gives an interface that is down its hardware address.
    fn set_hardware_address(&self, socket: &OwnedFd, mac: &str) -> io::Result<()> {
        let bytes = mac.split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect::<Option<Vec<_>>>();
        let mac: [u8; 6] = bytes.and_then(|b| b.try_into().ok()).ok_or(io::ErrorKind::InvalidInput)?;
        let mut request = self.0;
        let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_hwaddr = address;
        // SAFETY: the call reads an ifreq with a hardware address in it.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFHWADDR, &request) })
    }

    fn up(&self, socket: &OwnedFd) -> io::Result<()> {
        let mut request = self.0;
        // SAFETY: the first call fills the flags of an ifreq, the second reads them.
        unsafe {
            check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request))?;
            request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
            check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request))
        }
    }
}

fn default_route(socket: &OwnedFd, gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: a C structure of numbers and pointers, for which all zeros is a value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: the call reads an rtentry whose device pointer is null.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &route) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(mask_of(24), Some(Ipv4Addr::new(255, 255, 255, 0)));
        assert_eq!(mask_of(0), Some(Ipv4Addr::UNSPECIFIED));
        assert_eq!(mask_of(32), Some(Ipv4Addr::BROADCAST));
        assert_eq!(mask_of(33), None);
    }
}
