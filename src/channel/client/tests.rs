#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use super::*;
use crate::channel::AnswerView;
use crate::channel::Dialer;
use crate::channel::dialer::OWNER;
use crate::channel::loopback::{LONG, Loopback, WORKER, memory, wait_policy};
use crate::channel::work_id::WorkId;
use crate::fabric::drop_order::{DropOrder, Gone};
use crate::fabric::tcp::{TcpDevice, TcpOptions};
use crate::fabric::{Completion, CompletionStatus, Device, Opcode, RetryPolicy, shm::ShmDevice};
use crate::wire::{Codec, Raw};

/// Somebody looks whether anything has arrived, but at no call.
fn look(channel: &ClientChannel) {
    channel.progress();
}

#[test]
fn slot_2_an_answer_that_is_dropped_unread_gives_its_credit_back() {
    for is_seen in [false, true] {
        let mut ends = Loopback::new(2);
        let call = ends.call();
        let request = ends.request();
        ends.answer(request, b"");
        if is_seen {
            look(&ends.channel);
        }
        drop(call);
        let credits = ends.channel.credits();
        assert_eq!((credits.free, credits.in_use, credits.orphaned), (2, 0, 0));
    }
}

#[test]
fn a_channel_rests_only_if_nothing_is_under_way_and_was_since() {
    let mut ends = Loopback::new(2);
    let other = ends.dial(2);
    let channel = ends.channel.clone();
    let calls = |channel: &ClientChannel| channel.calls_if_idle();
    let rest = |one, another| ClientChannel::rest(&[(&*channel, one), (&*other, another)]);
    let before = [calls(&ends.channel).unwrap(), calls(&other).unwrap()];
    let call = ends.channel.call(7, None, |_| Ok(0)).unwrap();
    assert_eq!(calls(&ends.channel), None, "a call is under way");
    assert!(!rest(before[0], before[1]) && !rest(before[0] + 1, before[1]));
    drop(call);
    let waiting = ends.channel.closed();
    assert_eq!(
        (waiting, calls(&ends.channel)),
        (None, None),
        "its answer is to come"
    );
    let request = ends.request();
    ends.answer(request, b"");
    let answered = calls(&ends.channel).unwrap();
    assert!(answered > before[0]);
    assert!(!rest(before[0], before[1]), "there was a call meanwhile");
    assert_eq!(
        (ends.channel.closed(), other.closed()),
        (None, None),
        "none or both"
    );
    assert!(rest(answered, before[1]));
    for channel in [&ends.channel, &other] {
        assert_eq!(channel.closed(), Some(LossCause::Resting));
        assert_eq!(calls(channel), None);
        let refused = channel.call(7, None, |_| Ok(0)).unwrap_err();
        let resting = CallError::Closed {
            cause: LossCause::Resting,
            sent: false,
        };
        assert_eq!(refused, resting);
    }
}

#[test]
fn a_request_carries_the_span_that_it_was_sent_from_also_if_it_waited_or_does_not_fit() {
    let trace = Traceparent::new(7 << 64 | 8, 9).unwrap();
    let mut ends = Loopback::new(1);
    let size = ends.channel.geometry().max_payload();
    let long = Some(LONG);
    for payload in [0, size, 3 * size] {
        let fill = |room: &mut [u8]| Raw::encode(&vec![3; payload][..], room);
        let channel = ends.channel.clone();
        let traced = channel.call_traced(7, long, trace, &mut { fill }).unwrap();
        let told = channel.tell(7, None, Some(trace), fill).unwrap();
        let (opened, _) = channel.open_stream(7, long, Some(trace), fill).unwrap();
        let plain = channel.call(7, long, fill).unwrap();
        let calls = [Some(traced), None, Some(opened), Some(plain)];
        let sent = [Some(trace), Some(trace), Some(trace), None];
        for (call, sent) in calls.into_iter().zip(sent) {
            let request = ends.request();
            assert_eq!(request.trace(), sent);
            assert_eq!(request.payload(), vec![3; payload]);
            request.reply(|_| Ok(0));
            let until = Instant::now() + LONG;
            // The watcher takes in the answer to a call that nobody waits for.
            if let Some(mut call) = call {
                while call.poll(None).is_pending() {
                    assert!(Instant::now() < until, "no answer arrives");
                }
            }
        }
        drop(told);
    }
}

#[test]
fn a_closed_channel_has_no_slots_that_are_taken_for_ever() {
    let ends = Loopback::new(2);
    let calls = [(); 3].map(|()| ends.call());
    assert_eq!(ends.channel.occupancy(), (0, 2, 1));
    ends.channel.close(LossCause::ShutDown);
    assert_eq!(ends.channel.occupancy(), (0, 0, 0));
    drop(calls);
}

#[test]
fn slots_of_the_smallest_size_carry_no_span() {
    let mut ends = Loopback::of(Geometry::new(1, Geometry::MIN_SLOT_SIZE).unwrap());
    let trace = Traceparent::new(8, 9).unwrap();
    let call = ends
        .channel
        .call_traced(7, Some(LONG), trace, &mut |_| Ok(0))
        .unwrap();
    assert_eq!(ends.request().trace(), None);
    drop(call);
}

#[test]
fn slot_2_an_answer_of_any_size_is_read_and_its_credit_is_back() {
    let mut ends = Loopback::new(1);
    for len in [0, 1, 127, 128, 129, 240] {
        let answer: Vec<u8> = (0..len).collect();
        let mut call = ends.call();
        let request = ends.request();
        ends.answer(request, &answer);
        let polled = call.poll_answer(None, |answer| answer.payload().to_vec());
        assert!(matches!(polled, Poll::Ready(Ok(read)) if read == answer));
        assert_eq!(ends.channel.credits().free, 1);
    }
}

#[test]
fn call_1_a_call_that_waits_is_sent_when_an_answer_is_dropped_unread() {
    let mut ends = Loopback::new(1);
    let first = ends.call();
    let second = ends.channel.call(7, None, |_| Ok(0)).unwrap();
    let request = ends.request();
    ends.answer(request, b"");
    look(&ends.channel);
    drop(first);
    assert_eq!(ends.request().method(), 7);
    drop(second);
}

#[test]
fn call_1_a_call_that_waits_is_sent_when_an_answer_of_any_size_is_read() {
    // One that is copied and one that is read where it stands.
    for len in [1, 200] {
        let mut ends = Loopback::new(1);
        let mut first = ends.call();
        let second = ends.channel.call(7, None, |_| Ok(0)).unwrap();
        let request = ends.request();
        ends.answer(request, &vec![1; len]);
        let polled = first.poll_answer(None, |answer| answer.payload().len());
        assert_eq!(polled, Poll::Ready(Ok(len)));
        assert_eq!(ends.request().method(), 7, "an answer of {len} bytes");
        drop(second);
    }
}

#[test]
fn call_1_a_channel_that_is_closed_keeps_the_answers_that_have_arrived() {
    for is_seen in [false, true] {
        let mut ends = Loopback::new(2);
        let (mut answered, mut other) = (ends.call(), ends.call());
        let request = ends.request();
        ends.answer(request, b"42");
        if is_seen {
            look(&ends.channel);
        }
        ends.channel.close(LossCause::Left);
        let Poll::Ready(Ok(answer)) = answered.poll(None) else {
            panic!("the answer had arrived")
        };
        assert_eq!(answer.payload(), b"42");
        drop(answer);
        let cause = LossCause::Left;
        let closed = CallError::Closed { cause, sent: true };
        let outcome = other.poll(None).map(|answer| answer.map(drop));
        assert_eq!(outcome, Poll::Ready(Err(closed)));
    }
}

#[test]
fn call_1_the_deadline_of_a_call_travels_though_it_waited_for_a_credit() {
    const ALLOWED: Duration = Duration::from_secs(3600);
    let mut ends = Loopback::new(1);
    let call = |timeout| ends.channel.call(0, timeout, |_| Ok(0)).unwrap();
    let (at_once, waits, mut set_later) = (call(Some(ALLOWED)), call(Some(ALLOWED)), call(None));
    let without = call(None);
    set_later.set_timeout(ALLOWED);
    let mut calls = vec![without, set_later, waits, at_once];
    while let Some(call) = calls.pop() {
        let request = ends.request();
        let left = request.allowed();
        if calls.is_empty() {
            assert_eq!(left, None, "no deadline was set");
        } else {
            let left = left.expect("it has a deadline");
            // What it has waited is not given to it again.
            assert!(left > ALLOWED - LONG && left <= ALLOWED, "{left:?}");
        }
        ends.answer(request, b"");
        look(&ends.channel);
        drop(call);
    }
}

#[test]
fn an_answer_is_read_where_it_stands_and_its_credit_comes_back() {
    let mut ends = Loopback::new(1);
    for size in [0, 200, 240, 241, 4000] {
        let bytes: Vec<u8> = (0..size).map(|at| at as u8).collect();
        let mut call = ends.channel.call_bytes(7, None, &bytes).unwrap();
        let pending = call.poll_answer(None, |_| panic!("nothing was answered"));
        assert!(pending.is_pending());
        let request = ends.request();
        assert_eq!(request.method(), 7);
        assert_eq!(*request.payload(), bytes);
        request.reply(|room| Raw::encode(&bytes[..], room));
        let until = Instant::now() + LONG;
        let read = loop {
            assert!(Instant::now() < until, "no answer arrives");
            let read = |answer: AnswerView<'_>| {
                assert!(!answer.is_end() && answer.fault().unwrap().is_none());
                answer.payload().to_vec()
            };
            if let Poll::Ready(read) = call.poll_answer(None, read) {
                break read.unwrap();
            }
        };
        assert_eq!(read, bytes);
        assert_eq!(ends.channel.credits().free, 1, "its bytes are read");
    }
}

#[test]
fn slot_2_an_answer_whose_reader_panics_gives_its_credit_back() {
    let mut ends = Loopback::new(1);
    let mut call = ends.channel.call_bytes(0, None, b"request").unwrap();
    let request = ends.request();
    ends.answer(request, b"answer");
    let read = || call.poll_answer(None, |_| -> () { panic!("a decoder's") });
    assert!(crate::panics::contain(read).is_err());
    drop(call);
    assert_eq!(ends.channel.credits().free, 1);
    // It is of use yet.
    drop(ends.call());
}

#[test]
fn order_1_bytes_that_are_called_with_wait_their_turn() {
    let mut ends = Loopback::new(1);
    let first = ends.call();
    let mut calls: VecDeque<_> = (1..4)
        .map(|method| ends.channel.call_bytes(method, None, b"1").unwrap())
        .collect();
    let request = ends.request();
    ends.answer(request, b"");
    look(&ends.channel);
    drop(first);
    for method in 1..4 {
        let request = ends.request();
        assert_eq!((request.method(), request.payload()), (method, &b"1"[..]));
        ends.answer(request, b"");
        look(&ends.channel);
        // Its credit is the next one's.
        drop(calls.pop_front());
    }
}

#[test]
fn fence_1_completions_from_before_a_reset_do_nothing() {
    let (ours, theirs) = (ShmDevice::open().unwrap(), ShmDevice::open().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let (geometry, retry) = (Geometry::new(2, 256).unwrap(), RetryPolicy::default());
    let mut dialer = Dialer::compatible(&*ours, geometry, retry, 1).unwrap();
    let peer = Dialer::compatible(&*theirs, geometry, retry, 1).unwrap();
    for _ in 0..2 {
        dialer.reach(&peer.queue_pairs()).unwrap();
    }
    let wait_policy = wait_policy(&runtime);
    let channel = dialer.connect_compatible(WORKER, &peer.ring(), wait_policy);
    let channel = channel.unwrap();
    let completion = |owner, status| {
        let id = WorkId {
            receive: true,
            owner,
            queue_pair: 0,
            retires: 0,
        };
        Completion {
            wr_id: id.to_bits(),
            status,
            opcode: Opcode::RecvWriteWithImm,
            imm: Some(0),
            ..Completion::EMPTY
        }
    };
    let complete = |owner, status| {
        let completion = completion(owner, status);
        channel.lock().complete(&channel, &completion)
    };
    for status in [CompletionStatus::Success, CompletionStatus::Flushed] {
        assert_eq!(complete(OWNER, status), Ok(()), "{status:?}");
        assert_eq!(channel.violations().total(), 0, "{status:?}");
    }
    // Those of now count.
    let lost = complete(OWNER + 1, CompletionStatus::Flushed);
    assert_eq!(lost, Err(LossCause::Gone));
}

/// So many queue pairs go, and then so many regions.
fn in_order(queue_pairs: usize, regions: usize) -> Vec<Gone> {
    let queue_pairs = std::iter::repeat_n(Gone::QueuePair, queue_pairs);
    let regions = std::iter::repeat_n(Gone::Region, regions);
    queue_pairs.chain(regions).collect()
}

fn noted() -> Arc<DropOrder> {
    DropOrder::new(ShmDevice::open().unwrap())
}

#[test]
fn calls_that_have_waited_leave_with_one_doorbell() {
    // Answers do not wait for each other here.
    crate::fabric::tcp::PAUSE_HERE.set(Duration::ZERO);
    let device = || TcpDevice::open(&TcpOptions::default()).unwrap();
    // The device's thread may come in between, and one look does not find all answers then.
    let leaves_with_one = || {
        let ours = DropOrder::new(device());
        let mut ends = Loopback::on(ours.clone(), device(), 4);
        let given_up: Vec<_> = (0..4).map(|_| ends.call()).collect();
        let waiting: Vec<_> = (1..=4)
            .map(|method| ends.channel.call(method, None, |_| Ok(0)).unwrap())
            .collect();
        let requests: Vec<_> = (0..4).map(|_| ends.request()).collect();
        drop(given_up);
        ours.take_doorbells();
        for request in requests {
            ends.answer(request, b"");
        }
        let mut doorbells = Vec::new();
        while doorbells.iter().sum::<usize>() < 4 {
            look(&ends.channel);
            doorbells.extend(ours.take_doorbells());
        }
        let methods: Vec<_> = (0..4).map(|_| ends.request().method()).collect();
        assert_eq!(methods, [1, 2, 3, 4]);
        drop(waiting);
        doorbells == [4]
    };
    assert!((0..100).any(|_| leaves_with_one()));
}

#[test]
fn drop_1_rings_of_a_caller_outlive_its_queue_pairs() {
    let (ours, theirs) = (noted(), noted());
    let ends = Loopback::on(ours.clone(), theirs.clone(), 2);
    drop(ends.channel);
    assert_eq!(ours.take_gone(), in_order(2, 2));
}

#[test]
fn drop_1_a_closed_channel_keeps_nothing_but_what_is_in_use() {
    let (ours, theirs) = (noted(), noted());
    let mut ends = Loopback::on(ours.clone(), theirs.clone(), 2);
    let mut call = ends.call();
    let request = ends.request();
    ends.answer(request, b"kept");
    let Poll::Ready(Ok(answer)) = call.poll(None) else {
        panic!("it is answered");
    };
    let kept = answer.keep();
    let mut unread = ends.call();
    let request = ends.request();
    ends.answer(request, b"unread");
    ends.channel.close(LossCause::Gone);
    assert_eq!(ours.take_gone(), in_order(2, 0), "no queue pair is");
    assert_eq!(&*kept, b"kept");
    drop(kept);
    assert_eq!(ours.take_gone(), [], "an answer is yet to be read");
    assert!(unread.poll(None).map(|answer| answer.is_ok()) == Poll::Ready(true));
    assert_eq!(ours.take_gone(), in_order(0, 2));
    assert_eq!(ends.channel.closed(), Some(LossCause::Gone));
    drop(call);
}

#[test]
fn drop_1_a_channel_that_is_closed_while_a_request_is_written_keeps_its_memory_so_long() {
    let (ours, theirs) = (noted(), noted());
    let ends = Loopback::on(ours.clone(), theirs.clone(), 2);
    let made = ends.channel.call(0, None, |room| {
        ends.channel.close(LossCause::Gone);
        assert_eq!(ours.take_gone(), in_order(2, 0));
        room.fill(7);
        Ok(room.len())
    });
    assert!(matches!(made, Err(CallError::Closed { sent: false, .. })));
    assert_eq!(ours.take_gone(), in_order(0, 2));
}

#[test]
fn drop_1_rings_of_a_mailbox_outlive_its_queue_pairs() {
    let (ours, theirs) = (noted(), noted());
    let mut ends = Loopback::on(ours.clone(), theirs.clone(), 2);
    let call = ends.call();
    let request = ends.request();
    drop(ends.mailbox);
    assert_eq!(theirs.take_gone(), [], "a request keeps its ring");
    drop(request);
    assert_eq!(theirs.take_gone(), in_order(2, 2));
    drop(call);
}

#[test]
fn drop_1_memory_outlives_the_queue_pair_that_moves_a_payload() {
    let (ours, theirs) = (noted(), noted());
    let mut ends = Loopback::on(ours.clone(), theirs.clone(), 2);
    let size = 1 << 20;
    let call = ends.channel.call(0, None, |room| {
        let limit = room.len();
        let too_large = EncodeError::TooLarge { size, limit };
        (limit >= size).then_some(size).ok_or(too_large)
    });
    let call = call.unwrap();
    let until = Instant::now() + LONG;
    while ends.memory.account().lent == 0 {
        assert!(Instant::now() < until, "the payload is not read");
        ends.mailbox.poll(&mut VecDeque::new()).unwrap();
    }
    let Loopback {
        channel, mailbox, ..
    } = ends;
    // The service goes as it reads the payload, the caller as it offers it.
    drop(mailbox);
    assert_eq!(theirs.take_gone(), in_order(2, 3));
    // The call keeps its channel, and is the last that does.
    drop(channel);
    assert_eq!(ours.take_gone(), []);
    drop(call);
    assert_eq!(ours.take_gone(), in_order(2, 3));
}

#[test]
fn drop_1_rings_of_a_channel_that_was_never_connected_go_last() {
    let device = noted();
    let (geometry, retry) = (Geometry::new(2, 256).unwrap(), RetryPolicy::default());
    drop(
        Dialer::new(
            &memory(&(device.clone() as Arc<dyn Device>)),
            geometry,
            retry,
        )
        .unwrap(),
    );
    assert_eq!(device.take_gone(), in_order(2, 2));
    drop(Dialer::compatible(&*device, geometry, retry, 3).unwrap());
    assert_eq!(device.take_gone(), in_order(3, 2));
}

/// The first bytes of the payload in `slot` of the caller's ring, where an answer is to be.
fn reply_at(channel: &ClientChannel, slot: u16) -> [u8; 3] {
    let core = channel.lock();
    let ring = channel.replies.bytes(core.caller.replied(slot).unwrap());
    ring[Header::LEN..][..3].try_into().unwrap()
}

/// On shared memory, once the peer's ring is mapped: a message is not copied once it is made.
#[test]
fn a_message_is_made_where_it_is_sent_to() {
    let ends = &mut Loopback::new(1);
    for payload in [b"one", b"two"] {
        let mut room_at = 0;
        let call = ends.channel.call(0, None, |room| {
            room_at = room.as_ptr() as u64;
            room[..3].copy_from_slice(payload);
            Ok(3)
        });
        let sends = ends.channel.sends.address();
        let own = sends.addr..sends.addr + sends.length;
        assert!(!own.contains(&room_at), "it would have to be copied");
        let request = ends.request();
        assert_eq!(request.payload(), payload);
        let channel = ends.channel.clone();
        request.reply(|room| {
            room[..3].copy_from_slice(payload);
            assert_eq!(&reply_at(&channel, 0), payload, "before it is sent");
            Ok(3)
        });
        let mut call = call.unwrap();
        let until = Instant::now() + LONG;
        let answer = loop {
            if let Poll::Ready(answer) = call.poll(None) {
                break answer.unwrap();
            }
            assert!(Instant::now() < until, "no answer arrives");
        };
        assert_eq!(answer.payload(), payload);
    }
}

/// A caller has written into the service's ring, and then cannot say what it wanted to: nobody is
/// told of it.
#[test]
fn slot_1_what_is_half_made_in_the_ring_of_the_peer_is_never_a_message() {
    type Encode = fn(&mut [u8]) -> Result<usize, EncodeError>;
    let fails: Encode = |room| {
        room.fill(7);
        Err(EncodeError::Value("no".to_owned()))
    };
    let panics: Encode = |room| {
        room.fill(8);
        panic!("ouch")
    };
    let is_too_large: Encode = |room| {
        room.fill(9);
        let (size, limit) = (usize::MAX, room.len());
        Err(EncodeError::TooLarge { size, limit })
    };
    let ends = &mut Loopback::new(1);
    for encode in [fails, panics, is_too_large] {
        let channel = ends.channel.clone();
        let made = crate::panics::contain(|| channel.call(0, None, encode).map(drop));
        assert!(!matches!(made, Ok(Ok(()))));
        let mut deliveries = VecDeque::new();
        ends.mailbox.poll(&mut deliveries).unwrap();
        assert!(deliveries.is_empty(), "{deliveries:?}");
        // The slot is as good as before.
        let channel = ends.channel.clone();
        ends.serve(&channel);
    }
    let needs_more_room: Encode = |room| {
        room.fill(5);
        let limit = room.len();
        let size = 1000;
        if limit < size {
            return Err(EncodeError::TooLarge { size, limit });
        }
        Ok(size)
    };
    let _call = ends.channel.call(0, None, needs_more_room).unwrap();
    assert_eq!(*ends.request().payload(), [5; 1000]);
    assert_eq!(ends.channel.violations(), Violations::default());
    for (_, violations) in ends.mailbox.violations() {
        assert_eq!(violations, Violations::default());
    }
}

/// Each end goes on to write where the other no longer is, and over a channel that is closed: that
/// stays mapped.
#[test]
fn drop_1_the_ring_of_a_peer_that_is_gone_stays_while_a_message_is_made_in_it() {
    let mut ends = Loopback::new(1);
    let mut caller = Some(ends.call());
    let request = ends.request();
    let (mut channel, mut mailbox) = (Some(ends.channel), Some(ends.mailbox));
    request.reply(|room| {
        drop((caller.take(), channel.take(), mailbox.take()));
        room.fill(7);
        Ok(room.len())
    });
    let ends = Loopback::new(1);
    let mut mailbox = Some(ends.mailbox);
    let call = ends.channel.call(0, None, |room| {
        ends.channel.close(LossCause::Left);
        drop(mailbox.take());
        room.fill(7);
        Ok(room.len())
    });
    let cause = LossCause::Left;
    assert_eq!(call.err(), Some(CallError::Closed { cause, sent: false }));
}

/// A thread may be stopped while it holds the channel's lock. Others sleep until it goes on.
#[test]
fn whoever_waits_for_the_lock_of_a_channel_burns_no_core() {
    const HELD: Duration = Duration::from_millis(500);
    let ends = Loopback::new(4);
    let channel = &ends.channel;
    let mut asked = ends.call();
    let held = channel.lock();
    let burnt: Duration = std::thread::scope(|scope| {
        let waiters = [
            scope.spawn(move || processor_time_of(|| drop(channel.call(0, None, |_| Ok(0))))),
            scope.spawn(move || processor_time_of(|| drop(channel.call_bytes(0, None, b"")))),
            scope.spawn(move || processor_time_of(|| assert!(asked.poll(None).is_pending()))),
        ];
        std::thread::sleep(HELD);
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        drop(held);
        waiters.map(|waiter| waiter.join().unwrap()).iter().sum()
    });
    assert!(burnt < HELD / 5, "{burnt:?} in {HELD:?}");
}

/// What this thread takes of a processor meanwhile.
fn processor_time_of(work: impl FnOnce()) -> Duration {
    let now = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let before = now();
    work();
    (now() - before).try_into().unwrap()
}
