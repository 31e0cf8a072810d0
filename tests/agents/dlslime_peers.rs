//! Agents and a peer that follows DLSlime's protocol by hand, over shared memory: every order of
//! the handshake, and what must not be believed. (With real DLSlime peers: tests/soft_roce.)
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::{Value, json};
use slimerpc::channel::{QueuePairInfo, RingAddress};
use slimerpc::control::{Control, Local, Mail, MailEvent, Registration};
use slimerpc::fabric::{
    self, Access, Completion, CompletionQueue, Device, MemoryRegion, Payload, Poller, QueuePair,
    RecvRequest, RemoteSlice, Sge,
};
use slimerpc::wire::pickle::Exception;
use slimerpc::wire::{Header, MessageKind, Pickle};
use slimerpc_actors::{
    AgentError, Builder, Limits, PeerAgent, Proxy, Ran, RpcError, Share, Stream, Timeouts, service,
};
use support::{Gate, Tally, unique, verbs};
use tokio::time::{sleep, timeout};

const SLOTS: usize = 4;
const SLOT_SIZE: usize = 4096;
const SOON: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Echo;

#[service]
impl Echo {
    #[method]
    fn add(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }

    #[method(raw)]
    fn echo(&mut self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[method]
    fn nothing(&mut self) {}
}

const ADD: u32 = 0;
const ECHO: u32 = 1;
const NOTHING: u32 = 2;

/// A scope that no other test uses.
fn scope() -> String {
    unique("dlslime")
}

fn agent(scope: &str, alias: &str) -> Builder {
    PeerAgent::builder()
        .scope(scope)
        .alias(alias)
        .device("shm0")
        .limits(Limits::default().slot_size(SLOT_SIZE).max_inflight(SLOTS))
        .timeouts(Timeouts::default().connect_timeout(SOON))
}

/// A DLSlime peer made by hand.
struct Peer {
    alias: String,
    control: Local,
    mail: BoxStream<'static, MailEvent>,
    device: Arc<dyn Device>,
    qps: Vec<Box<dyn QueuePair>>,
    cq: Arc<dyn CompletionQueue>,
    poller: Box<dyn Poller>,
    mailbox: Arc<dyn MemoryRegion>,
    sends: Arc<dyn MemoryRegion>,
    /// Immediates that came by each queue pair.
    arrived: Vec<Vec<u32>>,
    theirs: Option<RingAddress>,
}

impl Peer {
    async fn new(scope: &str, alias: &str, queue_pairs: usize) -> Self {
        let control = Local::new(scope);
        let port = json!({"port": 1, "state": "ACTIVE", "link_type": "SHM"});
        let registration = Registration {
            alias: Some(alias.to_owned()),
            resource: Some(
                json!({"nics": [{"name": "fake0", "health": "AVAILABLE", "ports": [port]}]}),
            ),
            ..Registration::default()
        };
        control.register(registration).await.unwrap();
        let device = fabric::open("shm0", 1).unwrap();
        let (cq, poller) = device.create_completion_queue(4096).unwrap();
        let all = Access::LOCAL_WRITE | Access::REMOTE_WRITE;
        let mut peer = Self {
            alias: alias.to_owned(),
            mail: control.mail(),
            control,
            qps: Vec::new(),
            mailbox: device.register(SLOTS * SLOT_SIZE, all).unwrap(),
            sends: device.register(SLOTS * SLOT_SIZE, all).unwrap(),
            cq,
            poller,
            device,
            arrived: Vec::new(),
            theirs: None,
        };
        peer.new_queue_pairs(queue_pairs);
        peer
    }

    fn new_queue_pairs(&mut self, count: usize) {
        self.arrived = vec![Vec::new(); count];
        let new = |_| {
            let mut qp = verbs::queue_pair(&*self.device, &self.cq, 64, 0);
            for _ in 0..64 {
                qp.post_recv(RecvRequest { wr_id: 1 }).unwrap();
            }
            qp
        };
        self.qps = (0..count).map(new).collect();
    }

    fn infos(&self) -> Vec<QueuePairInfo> {
        self.qps.iter().map(|qp| qp.address().into()).collect()
    }

    fn meta(&self, to: &str) -> Value {
        json!({
            "conn_id": "any", "src": self.alias, "dst": to, "src_device": "fake0", "dst_device": "their0",
            "ib_port": 1, "qp_num": self.qps.len(), "link_type": "SHM", "profile": "default", "transport": "rdma",
        })
    }

    async fn send_ready(&self, to: &str) {
        self.send(to, &json!({"io_info": {"data_channel_info": self.infos()}}))
            .await;
    }

    async fn send(&self, to: &str, info: &Value) {
        let mail = Mail::new("qp_ready").with("peer", &self.alias);
        let mail = mail
            .with("qp_info", info.to_string())
            .with("conn_meta", self.meta(to).to_string());
        self.control.send_mail(to, &mail).await.unwrap();
    }

    /// The next `qp_ready`: its queue pairs and its `conn_meta`.
    async fn next_ready(&mut self) -> (Vec<QueuePairInfo>, Value) {
        loop {
            let event = timeout(SOON, self.mail.next())
                .await
                .expect("a qp_ready comes")
                .unwrap();
            if let MailEvent::Mail(mail) = event
                && mail.kind == "qp_ready"
            {
                let info: Value = serde_json::from_str(mail.get("qp_info").unwrap()).unwrap();
                let channels = info["io_info"]["data_channel_info"].clone();
                let meta = serde_json::from_str(mail.get("conn_meta").unwrap()).unwrap();
                return (serde_json::from_value(channels).unwrap(), meta);
            }
        }
    }

    fn connect(&mut self, theirs: &[QueuePairInfo]) {
        assert_eq!(theirs.len(), self.qps.len());
        for (qp, theirs) in self.qps.iter_mut().zip(theirs) {
            qp.to_rtr(&(*theirs).into()).unwrap();
            qp.to_rts().unwrap();
        }
    }

    fn name(owner: &str, peer: &str) -> String {
        format!("rpc:mailbox:{owner}:{peer}")
    }

    async fn publish(&self, to: &str, length: usize) {
        let record = json!({
            "addr": self.mailbox.addr(), "length": length, "rkey": self.mailbox.rkey(), "lkey": 0, "device": "fake0",
        });
        self.control
            .publish(&Self::name(&self.alias, to), record)
            .await
            .unwrap();
    }

    async fn look_up(&self, of: &str) -> Option<RingAddress> {
        let record = self
            .control
            .lookup(of, &Self::name(of, &self.alias))
            .await
            .unwrap();
        record.map(|record| serde_json::from_value(record).unwrap())
    }

    /// Publishes our mailbox and finds theirs.
    async fn meet(&mut self, other: &str) {
        self.publish(other, SLOTS * SLOT_SIZE).await;
        let until = Instant::now() + SOON;
        self.theirs = loop {
            let found = self.look_up(other).await;
            if found.is_some() {
                break found;
            }
            assert!(Instant::now() < until, "{other} publishes no mailbox");
            sleep(Duration::from_millis(5)).await;
        };
    }

    /// Connects as the one who begins.
    async fn begin(&mut self, with: &str) -> Value {
        self.send_ready(with).await;
        let (theirs, meta) = self.next_ready().await;
        self.connect(&theirs);
        self.meet(with).await;
        meta
    }

    /// Writes `bytes` to `slot` under this immediate.
    fn write_bytes(&mut self, slot: usize, imm: u32, bytes: &[u8]) {
        let offset = slot * SLOT_SIZE;
        self.sends.copy_in(offset, bytes).unwrap();
        let ring = self.theirs.unwrap();
        let local = Payload::Region(Sge {
            addr: self.sends.addr() + offset as u64,
            length: bytes.len() as u32,
            lkey: self.sends.lkey(),
        });
        let remote = RemoteSlice {
            addr: ring.addr + offset as u64,
            rkey: ring.rkey,
        };
        verbs::write_with_imm(&mut *self.qps[0], local, remote, imm);
        // The next message would overwrite this one before it was seen.
        std::thread::sleep(Duration::from_millis(5));
    }

    /// Writes a message with this tag into `slot`, striped over the queue pairs, under an odd
    /// immediate.
    fn write(&mut self, slot: usize, tag: u32, id: u64, payload: &[u8]) {
        let mut bytes = vec![0; 16 + payload.len()];
        let total = bytes.len() as u32;
        bytes[..4].copy_from_slice(&tag.to_le_bytes());
        bytes[4..8].copy_from_slice(&total.to_le_bytes());
        bytes[8..16].copy_from_slice(&id.to_le_bytes());
        bytes[16..].copy_from_slice(payload);
        self.sends.copy_in(slot * SLOT_SIZE, &bytes).unwrap();
        let (ring, stripe) = (self.theirs.unwrap(), bytes.len().div_ceil(self.qps.len()));
        for (at, qp) in self.qps.iter_mut().enumerate() {
            let begin = (at * stripe).min(bytes.len());
            let offset = (slot * SLOT_SIZE + begin) as u64;
            let local = Payload::Region(Sge {
                addr: self.sends.addr() + offset,
                length: (bytes.len() - begin).min(stripe) as u32,
                lkey: self.sends.lkey(),
            });
            let remote = RemoteSlice {
                addr: ring.addr + offset,
                rkey: ring.rkey,
            };
            verbs::write_with_imm(&mut **qp, local, remote, 0xab_0000 | slot as u32);
        }
    }

    /// The next message: slot, header and payload.
    async fn read(&mut self) -> (usize, Header, Vec<u8>) {
        let until = Instant::now() + SOON;
        while self.arrived.iter().any(Vec::is_empty) {
            assert!(Instant::now() < until, "nothing comes");
            let mut batch = [Completion::EMPTY; 16];
            let count = self.poller.poll(&mut batch).unwrap();
            for completion in batch[..count]
                .iter()
                .filter(|c| c.wr_id == 1 && c.status.is_success())
            {
                let at = self
                    .qps
                    .iter()
                    .position(|qp| qp.number() == completion.qp_num)
                    .unwrap();
                self.qps[at].post_recv(RecvRequest { wr_id: 1 }).unwrap();
                self.arrived[at].push(completion.imm.unwrap());
            }
            tokio::task::yield_now().await;
        }
        let imms: Vec<_> = self.arrived.iter_mut().map(|imms| imms.remove(0)).collect();
        assert!(imms.iter().all(|imm| *imm == imms[0]), "{imms:?}");
        let slot = imms[0] as usize;
        let mut bytes = vec![0; SLOT_SIZE];
        self.mailbox.copy_out(slot * SLOT_SIZE, &mut bytes).unwrap();
        let (header, payload) = Header::decode_compatible(&bytes).unwrap();
        (slot, header, bytes[payload].to_vec())
    }

    async fn ask(&mut self, slot: usize, tag: u32, id: u64, payload: &[u8]) -> (Header, Vec<u8>) {
        self.write(slot, tag, id, payload);
        let (found, header, payload) = self.read().await;
        assert_eq!((found, header.request_id), (slot, id));
        (header, payload)
    }

    /// Asks for an echo of `text`.
    async fn check_echo(&mut self, text: &str) {
        let (header, payload) = self.ask(1, ECHO, u64::MAX - 7, text.as_bytes()).await;
        assert_eq!((header.kind, header.method), (MessageKind::Reply, ECHO));
        assert_eq!(payload, text.as_bytes());
    }
}

fn pickled<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    let len = Pickle::encode(value, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

#[actix::test]
async fn a_peer_that_begins_is_served_over_one_queue_pair_and_over_three() {
    for queue_pairs in [1, 3] {
        let scope = scope();
        let worker = agent(&scope, "worker").start().await.unwrap();
        worker.serve(Echo).await.unwrap();
        let mut peer = Peer::new(&scope, "driver", queue_pairs).await;
        let meta = peer.begin("worker").await;
        // The mirroring rule: their name for our device, verbatim.
        assert_eq!(
            (&meta["src_device"], &meta["dst_device"]),
            (&json!("their0"), &json!("fake0"))
        );
        assert_eq!(
            (&meta["qp_num"], &meta["ib_port"]),
            (&json!(queue_pairs), &json!(1))
        );

        peer.check_echo("").await;
        peer.check_echo(&"long ".repeat(700)).await;
        let (header, sum) = peer.ask(0, ADD, 2, &pickled(&(40, 2))).await;
        assert_eq!(header.kind, MessageKind::Reply);
        assert_eq!(Pickle::decode::<i64>(&sum).unwrap(), 42);
        // A pickled None, as DLSlime's client cannot read an empty reply.
        let (_, none) = peer.ask(2, NOTHING, 3, &[0x80, 5, b')', b'.']).await;
        assert_eq!(none.last(), Some(&b'.'));
        Pickle::decode::<()>(&none).unwrap();
        worker.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn every_request_is_answered_whatever_it_is() {
    let scope = scope();
    let worker = agent(&scope, "worker").start().await.unwrap();
    worker.serve(Echo).await.unwrap();
    let mut peer = Peer::new(&scope, "driver", 1).await;
    peer.begin("worker").await;

    let (header, unknown) = peer.ask(0, 99, 1, b"").await;
    assert_eq!(header.kind, MessageKind::Exception);
    let exception = Exception::decode(&unknown);
    assert_eq!(exception.type_name, "RuntimeError");
    assert_eq!(exception.message, "Unknown RPC tag 99 on remote service");

    for bad in [
        &b""[..],
        b"nonsense",
        &pickled(&(1, 2, 3)),
        &pickled(&("one", 2)),
    ] {
        let (header, _) = peer.ask(1, ADD, 2, bad).await;
        assert_eq!(header.kind, MessageKind::Exception, "{bad:?}");
    }
    // A chunk, which DLSlime drops without an answer, and stray flags, which it ignores.
    let (header, _) = peer.ask(2, 1 << 30 | ECHO, 3, b"x").await;
    assert_eq!(header.kind, MessageKind::Exception);
    for flags in [1 << 27, 1 << 28, 1 << 31] {
        let (header, payload) = peer.ask(3, flags | ECHO, 4, b"x").await;
        assert_eq!((header.kind, payload), (MessageKind::Reply, b"x".to_vec()));
    }
    peer.check_echo("still there").await;
}

/// A service whose state is busy until a parallel method ends that.
#[derive(Default)]
struct Busy(Arc<Signal>);

#[derive(Default)]
struct Signal {
    gate: Gate,
    /// Serial handlers.
    begun: Tally,
}

impl Share for Busy {
    type Shared = Signal;

    fn share(&self) -> Arc<Signal> {
        self.0.clone()
    }
}

#[service]
impl Busy {
    #[method(parallel)]
    fn end(signal: &Signal) -> u8 {
        signal.gate.open();
        1
    }

    #[method]
    fn work(&mut self) -> u8 {
        self.0.begun.up();
        self.0.gate.pass();
        1
    }
}

#[actix::test]
async fn parallel_methods_answer_a_dlslime_peer_while_serial_ones_are_busy() {
    let scope = scope();
    let worker = agent(&scope, "worker").start().await.unwrap();
    let busy = Busy::default();
    let signal = busy.0.clone();
    worker.serve(busy).await.unwrap();
    let mut peer = Peer::new(&scope, "driver", 1).await;
    peer.begin("worker").await;
    let nothing = [0x80, 5, b')', b'.'];
    peer.write(0, 1, 1, &nothing);
    peer.write(1, 1, 2, &nothing);
    signal.begun.reaches(1).await;
    peer.write(2, 0, 3, &nothing);
    let mut answered = Vec::new();
    for _ in 0..3 {
        let (slot, header, payload) = peer.read().await;
        assert_eq!(header.kind, MessageKind::Reply);
        assert_eq!(Pickle::decode::<u8>(&payload).unwrap(), 1);
        answered.push(slot);
    }
    // All were answered, which the serial ones are only once the parallel one has run; whose answer
    // is sent first after that is left open.
    let (serial, parallel): (Vec<_>, Vec<_>) = answered.into_iter().partition(|slot| *slot < 2);
    assert_eq!((serial, parallel), (vec![0, 1], vec![2]));
}

/// What DLSlime has no word for, or no room.
#[derive(Default)]
struct Beyond;

impl Share for Beyond {
    type Shared = ();

    fn share(&self) -> Arc<()> {
        Arc::default()
    }
}

#[service]
impl Beyond {
    #[method(stream)]
    fn items(&mut self, to: u64) -> impl Stream<Item = u64> {
        futures_util::stream::iter(0..to)
    }

    #[method(parallel, stream)]
    fn items_beside(_shared: &(), to: u64) -> impl Stream<Item = u64> {
        futures_util::stream::iter(0..to)
    }

    #[method(raw)]
    fn much(&mut self, request: &[u8]) -> Vec<u8> {
        request.repeat(SLOT_SIZE)
    }

    #[method(raw, inplace)]
    fn claims(&mut self, request: &[u8], reply: &mut [u8]) -> usize {
        reply.len() + request.len()
    }

    #[method(raw, inplace)]
    fn turned(&mut self, bytes: &mut [u8]) -> usize {
        bytes.reverse();
        bytes.len()
    }
}

const CLAIMS: u32 = 0;
const ITEMS: u32 = 1;
const ITEMS_BESIDE: u32 = 2;
const MUCH: u32 = 3;
const TURNED: u32 = 4;

#[actix::test]
async fn a_dlslime_peer_that_asks_for_a_stream_is_told_that_there_are_none_for_it() {
    let scope = scope();
    let worker = agent(&scope, "worker").start().await.unwrap();
    worker.serve(Beyond).await.unwrap();
    let mut peer = Peer::new(&scope, "driver", 1).await;
    peer.begin("worker").await;
    // More often than there are slots: none is taken up for ever.
    for round in 0..2 * SLOTS {
        for tag in [ITEMS, ITEMS_BESIDE] {
            let (slot, id) = (round % SLOTS, 10 + round as u64);
            let (header, payload) = peer.ask(slot, tag, id, &pickled(&(3,))).await;
            assert_eq!(header.kind, MessageKind::Exception);
            let exception = Exception::decode(&payload);
            assert_eq!(exception.type_name, "RuntimeError");
            let message = exception.message;
            assert!(message.contains("only native callers"), "{message}");
        }
    }
}

#[actix::test]
async fn ring_1_a_dlslime_peer_is_answered_in_place_of_its_request() {
    for queue_pairs in [1, 3] {
        let scope = scope();
        let worker = agent(&scope, "worker").start().await.unwrap();
        worker.serve(Beyond).await.unwrap();
        let mut peer = Peer::new(&scope, "driver", queue_pairs).await;
        peer.begin("worker").await;
        for size in [0, 1, 2, 200, 1000, SLOT_SIZE - 16] {
            let request: Vec<_> = (0..size).map(|at| at as u8).collect();
            let (header, payload) = peer.ask(size % SLOTS, TURNED, 7, &request).await;
            assert_eq!((header.kind, header.request_id), (MessageKind::Reply, 7));
            assert!(payload.iter().eq(request.iter().rev()), "{size} bytes");
        }
    }
}

#[actix::test]
async fn a_dlslime_peer_is_told_that_a_reply_does_not_fit_its_slot() {
    let scope = scope();
    let worker = agent(&scope, "worker").start().await.unwrap();
    worker.serve(Beyond).await.unwrap();
    let mut peer = Peer::new(&scope, "driver", 1).await;
    peer.begin("worker").await;
    for tag in [MUCH, CLAIMS] {
        let (header, payload) = peer.ask(0, tag, 1, b"x").await;
        assert_eq!(header.kind, MessageKind::Exception);
        let exception = Exception::decode(&payload);
        assert_eq!(exception.type_name, "RuntimeError");
        let message = exception.message;
        let room = (SLOT_SIZE - 16).to_string();
        assert!(message.contains(&room), "{message}");
        // And what does fit is not cut.
        let (header, payload) = peer.ask(0, tag, 2, b"").await;
        assert_eq!(header.kind, MessageKind::Reply);
        assert!(tag == CLAIMS || payload.is_empty());
    }
}

#[actix::test]
async fn streams_and_what_does_not_fit_are_refused_towards_a_dlslime_peer_before_it_is_asked() {
    let scope = scope();
    let driver = agent(&scope, "driver").start().await.unwrap();
    let mut peer = Peer::new(&scope, "worker", 1).await;
    let (proxy, ()) = tokio::join!(driver.proxy::<Beyond>("worker"), async {
        let (theirs, _) = peer.next_ready().await;
        peer.send_ready("driver").await;
        peer.connect(&theirs);
        peer.meet("driver").await;
    });
    let proxy: Proxy<Beyond> = proxy.unwrap();
    for mut items in [
        proxy.items(3),
        proxy.stream(Items { to: 3 }),
        proxy.items_beside(3),
    ] {
        let error = items.next().await.unwrap().unwrap_err();
        let (peer, what) = ("worker".to_owned(), "streams");
        assert_eq!(
            error,
            RpcError::NotNative {
                peer,
                what: what.into()
            }
        );
        assert_eq!(error.ran(), Ran::No);
        assert!(items.next().await.is_none());
    }
    let error = proxy.much(&[0; SLOT_SIZE]).await.unwrap_err();
    assert!(matches!(error, RpcError::TooLarge { .. }), "{error}");
    // Nothing was sent, and nothing is taken up: what fits is answered.
    let channel = proxy.channel().unwrap();
    assert_eq!(channel.credits().free, SLOTS);
    let fits = proxy.much(b"");
    let (fits, ()) = tokio::join!(fits, async {
        let (slot, header, payload) = peer.read().await;
        assert_eq!((header.method, payload.len()), (MUCH, 0));
        peer.write(slot, 0x2000_0000 | MUCH, header.request_id, b"");
    });
    assert_eq!(fits.unwrap(), b"");
}

#[actix::test]
async fn a_dlslime_peer_is_served_once_at_a_time() {
    let scope = scope();
    let worker = agent(&scope, "worker").start().await.unwrap();
    let (mut echo, mut peer) = (Echo, Peer::new(&scope, "driver", 1).await);
    let ask = async {
        peer.begin("worker").await;
        peer.check_echo("once").await;
        peer
    };
    let (served, mut peer) = tokio::join!(worker.serve_once(&mut echo), ask);
    served.unwrap();
    let (served, ()) = tokio::join!(worker.serve_once(&mut echo), peer.check_echo("twice"));
    served.unwrap();
}

#[actix::test]
async fn input_1_headers_and_immediates_that_end_a_dlslime_session_are_survived() {
    let scope = scope();
    let worker = agent(&scope, "worker").start().await.unwrap();
    worker.serve(Echo).await.unwrap();
    let mut peer = Peer::new(&scope, "driver", 1).await;
    peer.begin("worker").await;
    for total in [0, 8, 15, SLOT_SIZE as u32 + 1, u32::MAX] {
        let mut bytes = [0; 16];
        bytes[4..8].copy_from_slice(&total.to_le_bytes());
        peer.write_bytes(2, 2, &bytes);
    }
    for slot in [SLOTS as u32, 200, u16::MAX.into(), 1 << 24] {
        peer.write_bytes(0, slot, &[]);
    }
    for kind in [0x2000_0000, 0x2800_0000, 0x6000_0000] {
        peer.write(3, kind, 9, b"a reply to nothing");
    }
    peer.check_echo("still there").await;
}

#[actix::test]
async fn a_peer_that_comes_before_the_service_is_served_once_there_is_one() {
    let scope = scope();
    let worker = agent(&scope, "worker").start().await.unwrap();
    let mut peer = Peer::new(&scope, "driver", 1).await;
    peer.send_ready("worker").await;
    sleep(Duration::from_millis(50)).await;
    worker.serve(Echo).await.unwrap();
    let (theirs, _) = peer.next_ready().await;
    peer.connect(&theirs);
    peer.meet("worker").await;
    peer.check_echo("early").await;
}

#[actix::test]
async fn a_worker_that_begins_is_called_by_a_passive_peer() {
    let scope = scope();
    let worker = agent(&scope, "worker").start().await.unwrap();
    worker.serve(Echo).await.unwrap();
    let mut peer = Peer::new(&scope, "driver", 2).await;
    let connecting = actix::spawn({
        let worker = worker.clone();
        async move { worker.connect_to("driver").qp_num(2).await }
    });
    let (theirs, meta) = peer.next_ready().await;
    assert_eq!(
        (&meta["src_device"], &meta["dst_device"]),
        (&json!("shm0"), &json!("fake0"))
    );
    assert_eq!(
        (&meta["src"], &meta["dst"]),
        (&json!("worker"), &json!("driver"))
    );
    peer.send_ready("worker").await;
    peer.connect(&theirs);
    connecting.await.unwrap().unwrap();
    peer.meet("worker").await;
    peer.check_echo("passive").await;
}

#[actix::test]
async fn both_may_begin_at_once() {
    let scope = scope();
    let worker = agent(&scope, "worker").start().await.unwrap();
    worker.serve(Echo).await.unwrap();
    let mut peer = Peer::new(&scope, "driver", 1).await;
    let connecting = worker.connect_to("driver");
    let (connected, ()) = tokio::join!(connecting.into_future(), async {
        peer.send_ready("worker").await;
        let (theirs, _) = peer.next_ready().await;
        peer.connect(&theirs);
    });
    connected.unwrap();
    peer.meet("worker").await;
    peer.check_echo("both").await;
}

/// Answers `count` requests with their payload; exceptions for `add`.
async fn serve(peer: &mut Peer, count: usize) {
    for _ in 0..count {
        let (slot, header, payload) = peer.read().await;
        assert_eq!(
            (header.kind, header.extension),
            (MessageKind::Request, None)
        );
        let exception = json!({"type": "ValueError", "message": "no sums", "traceback": "line 1"});
        match header.method {
            ADD => peer.write(slot, 0x2800_0000, header.request_id, &pickled(&exception)),
            ECHO => peer.write(slot, 0x2000_0001, header.request_id, &payload),
            _ => peer.write(slot, 0x2000_0002, header.request_id, b""),
        }
    }
}

use std::future::IntoFuture;

#[actix::test]
async fn a_peer_is_called_over_one_queue_pair_and_over_two() {
    for queue_pairs in [1, 2] {
        let scope = scope();
        let driver = agent(&scope, "driver").start().await.unwrap();
        let mut peer = Peer::new(&scope, "worker", queue_pairs).await;
        driver
            .connect_to("worker")
            .qp_num(queue_pairs as u32)
            .await
            .unwrap();
        let (proxy, ()) = tokio::join!(driver.proxy::<Echo>("worker"), async {
            let (theirs, _) = peer.next_ready().await;
            peer.send_ready("driver").await;
            peer.connect(&theirs);
            peer.meet("driver").await;
        });
        let echo = proxy.unwrap();
        let again = driver.proxy::<Echo>("worker").await.unwrap();

        // More than there are slots: those who wait for one are sent when somebody looks.
        let many: Vec<_> = (0..20)
            .map(|at| actix::spawn(echo.echo(format!("call {at}").as_bytes())))
            .collect();
        let (failed, none) = (actix::spawn(again.add(1, 2)), actix::spawn(again.nothing()));
        serve(&mut peer, 22).await;
        for (at, reply) in many.into_iter().enumerate() {
            assert_eq!(
                reply.await.unwrap().unwrap(),
                format!("call {at}").as_bytes()
            );
        }
        match failed.await.unwrap() {
            Err(RpcError::Remote {
                type_name,
                message,
                traceback,
                ..
            }) => {
                assert_eq!(
                    (&*type_name, &*message, &*traceback),
                    ("ValueError", "no sums", "line 1")
                );
            }
            other => panic!("{other:?}"),
        }
        // DLSlime answers None with nothing at all.
        none.await.unwrap().unwrap();
        driver.shutdown().await.unwrap();
        assert_eq!(peer.look_up("driver").await, None);
    }
}

#[actix::test]
async fn fence_1_a_stale_answer_gives_way_to_a_fresh_one() {
    let scope = scope();
    let driver = agent(&scope, "driver").start().await.unwrap();
    let mut peer = Peer::new(&scope, "worker", 1).await;
    // From an earlier life, whose queue pairs are gone.
    peer.send_ready("driver").await;
    peer.new_queue_pairs(1);
    let (proxy, ()) = tokio::join!(driver.proxy::<Echo>("worker"), async {
        let (theirs, _) = peer.next_ready().await;
        peer.send_ready("driver").await;
        peer.connect(&theirs);
        peer.meet("driver").await;
    });
    let echo = proxy.unwrap().echo(b"fresh");
    serve(&mut peer, 1).await;
    assert_eq!(echo.await.unwrap(), b"fresh");
}

#[actix::test]
async fn a_caller_that_comes_back_with_other_queue_pairs_is_served_again() {
    let scope = scope();
    let worker = agent(&scope, "worker").start().await.unwrap();
    worker.serve(Echo).await.unwrap();
    let mut peer = Peer::new(&scope, "driver", 1).await;
    peer.begin("worker").await;
    peer.check_echo("first life").await;
    // The same qp_ready again is no news.
    peer.send_ready("worker").await;
    peer.check_echo("still the first").await;

    peer.control
        .withdraw(&Peer::name("driver", "worker"))
        .await
        .unwrap();
    peer.new_queue_pairs(1);
    peer.begin("worker").await;
    peer.check_echo("second life").await;
}

#[actix::test]
async fn serving_and_calling_over_one_pair_is_refused() {
    let scope = scope();
    let worker = agent(&scope, "worker").start().await.unwrap();
    worker.serve(Echo).await.unwrap();
    let mut peer = Peer::new(&scope, "driver", 1).await;
    peer.begin("worker").await;
    let error = worker.proxy::<Echo>("driver").await.unwrap_err();
    assert!(
        matches!(&error, AgentError::BothDirections { peer, service } if peer == "driver" && service == "Echo")
    );
    assert!(
        error.to_string().contains("call it from another agent"),
        "{error}"
    );
    peer.check_echo("goes on").await;

    // The other way round: a peer that calls where it is called is told so.
    let scope = self::scope();
    let driver = agent(&scope, "driver").start().await.unwrap();
    let mut peer = Peer::new(&scope, "worker", 1).await;
    let (proxy, ()) = tokio::join!(driver.proxy::<Echo>("worker"), async {
        let (theirs, _) = peer.next_ready().await;
        peer.send_ready("driver").await;
        peer.connect(&theirs);
        peer.meet("driver").await;
    });
    let proxy = proxy.unwrap();
    peer.write(3, ECHO, 7, b"call");
    let reply = proxy.echo(b"mine");
    let polled = actix::spawn(reply);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (slot, header, payload) = peer.read().await;
        kinds.push(header.kind);
        match header.kind {
            MessageKind::Request => peer.write(slot, 0x2000_0001, header.request_id, &payload),
            _ => {
                assert_eq!((slot, header.request_id), (3, 7));
                assert!(
                    Exception::decode(&payload)
                        .message
                        .contains("another alias")
                );
            }
        }
    }
    assert!(kinds.contains(&MessageKind::Exception) && kinds.contains(&MessageKind::Request));
    assert_eq!(polled.await.unwrap().unwrap(), b"mine");
}

#[actix::test]
async fn a_mailbox_that_does_not_fit_is_refused_before_the_first_write() {
    let scope = scope();
    let driver = agent(&scope, "driver").start().await.unwrap();
    let mut peer = Peer::new(&scope, "worker", 1).await;
    let (proxy, ()) = tokio::join!(driver.proxy::<Echo>("worker"), async {
        let (theirs, _) = peer.next_ready().await;
        peer.send_ready("driver").await;
        peer.connect(&theirs);
        peer.publish("driver", SLOTS * SLOT_SIZE - 8).await;
    });
    let error = proxy.unwrap_err().to_string();
    assert!(
        error.contains("mailbox length") && error.contains("16376") && error.contains("4096"),
        "{error}"
    );
    assert_eq!(peer.look_up("driver").await, None);
}

#[actix::test]
async fn input_1_bad_qp_ready_are_survived_and_a_good_one_follows() {
    let scope = scope();
    let worker = agent(&scope, "worker").start().await.unwrap();
    worker.serve(Echo).await.unwrap();
    let mut peer = Peer::new(&scope, "driver", 1).await;
    let good = json!({"io_info": {"data_channel_info": peer.infos()}});
    let mut nobody = good.clone();
    nobody["io_info"]["data_channel_info"][0]["gid"] =
        json!({"subnet_prefix": 1, "interface_id": 2});
    let mut wide = good.clone();
    wide["io_info"]["data_channel_info"] = json!([peer.infos()[0], peer.infos()[0]]);
    let mut odd = good.clone();
    odd["io_info"]["data_channel_info"][0]["qpn"] = json!(1_u64 << 40);
    for bad in [
        json!(null),
        json!({}),
        json!({"io_info": {}}),
        nobody,
        wide,
        odd,
    ] {
        peer.send("worker", &bad).await;
    }
    peer.begin("worker").await;
    peer.check_echo("after all").await;
}

#[actix::test]
async fn a_peer_that_stays_silent_is_an_error_in_time() {
    let scope = scope();
    let driver = agent(&scope, "driver")
        .timeouts(Timeouts::default().connect_timeout(Duration::from_millis(200)))
        .start()
        .await
        .unwrap();
    let mut peer = Peer::new(&scope, "worker", 1).await;
    let begun = Instant::now();
    let error = driver.proxy::<Echo>("worker").await.unwrap_err();
    assert!(
        matches!(&error, AgentError::DlslimeTimeout { waiting_for, .. } if waiting_for.contains("qp_ready"))
    );
    let (theirs, _) = peer.next_ready().await;
    peer.send_ready("driver").await;
    let error = driver.proxy::<Echo>("worker").await.unwrap_err();
    assert!(
        matches!(&error, AgentError::DlslimeTimeout { waiting_for, .. } if waiting_for.contains("mailbox")),
        "{error}"
    );
    assert!(begun.elapsed() < SOON);
    drop(theirs);
}
