#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Instant;

use proptest::prelude::*;

use crate::channel::loopback::{LONG, Loopback};
use crate::channel::queue_pair_group::WriteRequest;
use crate::channel::{
    CallFigures, ClientChannel, Delivery, Geometry, Inbound, PendingCall, TellError, Violation,
};
use crate::fabric::tcp::{TcpDevice, TcpOptions};
use crate::fabric::{
    Access, Device, DeviceLimits, FabricError, MemoryRegion, PortAttributes, QueueHalves,
    QueuePair, QueuePairInit, shm::ShmDevice,
};
use crate::wire::{
    Codec, EncodeError, Extension, Fault, Header, Immediate, MessageKind, Raw,
    RendezvousDescriptor, Signal, StreamPart,
};

/// Slots of 32 KiB.
fn agreed(slots: usize) -> Geometry {
    Geometry::new(slots, 32 << 10).unwrap()
}

fn call(channel: &Arc<ClientChannel>, byte: u8, len: usize) -> PendingCall {
    channel.call_bytes(0, None, &vec![byte; len]).unwrap()
}

fn bytes(byte: u8, len: usize) -> impl FnMut(&mut [u8]) -> Result<usize, EncodeError> {
    move |room| Raw::encode(&vec![byte; len][..], room)
}

/// Waits for an answer, while the mailbox is polled for what it still has to do.
fn answer_of(ends: &mut Loopback, call: &mut PendingCall) -> Vec<u8> {
    let until = Instant::now() + LONG;
    loop {
        if let Poll::Ready(answer) = call.poll(None) {
            return answer.unwrap().payload().to_vec();
        }
        assert!(Instant::now() < until, "no answer arrives");
        ends.poll_in_vain();
    }
}

/// Makes calls without arguments until the caller uses large slots.
fn until_grown(ends: &mut Loopback) {
    let until = Instant::now() + LONG;
    while !ends.channel.lock().uses_large {
        if Instant::now() > until {
            let violations = (ends.channel.violations(), ends.mailbox.violations());
            let core = ends.channel.lock();
            panic!("{:?}, {:?}, {violations:?}", core.growth, core.remote);
        }
        let channel = ends.channel.clone();
        ends.serve(&channel);
    }
}

/// Both ends' rings have grown, if they are to.
fn assert_grown(ends: &Loopback, expected: bool) {
    let channel = &ends.channel;
    let rings = [&channel.sends, &channel.replies];
    let has_grown = rings.map(|ring| ring.grown_address().is_some());
    assert_eq!(has_grown, [expected; 2]);
    assert_eq!(channel.lock().uses_large, expected);
}

#[test]
fn a_channel_of_small_messages_does_not_grow() {
    let mut ends = Loopback::of(agreed(4));
    for len in [0, 1, 1000, 4000] {
        let mut call = call(&ends.channel.clone(), 7, len);
        let request = ends.request();
        assert_eq!(request.payload(), vec![7; len]);
        ends.answer(request, &[8; 100]);
        assert_eq!(answer_of(&mut ends, &mut call), [8; 100]);
    }
    assert_grown(&ends, false);
    assert!(ends.channel.replies.address().length <= 32 << 10);
}

#[test]
fn both_ends_grow_for_a_request_or_an_answer_that_would_fit_and_not_for_one_beyond() {
    let most = agreed(2).max_payload();
    for (asked, answered, grows) in [
        (20_000, 10, true),
        (10, 20_000, true),
        (most, most, true),
        (most + 1, 10, false),
        (10, most + 1, false),
    ] {
        let mut ends = Loopback::of(agreed(2));
        let channel = ends.channel.clone();
        for round in 0..4 {
            let mut call = call(&channel, round, asked);
            let request = ends.request();
            assert_eq!(request.payload(), vec![round; asked]);
            request.reply(bytes(!round, answered));
            assert_eq!(answer_of(&mut ends, &mut call), vec![!round; answered]);
        }
        if grows {
            until_grown(&mut ends);
            // Now it travels through the rings.
            let figures = Arc::new(CallFigures::new("test", &["method"]));
            channel.count_in(figures.clone());
            let mut call = call(&channel, 5, asked.min(most));
            ends.request().reply(bytes(6, answered.min(most)));
            answer_of(&mut ends, &mut call);
            drop(call);
            let bytes = figures.read_beside().payload;
            assert_eq!(
                (bytes.sent_by_rendezvous, bytes.received_by_rendezvous),
                (0, 0)
            );
        }
        assert_grown(&ends, grows);
        assert_eq!(channel.credits().free, 2, "SLOT-2");
    }
}

#[test]
fn a_handler_has_the_room_that_was_agreed_on_before_the_rings_grow() {
    let most = agreed(2).max_payload();
    for written in [0, 10, most] {
        let mut ends = Loopback::of(agreed(2));
        for _ in 0..3 {
            let mut call = call(&ends.channel.clone(), 7, 10);
            let mut request = ends.request();
            let (payload, room) = request.parts();
            assert_eq!((payload, room.len()), (&[7; 10][..], most));
            room.fill(3);
            // It may look twice.
            assert_eq!(request.parts().1[most - 1], 3);
            request.reply_written(written);
            assert_eq!(answer_of(&mut ends, &mut call), vec![3; written]);
            until_grown(&mut ends);
        }
        let mut call = call(&ends.channel.clone(), 7, 10);
        ends.request().reply_written(most + 1);
        let until = Instant::now() + LONG;
        let fault = loop {
            assert!(Instant::now() < until);
            if let Poll::Ready(answer) = call.poll(None) {
                break answer.unwrap().fault().unwrap();
            }
        };
        assert!(
            matches!(fault, Some(Fault::ReplyTooLarge { .. })),
            "{fault:?}"
        );
    }
}

#[test]
fn a_failure_is_told_whole_before_the_rings_grow() {
    let mut ends = Loopback::of(agreed(2));
    let fault = Fault::Raised {
        type_name: "Long".to_owned(),
        message: "m".repeat(10_000),
        traceback: "t".repeat(10_000),
    };
    let mut call = call(&ends.channel.clone(), 7, 10);
    ends.request().fail(fault.clone());
    let until = Instant::now() + LONG;
    let told = loop {
        assert!(Instant::now() < until);
        if let Poll::Ready(answer) = call.poll(None) {
            break answer.unwrap().fault().unwrap();
        }
    };
    assert_eq!(told, Some(fault.clone()));
    // Nor is that of a call that nobody waits for.
    let mut ends = Loopback::of(agreed(2));
    let (sender, failures) = std::sync::mpsc::channel();
    ends.channel
        .listen(move |failure| sender.send(failure.cause).unwrap());
    let told = ends.channel.tell(0, None, None, |_| Ok(0)).unwrap();
    ends.request().fail(fault.clone());
    let told_of = failures.recv_timeout(LONG).unwrap();
    assert_eq!(told_of, TellError::Fault(fault));
    drop(told);
}

#[test]
fn slot_1_calls_under_way_end_in_the_slots_where_they_began() {
    let mut ends = Loopback::of(agreed(4));
    let channel = ends.channel.clone();
    let mut calls = vec![call(&channel, 1, 100), call(&channel, 2, 20_000)];
    let mut requests = vec![ends.request(), ends.request()];
    until_grown(&mut ends);
    // And two in large slots, and those that wait for a credit.
    calls.extend([3, 4, 5, 6].map(|byte| call(&channel, byte, 20_000)));
    requests.extend([ends.request(), ends.request()]);
    let answer = |request: Inbound, ends: &mut Loopback, calls: &mut [PendingCall]| {
        let (byte, len) = (request.payload()[0], request.payload().len());
        assert!(request.payload().iter().all(|it| *it == byte));
        request.reply(bytes(!byte, len));
        let call = &mut calls[usize::from(byte) - 1];
        assert_eq!(answer_of_any(ends, call), vec![!byte; len]);
    };
    while let Some(request) = requests.pop() {
        answer(request, &mut ends, &mut calls);
    }
    for _ in 0..2 {
        let request = ends.request();
        answer(request, &mut ends, &mut calls);
    }
    drop(calls);
    assert_eq!(channel.credits().free, 4, "SLOT-2");
}

/// Waits for an answer; the mailbox is not polled.
fn answer_of_any(_: &mut Loopback, call: &mut PendingCall) -> Vec<u8> {
    let until = Instant::now() + LONG;
    loop {
        if let Poll::Ready(answer) = call.poll(None) {
            return answer.unwrap().payload().to_vec();
        }
        assert!(Instant::now() < until, "no answer arrives");
    }
}

/// Has the caller write `message` and `imm` as nobody should.
fn write(channel: &ClientChannel, message: &[u8], slot: u16, signal: Signal) {
    let core = &mut *channel.lock();
    let to = core.remote.first().slot(slot);
    let sent = core.queue_pairs.write(&WriteRequest {
        imm: Immediate { slot, signal }.to_bits(),
        bytes: message,
        lkey: 0,
        to,
    });
    assert!(sent.unwrap());
}

#[test]
fn input_1_a_ring_that_is_none_is_refused_and_disturbs_nobody() {
    let slots = 2;
    let message =
        |addr: u64, length: u64, rkey: u64| [addr, length, rkey].map(u64::to_le_bytes).concat();
    let length = agreed(slots).len() as u64;
    for hostile in [
        message(u64::MAX - 5, length, 1),
        message(4096, length - 8, 1),
        message(4096, u64::MAX, 1),
        message(4096, length, 1 << 32),
    ] {
        let mut ends = Loopback::of(agreed(slots));
        let channel = ends.channel.clone();
        let other = ends.dial(2);
        // One that overlaps the first.
        let first = channel.replies.address();
        let overlapping = message(first.addr + 8, length, first.rkey.into());
        write(&channel, &overlapping, slots as u16, Signal::Grown);
        ends.serve(&channel);
        write(&channel, &hostile, slots as u16, Signal::Grown);
        // A large slot before there is one.
        write(&channel, &[], 0, Signal::Large);
        ends.serve(&channel);
        ends.serve(&other);
        let violations = ends.mailbox.violations();
        let of_this = violations[0].1;
        assert_eq!(of_this.count(Violation::BadRing), 3);
        assert_eq!(of_this.total(), 3);
        assert_eq!(violations[1].1.total(), 0);
        assert_grown(&ends, false);
        // What is right is taken afterwards.
        let mut first = call(&channel, 1, 20_000);
        ends.request().reply(bytes(2, 10));
        assert_eq!(answer_of(&mut ends, &mut first), [2; 10]);
        until_grown(&mut ends);
        // But once.
        write(
            &channel,
            &message(4096, length, 1),
            slots as u16,
            Signal::Grown,
        );
        ends.serve(&channel);
        let violations = ends.mailbox.violations();
        assert_eq!(violations[0].1.count(Violation::BadRing), 4);
        let mut call = call(&channel, 1, 20_000);
        ends.request().reply(bytes(2, 20_000));
        assert_eq!(answer_of(&mut ends, &mut call), [2; 20_000]);
    }
}

#[test]
fn input_1_a_payload_that_nobody_reads_holds_nothing_up() {
    let mut ends = Loopback::of(agreed(2));
    let channel = ends.channel.clone();
    // A request for an item of a stream has no payload.
    let extension = Extension {
        stream: Some(StreamPart::Next(7)),
        outside: Some(RendezvousDescriptor {
            addr: 4096,
            len: 20_000,
            rkey: 1,
        }),
        ..Extension::default()
    };
    let header = Header {
        kind: MessageKind::Request,
        method: 0,
        request_id: 1,
        payload_len: 0,
        extension: Some(extension),
    };
    let mut message = [0; 256];
    let len = header.encode(&mut message).unwrap();
    write(&channel, &message[..len], 0, Signal::Message);
    for _ in 0..3 {
        ends.serve(&channel);
    }
}

#[test]
fn input_1_a_caller_refuses_what_a_service_may_not_send() {
    let mut ends = Loopback::of(agreed(2));
    let channel = ends.channel.clone();
    for (signal, violation) in [
        (Signal::Grown, Violation::BadRing),
        (Signal::Large, Violation::WrongKind),
    ] {
        // Its last slot says nothing.
        channel
            .lock()
            .receive(&channel, Immediate { slot: 2, signal });
        assert_eq!(channel.violations().count(violation), 1);
    }
    ends.serve(&channel);
    // DLSlime peers and rings of small slots have no last slot at all.
    let ends = Loopback::new(2);
    let (slot, signal) = (0, Signal::Grown);
    ends.channel
        .lock()
        .receive(&ends.channel, Immediate { slot, signal });
    assert_eq!(ends.channel.violations().count(Violation::BadRing), 1);
}

/// A device that registers nothing more once it is told so.
#[derive(Debug)]
struct Limited {
    device: Arc<dyn Device>,
    is_full: AtomicBool,
}

impl Device for Limited {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn port(&self) -> PortAttributes {
        self.device.port()
    }

    fn limits(&self) -> DeviceLimits {
        self.device.limits()
    }

    fn register(&self, len: usize, access: Access) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        // Payloads are read into memory that peers may not write.
        let is_ring = access == Access::LOCAL_WRITE | Access::REMOTE_WRITE;
        if is_ring && self.is_full.load(Ordering::Relaxed) {
            return Err(FabricError::Limit {
                what: "the memory that is locked",
                given: len as u64,
                allowed: "0 more".to_owned(),
                device: self.name().to_owned(),
            });
        }
        self.device.register(len, access)
    }

    fn create_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError> {
        self.device.create_completion_queue(depth)
    }

    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        self.device.create_queue_pair(init)
    }
}

#[test]
fn an_end_that_cannot_register_more_goes_on_with_small_slots() {
    let limited = |is_full| {
        let (device, is_full) = (ShmDevice::open().unwrap() as Arc<dyn Device>, is_full);
        let is_full = AtomicBool::new(is_full);
        Arc::new(Limited { device, is_full })
    };
    for full in [[true, false], [false, true], [true, true]] {
        let devices = [limited(false), limited(false)];
        let [caller, called] = devices.clone();
        let mut ends = Loopback::shaped(caller, called, agreed(2));
        for (device, is_full) in devices.iter().zip(full) {
            device.is_full.store(is_full, Ordering::Relaxed);
        }
        for byte in 0..5 {
            let mut call = call(&ends.channel.clone(), byte, 20_000);
            let request = ends.request();
            assert_eq!(request.payload(), [byte; 20_000]);
            request.reply(bytes(!byte, 15_000));
            assert_eq!(answer_of(&mut ends, &mut call), [!byte; 15_000]);
        }
        assert!(!ends.channel.lock().uses_large);
        assert_eq!(ends.channel.closed(), None);
    }
}

/// One thing that may happen next.
#[derive(Debug, Clone)]
enum Step {
    /// A call of this many bytes.
    Call(usize),
    /// The service looks for arrivals.
    Serve,
    /// A request is answered with this many bytes.
    Answer { which: usize, len: usize },
    /// A handler writes its answer into the room that it has.
    Write { which: usize, len: usize },
    /// A call is dropped.
    Drop { which: usize },
    /// The caller looks at a call.
    Poll { which: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![0..100_usize, 1000..5000_usize, 30_000..33_000_usize];
    let which = || 0..8_usize;
    prop_oneof![
        3 => len().prop_map(Step::Call),
        3 => Just(Step::Serve),
        2 => (which(), len()).prop_map(|(which, len)| Step::Answer { which, len }),
        1 => (which(), len()).prop_map(|(which, len)| Step::Write { which, len }),
        1 => which().prop_map(|which| Step::Drop { which }),
        3 => which().prop_map(|which| Step::Poll { which }),
    ]
}

/// A call that nobody has dropped, and how it is answered once it is.
struct Made {
    call: PendingCall,
    number: usize,
}

fn pattern(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 31 + at) as u8).collect()
}

/// Whatever happens while the rings grow, each call gets its own answer, whole, and every credit
/// comes back; and none that fits overtakes another (SLOT-1, SLOT-2, RING-1, ORDER-1).
fn each_call_gets_its_answer(mut ends: Loopback, steps: Vec<Step>, slots: usize) {
    let most = agreed(slots).max_payload();
    let channel = ends.channel.clone();
    let mut made: Vec<Made> = Vec::new();
    let mut requests: Vec<Inbound> = Vec::new();
    let mut last_inside = None;
    let (mut lens, mut answers) = (Vec::new(), Vec::<Option<(usize, usize)>>::new());
    let mut deliveries = VecDeque::new();
    let mut serve = |ends: &mut Loopback,
                     requests: &mut Vec<Inbound>,
                     lens: &[usize],
                     deliveries: &mut VecDeque<Delivery>| {
        ends.mailbox.poll(deliveries).unwrap();
        for delivery in deliveries.drain(..) {
            match delivery {
                Delivery::Request(request) => {
                    let number = request.method() as usize;
                    assert_eq!(request.payload(), pattern(number, lens[number]));
                    if lens[number] <= most {
                        assert!(last_inside.replace(number) < Some(number), "ORDER-1");
                    }
                    requests.push(request);
                }
                Delivery::Cancel(_) => {}
                Delivery::Lost { cause, .. } => panic!("{cause}"),
            }
        }
    };
    let poll = |made: &mut Vec<Made>, which: usize, answers: &[Option<(usize, usize)>]| {
        let Made { call, number } = &mut made[which];
        let number = *number;
        let is_answered = match call.poll(None) {
            Poll::Pending => false,
            Poll::Ready(answer) => {
                let (salt, len) = answers[number].unwrap();
                let answer = answer.unwrap();
                assert_eq!(answer.fault().unwrap(), None);
                assert_eq!(answer.payload(), pattern(salt, len));
                true
            }
        };
        if is_answered {
            made.swap_remove(which);
        }
    };
    for step in steps {
        match step {
            Step::Call(len) => {
                let number = lens.len();
                lens.push(len);
                answers.push(None);
                let payload = pattern(number, len);
                let call = channel.call_bytes(number as u32, None, &payload).unwrap();
                made.push(Made { call, number });
            }
            Step::Serve => serve(&mut ends, &mut requests, &lens, &mut deliveries),
            Step::Answer { which, len } | Step::Write { which, len } if !requests.is_empty() => {
                let mut request = requests.swap_remove(which % requests.len());
                let number = request.method() as usize;
                let is_written = matches!(step, Step::Write { .. });
                let len = if is_written { len.min(most) } else { len };
                answers[number] = Some((number + 7, len));
                let payload = pattern(number + 7, len);
                match is_written {
                    false => request.reply(|room| Raw::encode(&payload[..], room)),
                    true => {
                        request.parts().1[..len].copy_from_slice(&payload);
                        request.reply_written(len);
                    }
                }
            }
            Step::Drop { which } if !made.is_empty() => {
                made.swap_remove(which % made.len());
            }
            Step::Poll { which } if !made.is_empty() => {
                let which = which % made.len();
                poll(&mut made, which, &answers);
            }
            _ => {}
        }
    }
    let until = Instant::now() + LONG;
    while channel.credits().free < slots || !made.is_empty() {
        assert!(Instant::now() < until, "{:?}", channel.credits());
        serve(&mut ends, &mut requests, &lens, &mut deliveries);
        for request in requests.drain(..) {
            let number = request.method() as usize;
            answers[number] = Some((number, 5));
            request.reply(|room| Raw::encode(&pattern(number, 5)[..], room));
        }
        for which in (0..made.len()).rev() {
            poll(&mut made, which, &answers);
        }
    }
    assert_eq!(channel.violations().total(), 0);
    assert!(ends.mailbox.violations().iter().all(|it| it.1.total() == 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn slot_1_slot_2_ring_1_rings_grow_amid_calls_over_shared_memory(
        steps in prop::collection::vec(any_step(), 0..150)
    ) {
        each_call_gets_its_answer(Loopback::of(agreed(3)), steps, 3);
    }

    #[test]
    fn slot_1_slot_2_ring_1_rings_grow_amid_calls_over_tcp(
        steps in prop::collection::vec(any_step(), 0..150)
    ) {
        let device = || TcpDevice::open(&TcpOptions::default()).unwrap() as Arc<dyn Device>;
        let ends = Loopback::shaped(device(), device(), agreed(3));
        each_call_gets_its_answer(ends, steps, 3);
    }
}
