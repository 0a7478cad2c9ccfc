//! A box's network interface on the member's side: a tap on the boxes' bridge. It exists as long as a descriptor of it
//! does: once QEMU holds it, until QEMU ends.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use gtvp_model::ids::Slot;
use gtvp_model::member::MemberConfig;

/// `linux/sockios.h`.
const SIOCBRADDIF: libc::Ioctl = 0x89a2;
/// The bridge, made by the supervisor in the boxes' network.
pub const BRIDGE: &str = "gtvp0";

/// Makes the tap, puts it on the bridge and switches it on.
pub fn open(slot: Slot) -> io::Result<OwnedFd> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let name = MemberConfig::box_tap(slot);
    let mut request = request(&name)?;
    // The flags fit: they are below 2^15.
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    control(&tun, libc::TUNSETIFF, &mut request)?;

    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let mut tap = self::request(&name)?;
    control(&socket, libc::SIOCGIFINDEX, &mut tap)?;
    let mut bridge = self::request(BRIDGE)?;
    // SAFETY: SIOCGIFINDEX has filled in ifru_ifindex, and any bytes are an int.
    bridge.ifr_ifru.ifru_ifindex = unsafe { tap.ifr_ifru.ifru_ifindex };
    control(&socket, SIOCBRADDIF, &mut bridge)?;

    let mut up = self::request(&name)?;
    up.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    control(&socket, libc::SIOCSIFFLAGS, &mut up)?;
    Ok(tun.into())
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain old data for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn control(fd: &impl AsRawFd, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: each of the requests used here reads and writes one ifreq, which `request` is, and keeps no pointer.
    match unsafe { libc::ioctl(fd.as_raw_fd(), what, std::ptr::from_mut(request)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_lives_on_the_bridge_as_long_as_its_descriptor() {
        crate::tests::in_own_network(|| {
            let slot = Slot::new(7).unwrap();
            let port = std::path::PathBuf::from("/proc/thread-self/net/dev");
            let there = || std::fs::read_to_string(&port).unwrap().contains("gtvp-t7:");
            let tap = open(slot).unwrap();
            assert!(there());
            drop(tap);
            assert!(!there());
        });
    }
}
