//! What the box's packages expect below /run at each start: the member has collected it into one list. systemd would make
//! it elsewhere; here PID 1 does, before the application. A line that cannot be done is said and no reason to stop.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;

use crate::accounts;
use crate::console::say;

/// The list: a line each, fields between tabs: type, path, mode, user, group, argument.
const LIST: &str = "/usr/lib/gtvp/run";
/// Most bytes of it: a system has some dozen lines.
const MAX_LIST: u64 = 256 * 1024;

/// Makes it all.
pub fn make() {
    let mut text = String::new();
    match fs::File::open(LIST).and_then(|f| f.take(MAX_LIST).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(e) => return say!("{LIST}: {e}"),
    }
    let names = accounts::Names::read();
    for line in text.lines() {
        if let Err(e) = one(line, &names) {
            say!("{}: {e}", line.split('\t').nth(1).unwrap_or(line));
        }
    }
}

fn one(line: &str, names: &accounts::Names) -> io::Result<()> {
    let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let [kind, path, mode, user, group, argument] = line.split('\t').collect::<Vec<_>>()[..] else {
        return Err(invalid("a line of another format"));
    };
    let mode = u32::from_str_radix(mode, 8).map_err(|_| invalid("its mode"))?;
    let uid = names.user(user).ok_or_else(|| invalid("its user does not exist"))?;
    let gid = names.group(group).ok_or_else(|| invalid("its group does not exist"))?;
    let at = Path::new(path);
    if let Some(above) = at.parent() {
        fs::create_dir_all(above)?;
    }
    match kind {
        "d" => fs::create_dir_all(at)?,
        "f" => fs::write(at, argument)?,
        "p" => {
            let node = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
            rustix::fs::mknodat(rustix::fs::CWD, at, node.0, node.1, 0)?;
        }
        "L" => return symlink(argument, at),
        _ => return Err(invalid("its type")),
    }
    lchown(at, Some(uid), Some(gid))?;
    fs::set_permissions(at, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_done_and_bad_ones_refused() {
        let names = accounts::Names::of("root:x:0:0::/root:/bin/sh\n", "root:x:0:\n");
        let dir = std::env::temp_dir().join(format!("gtvp-run-{}", std::process::id()));
        let line = |kind: &str, path: &str, user: &str, argument: &str| {
            one(&format!("{kind}\t{}/{path}\t0750\t{user}\troot\t{argument}", dir.display()), &names)
        };
        // Only root may give files away.
        if !rustix::process::getuid().is_root() {
            return;
        }
        line("d", "a/b", "root", "").unwrap();
        assert_eq!(fs::metadata(dir.join("a/b")).unwrap().permissions().mode() & 0o7777, 0o750);
        line("f", "a/f", "root", "words").unwrap();
        assert_eq!(fs::read(dir.join("a/f")).unwrap(), b"words");
        line("L", "a/l", "root", "/x").unwrap();
        assert_eq!(fs::read_link(dir.join("a/l")).unwrap(), Path::new("/x"));
        line("p", "a/p", "root", "").unwrap();
        line("d", "a/c", "nobody-here", "").unwrap_err();
        assert!(!dir.join("a/c").exists(), "nothing is made for a user that does not exist");
        line("x", "a/d", "root", "").unwrap_err();
        one("d\t/run", &names).unwrap_err();
        fs::remove_dir_all(dir).unwrap();
    }
}
