//! When the application counts as ready: every port it was started for is in the kernel's own tables, in LISTEN state or,
//! for UDP, bound. Nothing is connected to, so that the application sees no caller that is none.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use gtvp_model::boxspec::Protocol;

/// First pause between two looks, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// `st` of a listening socket in /proc/net/tcp (Linux include/net/tcp_states.h).
const LISTEN: &str = "0A";
/// `st` of a socket in /proc/net/udp that takes from anybody: TCP_CLOSE.
const UNCONNECTED: &str = "07";

/// A port of the box.
pub type Port = (Protocol, u16);

/// Looks for the ports, less and less often, until they are there.
pub struct Readiness {
    missing: BTreeSet<Port>,
    pause: Duration,
    next: Instant,
}

impl Readiness {
    /// Waits for `ports`.
    pub fn of(ports: &[Port], now: Instant) -> Self {
        Self { missing: ports.iter().copied().collect(), pause: PAUSE.0, next: now }
    }

    /// When it wants to look next; `None` when all ports listen.
    pub fn due(&self) -> Option<Instant> {
        (!self.missing.is_empty()).then_some(self.next)
    }

    /// Looks, if it is time, and says whether all ports listen. `table` gives the kernel's sockets of a protocol.
    pub fn check(&mut self, now: Instant, table: impl Fn(Protocol) -> String) -> bool {
        if !self.missing.is_empty() && now >= self.next {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                if self.missing.iter().any(|(p, _)| *p == protocol) {
                    let there = listening(protocol, &table(protocol));
                    self.missing.retain(|(p, port)| *p != protocol || !there.contains(port));
                }
            }
            self.next = now + self.pause;
            self.pause = (self.pause * 3 / 2).min(PAUSE.1);
        }
        self.missing.is_empty()
    }
}

/// The kernel's tables of sockets.
pub fn table(protocol: Protocol) -> String {
    let all = [format!("/proc/net/{protocol}"), format!("/proc/net/{protocol}6")];
    // A box without IPv6 has no second table.
    all.iter().filter_map(|p| std::fs::read_to_string(p).ok()).collect()
}

fn listening(protocol: Protocol, table: &str) -> BTreeSet<u16> {
    let state = if protocol == Protocol::Udp { UNCONNECTED } else { LISTEN };
    let port = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let local = words.nth(1)?;
        (words.nth(1)? == state).then_some(())?;
        u16::from_str_radix(local.rsplit(':').next()?, 16).ok()
    };
    table.lines().filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n   \
        0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1\n   \
        1: 0100007F:0050 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 2\n  sl \n   \
        0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000\n";

    #[test]
    fn only_listening_ports_count() {
        assert_eq!(listening(Protocol::Tcp, TABLES), BTreeSet::from([8080, 443]));
    }

    #[test]
    fn a_udp_port_is_ready_when_it_is_bound() {
        let udp = "  sl  local_address rem_address   st tx_queue\n  \
            9: 00000000:0035 00000000:0000 07 00000000:00000000\n  9: 0100007F:9C40 0100007F:0035 01 00000000:00000000\n";
        assert_eq!(listening(Protocol::Udp, udp), BTreeSet::from([53]));
        let now = Instant::now();
        let mut r = Readiness::of(&[(Protocol::Udp, 53), (Protocol::Tcp, 443)], now);
        let table = |p| if p == Protocol::Udp { udp.to_owned() } else { String::new() };
        assert!(!r.check(now, table), "a UDP port of the same number is no TCP port");
        assert_eq!(r.missing, BTreeSet::from([(Protocol::Tcp, 443)]));
    }

    #[test]
    fn ready_when_all_listen_and_quiet_after() {
        let now = Instant::now();
        let mut r = Readiness::of(&[(Protocol::Tcp, 8080), (Protocol::Tcp, 80)], now);
        assert!(!r.check(now, |_| TABLES.into()));
        assert!(!r.check(now, |_| panic!("looked before it was time")));
        let later = r.due().unwrap();
        assert!(r.check(later, |_| TABLES.replace(":0050 0100007F:9C40 01", ":0050 0100007F:9C40 0A")));
        assert_eq!(r.due(), None);
        assert!(Readiness::of(&[], now).check(now, |_| panic!("nothing to look for")));
    }
}
