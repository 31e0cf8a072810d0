//! INPUT-1 on channels: a peer that writes whatever it likes into our rings is counted and
//! otherwise ignored.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use slimerpc::channel::{
    BufferPool, CallError, ClientChannel, Delivery, Dialer, Endpoint, Geometry, Inbound, LossCause,
    Mailbox, MemoryLimits, PendingCall, RingAddress, ServiceInfo, Violation, WaitPolicy,
};
use slimerpc::fabric::shm::ShmDevice;
use slimerpc::fabric::{
    Access, Completion, Device, MemoryRegion, Payload, Poller, QueuePair, RecvRequest, RemoteSlice,
    RetryPolicy,
};
use slimerpc::wire::{Extension, Header, MessageKind, RendezvousDescriptor, StreamPart};
use support::verbs;

const SLOTS: usize = 4;
const SLOT_SIZE: usize = 256;
const SOON: Duration = Duration::from_secs(60);

fn geometry() -> Geometry {
    Geometry::new(SLOTS, SLOT_SIZE).unwrap()
}

fn service_info() -> ServiceInfo {
    ServiceInfo {
        name: "test".to_owned(),
        stream_patience: SOON,
        figures: None,
    }
}

fn mailbox(device: &Arc<dyn Device>) -> Mailbox {
    let geometries = geometry().into();
    Mailbox::new(
        memory(device),
        geometries,
        RetryPolicy::default(),
        service_info(),
    )
    .unwrap()
}

const MAX_PAYLOAD: usize = 1 << 20;

fn memory(device: &Arc<dyn Device>) -> Arc<BufferPool> {
    let limits = MemoryLimits {
        payload: MAX_PAYLOAD,
        total: 2 * MAX_PAYLOAD,
        idle: MAX_PAYLOAD,
    };
    BufferPool::new(device.clone(), limits)
}

/// A peer that speaks to a channel through nothing but the fabric.
struct Stranger {
    qp: Box<dyn QueuePair>,
    /// What the channel reads over.
    bulk: Box<dyn QueuePair>,
    poller: Box<dyn Poller>,
    ring: Arc<dyn MemoryRegion>,
    theirs: Option<Endpoint>,
}

impl Stranger {
    fn new(device: &dyn Device) -> Self {
        let mut stranger = Self::deaf(device);
        stranger.listen();
        stranger
    }

    /// One that takes no messages yet.
    fn deaf(device: &dyn Device) -> Self {
        let (cq, poller) = device.create_completion_queue(1024).unwrap();
        let queue_pair = || verbs::queue_pair(device, &cq, 256, 1024);
        let (qp, bulk) = (queue_pair(), queue_pair());
        let ring = device
            .register(
                SLOTS * SLOT_SIZE,
                Access::LOCAL_WRITE | Access::REMOTE_WRITE,
            )
            .unwrap();
        Self {
            qp,
            bulk,
            poller,
            ring,
            theirs: None,
        }
    }

    fn listen(&mut self) {
        for wr_id in 0..256 {
            self.qp.post_recv(RecvRequest { wr_id }).unwrap();
        }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            qp: self.qp.address().into(),
            bulk: self.bulk.address().into(),
            ring: RingAddress {
                addr: self.ring.addr(),
                length: self.ring.len() as u64,
                rkey: self.ring.rkey(),
            },
            geometry: geometry(),
        }
    }

    fn connect(&mut self, theirs: Endpoint) {
        self.qp.to_rtr(&theirs.qp.into()).unwrap();
        self.qp.to_rts().unwrap();
        self.bulk.to_rtr(&theirs.bulk.into()).unwrap();
        self.bulk.to_rts().unwrap();
        self.theirs = Some(theirs);
    }

    /// Writes `bytes` to `slot` of the other's ring (to slot 0 if there is no such slot) under this
    /// immediate.
    fn write(&mut self, slot: usize, imm: u32, bytes: &[u8]) {
        let ring = self.theirs.as_ref().unwrap().ring;
        let at = slot * SLOT_SIZE % (SLOTS * SLOT_SIZE);
        let remote = RemoteSlice {
            addr: ring.addr + at as u64,
            rkey: ring.rkey,
        };
        verbs::write_with_imm(&mut *self.qp, Payload::Inline(bytes), remote, imm);
    }

    /// The next `count` messages: immediate and the header in its slot.
    fn receive(&mut self, count: usize) -> Vec<(u32, Header)> {
        let until = Instant::now() + SOON;
        let mut all = Vec::new();
        while all.len() < count {
            assert!(Instant::now() < until, "{} of {count} came", all.len());
            all.extend(self.received());
        }
        all
    }

    /// The next `count` messages, while nothing is asked of the mailbox.
    fn receive_unasked(&mut self, count: usize, mailbox: &mut Mailbox) -> Vec<(u32, Header)> {
        let until = Instant::now() + SOON;
        let mut all = Vec::new();
        while all.len() < count {
            assert!(Instant::now() < until, "{} of {count} came", all.len());
            assert!(requests(mailbox).is_empty());
            all.extend(self.received());
        }
        all
    }

    fn received(&mut self) -> Vec<(u32, Header)> {
        let mut batch = [Completion::EMPTY; 64];
        let count = self.poller.poll(&mut batch).unwrap();
        let completions = batch[..count].iter();
        let imms = completions.filter_map(|completion| completion.imm);
        imms.map(|imm| {
            self.qp.post_recv(RecvRequest { wr_id: 0 }).unwrap();
            let mut slot = [0; SLOT_SIZE];
            self.ring
                .copy_out(imm as u16 as usize * SLOT_SIZE, &mut slot)
                .unwrap();
            (imm, Header::decode(&slot).unwrap().0)
        })
        .collect()
    }
}

fn header(kind: MessageKind, request_id: u64) -> Header {
    Header {
        kind,
        method: 0,
        request_id,
        payload_len: 0,
        extension: None,
    }
}

fn encoded(header: Header) -> Vec<u8> {
    let mut bytes = vec![0; SLOT_SIZE];
    let len = header.encode(&mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

/// Headers that are none: too short, too long, flags of nothing, a damaged extension, noise.
fn damaged(kind: MessageKind) -> Vec<Vec<u8>> {
    let good = encoded(header(kind, 7));
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    let mut extended = encoded(Header {
        extension: Some(Extension {
            deadline_us: Some(1),
            ..Extension::default()
        }),
        ..header(kind, 7)
    });
    extended[16..18].copy_from_slice(&u16::MAX.to_le_bytes());
    vec![
        with(4, &0_u32.to_le_bytes()),
        with(4, &15_u32.to_le_bytes()),
        with(4, &(SLOT_SIZE as u32 + 1).to_le_bytes()),
        with(4, &u32::MAX.to_le_bytes()),
        with(3, &[0xff]),
        extended,
        vec![0; 16],
        vec![0xff; SLOT_SIZE],
    ]
}

/// Polls until nothing has come for a moment, and gives the requests.
fn requests(mailbox: &mut Mailbox) -> Vec<Inbound> {
    at_least(0, mailbox)
}

/// Waits for so many requests, and takes those that come right after them as well.
fn at_least(count: usize, mailbox: &mut Mailbox) -> Vec<Inbound> {
    let (mut deliveries, mut all) = (VecDeque::new(), Vec::new());
    let started = Instant::now();
    // Time may pass without a poll, on a busy machine.
    let (mut quiet, mut polls) = (started, 0);
    while quiet.elapsed() < Duration::from_millis(20) || polls < 1000 || all.len() < count {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{} of {count} requests",
            all.len()
        );
        polls += 1;
        if mailbox.poll(&mut deliveries).unwrap() {
            (quiet, polls) = (Instant::now(), 0);
        }
        for delivery in deliveries.drain(..) {
            match delivery {
                Delivery::Request(request) => all.push(request),
                Delivery::Cancel(_) => {}
                Delivery::Lost { cause, .. } => panic!("the channel is gone: {cause}"),
            }
        }
    }
    all
}

#[test]
fn a_mailbox_outlives_a_caller_that_writes_nonsense() {
    let device = ShmDevice::open().unwrap();
    let mut mailbox = mailbox(&device);
    let mut caller = Stranger::new(&*ShmDevice::open().unwrap());
    let endpoint = mailbox.accept("mallory", 1, &caller.endpoint()).unwrap();
    caller.connect(endpoint);

    let damaged = damaged(MessageKind::Request);
    for bytes in &damaged {
        caller.write(1, 1, bytes);
        assert!(requests(&mut mailbox).is_empty());
    }
    caller.write(
        SLOTS,
        SLOTS as u32,
        &encoded(header(MessageKind::Request, 1)),
    );
    caller.write(0, 0xffff, &[]);
    caller.write(2, 2, &encoded(header(MessageKind::Reply, 1)));
    caller.write(2, 2, &encoded(header(MessageKind::Exception, 1)));
    // Cancels of nothing are not even wrong: they may have crossed an answer.
    caller.write(3, 1 << 16 | 3, &[]);
    assert!(requests(&mut mailbox).is_empty());

    // A second request in a slot whose first is not answered.
    caller.write(3, 3, &encoded(header(MessageKind::Request, 41)));
    let first = at_least(1, &mut mailbox);
    caller.write(3, 3, &encoded(header(MessageKind::Request, 42)));
    assert!(requests(&mut mailbox).is_empty());
    let [(_, violations)] = &mailbox.violations()[..] else {
        panic!("one caller")
    };
    for (violation, count) in [
        (Violation::BadHeader, damaged.len() as u64),
        (Violation::BadSlot, 2),
        (Violation::WrongKind, 2),
        (Violation::SlotBusy, 1),
    ] {
        assert_eq!(violations.count(violation), count, "{violation:?}");
    }
    assert_eq!(first.len(), 1);
    for request in first {
        request.reply(|_| Ok(0));
    }
    let answers = caller.receive(1);
    assert_eq!(answers, [(3, header(MessageKind::Reply, 41))]);
}

#[test]
fn a_mailbox_bears_many_cancels() {
    let device = ShmDevice::open().unwrap();
    let mut mailbox = mailbox(&device);
    let mut caller = Stranger::new(&*device);
    let endpoint = mailbox.accept("mallory", 1, &caller.endpoint()).unwrap();
    caller.connect(endpoint);
    // What a correct caller can have under way without an answer: a cancel, a request and its
    // cancel a slot.
    for slot in 0..SLOTS as u32 {
        caller.write(slot as usize, 1 << 16 | slot, &[]);
        caller.write(
            slot as usize,
            slot,
            &encoded(header(MessageKind::Request, slot.into())),
        );
        caller.write(slot as usize, 1 << 16 | slot, &[]);
    }
    // Longer than a sender waits for receives.
    thread::sleep(Duration::from_millis(50));
    assert_eq!(at_least(SLOTS, &mut mailbox).len(), SLOTS);
}

/// A caller asks up to `most` times in one slot and takes no answer, until the slot is refused;
/// then it listens. Gives how often it has asked, and the last answer.
fn asks_and_does_not_listen(most: u64, is_rewritten: bool) -> (u64, Header) {
    const SLOT: u32 = 1;
    let device = ShmDevice::open().unwrap();
    // Answers wait until they are received.
    let for_ever = RetryPolicy {
        rnr_retry: 7,
        ..RetryPolicy::default()
    };
    let mut mailbox =
        Mailbox::new(memory(&device), geometry().into(), for_ever, service_info()).unwrap();
    let mut caller = Stranger::deaf(&*device);
    let endpoint = mailbox.accept("mallory", 1, &caller.endpoint()).unwrap();
    caller.connect(endpoint);
    let mut bytes = [0; Header::LEN + 5];
    let mut deliveries = VecDeque::new();
    let (mut asked, mut answered) = (0, 0);
    while asked == answered && asked < most {
        asked += 1;
        let asks = Header {
            payload_len: 5,
            ..header(MessageKind::Request, asked)
        };
        asks.encode(&mut bytes).unwrap();
        caller.write(SLOT as usize, SLOT, &bytes);
        let until = Instant::now() + SOON;
        while answered + mailbox.violations()[0].1.total() < asked {
            assert!(Instant::now() < until, "{asked} is not taken, nor refused");
            mailbox.poll(&mut deliveries).unwrap();
            for delivery in deliveries.drain(..) {
                let Delivery::Request(mut request) = delivery else {
                    panic!("{delivery:?}")
                };
                answered += 1;
                if is_rewritten {
                    request.payload_mut().fill(7);
                    request.reply_rewritten(3);
                } else {
                    request.reply(|_| Ok(3));
                }
            }
        }
    }
    let refused = mailbox.violations()[0].1.count(Violation::SlotBusy);
    assert_eq!(refused, asked - answered);

    caller.listen();
    let mut taken = Vec::new();
    let until = Instant::now() + SOON;
    while (taken.len() as u64) < answered {
        assert!(Instant::now() < until, "{} of {answered} came", taken.len());
        mailbox.poll(&mut deliveries).unwrap();
        taken.extend(caller.received());
    }
    let (slot, answer) = taken[taken.len() - 1];
    assert_eq!(slot, SLOT);
    (asked, answer)
}

#[test]
fn input_1_a_slot_whose_answer_is_not_taken_is_not_used_again() {
    const MANY: u64 = 1000;
    for is_rewritten in [false, true] {
        // As many as the send queue takes, one that waits for a place in it, and one that is
        // refused.
        let (asked, _) = asks_and_does_not_listen(MANY, is_rewritten);
        assert!(asked > 2 && asked < MANY, "{asked}");
        // What waits comes as it was.
        let (_, answer) = asks_and_does_not_listen(asked - 1, is_rewritten);
        let expected = Header {
            payload_len: 3,
            ..header(MessageKind::Reply, asked - 1)
        };
        assert_eq!(answer, expected, "{is_rewritten}");
    }
}

#[test]
fn ring_1_a_slot_in_use_is_not_looked_at() {
    const TIMES: u64 = 5_000;
    let device = ShmDevice::open().unwrap();
    let mut mailbox = mailbox(&device);
    let mut caller = Stranger::new(&*device);
    let endpoint = mailbox.accept("mallory", 1, &caller.endpoint()).unwrap();
    caller.connect(endpoint);
    let asks = encoded(header(MessageKind::Request, 1));
    caller.write(1, 1, &asks);
    let request = at_least(1, &mut mailbox).pop().unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // It finds its arguments whenever it looks, whatever its caller writes into the slot
        // meanwhile.
        let handler = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert!(request.payload().is_empty());
            }
        });
        let mut deliveries = VecDeque::new();
        let until = Instant::now() + SOON;
        for seen in 1..=TIMES {
            caller.write(1, 1, &asks);
            while mailbox.violations()[0].1.count(Violation::SlotBusy) < seen
                && !handler.is_finished()
            {
                assert!(Instant::now() < until, "{seen} of {TIMES}");
                mailbox.poll(&mut deliveries).unwrap();
                caller.received();
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    drop(request);
}

/// A request that is a part of a stream.
fn in_stream(id: u64, part: StreamPart) -> Vec<u8> {
    let extension = Extension {
        stream: Some(part),
        ..Extension::default()
    };
    encoded(Header {
        extension: Some(extension),
        ..header(MessageKind::Request, id)
    })
}

#[test]
fn input_1_items_of_streams_that_nobody_makes_are_answered_at_once() {
    let device = ShmDevice::open().unwrap();
    let mut mailbox = mailbox(&device);
    let mut caller = Stranger::new(&*device);
    let endpoint = mailbox.accept("mallory", 1, &caller.endpoint()).unwrap();
    caller.connect(endpoint);
    let is_end = |answers: &[(u32, Header)], slot: u32, stream: u64| {
        let [(at, header)] = answers else {
            panic!("{answers:?}")
        };
        assert_eq!(
            (*at, header.stream()),
            (slot, Some(StreamPart::End(stream)))
        );
    };
    // Never opened.
    caller.write(0, 0, &in_stream(1, StreamPart::Next(77)));
    is_end(&caller.receive_unasked(1, &mut mailbox), 0, 77);
    caller.write(0, 0, &in_stream(2, StreamPart::End(u64::MAX)));
    is_end(&caller.receive_unasked(1, &mut mailbox), 0, u64::MAX);
    // Opened, and answered by a method that makes no stream.
    caller.write(0, 0, &in_stream(3, StreamPart::Open));
    let opened = at_least(1, &mut mailbox);
    caller.write(1, 1, &in_stream(4, StreamPart::Next(3)));
    assert!(requests(&mut mailbox).is_empty());
    opened
        .into_iter()
        .for_each(|request| request.reply(|_| Ok(0)));
    let answers = caller.receive(2);
    assert_eq!(answers[0], (0, header(MessageKind::Reply, 3)));
    is_end(&answers[1..], 1, 3);
    // The payload of a stream that is not opened is not read.
    let mut forged = header(MessageKind::Request, 5);
    forged.set_outside(RendezvousDescriptor {
        addr: 1,
        len: 1 << 20,
        rkey: 9,
    });
    forged.extension.as_mut().unwrap().stream = Some(StreamPart::Next(3));
    caller.write(0, 0, &encoded(forged));
    is_end(&caller.receive_unasked(1, &mut mailbox), 0, 3);
}

#[test]
fn input_1_a_caller_may_have_so_many_streams_open_and_no_more() {
    const LIMIT: u64 = 1024;
    let device = ShmDevice::open().unwrap();
    let mut mailbox = mailbox(&device);
    let mut caller = Stranger::new(&*device);
    let endpoint = mailbox.accept("mallory", 1, &caller.endpoint()).unwrap();
    caller.connect(endpoint);
    let (mut deliveries, mut open) = (VecDeque::new(), Vec::new());
    for id in 1..=LIMIT + 1 {
        caller.write(0, 0, &in_stream(id, StreamPart::Open));
        let request = loop {
            mailbox.poll(&mut deliveries).unwrap();
            match deliveries.pop_front() {
                Some(Delivery::Request(request)) => break request,
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        };
        // Each has its first item, and is left alone.
        if let Some(mut sink) = request.into_items() {
            let context = Context::from_waker(Waker::noop());
            let Poll::Ready(Some(first)) = sink.poll_request(&context) else {
                panic!("the first item is asked for")
            };
            first.reply(|_| Ok(0));
            open.push(sink);
        }
        let kind = if id <= LIMIT {
            MessageKind::Reply
        } else {
            MessageKind::Exception
        };
        assert_eq!(caller.receive(1)[0].1.kind, kind, "{id}");
    }
    assert_eq!(open.len() as u64, LIMIT);
    // Those that have ended make room.
    open.truncate(10);
    for id in 11..=LIMIT {
        caller.write(0, 0, &in_stream(5000 + id, StreamPart::Next(id)));
        while caller.received().is_empty() {
            mailbox.poll(&mut deliveries).unwrap();
        }
    }
    caller.write(0, 0, &in_stream(9999, StreamPart::Open));
    let request = at_least(1, &mut mailbox).pop().unwrap();
    assert!(request.into_items().is_some());
}

/// A message whose payload lies at `addr` of the stranger.
fn outside(kind: MessageKind, id: u64, addr: u64, len: u64, rkey: u32) -> Vec<u8> {
    let mut header = header(kind, id);
    header.set_outside(RendezvousDescriptor { addr, len, rkey });
    encoded(header)
}

#[test]
fn input_1_a_forged_descriptor_of_a_request_ends_its_channel_and_no_other() {
    let device = ShmDevice::open().unwrap();
    let memory = memory(&device);
    let mut mailbox = Mailbox::new(
        memory.clone(),
        geometry().into(),
        RetryPolicy::default(),
        service_info(),
    )
    .unwrap();
    let lies = |ring: &dyn MemoryRegion| {
        let (addr, len, rkey) = (ring.addr(), ring.len() as u64, ring.rkey());
        [
            (addr, len, rkey),                  // no right to read it
            (addr, len, rkey.wrapping_add(77)), // no such key
            (u64::MAX - 7, 4096, rkey),         // wraps around
        ]
    };
    let mut honest = Stranger::new(&*device);
    let endpoint = mailbox.accept("alice", 1, &honest.endpoint()).unwrap();
    honest.connect(endpoint);
    let offered = device.register(8192, Access::REMOTE_READ).unwrap();
    offered.copy_in(0, &[7; 8192]).unwrap();
    let (addr, rkey) = (offered.addr(), offered.rkey());
    // More than was offered, before and behind it.
    let beyond = [
        (addr, 8193, rkey),
        (addr - 1, 10, rkey),
        (addr + 8191, 2, rkey),
    ];
    for which in 0..6 {
        let mut caller = Stranger::new(&*device);
        let endpoint = mailbox.accept("mallory", 1, &caller.endpoint()).unwrap();
        caller.connect(endpoint);
        let (addr, len, rkey) = match which {
            0..3 => lies(&*caller.ring)[which],
            _ => beyond[which - 3],
        };
        caller.write(1, 1, &outside(MessageKind::Request, 5, addr, len, rkey));
        let (mut deliveries, until) = (VecDeque::new(), Instant::now() + SOON);
        while deliveries.is_empty() {
            assert!(Instant::now() < until, "{which}");
            mailbox.poll(&mut deliveries).unwrap();
        }
        let lost = deliveries.pop_front().unwrap();
        assert!(
            matches!(&lost, Delivery::Lost { peer, .. } if peer == "mallory"),
            "{lost:?}"
        );
    }
    assert_eq!(memory.account().lent, 0);

    // What was offered is read, to the last byte.
    honest.write(2, 2, &outside(MessageKind::Request, 6, addr, 8192, rkey));
    let mut requests = at_least(1, &mut mailbox);
    assert_eq!(*requests[0].payload(), [7; 8192]);
    requests.remove(0).reply(|_| Ok(0));
    assert_eq!(honest.receive(1)[0].1.request_id, 6);
    assert_eq!(memory.account().lent, 0);
}

#[test]
fn input_1_what_is_too_large_for_us_is_refused_before_memory_is_spent() {
    let device = ShmDevice::open().unwrap();
    let memory = memory(&device);
    let mut mailbox = Mailbox::new(
        memory.clone(),
        geometry().into(),
        RetryPolicy::default(),
        service_info(),
    )
    .unwrap();
    let mut caller = Stranger::new(&*device);
    let endpoint = mailbox.accept("mallory", 1, &caller.endpoint()).unwrap();
    caller.connect(endpoint);
    let offered = device.register(MAX_PAYLOAD, Access::REMOTE_READ).unwrap();
    let (addr, rkey) = (offered.addr(), offered.rkey());
    for len in [MAX_PAYLOAD as u64 + 1, 1 << 40, u64::MAX] {
        caller.write(0, 0, &outside(MessageKind::Request, len, addr, len, rkey));
        let until = Instant::now() + SOON;
        let answer = loop {
            assert!(requests(&mut mailbox).is_empty());
            if let Some((_, answer)) = caller.received().pop() {
                break answer;
            }
            assert!(Instant::now() < until, "no answer came");
        };
        assert_eq!(
            (answer.kind, answer.request_id),
            (MessageKind::Exception, len)
        );
    }
    assert_eq!(memory.account().lent + memory.account().idle, 0);
    // Two fit at the same time, and a third does not.
    let len = MAX_PAYLOAD as u64;
    for slot in 0..3 {
        let request = outside(MessageKind::Request, 10 + slot, addr, len, rkey);
        caller.write(slot as usize, slot as u32, &request);
    }
    let held = at_least(2, &mut mailbox);
    assert_eq!(held.len(), 2);
    assert_eq!(caller.receive(1)[0].1.kind, MessageKind::Exception);
    drop(held);
    assert_eq!(memory.account().lent, 0);
}

#[test]
fn input_1_a_forged_descriptor_of_an_answer_ends_the_channel() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let device: Arc<dyn Device> = ShmDevice::open().unwrap();
    for (len, is_lost) in [
        (4096, true),
        (MAX_PAYLOAD as u64 + 1, false),
        (u64::MAX, false),
    ] {
        let (channel, mut server) = client(&device, &runtime);
        let mut call = channel.call(0, None, |_| Ok(0)).unwrap();
        let (imm, request) = server.receive(1)[0];
        let (slot, id) = (imm as usize, request.request_id);
        let forged = outside(MessageKind::Reply, id, server.ring.addr(), len, 0xbad);
        server.write(slot, imm, &forged);
        server.write(slot, imm, &forged);
        let until = Instant::now() + SOON;
        let error = loop {
            assert!(Instant::now() < until);
            match call.poll(None).map(|answer| answer.map(|_| ())) {
                std::task::Poll::Ready(result) => break result.unwrap_err(),
                std::task::Poll::Pending => {}
            }
        };
        if is_lost {
            assert!(
                matches!(
                    &error,
                    CallError::Closed {
                        cause: LossCause::Completion(_),
                        sent: true
                    }
                ),
                "{error}"
            );
            assert_eq!(channel.violations().total(), 1, "an answer is given once");
        } else {
            assert!(
                matches!(
                    error,
                    CallError::NoMemory {
                        is_answer: true,
                        ..
                    }
                ),
                "{error}"
            );
            assert!(channel.closed().is_none());
        }
    }
}

/// A channel that is closed, or a call that is given up, while a large answer is being read or when
/// it has been.
#[test]
fn drop_1_memory_of_answers_that_nobody_takes_comes_back() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let device: Arc<dyn Device> = ShmDevice::open().unwrap();
    let offered = device.register(MAX_PAYLOAD, Access::REMOTE_READ).unwrap();
    for (is_read, is_closed) in [(false, true), (true, false), (false, false), (true, true)] {
        let memory = memory(&device);
        let (channel, mut server) = client_with(&memory, &runtime);
        let mut call = channel.call(0, None, |_| Ok(0)).unwrap();
        let (imm, request) = server.receive(1)[0];
        let id = request.request_id;
        let (addr, len) = (offered.addr(), MAX_PAYLOAD as u64);
        let answer = outside(MessageKind::Reply, id, addr, len, offered.rkey());
        server.write(imm as usize, imm, &answer);
        let until = Instant::now() + SOON;
        while memory.account().lent == 0 {
            assert!(Instant::now() < until);
            assert!(call.poll(None).map(|answer| answer.is_ok()).is_pending());
        }
        if is_read {
            // Nobody looks at the call meanwhile.
            while server.received().is_empty() {
                assert!(Instant::now() < until);
                channel.credits();
            }
        }
        if is_closed {
            channel.close(LossCause::Left);
        }
        if !(is_read && is_closed) {
            drop(call);
            while memory.account().lent > 0 {
                assert!(Instant::now() < until, "{is_read} {is_closed}");
                channel.credits();
            }
        } else {
            // What has been read can be had still.
            let Poll::Ready(Ok(answer)) = call.poll(None) else {
                panic!("the answer has arrived")
            };
            assert_eq!(answer.payload().len(), MAX_PAYLOAD);
            drop(answer);
            assert_eq!(memory.account().lent, 0);
        }
    }
}

fn client(
    device: &Arc<dyn Device>,
    runtime: &tokio::runtime::Runtime,
) -> (Arc<ClientChannel>, Stranger) {
    client_with(&memory(device), runtime)
}

fn client_with(
    memory: &Arc<BufferPool>,
    runtime: &tokio::runtime::Runtime,
) -> (Arc<ClientChannel>, Stranger) {
    let mut server = Stranger::new(&**memory.device());
    let dialer = Dialer::new(memory, geometry(), RetryPolicy::default()).unwrap();
    server.connect(dialer.endpoint());
    let patience = WaitPolicy {
        busy_poll: Duration::ZERO,
        runtime: runtime.handle().clone(),
    };
    (
        dialer
            .connect("mallory", &server.endpoint(), patience)
            .unwrap(),
        server,
    )
}

/// Handles what arrives until the channel has seen `total` violations; nothing else may come.
fn sees(channel: &ClientChannel, call: &mut PendingCall, total: u64) {
    let until = Instant::now() + SOON;
    while channel.violations().total() < total {
        assert!(Instant::now() < until, "{:?}", channel.violations());
        assert!(call.poll(None).is_pending());
    }
    assert_eq!(channel.violations().total(), total);
}

fn is_answered(call: &mut PendingCall) {
    let until = Instant::now() + SOON;
    while call.poll(None).map(|answer| answer.unwrap()).is_pending() {
        assert!(Instant::now() < until);
    }
}

#[test]
fn a_caller_outlives_a_service_that_writes_nonsense() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let (channel, mut server) = client(&ShmDevice::open().unwrap(), &runtime);
    let call = || channel.call(5, None, |_| Ok(0)).unwrap();
    let (mut first, mut second) = (call(), call());
    let requests = server.receive(2);
    let [(slot, asked), (other, _)] = requests[..] else {
        panic!("two requests: {requests:?}")
    };
    assert_eq!((asked.kind, asked.method), (MessageKind::Request, 5));
    let at = slot as usize;
    let reply = encoded(header(MessageKind::Reply, asked.request_id));

    let mut nonsense: Vec<(u32, Vec<u8>, Violation)> = damaged(MessageKind::Reply)
        .into_iter()
        .map(|bytes| (slot, bytes, Violation::BadHeader))
        .collect();
    let stranger = encoded(header(MessageKind::Reply, asked.request_id + 1000));
    // A slot in which nothing is outstanding, and what stands there is no message.
    let free = (0..SLOTS as u32)
        .find(|free| ![slot, other].contains(free))
        .unwrap();
    nonsense.extend([
        (SLOTS as u32, reply.clone(), Violation::BadSlot),
        (0xffff, vec![], Violation::BadSlot),
        (slot, encoded(asked), Violation::WrongKind),
        (1 << 16 | slot, reply.clone(), Violation::WrongKind),
        (slot, stranger, Violation::UnknownRequest),
        (other, reply.clone(), Violation::UnknownRequest),
        (free, vec![], Violation::BadHeader),
    ]);
    for (seen, (imm, bytes, violation)) in nonsense.into_iter().enumerate() {
        let before = channel.violations().count(violation);
        server.write(if imm == other { other as usize } else { at }, imm, &bytes);
        sees(&channel, &mut first, seen as u64 + 1);
        assert_eq!(
            channel.violations().count(violation),
            before + 1,
            "{imm:#x} {bytes:?}"
        );
    }

    server.write(at, slot, &reply);
    is_answered(&mut first);
    let seen = channel.violations().total();
    server.write(at, slot, &reply);
    sees(&channel, &mut second, seen + 1);
    assert_eq!(channel.closed(), None);
    let credits = channel.credits();
    assert_eq!((credits.free, credits.in_use), (SLOTS - 1, 1), "SLOT-2");

    let mut third = call();
    let (slot, asked) = server.receive(1)[0];
    let reply = encoded(header(MessageKind::Reply, asked.request_id));
    server.write(slot as usize, slot, &reply);
    is_answered(&mut third);
}
