//! Blocking reads and writes on a unix socket: what a call costs when the kernel wakes the other
//! side, and no runtime.

use std::collections::VecDeque;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::Peer;
use crate::child::{self, Child};
use crate::measure::{self, Echo, Job, Window};
use crate::socket;
use crate::support::Result;
use crate::table::Report;

pub(super) const PEER: Peer = Peer {
    name: "unix-blocking",
    bytes: "no codec; copied into a frame by the caller, in and out of the kernel each way; both sleep in read",
    serve: Some(serve),
    measure,
};

/// Bytes of a frame's length.
const HEAD: usize = 4;

/// A frame is read whole before it is sent back: two that write at once would wait for each other.
struct Framed {
    from: BufReader<UnixStream>,
    to: UnixStream,
    frame: Vec<u8>,
}

impl Framed {
    fn new(stream: UnixStream) -> Result<Self> {
        Ok(Self {
            from: BufReader::new(stream.try_clone()?),
            to: stream,
            frame: Vec::new(),
        })
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.frame.clear();
        self.frame
            .extend_from_slice(&u32::try_from(bytes.len())?.to_le_bytes());
        self.frame.extend_from_slice(bytes);
        Ok(self.to.write_all(&self.frame)?)
    }

    fn receive(&mut self) -> std::io::Result<()> {
        let mut head = [0; HEAD];
        self.from.read_exact(&mut head)?;
        self.frame
            .resize(HEAD + u32::from_le_bytes(head) as usize, 0);
        self.frame[..HEAD].copy_from_slice(&head);
        self.from.read_exact(&mut self.frame[HEAD..])
    }
}

impl Echo for Framed {
    fn echo(&mut self, request: &[u8]) -> Result<impl AsRef<[u8]>> {
        self.send(request)?;
        self.receive()?;
        Ok(&self.frame[HEAD..])
    }

    fn many(&mut self, request: &[u8], window: &mut Window) -> Result<()> {
        let mut under_way = VecDeque::new();
        loop {
            while window.has_room() {
                under_way.push_back(window.begun());
                self.send(request)?;
            }
            let Some(began) = under_way.pop_front() else {
                return Ok(());
            };
            self.receive()?;
            window.ended(began);
        }
    }
}

fn serve(at: &str) -> Result<()> {
    let listener = socket::listen(at)?;
    child::ready();
    let mut framed = Framed::new(listener.accept()?.0)?;
    loop {
        match framed.receive() {
            Ok(()) => framed.to.write_all(&framed.frame)?,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn measure(job: &Job, report: &mut Report) -> Result<()> {
    let name = socket::name(PEER.name);
    let mut child = Child::serving(PEER.name, &name, job.limit())?;
    child.line()?;
    let mut framed = Framed::new(socket::connect(&name)?)?;
    measure::all(job, &mut framed, report)
}
