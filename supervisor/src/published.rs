//! Ports of the member that lead to boxes. gtvpd listens on each itself, so that no other program takes it and a port
//! in use is found before anything starts; packets are led away by the rules before they reach that listener.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::OwnedFd;

use gtvp_model::boxspec::{Protocol, Publish};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::Slot;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};

use crate::member::Member;
use crate::network::{Networks, Published};

/// Ports that one box may publish.
const MAX_PORTS: usize = 256;

/// One published port and the sockets that claim it.
#[derive(Debug)]
struct Claim {
    port: Publish,
    /// Held only.
    _sockets: Vec<OwnedFd>,
}

/// All published ports of the member.
#[derive(Debug, Default)]
pub struct Ports {
    claims: BTreeMap<u16, Vec<Claim>>,
}

impl Ports {
    /// Claims again what an earlier gtvpd had published.
    pub fn restore(member: &Member, networks: &Networks) -> Self {
        let mut ports = Self::default();
        let text = fs::read(member.run("published.json")).unwrap_or_default();
        let stored: BTreeMap<u16, Vec<Publish>> = serde_json::from_slice(&text).unwrap_or_default();
        for (slot, list) in stored {
            let claims = list.into_iter().map(|port| {
                let sockets = claim(port).unwrap_or_else(|e| {
                    say!("port {port} was taken by another program while gtvpd was away, and still leads to the box: {e}");
                    Vec::new()
                });
                Claim { port, _sockets: sockets }
            });
            ports.claims.insert(slot, claims.collect());
        }
        if let Err(e) = networks.publish(&ports.rules(member)) {
            say!("published ports do not lead to their boxes: {e}");
        }
        ports
    }

    /// Makes exactly these ports lead to the box of `slot`.
    pub fn set(
        &mut self,
        member: &Member,
        networks: &Networks,
        slot: Slot,
        wanted: &[Publish],
    ) -> Result<(), Fault> {
        if wanted.len() > MAX_PORTS {
            return Err(Fault::new(FaultKind::Invalid, format!("a box publishes at most {MAX_PORTS} ports")));
        }
        let mut old = self.claims.remove(&slot.get()).unwrap_or_default();
        let mut new: Vec<Claim> = Vec::new();
        let mut problem = None;
        for port in wanted {
            let same = |c: &Claim| (c.port.host, c.port.protocol) == (port.host, port.protocol);
            if new.iter().any(same) {
                problem =
                    Some(Fault::new(FaultKind::Invalid, format!("port {} is published twice", name(*port))));
                break;
            }
            if self.claims.values().flatten().any(same) {
                problem = Some(
                    Fault::new(FaultKind::InUse, format!("port {} is published by another box", name(*port)))
                        .hint("`gtvp box ls` shows which; publish another port"),
                );
                break;
            }
            if let Some(n) = old.iter().position(same) {
                let kept = old.swap_remove(n);
                new.push(Claim { port: *port, ..kept });
                continue;
            }
            match claim(*port) {
                Ok(sockets) => new.push(Claim { port: *port, _sockets: sockets }),
                Err(e) => {
                    problem = Some(refused(*port, &e));
                    break;
                }
            }
        }
        if let Some(fault) = problem {
            // As it was before: what the failed call took from the old list goes back.
            let before = self.stored(member).remove(&slot.get()).unwrap_or_default();
            old.extend(new);
            let kept = before.into_iter().filter_map(|port| {
                let n =
                    old.iter().position(|c| (c.port.host, c.port.protocol) == (port.host, port.protocol))?;
                Some(Claim { port, ..old.swap_remove(n) })
            });
            let kept: Vec<Claim> = kept.collect();
            self.put(slot, kept);
            return Err(fault);
        }
        self.put(slot, new);
        self.store(member);
        networks
            .publish(&self.rules(member))
            .map_err(|e| Fault::internal("published ports cannot be led to the box", &e))
    }

    fn put(&mut self, slot: Slot, claims: Vec<Claim>) {
        if claims.is_empty() {
            self.claims.remove(&slot.get());
        } else {
            self.claims.insert(slot.get(), claims);
        }
    }

    fn rules(&self, member: &Member) -> Published {
        let each = self.claims.iter().flat_map(|(slot, claims)| claims.iter().map(move |c| (*slot, c.port)));
        each.filter_map(|(slot, port)| {
            let address = member.config.box_address(Slot::new(slot)?);
            Some(((port.protocol.into(), port.host), (address, port.guest)))
        })
        .collect()
    }

    fn stored(&self, member: &Member) -> BTreeMap<u16, Vec<Publish>> {
        fs::read(member.run("published.json"))
            .ok()
            .and_then(|t| serde_json::from_slice(&t).ok())
            .unwrap_or_default()
    }

    fn store(&self, member: &Member) {
        let list: BTreeMap<u16, Vec<Publish>> = self
            .claims
            .iter()
            .map(|(slot, claims)| (*slot, claims.iter().map(|c| c.port).collect()))
            .collect();
        let path = member.run("published.json");
        let written = serde_json::to_vec(&list).map_err(io::Error::other).and_then(|json| {
            let new = path.with_extension("new");
            fs::write(&new, json)?;
            fs::rename(&new, &path)
        });
        if let Err(e) = written {
            say!("published ports cannot be written down, a new gtvpd would not know them: {e}");
        }
    }
}

fn name(port: Publish) -> String {
    format!("{}/{}", port.host, port.protocol)
}

fn refused(port: Publish, e: &io::Error) -> Fault {
    if e.kind() == io::ErrorKind::AddrInUse {
        return Fault::new(
            FaultKind::InUse,
            format!("port {} is in use by another program of this member", name(port)),
        )
        .hint("publish another port, or end the program that has it");
    }
    Fault::new(FaultKind::Internal, format!("port {} cannot be taken", name(port))).caused_by(e)
}

/// Takes the port on every address.
fn claim(port: Publish) -> io::Result<Vec<OwnedFd>> {
    let v4 = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port.host));
    let v6 = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port.host, 0, 0));
    let mut sockets = vec![claim_one(port.protocol, AddressFamily::INET, v4)?];
    match claim_one(port.protocol, AddressFamily::INET6, v6) {
        Ok(socket) => sockets.push(socket),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(e),
        // A host without IPv6 has nothing to claim there.
        Err(_) => {}
    }
    Ok(sockets)
}

fn claim_one(protocol: Protocol, family: AddressFamily, address: SocketAddr) -> io::Result<OwnedFd> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(number))?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections that a former owner left in TIME_WAIT do not keep the port; a listener does.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    if protocol == Protocol::Tcp {
        listen(&socket, 1)?;
    }
    Ok(socket)
}
