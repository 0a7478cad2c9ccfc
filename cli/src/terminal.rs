//! The person's terminal: raw while a command in a box has it, and as it was again however we end.

use std::os::fd::AsFd;
use std::sync::Mutex;

use gtvp_model::fault::Fault;
use gtvp_model::guest::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// How the terminal was, while it is raw: for the panic hook, which has nothing else.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal's size, if standard output or input is one.
pub fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(TerminalSize { rows: size.ws_row, cols: size.ws_col })
}

/// Holds standard input's terminal in raw mode.
pub struct RawMode(());

impl RawMode {
    /// Makes it raw; `None` when standard input is no terminal.
    pub fn enter() -> Result<Option<Self>, Fault> {
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(stdin.as_fd()) else { return Ok(None) };
        let mut raw = before.clone();
        raw.make_raw();
        if let Ok(mut kept) = BEFORE.lock() {
            *kept = Some(before);
        }
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        tcsetattr(stdin.as_fd(), OptionalActions::Drain, &raw)
            .map_err(|e| Fault::internal("the terminal cannot be made raw", &std::io::Error::from(e)))?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(before) = BEFORE.lock().ok().and_then(|mut kept| kept.take()) {
        // A terminal that has gone needs no restoring.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &before);
    }
}
