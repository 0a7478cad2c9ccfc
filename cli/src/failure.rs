//! How a failure is told: once, here. `error: message`, its causes as `because …`, what to try as `try: …`.

use std::io::Write;

use gtvp_model::fault::{Fault, FaultKind};

use crate::spoken::steers;

/// It did not work.
pub const FAILED: u8 = 1;
/// run, exec and shell: GTVP could not do it. Any other status is the application's own.
pub const GTVP_FAILED: u8 = 125;

/// Prints a fault on standard error.
pub fn tell(fault: &Fault) {
    // Nobody is left to be told that telling failed.
    let _ = std::io::stderr().lock().write_all(render(fault).as_bytes());
}

fn render(fault: &Fault) -> String {
    let mut text = format!("error: {}\n", clean(&fault.message));
    for cause in &fault.causes {
        text += &format!("  because {}\n", clean(cause).replace('\n', "\n    "));
    }
    if let Some(hint) = &fault.hint {
        text += &format!("  try: {}\n", clean(hint));
    } else if fault.retryable {
        text += "  try: the same again in a moment\n";
    }
    text
}

/// Text from elsewhere (a guest's last words may be in it) without what would move a terminal's cursor.
pub fn clean(text: &str) -> String {
    let keep = |c: char| if steers(c) { char::REPLACEMENT_CHARACTER } else { c };
    text.trim_end().chars().filter(|c| *c != '\r').map(keep).collect()
}

/// A fault of the person's own input.
pub fn invalid(message: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Invalid, message)
}

/// A fault about a file or another thing of this machine.
pub fn io(message: impl Into<String>, error: &std::io::Error) -> Fault {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => FaultKind::NotFound,
        std::io::ErrorKind::PermissionDenied => FaultKind::Denied,
        _ => FaultKind::Internal,
    };
    Fault::new(kind, message).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_once_with_its_causes_and_what_to_try() {
        let fault = Fault::new(FaultKind::InUse, "port 8080/tcp is in use")
            .because("nginx listens there")
            .hint("another port");
        assert_eq!(
            render(&fault),
            "error: port 8080/tcp is in use\n  because nginx listens there\n  try: another port\n"
        );
    }

    #[test]
    fn a_guests_words_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\r\n"), "a\u{fffd}[2Jb");
    }
}
