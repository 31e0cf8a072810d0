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

/// Text of others, in which control characters are to be seen, and those that turn the direction of
/// what follows: an alias could otherwise look like another.
pub(crate) fn escaped(text: impl Iterator<Item = char>) -> String {
    let escaped = |c: char| match c.is_control() || turns(c) {
        true => c.escape_default().collect(),
        false => c.to_string(),
    };
    text.map(escaped).collect()
}

/// Whether a character embeds, overrides, isolates or marks a direction of writing.
fn turns(c: char) -> bool {
    let is_mark = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}');
    is_mark || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_move_the_cursor_or_turn_the_text_is_to_be_seen() {
        let text = "a\u{1b}[2J\u{202e}b\u{2066}c\u{200f}ä語";
        let shown = r"a\u{1b}[2J\u{202e}b\u{2066}c\u{200f}ä語";
        assert_eq!(escaped(text.chars()), shown);
    }
}
