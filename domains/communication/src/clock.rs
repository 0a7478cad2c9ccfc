//! Time and chance: what the engines, which have neither, are given.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gtvp_model::union::UnixTime;
use gtvp_protocol::hsp::Millis;
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since this server started, sleep included.
pub fn now() -> Millis {
    let t = clock_gettime(ClockId::Boottime);
    let (s, ns) = (u64::try_from(t.tv_sec).unwrap_or(0), u64::try_from(t.tv_nsec).unwrap_or(0));
    Millis(s.saturating_mul(1000).saturating_add(ns / 1_000_000))
}

/// Seconds since 1970.
pub fn wall() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// How long it is until then.
pub fn until(at: Millis) -> Duration {
    // One more, so that the time has come when it is looked at.
    match at.0.checked_sub(now().0) {
        Some(0) | None => Duration::ZERO,
        Some(left) => Duration::from_millis(left.saturating_add(1)),
    }
}

/// The same moment, for `poll`.
pub fn instant(at: Millis) -> Instant {
    Instant::now() + until(at).min(Duration::from_secs(86_400))
}

/// Random bytes of the kernel's.
///
/// # Errors
/// The kernel's: without them no nonce is made.
pub fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut have = 0;
    while have < N {
        match getrandom(bytes.get_mut(have..).unwrap_or_default(), GetRandomFlags::empty()) {
            Ok(n) => have += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(bytes)
}

/// A random number for a delay. Where the kernel has none: the time, since nobody's safety rests on it.
pub fn chance() -> u64 {
    random().map_or_else(|_| now().0, u64::from_le_bytes)
}
