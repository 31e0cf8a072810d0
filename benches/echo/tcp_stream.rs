//! Two processes on a plain TCP connection: what any fabric over TCP is made of.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use crate::role::{Role, told};
use crate::support::{Figures, PATIENCE, Peer, Result};

/// How both ends wait for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// By asking again.
    Spins,
    /// By sleeping in the kernel.
    Blocks,
}

impl Waiting {
    fn name(self) -> &'static str {
        match self {
            Self::Spins => "spin",
            Self::Blocks => "block",
        }
    }
}

/// No more messages for now. Others consist of other bytes.
const STOP: u8 = 0;

pub(crate) struct TcpPair {
    stream: TcpStream,
    message: Vec<u8>,
    peer: Peer,
}

impl TcpPair {
    /// Echoes messages of so many bytes.
    pub(crate) fn start(size: usize) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let at = listener.local_addr()?;
        let mut peer = Role::TcpStream { at, size }.start()?;
        peer.line()?;
        let (stream, _) = listener.accept()?;
        prepare(&stream)?;
        Ok(Self {
            stream,
            message: vec![7; size],
            peer,
        })
    }

    /// Round trips: all bytes there, then all bytes back. With a `pause` before each.
    pub(crate) fn measure(
        &mut self,
        seconds: f64,
        waiting: Waiting,
        pause: impl FnMut(),
    ) -> Result<Figures> {
        self.peer.tell(waiting.name())?;
        self.stream.set_nonblocking(waiting == Waiting::Spins)?;
        let figures = Figures::measure_between(seconds, 1, pause, || {
            send(&self.stream, &self.message)?;
            receive(&self.stream, &mut self.message)
        })?;
        send(&self.stream, &vec![STOP; self.message.len()])?;
        self.peer.line()?;
        Ok(figures)
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))
}

fn send(mut stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn receive(mut stream: &TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    let (mut at, mut began) = (0, None);
    while at < bytes.len() {
        match stream.read(&mut bytes[at..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => at += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::hint::spin_loop();
                if began.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The other process.
pub(crate) fn answer(at: SocketAddr, size: usize) -> Result<()> {
    let stream = TcpStream::connect(at)?;
    prepare(&stream)?;
    println!("ready");
    let mut message = vec![0; size];
    while let Some(waiting) = told()? {
        stream.set_nonblocking(waiting == Waiting::Spins.name())?;
        loop {
            receive(&stream, &mut message)?;
            if message[0] == STOP {
                break;
            }
            send(&stream, &message)?;
        }
        println!("stopped");
    }
    Ok(())
}
