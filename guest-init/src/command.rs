//! From a [`Program`] to a running one: its file, its environment, its user; and, when that fails, what to tell people.
//!
//! Everything here happens in the child: a look-up in the box's root may wait until a component was fetched, and PID 1
//! must not.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gtvp_model::guest::Program;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::accounts::Account;

/// Where commands are looked for when the program's environment says nothing: Debian's own for root, and at its end what GTVP
/// adds.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/gtvp";
/// What a terminal is taken for when nobody says.
const DEFAULT_TERM: &str = "xterm";
/// Bytes of a file that say what runs it: the kernel looks at 256.
const HEAD: u64 = 256;
/// The kernel's own bound for an ELF interpreter's path.
const MAX_INTERPRETER: u64 = 4096;

/// Why a command has no file to run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCommand {
    /// No word at all.
    #[error("there is no command to run")]
    Empty,
    /// Nowhere in PATH.
    #[error("command {0:?} does not exist in the box: no such file in PATH {1}")]
    NotInPath(String, String),
    /// The named file is not there.
    #[error("command {0:?} does not exist in the box: no such file")]
    NoFile(String),
    /// Something is there.
    #[error("command {0:?} cannot run in the box: {1} {2}")]
    NotRunnable(String, String, &'static str),
}

/// Becomes the program: changes directory and user, replaces the process. Comes back only with the reason why not.
pub fn become_program(program: &Program, terminal: bool) -> String {
    let account = match Account::look_up(program.user.as_deref()) {
        Ok(a) => a,
        Err(e) => return e.to_string(),
    };
    let workdir = program.workdir.as_deref().unwrap_or("/");
    let env = environment(program, &account, terminal);
    let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let file = match find(&program.argv, path, workdir) {
        Ok(f) => f,
        Err(e) => return e.to_string(),
    };
    let name = program.argv.first().cloned().unwrap_or_default();
    if let Err(e) = take_user(&account) {
        return format!("the command cannot become user {:?}: {e}", account.name);
    }
    // As the user, who may be kept out of it.
    if let Err(e) = rustix::process::chdir(workdir) {
        return format!("the working directory {workdir:?} cannot be entered: {e}");
    }
    let words = |all: Vec<String>| all.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let env_words = env.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    let (Ok(file_c), Ok(argv), Ok(envp)) =
        (CString::new(file.as_os_str().as_bytes()), words(program.argv.clone()), words(env_words))
    else {
        return "an argument or variable holds a NUL byte".into();
    };
    let pointers = |all: &[CString]| -> Vec<*const libc::c_char> {
        all.iter().map(|c| c.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (argv_p, envp_p) = (pointers(&argv), pointers(&envp));
    // SAFETY: NUL-terminated strings in null-terminated arrays that live until the call is over.
    unsafe { libc::execve(file_c.as_ptr(), argv_p.as_ptr(), envp_p.as_ptr()) };
    let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
    why_not_run(&name, &file, errno)
}

fn take_user(account: &Account) -> Result<(), Errno> {
    let groups: Vec<Gid> = account.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// The defaults, and over them what the program brings.
fn environment(program: &Program, account: &Account, terminal: bool) -> BTreeMap<String, String> {
    let defaults = [
        ("PATH", DEFAULT_PATH),
        ("HOME", &account.home),
        ("USER", &account.name),
        ("LOGNAME", &account.name),
        ("LANG", "C.UTF-8"),
    ];
    let mut env: BTreeMap<String, String> =
        defaults.into_iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    if terminal {
        env.insert("TERM".into(), DEFAULT_TERM.into());
    }
    env.extend(program.env.iter().map(|(k, v)| (k.clone(), v.clone())));
    env
}

/// The file of a command: as it is when it has a `/` (from `workdir`), else from `path`.
fn find(argv: &[String], path: &str, workdir: &str) -> Result<PathBuf, NoCommand> {
    let name = argv.first().filter(|n| !n.is_empty()).ok_or(NoCommand::Empty)?;
    let not_runnable =
        |file: &Path, why| NoCommand::NotRunnable(name.clone(), file.display().to_string(), why);
    if name.contains('/') {
        let file = Path::new(workdir).join(name);
        return match usable(&file) {
            Found::Yes => Ok(file),
            Found::No => Err(NoCommand::NoFile(name.clone())),
            Found::Unusable(why) => Err(not_runnable(&file, why)),
        };
    }
    let mut unusable = None;
    for dir in path.split(':') {
        // An empty element is the working directory, as for a shell.
        let file = Path::new(workdir).join(dir).join(name);
        match usable(&file) {
            Found::Yes => return Ok(file),
            Found::No => {}
            Found::Unusable(why) => unusable = unusable.or_else(|| Some(not_runnable(&file, why))),
        }
    }
    Err(unusable.unwrap_or_else(|| NoCommand::NotInPath(name.clone(), path.to_string())))
}

enum Found {
    Yes,
    No,
    Unusable(&'static str),
}

fn usable(file: &Path) -> Found {
    match fs::metadata(file) {
        Ok(m) if m.is_dir() => Found::Unusable("is a directory"),
        Ok(m) if !m.is_file() => Found::Unusable("is no regular file"),
        Ok(m) if m.permissions().mode() & 0o111 == 0 => Found::Unusable("is not executable"),
        Ok(_) => Found::Yes,
        // A link whose target is missing is there for whoever lists the directory.
        Err(_) if fs::symlink_metadata(file).is_ok() => {
            Found::Unusable("is a symbolic link to a file that does not exist")
        }
        Err(_) => Found::No,
    }
}

/// What to say of a file that is there and executable, and that the kernel does not run.
fn why_not_run(name: &str, file: &Path, errno: Errno) -> String {
    let at = file.display();
    match errno {
        Errno::NOENT => match interpreter(file) {
            Some(i) => format!(
                "command {name:?} cannot run in the box: {at} needs the interpreter {i:?}, which does not exist there"
            ),
            None => format!("command {name:?} does not exist in the box: no such file"),
        },
        Errno::NOEXEC => {
            format!(
                "command {name:?} cannot run in the box: {at} is neither a program for this processor nor a script with #!"
            )
        }
        Errno::ACCESS => {
            format!(
                "command {name:?} cannot run in the box: the user may not execute {at}, or its interpreter"
            )
        }
        Errno::TOOBIG => {
            format!("command {name:?} cannot run in the box: arguments and environment are too long")
        }
        e => format!("command {name:?} cannot run in the box: {at}: {e}"),
    }
}

/// What the kernel runs `file` with: a script's `#!`, an ELF program's PT_INTERP.
fn interpreter(file: &Path) -> Option<String> {
    use std::os::unix::fs::FileExt;
    let open = fs::File::open(file).ok()?;
    let mut head = Vec::new();
    (&open).take(HEAD).read_to_end(&mut head).ok()?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|b| *b == b'\n').next()?.trim_ascii_start();
        let word = line.split(|b| b.is_ascii_whitespace()).next()?;
        return Some(String::from_utf8_lossy(word).into_owned());
    }
    // ELF-64, little endian (System V gABI, chapter 4 and 5).
    if head.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let u16_at = |b: &[u8], i: usize| Some(u16::from_le_bytes(b.get(i..i + 2)?.try_into().ok()?));
    let u64_at = |b: &[u8], i: usize| Some(u64::from_le_bytes(b.get(i..i + 8)?.try_into().ok()?));
    let (table, size, count) = (u64_at(&head, 32)?, u16_at(&head, 54)?, u16_at(&head, 56)?);
    for i in 0..count {
        let mut entry = [0; 56];
        let at = table.checked_add(u64::from(i) * u64::from(size))?;
        open.read_exact_at(&mut entry, at).ok()?;
        const PT_INTERP: [u8; 4] = [3, 0, 0, 0];
        if entry[..4] == PT_INTERP {
            let (offset, length) = (u64_at(&entry, 8)?, u64_at(&entry, 32)?);
            let mut path = vec![0; usize::try_from(length.min(MAX_INTERPRETER)).ok()?];
            open.read_exact_at(&mut path, offset).ok()?;
            let path = path.split(|b| *b == 0).next()?;
            return Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with executables, removed with the value.
    struct Dir(PathBuf);
    impl Dir {
        fn new(test: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("gtvp-command-{test}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
        fn file(&self, name: &str, text: &[u8], mode: u32) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn argv(name: &str) -> Vec<String> {
        vec![name.into()]
    }

    #[test]
    fn path_is_searched_in_order_past_what_cannot_run() {
        let d = Dir::new("order");
        d.file("a/tool", b"", 0o644);
        let b = d.file("b/tool", b"", 0o755);
        d.file("c/tool", b"", 0o755);
        let path = format!("{0}/none:{0}/a:{0}/b:{0}/c", d.0.display());
        assert_eq!(find(&argv("tool"), &path, "/"), Ok(b));
        let only_a = format!("{}/a", d.0.display());
        let refused = find(&argv("tool"), &only_a, "/").unwrap_err();
        assert!(refused.to_string().ends_with("a/tool is not executable"), "{refused}");
        let missing = find(&argv("ngnix"), "/none:/bin", "/").unwrap_err().to_string();
        assert_eq!(missing, "command \"ngnix\" does not exist in the box: no such file in PATH /none:/bin");
    }

    #[test]
    fn a_name_with_a_slash_is_taken_from_the_working_directory() {
        let d = Dir::new("slash");
        let f = d.file("bin/x", b"", 0o755);
        assert_eq!(find(&argv("bin/x"), DEFAULT_PATH, d.0.to_str().unwrap()), Ok(f));
        assert_eq!(find(&argv("./y"), "", "/"), Err(NoCommand::NoFile("./y".into())));
        assert!(matches!(find(&argv("/bin/"), "", "/"), Err(NoCommand::NotRunnable(_, _, "is a directory"))));
        assert_eq!(find(&[], "", "/"), Err(NoCommand::Empty));
        std::os::unix::fs::symlink("/nowhere/at/all", d.0.join("l")).unwrap();
        let link = d.0.join("l").display().to_string();
        assert!(matches!(find(&argv(&link), "", "/"), Err(NoCommand::NotRunnable(..))));
    }

    #[test]
    fn a_missing_interpreter_is_named() {
        let d = Dir::new("interpreter");
        let script = d.file("s", b"#! /usr/bin/perl5 -w\nprint 1", 0o755);
        assert_eq!(interpreter(&script).unwrap(), "/usr/bin/perl5");
        assert!(why_not_run("s", &script, Errno::NOENT).contains("\"/usr/bin/perl5\", which does not exist"));
        let elf = interpreter(Path::new("/bin/ls"));
        assert!(elf.is_some_and(|i| i.contains("ld-linux")));
        assert_eq!(interpreter(&d.file("short", b"\x7fELF\x02\x01", 0o755)), None);
    }

    #[test]
    fn the_program_overrides_the_defaults() {
        let account =
            Account { name: "app".into(), uid: 1, gid: 1, groups: vec![], home: "/home/app".into() };
        let mut program = Program { argv: vec![], env: BTreeMap::new(), user: None, workdir: None };
        program.env.insert("LANG".into(), "de_DE.UTF-8".into());
        let env = environment(&program, &account, false);
        assert_eq!((env["HOME"].as_str(), env["LANG"].as_str()), ("/home/app", "de_DE.UTF-8"));
        assert!(!env.contains_key("TERM"));
        assert_eq!(environment(&program, &account, true)["TERM"], DEFAULT_TERM);
    }
}
