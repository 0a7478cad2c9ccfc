//! When the application counts as ready: every port it was started for is in LISTEN state in the kernel's own tables.
//! Nothing is connected to, so that the application sees no caller that is none.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// First pause between two looks, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// `st` of a listening socket in /proc/net/tcp (Linux include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// Looks for the ports, less and less often, until they are there.
pub struct Readiness {
    missing: BTreeSet<u16>,
    pause: Duration,
    next: Instant,
}

impl Readiness {
    /// Waits for `ports`.
    pub fn of(ports: &[u16], now: Instant) -> Self {
        Self { missing: ports.iter().copied().collect(), pause: PAUSE.0, next: now }
    }

    /// When it wants to look next; `None` when all ports listen.
    pub fn due(&self) -> Option<Instant> {
        (!self.missing.is_empty()).then_some(self.next)
    }

    /// Looks, if it is time, and says whether all ports listen.
    pub fn check(&mut self, now: Instant, tables: impl FnOnce() -> String) -> bool {
        if !self.missing.is_empty() && now >= self.next {
            let listening = listening(&tables());
            self.missing.retain(|p| !listening.contains(p));
            self.next = now + self.pause;
            self.pause = (self.pause * 3 / 2).min(PAUSE.1);
        }
        self.missing.is_empty()
    }
}

/// The kernel's tables of TCP sockets.
pub fn tables() -> String {
    // A box without IPv6 has no second table.
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|p| std::fs::read_to_string(p).ok()).collect()
}

fn listening(tables: &str) -> BTreeSet<u16> {
    let port = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let local = words.nth(1)?;
        (words.nth(1)? == LISTEN).then_some(())?;
        u16::from_str_radix(local.rsplit(':').next()?, 16).ok()
    };
    tables.lines().filter_map(port).collect()
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
        assert_eq!(listening(TABLES), BTreeSet::from([8080, 443]));
    }

    #[test]
    fn ready_when_all_listen_and_quiet_after() {
        let now = Instant::now();
        let mut r = Readiness::of(&[8080, 80], now);
        assert!(!r.check(now, || TABLES.into()));
        assert!(!r.check(now, || panic!("looked before it was time")));
        let later = r.due().unwrap();
        assert!(r.check(later, || TABLES.replace(":0050 0100007F:9C40 01", ":0050 0100007F:9C40 0A")));
        assert_eq!(r.due(), None);
        assert!(Readiness::of(&[], now).check(now, || panic!("nothing to look for")));
    }
}
