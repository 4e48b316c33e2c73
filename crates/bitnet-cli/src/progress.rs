//! Progress bars on standard error, only when that is a terminal: a log file full of bars helps nobody.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that is drawn, or one that is not; work reports to it either way.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar over `total` things, called `what` ("loading", "scoring").
    pub fn new(what: &str, total: u64) -> Progress {
        Progress::with_template(what, total, "{msg:<12} [{bar:32}] {pos}/{len} {eta:>6}")
    }

    /// A bar over `total` bytes.
    pub fn bytes(what: &str, total: u64) -> Progress {
        Progress::with_template(
            what,
            total,
            "{msg:<12} [{bar:32}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta:>6}",
        )
    }

    fn with_template(what: &str, total: u64, template: &str) -> Progress {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style);
        bar.set_message(what.to_string());
        Progress { bar }
    }

    /// Says how much is done and of how much.
    pub fn set(&self, done: u64, total: u64) {
        if self.bar.length() != Some(total) {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
    }

    /// Adds to what is done.
    pub fn add(&self, n: u64) {
        self.bar.inc(n);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // The result speaks for itself; a finished bar would only stand above it.
        self.bar.finish_and_clear();
    }
}
