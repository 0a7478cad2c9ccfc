//! How far an operation is, on standard error: bars on a terminal, plain lines elsewhere, nothing when not wanted.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use gtvp_model::operation::Operation;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::clean;
use crate::output::size;

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(120);

/// Shows one operation.
pub struct Shown {
    how: How,
    phase: String,
    told: usize,
}

enum How {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

impl Shown {
    /// Begins to show.
    pub fn new(quiet: bool) -> Self {
        let how = if quiet {
            How::Nothing
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(TURN);
            How::Bar(bar)
        } else {
            How::Lines
        };
        Self { how, phase: String::new(), told: 0 }
    }

    /// Shows where the operation is.
    pub fn update(&mut self, operation: &Operation) {
        for ended in operation.phases.iter().skip(self.told) {
            self.line(&format!("{:<10} {}", ended.phase, milliseconds(ended.ms)));
        }
        self.told = self.told.max(operation.phases.len());
        let progress = &operation.progress;
        let message = clean(&progress.message).replace('\n', " ");
        match &self.how {
            How::Nothing => {}
            How::Lines => {
                if progress.phase != self.phase && !progress.phase.is_empty() {
                    self.line(&format!("{:<10} {message}", progress.phase));
                }
            }
            How::Bar(bar) => {
                bar.set_style(style(progress.total > 0));
                bar.set_length(progress.total.max(1));
                bar.set_position(progress.done);
                bar.set_prefix(progress.phase.clone());
                let count = match (progress.total, progress.unit.as_str()) {
                    (0, _) => String::new(),
                    (total, "bytes") => format!(" {} of {}", size(progress.done), size(total)),
                    (total, unit) => format!(" {} of {total} {unit}", progress.done),
                };
                bar.set_message(message + &count);
            }
        }
        if !progress.phase.is_empty() {
            self.phase.clone_from(&progress.phase);
        }
    }

    /// Says something beside the bar.
    pub fn line(&self, text: &str) {
        match &self.how {
            How::Nothing => {}
            How::Bar(bar) => bar.suspend(|| note(text)),
            How::Lines => note(text),
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let How::Bar(bar) = &self.how {
            bar.finish_and_clear();
        }
    }
}

/// One line on standard error.
pub fn note(text: &str) {
    // Progress that cannot be shown is no reason to stop.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Milliseconds for people.
pub fn milliseconds(ms: u64) -> String {
    if ms < 10_000 { format!("{ms} ms") } else { format!("{:.1} s", ms as f64 / 1000.0) }
}

fn style(counted: bool) -> ProgressStyle {
    let template =
        if counted { "{spinner} {prefix:10} [{bar:24}] {msg}" } else { "{spinner} {prefix:10} {msg}" };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
