//! Attacks the port, by chance under a seed, from several threads.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use slimerpc::channel::QueuePairInfo;
use slimerpc::fabric::tcp::{TcpAddress, TcpKey};
use slimerpc::fabric::{Gid, QueuePairAddress};

use super::attacks::ATTACKS;
use super::victim::{Asked, DOOR, Given};
use super::wire::{Frame, HELLO, Hello};

const THREADS: u64 = 6;
/// How long the victim may take to close a connection, on a machine that is busy.
const SOON: Duration = Duration::from_secs(30);
const QUEUE_PAIR: u32 = 7;
const PSN: u32 = 100;
const KEY: [u8; 16] = [3; 16];

/// Attacks until the time is over, or as often as each attack takes to have been tried once. Says
/// which, how often, and how many violations the victim must have counted.
pub(super) fn run(dir: &Path, seed: u64, until: Instant) {
    let threads = (0..THREADS).map(|number| {
        let dir = dir.to_owned();
        thread::spawn(move || attack(dir, seed + number, number, until))
    });
    let threads: Vec<_> = threads.collect();
    let mut tried: BTreeMap<&str, u64> = BTreeMap::new();
    let mut violations = 0;
    for thread in threads {
        let (of_thread, at_least) = thread.join().unwrap();
        violations += at_least;
        for name in of_thread {
            *tried.entry(name).or_default() += 1;
        }
    }
    for (name, count) in tried {
        println!("says: {count:>8} x {name}");
    }
    println!("says: {violations}");
}

fn attack(dir: PathBuf, seed: u64, number: u64, until: Instant) -> (Vec<&'static str>, u64) {
    let mut attacker = Attacker {
        port: Attacker::at_the_door(&dir, false).given.socket(),
        dir,
        rng: Rng::with_seed(seed),
        violations: 0,
    };
    let mut tried = Vec::new();
    // Each thread begins with its part of them, so that none is left out.
    let first = ATTACKS
        .iter()
        .skip(number as usize)
        .step_by(THREADS as usize);
    for (name, attack) in first {
        attack(&mut attacker);
        tried.push(*name);
    }
    while Instant::now() < until {
        let (name, attack) = ATTACKS[attacker.rng.usize(..ATTACKS.len())];
        attack(&mut attacker);
        tried.push(name);
    }
    (tried, attacker.violations)
}

pub(super) struct Attacker {
    dir: PathBuf,
    /// What is attacked.
    pub(super) port: SocketAddr,
    pub(super) rng: Rng,
    /// So many at least must have been counted.
    pub(super) violations: u64,
}

/// A queue pair of the victim, for as long as this lives.
pub(super) struct QueuePair {
    door: BufReader<UnixStream>,
    pub(super) given: Given,
}

impl Given {
    fn tcp(&self) -> TcpAddress {
        self.qp.tcp.expect("a queue pair of the tcp fabric")
    }

    pub(super) fn socket(&self) -> SocketAddr {
        self.tcp().socket
    }
}

impl QueuePair {
    fn ask(&mut self, what: &impl Serialize) {
        let line = serde_json::to_string(what).unwrap();
        writeln!(self.door.get_mut(), "{line}").unwrap();
    }

    /// The victim is to expect a peer with this GID, which it dials if that is more than its own.
    pub(super) fn expect(&mut self, gid: [u8; 16], socket: SocketAddr) {
        let peer = QueuePairAddress {
            gid: Gid(gid),
            gid_index: 0,
            lid: 0,
            mtu: 5,
            psn: PSN,
            qp_num: QUEUE_PAIR,
            tcp: Some(TcpAddress {
                socket,
                key: TcpKey::new(KEY),
                tls: false,
            }),
        };
        self.ask(&Asked::Expect(QueuePairInfo::from(peer)));
        let _: () = heard(&mut self.door);
    }

    /// All that the peer of this queue pair says first.
    pub(super) fn hello(&self) -> Hello {
        let digits = serde_json::to_value(self.given.tcp().key).unwrap();
        let digits = u128::from_str_radix(digits.as_str().unwrap(), 16).unwrap();
        Hello {
            rnr_retry: 1,
            gid: [0; 16],
            from: QUEUE_PAIR,
            psn: PSN,
            to: self.given.qp.qpn,
            key: digits.to_be_bytes(),
            max_send_wr: 8,
        }
    }
}

fn heard<T: DeserializeOwned>(door: &mut BufReader<UnixStream>) -> T {
    let mut line = String::new();
    door.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

/// Asks the victim how it is.
pub(super) fn health(dir: &Path) -> super::victim::Health {
    let mut door = BufReader::new(UnixStream::connect(dir.join(DOOR)).unwrap());
    let asked = serde_json::to_string(&Asked::Health).unwrap();
    writeln!(door.get_mut(), "{asked}").unwrap();
    heard(&mut door)
}

impl Attacker {
    fn at_the_door(dir: &Path, polled: bool) -> QueuePair {
        let stream = UnixStream::connect(dir.join(DOOR)).unwrap();
        let mut door = BufReader::new(stream);
        let asked = serde_json::to_string(&Asked::QueuePair { polled }).unwrap();
        writeln!(door.get_mut(), "{asked}").unwrap();
        let given = heard(&mut door);
        QueuePair { door, given }
    }

    /// A queue pair that does not know its peer yet.
    pub(super) fn waiting(&mut self) -> QueuePair {
        let polled = self.rng.bool();
        Self::at_the_door(&self.dir, polled)
    }

    /// One that expects to be dialled.
    pub(super) fn expecting(&mut self) -> QueuePair {
        let mut given = self.waiting();
        given.expect([0; 16], SocketAddr::from(([127, 0, 0, 1], 9)));
        given
    }

    /// A socket with the victim, as soon as it can be had.
    pub(super) fn dial(&self) -> TcpStream {
        let end = Instant::now() + SOON;
        loop {
            match TcpStream::connect(self.port) {
                Ok(stream) => {
                    stream.set_nodelay(true).unwrap();
                    stream.set_read_timeout(Some(SOON)).unwrap();
                    stream.set_write_timeout(Some(SOON)).unwrap();
                    return stream;
                }
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Dials, and says this as far as it is listened to.
    pub(super) fn say(&self, bytes: &[u8]) -> TcpStream {
        let stream = self.dial();
        tell(&stream, bytes);
        stream
    }

    /// Is the peer of a queue pair, by this hello. Others may be served first.
    pub(super) fn meet(&self, hello: &Hello) -> TcpStream {
        let end = Instant::now() + SOON;
        loop {
            let mut stream = self.say(&hello.encode());
            if stream.read_exact(&mut [0; HELLO]).is_ok() {
                return stream;
            }
            assert!(Instant::now() < end, "who has the key is not let in");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A queue pair, and a connection with it.
    pub(super) fn met(&mut self) -> (QueuePair, TcpStream) {
        let given = self.expecting();
        let stream = self.meet(&given.hello());
        (given, stream)
    }

    /// What the victim dials instead of a peer: a queue pair, and the connection that it made.
    pub(super) fn dialled(&mut self) -> (QueuePair, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut given = self.waiting();
        given.expect([0xff; 16], listener.local_addr().unwrap());
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        (given, stream)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.rng.u8(..))
            .take(len)
            .collect()
    }

    /// The victim closes this, and counts it.
    pub(super) fn is_closed_and_counted(&mut self, stream: TcpStream) {
        is_closed(stream);
        self.violations += 1;
    }
}

/// Says this; whoever does not want to hear it may have closed.
pub(super) fn tell(mut stream: &TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

/// The victim closes this. Returns the bytes that it said before, the first of them.
pub(super) fn is_closed(mut stream: TcpStream) -> Vec<u8> {
    let (mut said, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return said,
            Ok(count) if said.len() < 1 << 20 => said.extend_from_slice(&bytes[..count]),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                let is_late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!is_late, "it is not closed");
                return said;
            }
        }
    }
}

/// Ends a connection by a reset.
pub(super) fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

/// Frames of a peer in sequence.
pub(super) struct Frames(u32);

impl Frames {
    pub(super) fn new() -> Self {
        Self(PSN)
    }

    pub(super) fn next(&mut self, frame: Frame) -> Vec<u8> {
        let sequence = self.0;
        self.0 = sequence.wrapping_add(1);
        Frame { sequence, ..frame }.encode().to_vec()
    }
}
