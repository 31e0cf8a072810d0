//! How far it is: a bar on a terminal, a line now and then elsewhere; on standard error.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(1);

/// Of one run.
pub(crate) struct Progress {
    what: &'static str,
    total: u32,
    /// Hidden, but counting, if standard error is no terminal.
    bar: ProgressBar,
    last_line: Cell<Instant>,
}

impl Progress {
    pub(crate) fn new(what: &'static str, total: u32) -> Self {
        let style = ProgressStyle::with_template("{msg:16} {wide_bar} {pos}/{len} {eta:>4}");
        let bar = ProgressBar::new(total.into()).with_message(what);
        Self {
            what,
            total,
            bar: bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())),
            last_line: Cell::new(Instant::now()),
        }
    }

    /// One more.
    pub(crate) fn step(&self) {
        self.at(self.bar.position() + 1);
    }

    /// It is so far; that may be less than it was.
    pub(crate) fn at(&self, position: u64) {
        self.bar.set_position(position);
        if self.bar.is_hidden() && self.last_line.get().elapsed() >= LINE_EVERY {
            self.last_line.set(Instant::now());
            eprintln!("{}: {} of {}", self.what, self.bar.position(), self.total);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
