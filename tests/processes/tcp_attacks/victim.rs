//! The process that is attacked: an agent that serves, and on its device queue pairs for whoever
//! has, or has stolen, what opens them.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slimerpc::channel::QueuePairInfo;
use slimerpc::fabric::tcp::{TcpDevice, TcpOptions};
use slimerpc::fabric::{
    Access, Completion, Device, MemoryRegion, Opcode, QueuePair, QueuePairInit, RecvRequest,
    RetryPolicy, TCP,
};
use slimerpc_actors::{PeerAgent, service};

pub(super) const ALIAS: &str = "victim";
/// Where it gives out queue pairs, in the directory of the test.
pub(super) const DOOR: &str = "door";
/// Receives of a queue pair that is given out.
pub(super) const RECEIVES: u32 = 8;
/// Bytes of a region.
pub(super) const LEN: usize = 4 << 20;
/// What the memory holds that nobody may write.
const KEPT: u8 = 0x5a;

#[derive(Default)]
pub(super) struct Bytes;

#[service]
impl Bytes {
    #[method]
    fn reversed(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.reverse();
        bytes
    }
}

/// What is said at the door, a line each. A queue pair lives as long as the connection.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Asked {
    /// A queue pair; somebody polls its queue, or nobody.
    QueuePair { polled: bool },
    /// It is to expect this peer.
    Expect(QueuePairInfo),
    /// How the victim is.
    Health,
}

/// A queue pair, and memory that its peer is told of.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Given {
    pub(super) qp: QueuePairInfo,
    /// May be read and written.
    pub(super) open: Slice,
    /// May be read only, written only, and neither.
    pub(super) closed: [Slice; 3],
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Slice {
    pub(super) addr: u64,
    pub(super) rkey: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Health {
    /// Connections that were closed and counted.
    pub(super) violations: u64,
    /// Lines of its log.
    pub(super) lines: u64,
    /// Whether memory that nobody may write is as it was.
    pub(super) is_unchanged: bool,
}

/// Ends with the process that started it.
pub(super) fn run(dir: &Path) {
    let lines = Arc::new(AtomicU64::new(0));
    let counted = lines.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || Counting(counted.clone()))
        .init();
    let device = TcpDevice::open(&TcpOptions::default()).unwrap();
    let house = Arc::new(House::new(&device, lines));
    let listener = UnixListener::bind(dir.join(DOOR)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let house = house.clone();
            std::thread::spawn(move || house.serve(stream.unwrap()));
        }
    });
    actix::System::new().block_on(async {
        let wrapped = move |_| device.clone() as Arc<dyn Device>;
        let agent = PeerAgent::builder().alias(ALIAS).host().device(TCP);
        let agent = agent.wrap_device(wrapped).start().await.unwrap();
        agent.serve(Bytes).await.unwrap();
        println!("says: served");
        std::future::pending::<()>().await
    });
}

/// Standard error, line by line.
struct Counting(Arc<AtomicU64>);

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        self.0.fetch_add(lines as u64, Ordering::Relaxed);
        std::io::stderr().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

struct House {
    device: Arc<TcpDevice>,
    open: Arc<dyn MemoryRegion>,
    closed: [Arc<dyn MemoryRegion>; 3],
    lines: Arc<AtomicU64>,
}

impl House {
    fn new(device: &Arc<TcpDevice>, lines: Arc<AtomicU64>) -> Self {
        let register = |access| device.register(LEN, access).unwrap();
        let closed = [
            Access::REMOTE_READ,
            Access::REMOTE_WRITE,
            Access::LOCAL_WRITE,
        ];
        let closed = closed.map(register);
        for region in &closed {
            region.copy_in(0, &vec![KEPT; LEN]).unwrap();
        }
        Self {
            device: device.clone(),
            open: register(Access::ALL),
            closed,
            lines,
        }
    }

    fn health(&self) -> Health {
        let is_unchanged = |region: &Arc<dyn MemoryRegion>| {
            let mut bytes = vec![0; LEN];
            region.copy_out(0, &mut bytes).unwrap();
            bytes.iter().all(|byte| *byte == KEPT)
        };
        let [readable, _, local] = &self.closed;
        Health {
            violations: self.device.violations(),
            lines: self.lines.load(Ordering::Relaxed),
            is_unchanged: is_unchanged(readable) && is_unchanged(local),
        }
    }

    fn serve(&self, mut stream: UnixStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let asked = lines.next().and_then(Result::ok);
        match asked.map(|line| serde_json::from_str(&line).unwrap()) {
            Some(Asked::QueuePair { polled }) => self.give(stream, polled),
            Some(Asked::Health) => say(&mut stream, &self.health()),
            Some(Asked::Expect(_)) | None => {}
        }
    }

    fn give(&self, mut stream: UnixStream, polled: bool) {
        let (cq, mut poller) = self.device.create_completion_queue(64).unwrap();
        let init = QueuePairInit {
            send_cq: cq.clone(),
            recv_cq: cq,
            max_send_wr: 16,
            max_recv_wr: RECEIVES,
            max_inline: 64,
            retry: RetryPolicy::default(),
        };
        let mut qp = self.device.create_queue_pair(&init).unwrap();
        qp.to_init().unwrap();
        qp.post_recvs(RecvRequest { wr_id: 1 }, RECEIVES).unwrap();
        let slice = |region: &Arc<dyn MemoryRegion>| Slice {
            addr: region.addr(),
            rkey: region.rkey(),
        };
        let given = Given {
            qp: qp.address().into(),
            open: slice(&self.open),
            closed: self.closed.each_ref().map(slice),
        };
        say(&mut stream, &given);
        if polled {
            let pause = Some(Duration::from_millis(1));
            stream.set_read_timeout(pause).unwrap();
        }
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        let mut some = [Completion::EMPTY; 16];
        loop {
            match lines.read_line(&mut line) {
                Ok(0) => return,
                Ok(_) => {
                    expect(&mut *qp, &line);
                    line.clear();
                    // Whoever asked may go on.
                    let stream = lines.get_mut();
                    say(stream, &());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            if polled {
                let count = poller.poll(&mut some).unwrap();
                let is_taken = |it: &&Completion| {
                    it.opcode == Opcode::RecvWriteWithImm && it.status.is_success()
                };
                let taken = some[..count].iter().filter(is_taken).count();
                qp.post_recvs(RecvRequest { wr_id: 1 }, taken as u32)
                    .unwrap();
            }
        }
    }
}

fn expect(qp: &mut dyn QueuePair, line: &str) {
    let Asked::Expect(peer) = serde_json::from_str(line).unwrap() else {
        panic!("{line}");
    };
    // The attacker may be where it cannot be dialled.
    if qp.to_rtr(&peer.into()).is_ok() {
        let _ = qp.to_rts();
    }
}

fn say(stream: &mut UnixStream, what: &impl Serialize) {
    let line = serde_json::to_string(what).unwrap();
    // Whoever asked may be gone.
    let _ = writeln!(stream, "{line}");
}
