//! Two processes that spin on a cache line each: no fabric can be faster than that.

use std::path::Path;

use crate::role::{Role, told};
use crate::support::shared_lines::SharedLines;
use crate::support::{Figures, Peer, Result};

/// No more messages for now.
const STOP: u64 = u64::MAX;

pub(crate) struct CacheLine {
    lines: SharedLines,
    peer: Peer,
}

impl CacheLine {
    pub(crate) fn start() -> Result<Self> {
        let lines = SharedLines::create()?;
        let mut peer = Role::CacheLine(lines.path()).start()?;
        peer.line()?;
        Ok(Self { lines, peer })
    }

    /// Round trips of 64 bytes.
    pub(crate) fn measure(&mut self, seconds: f64) -> Result<Figures> {
        self.peer.tell("answer")?;
        let mut word = 0;
        let figures = Figures::measure(seconds, 1, || {
            word += 1;
            self.lines.send(word);
            match self.lines.receive()? {
                answer if answer == word => Ok(()),
                answer => Err(format!("{word} came back as {answer}").into()),
            }
        });
        self.lines.send(STOP);
        self.peer.line()?;
        figures
    }
}

/// The other process.
pub(crate) fn answer(path: &Path) -> Result<()> {
    let mut lines = SharedLines::open(path)?;
    println!("ready");
    while told()?.is_some() {
        loop {
            match lines.receive()? {
                STOP => break,
                word => lines.send(word),
            }
        }
        println!("stopped");
    }
    Ok(())
}
