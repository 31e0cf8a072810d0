//! What happened, written down by each process in a file of its own, in records of one size. The
//! system keeps what was written before a kill -9, so nothing that a process did is forgotten with
//! it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use slimerpc_actors::Ran;

use crate::clock::Timestamp;
use crate::outcome::{Ending, Outcome};

/// Divides a page: the system writes page by page, and who reads meanwhile would see the part of a
/// record that is in the first.
const SIZE: usize = 32;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Number of the call, or of the peer.
    pub(crate) id: u64,
    pub(crate) at: Timestamp,
    pub(crate) what: Event,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A driver is about to make a call.
    Made,
    /// A worker begins to run it.
    Ran,
    /// It ended, as its driver sees it.
    Ended(Outcome),
    /// A driver was told that a peer is lost.
    Lost,
    /// A driver was told that a peer is back, or there for the first time.
    Reached,
}

impl Record {
    fn to_bytes(self) -> [u8; SIZE] {
        let (what, ending, ran) = match self.what {
            Event::Made => (0, 0, 0),
            Event::Ran => (1, 0, 0),
            Event::Ended(Outcome { ending, ran }) => (2, ending as u8, byte_of(ran)),
            Event::Lost => (3, 0, 0),
            Event::Reached => (4, 0, 0),
        };
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.at.0.to_le_bytes());
        bytes[16..19].copy_from_slice(&[what, ending, ran]);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let what = match bytes.get(16..19)? {
            [0, ..] => Event::Made,
            [1, ..] => Event::Ran,
            &[2, ending, ran] => Event::Ended(Outcome {
                ending: Ending::from_byte(ending)?,
                ran: ran_of(ran)?,
            }),
            [3, ..] => Event::Lost,
            [4, ..] => Event::Reached,
            _ => return None,
        };
        Some(Self {
            id: number(0)?,
            at: Timestamp(number(8)?),
            what,
        })
    }
}

fn byte_of(ran: Ran) -> u8 {
    match ran {
        Ran::No => 0,
        Ran::Yes => 1,
        Ran::Unknown => 2,
    }
}

fn ran_of(byte: u8) -> Option<Ran> {
    [Ran::No, Ran::Yes, Ran::Unknown]
        .get(usize::from(byte))
        .copied()
}

/// Where a process writes what it does.
#[derive(Debug)]
pub(crate) struct Journal(File);

impl Journal {
    /// Goes on with the file, or begins it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(file))
    }

    /// In one write, so that a record is there as a whole or not at all.
    pub(crate) fn note(&self, id: u64, what: Event) {
        let at = Timestamp::now();
        let bytes = Record { id, at, what }.to_bytes();
        let written = (&self.0).write_all(&bytes);
        written.expect("there is room for the journal");
    }
}

/// What all journals of a directory say, in the order of time. Part of a record at the end of a
/// file is none yet: on some file system its process may still be writing it, or has been killed
/// before it did what it was about to write down.
pub(crate) fn read_all(dir: &Path) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(dir)? {
        let bytes = fs::read(entry?.path())?;
        for bytes in bytes.chunks_exact(SIZE) {
            let record = Record::from_bytes(bytes).ok_or(io::ErrorKind::InvalidData)?;
            records.push(record);
        }
    }
    records.sort_by_key(|record| record.at);
    Ok(records)
}
