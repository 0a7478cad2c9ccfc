//! gtvpd's words to its administrator: lines on standard error, which systemd or the lab keeps.

use std::io::Write;

/// Writes one line. A standard error that is gone is no reason to end.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "gtvpd: {text}");
}

/// Like `eprintln!`, but never fails.
macro_rules! say {
    ($($arg:tt)*) => { $crate::log::line(&format!($($arg)*)) };
}
