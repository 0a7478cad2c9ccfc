//! The host's clock and the host's entropy, before any program of the box can look at either.

use std::io;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// A clock that is nearer than this stays as it is: the kernel has read the machine's own clock at start.
const NEAR_MS: u64 = 500;
/// Bytes of entropy that a host may give.
const MAX_ENTROPY: usize = 64;
/// Fewer do not make one box's numbers another's: 256 bits are what the kernel's generator is keyed with.
const MIN_ENTROPY: usize = 32;
/// `RNDADDENTROPY` and `RNDRESEEDCRNG` of Linux's include/uapi/linux/random.h.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Sets the clock if it is off.
pub fn set(time_ms: u64) -> io::Result<()> {
    let now = clock_gettime(ClockId::Realtime);
    let now_ms =
        u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000;
    if now_ms.abs_diff(time_ms) < NEAR_MS {
        return Ok(());
    }
    let seconds = i64::try_from(time_ms / 1000).map_err(|_| io::ErrorKind::InvalidInput)?;
    let nanoseconds = i64::try_from(time_ms % 1000).unwrap_or(0) * 1_000_000;
    Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanoseconds })?)
}

/// `struct rand_pool_info` with its buffer.
#[repr(C)]
struct Pool {
    bits: libc::c_int,
    bytes: libc::c_int,
    buffer: [u8; MAX_ENTROPY],
}

/// Mixes the host's entropy in and has the kernel draw from it at once.
pub fn add_entropy(hexadecimal: &str) -> io::Result<()> {
    let bytes =
        from_hex(hexadecimal).filter(|b| b.len() >= MIN_ENTROPY).ok_or(io::ErrorKind::InvalidInput)?;
    let random = std::fs::OpenOptions::new().write(true).open("/dev/urandom")?;
    let mut pool = Pool { bits: 0, bytes: 0, buffer: [0; MAX_ENTROPY] };
    pool.buffer[..bytes.len()].copy_from_slice(&bytes);
    pool.bytes = libc::c_int::try_from(bytes.len()).unwrap_or(0);
    pool.bits = pool.bytes * 8;
    use std::os::fd::AsRawFd;
    // SAFETY: the kernel reads `bytes` bytes of the structure's own buffer, no more; the second call takes no argument.
    let done = unsafe {
        libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &pool) == 0
            && libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() % 2 != 0 || text.len() > 2 * MAX_ENTROPY {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_or_nothing() {
        assert_eq!(from_hex("00fF10"), Some(vec![0, 255, 16]));
        for bad in ["0", "zz", "0é", &"00".repeat(65)] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }
}
