//! The output of a command. A reader that has gone is no failure, a full disk is.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// Most characters of a cell.
const WIDEST: usize = 60;

/// The output of a command, and its exit status.
pub(crate) struct Report {
    text: String,
    code: ExitCode,
}

impl Report {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            code: ExitCode::SUCCESS,
        }
    }

    /// Marks the command as one that has not found, or done, what was asked for.
    pub(crate) fn failed(mut self) -> Self {
        self.code = ExitCode::FAILURE;
        self
    }

    /// Prints it; returns the exit status.
    pub(crate) fn print(&self) -> ExitCode {
        let mut output = io::stdout().lock();
        let written = output
            .write_all(self.text.as_bytes())
            .and_then(|()| output.flush());
        match written {
            Ok(()) => self.code,
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.code,
            Err(error) => {
                complain(format_args!(
                    "Error: cannot write to standard output: {error}"
                ));
                ExitCode::FAILURE
            }
        }
    }
}

/// Text of others, in which control characters are to be seen.
pub(crate) fn escaped(text: impl Iterator<Item = char>) -> String {
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().collect(),
        false => c.to_string(),
    };
    text.map(escaped).collect()
}

/// A foreign text as a cell of a table: in one line, and not too wide.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = escaped(text.chars().take(WIDEST));
    if text.chars().nth(WIDEST).is_some() {
        shown.push_str("...");
    }
    shown
}

/// Writes a line to standard error. If that fails there is nobody left to tell.
pub(crate) fn complain(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
