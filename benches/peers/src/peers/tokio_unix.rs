//! The same on tokio: what a runtime adds to a unix socket.

use std::collections::VecDeque;
use std::io::ErrorKind;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::Runtime;

use super::{Peer, runtime};
use crate::child::{self, Child};
use crate::measure::{self, Echo, Job, Window};
use crate::socket;
use crate::support::Result;
use crate::table::Report;

pub(super) const PEER: Peer = Peer {
    name: "unix-tokio",
    bytes: "no codec; copied into a frame by the caller, in and out of the kernel each way; tokio",
    serve: Some(serve),
    measure,
};

/// Bytes of a frame's length.
const HEAD: usize = 4;

struct Framed {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
    frame: Vec<u8>,
}

impl Framed {
    fn new(stream: UnixStream) -> Self {
        let (from, to) = stream.into_split();
        Self {
            from: BufReader::new(from),
            to,
            frame: Vec::new(),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.frame.clear();
        self.frame
            .extend_from_slice(&u32::try_from(bytes.len())?.to_le_bytes());
        self.frame.extend_from_slice(bytes);
        Ok(self.to.write_all(&self.frame).await?)
    }

    async fn receive(&mut self) -> std::io::Result<()> {
        let mut head = [0; HEAD];
        self.from.read_exact(&mut head).await?;
        self.frame
            .resize(HEAD + u32::from_le_bytes(head) as usize, 0);
        self.frame[..HEAD].copy_from_slice(&head);
        self.from.read_exact(&mut self.frame[HEAD..]).await?;
        Ok(())
    }
}

struct Caller {
    runtime: Runtime,
    framed: Framed,
}

impl Echo for Caller {
    fn echo(&mut self, request: &[u8]) -> Result<impl AsRef<[u8]>> {
        let Self { runtime, framed } = self;
        runtime.block_on(async {
            framed.send(request).await?;
            framed.receive().await?;
            Ok(&framed.frame[HEAD..])
        })
    }

    fn many(&mut self, request: &[u8], window: &mut Window) -> Result<()> {
        let Self { runtime, framed } = self;
        runtime.block_on(async {
            let mut under_way = VecDeque::new();
            loop {
                while window.has_room() {
                    under_way.push_back(window.begun());
                    framed.send(request).await?;
                }
                let Some(began) = under_way.pop_front() else {
                    return Ok(());
                };
                framed.receive().await?;
                window.ended(began);
            }
        })
    }
}

fn serve(at: &str) -> Result<()> {
    runtime()?.block_on(async {
        let listener = socket::tokio::listen(at)?;
        child::ready();
        let mut framed = Framed::new(listener.accept().await?.0);
        loop {
            match framed.receive().await {
                Ok(()) => framed.to.write_all(&framed.frame).await?,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    })
}

fn measure(job: &Job, report: &mut Report) -> Result<()> {
    let name = socket::name(PEER.name);
    let mut child = Child::serving(PEER.name, &name, job.limit())?;
    child.line()?;
    let runtime = runtime()?;
    let stream = runtime.block_on(async { socket::tokio::connect(&name) })?;
    let framed = Framed::new(stream);
    measure::all(job, &mut Caller { runtime, framed }, report)
}
