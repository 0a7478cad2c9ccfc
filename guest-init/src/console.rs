//! Words for the box's console log: short, prefixed `gtvp-init:`. It is for people who look for a fault; programs are
//! told over the port.

use std::io::Write;

/// Says one line on the console.
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::line(&format!("gtvp-init: {}", format_args!($($arg)*))) };
}
pub(crate) use say;

/// Writes one line as it is. A console that does not take it is nothing to fail for.
pub fn line(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
