//! Which system call ended a process, from the kernel's log: seccomp writes an audit record for each kill. A host
//! whose kernel does not audit says nothing; `gtvpd trace` then finds the call another way.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use crate::syscalls;

/// Records read at most: the kernel's ring holds fewer.
const MAX_RECORDS: usize = 100_000;

/// The call that ended `pid`, in words.
pub fn killed_by(pid: i32) -> Option<String> {
    let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
    let mut buffer = [0; 8192];
    let mut found = None;
    for _ in 0..MAX_RECORDS {
        match log.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => found = parse(&String::from_utf8_lossy(&buffer[..n]), pid).or(found),
            // Overwritten while we read: go on with the next one.
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => break,
        }
    }
    found.map(|number| {
        syscalls::name(number).map_or_else(|| number.to_string(), |n| format!("{n} ({number})"))
    })
}

/// `audit: type=1326 … pid=N … sig=31 … syscall=S …`
fn parse(record: &str, pid: i32) -> Option<i64> {
    if !record.contains("type=1326") {
        return None;
    }
    let field = |name: &str| {
        let word = record.split_ascii_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
        word.and_then(|v| v.parse::<i64>().ok())
    };
    (field("pid") == Some(pid.into())).then(|| field("syscall")).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_is_read_from_the_audit_record() {
        let record = "5,1,2,-;audit: type=1326 audit(1.0:2): auid=1 uid=2 gid=2 ses=1 pid=77 comm=\"x\" exe=\"/bin/x\" \
                      sig=31 arch=c000003e syscall=165 compat=0 ip=0x1 code=0x80000000";
        assert_eq!(parse(record, 77), Some(165));
        assert_eq!(parse(record, 7), None);
        assert_eq!(parse("5,1,2,-;eth0: link up pid=77 syscall=1", 77), None);
    }
}
