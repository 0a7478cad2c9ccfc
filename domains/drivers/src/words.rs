//! A box's last words: from the end of its console and of QEMU's standard error to one sentence. What is read here
//! was written by a guest: it is cut, and control characters are taken out.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes of a console's end that are searched: a panic's report with its backtrace is some kilobytes.
const SEARCHED: u64 = 64 * 1024;
/// Most characters of one quoted line.
const MOST_CHARS: usize = 200;

/// The last [`SEARCHED`] bytes of a file as text; empty when it cannot be read.
pub fn tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(SEARCHED)))?;
        let mut bytes = Vec::new();
        file.take(SEARCHED).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// What is known when a machine is gone.
#[derive(Debug, Default)]
pub struct Known<'a> {
    /// The end of its console.
    pub console: &'a str,
    /// The end of QEMU's standard error.
    pub stderr: &'a str,
    /// How QEMU ended: `exit status 0`, `signal 9`.
    pub how: &'a str,
    /// QEMU's own reason, as its monitor told it.
    pub shutdown: Option<&'a str>,
}

/// One sentence.
pub fn last_words(known: &Known<'_>) -> String {
    if let Some(why) = kernel_panic(known.console) {
        return format!("its kernel panicked: {why}");
    }
    let mut words = match (known.shutdown, last_line(known.stderr)) {
        (_, Some(line)) => format!("QEMU ended ({}): {line}", known.how),
        (Some("guest-shutdown"), None) => "its guest powered off by itself".to_owned(),
        (Some("guest-reset"), None) => "its guest reset by itself".to_owned(),
        (Some("guest-panic"), None) => "its kernel panicked".to_owned(),
        (_, None) => format!("QEMU ended ({})", known.how),
    };
    if let Some(line) = last_of_console(known.console) {
        words.push_str("; the last on its console: ");
        words.push_str(&line);
    }
    words
}

/// Why the kernel panicked, if its console says that it did.
pub fn kernel_panic(console: &str) -> Option<String> {
    const MARK: &str = "Kernel panic - not syncing:";
    let at = console.rfind(MARK)?;
    console[at + MARK.len()..].lines().next().map(clean).filter(|l| !l.is_empty())
}

/// The last line of a console that says something of the guest; firmware greets on the same wire.
pub fn last_of_console(text: &str) -> Option<String> {
    let firmware = |l: &String| l.starts_with("SeaBIOS") || l.starts_with("Booting from");
    text.lines().rev().map(clean).find(|l| !l.is_empty() && !firmware(l))
}

/// The last line that says something.
pub fn last_line(text: &str) -> Option<String> {
    text.lines().rev().map(clean).find(|l| !l.is_empty())
}

/// The first line that says something.
pub fn first_line(text: &str) -> Option<String> {
    text.lines().map(clean).find(|l| !l.is_empty())
}

/// Without terminal escapes and control characters, cut.
fn clean(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            if chars.next_if(|c| matches!(c, '[' | 'c')) == Some('[') {
                while chars.next_if(|c| !c.is_ascii_alphabetic()).is_some() {}
                chars.next();
            }
        } else if !c.is_control() {
            out.push(c);
        }
    }
    out.trim().chars().take(MOST_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_in_its_report() {
        let console = "[    1.3] Kernel panic - not syncing: VFS: Unable to mount root fs\n[    1.3] CPU: 0 PID: 1\n </TASK>\n";
        let known =
            Known { console, how: "exit status 0", shutdown: Some("guest-reset"), ..Known::default() };
        assert_eq!(last_words(&known), "its kernel panicked: VFS: Unable to mount root fs");
    }

    #[test]
    fn the_reason_of_qemu_is_told_with_what_the_console_said_last() {
        let known = Known {
            console: "\x1bc\x1b[?7lgtvp: mounting\x07 the root\n\x1b[2JBooting from ROM..\n\n",
            stderr: "qemu-system-x86_64: cannot set up guest memory 'ram'\n",
            how: "exit status 1",
            shutdown: None,
        };
        assert_eq!(
            last_words(&known),
            "QEMU ended (exit status 1): qemu-system-x86_64: cannot set up guest memory 'ram'; the last on its console: gtvp: mounting the root"
        );
        let killed = Known { how: "signal 9", ..Known::default() };
        assert_eq!(last_words(&killed), "QEMU ended (signal 9)");
    }
}
