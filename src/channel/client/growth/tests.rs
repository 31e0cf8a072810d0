//! Slots that grow and shrink, between a real caller and a real mailbox.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Instant;

use super::*;
use crate::channel::loopback::{LONG, Loopback, PanickingLog};
use crate::channel::{Geometry, Inbound, LossCause, PendingCall, TellError};
use crate::fabric::shm::ShmDevice;
use crate::fabric::{
    Access, Device, DeviceLimits, FabricError, MemoryRegion, PortAttributes, QueueHalves,
    QueuePair, QueuePairInit,
};
use crate::panics::contain;
use crate::wire::{Codec, Fault, Raw};

const FIRST: usize = 256;
const LARGER: usize = 4096;
/// Bytes of a payload that fits the larger slots only.
const SIZE: usize = 1000;

fn growing(slots: usize, caller: Arc<dyn Device>, called: Arc<dyn Device>) -> Loopback {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let geometry = |size| Geometry::new(slots, size).unwrap();
    Loopback::growing(runtime, caller, called, (geometry(FIRST), geometry(LARGER)))
}

fn shm() -> Arc<dyn Device> {
    ShmDevice::open().unwrap()
}

/// Makes a call with so many bytes, each of which is the low part of `size`.
fn start(ends: &Loopback, size: usize) -> PendingCall {
    let sent = vec![size as u8; size];
    let encode = |room: &mut [u8]| Raw::encode(&sent[..], room);
    ends.channel.call(7, None, encode).unwrap()
}

/// Polls both ends until a request arrives.
fn request(ends: &mut Loopback) -> Inbound {
    let until = Instant::now() + LONG;
    loop {
        ends.channel.credits();
        if let Some(request) = ends.next_request() {
            return request;
        }
        assert!(Instant::now() < until, "CALL-1: no request arrives");
    }
}

/// Polls both ends until the call is answered, or fails.
fn finish(
    ends: &mut Loopback,
    call: &mut PendingCall,
) -> Result<Vec<u8>, Result<Fault, CallError>> {
    let until = Instant::now() + LONG;
    loop {
        if let Poll::Ready(read) = call.poll(None) {
            let answer = read.map_err(Err)?;
            return match answer.fault().unwrap() {
                Some(fault) => Err(Ok(fault)),
                None => Ok(answer.payload().to_vec()),
            };
        }
        assert!(Instant::now() < until, "CALL-1: no answer arrives");
        ends.poll_in_vain();
    }
}

/// Makes a call with so many bytes, and has it answered with so many.
fn call(ends: &mut Loopback, size: usize, answer: usize) {
    let mut call = start(ends, size);
    let request = request(ends);
    assert_eq!(request.payload(), vec![size as u8; size], "RING-1");
    let answered = vec![answer as u8; answer];
    request.reply(|room| Raw::encode(&answered[..], room));
    assert_eq!(finish(ends, &mut call), Ok(answered), "RING-1");
}

/// Returns whether slots are large, after a check that all is well.
fn has_grown(ends: &mut Loopback) -> bool {
    ends.poll_in_vain();
    assert_eq!(ends.channel.violations().total(), 0);
    for (_, violations) in ends.mailbox.violations() {
        assert_eq!(violations.total(), 0);
    }
    ends.channel.lock().remotes.has_grown()
}

/// Polls both ends until it is so.
fn until(ends: &mut Loopback, mut is_so: impl FnMut(&mut Loopback) -> bool) {
    let until = Instant::now() + LONG;
    while !is_so(ends) {
        assert!(Instant::now() < until, "it never is");
        ends.channel.credits();
        ends.poll_in_vain();
    }
}

/// No payload may travel outside of the slots that fits a full one.
fn without_payload_memory(ends: &Loopback) -> usize {
    let caller = ends.channel.memory.as_ref().unwrap().account();
    caller.lent + ends.memory.account().lent
}

#[test]
fn the_first_arguments_that_do_not_fit_make_all_slots_larger() {
    let mut ends = growing(3, shm(), shm());
    call(&mut ends, 100, 100);
    assert!(!has_grown(&mut ends));
    for size in [SIZE, 0, LARGER - Header::LEN, 1, SIZE, SIZE, SIZE] {
        call(&mut ends, size, size);
        assert!(has_grown(&mut ends), "before they are sent");
        assert_eq!(without_payload_memory(&ends), 0);
    }
    assert_eq!(ends.channel.credits().free, 3, "SLOT-2");
}

#[test]
fn what_fits_no_slot_travels_outside_as_ever_and_is_no_reason_to_grow() {
    let mut ends = growing(2, shm(), shm());
    for _ in 0..3 {
        call(&mut ends, LARGER, LARGER);
        assert!(!has_grown(&mut ends));
    }
}

#[test]
fn an_answer_that_fits_a_full_slot_waits_until_its_slot_is_one() {
    let mut ends = growing(2, shm(), shm());
    for size in [SIZE, LARGER - Header::LEN, 0, SIZE] {
        call(&mut ends, 0, size);
        assert!(has_grown(&mut ends));
        assert_eq!(without_payload_memory(&ends), 0);
    }
    assert_eq!(ends.channel.credits().free, 2, "SLOT-2");
}

#[test]
fn call_1_answers_that_wait_in_all_slots_at_once_arrive() {
    let mut ends = growing(2, shm(), shm());
    let mut calls = [start(&ends, 1), start(&ends, 2)];
    let requests = [request(&mut ends), request(&mut ends)];
    for request in requests {
        let size = SIZE + request.payload().len();
        request.reply(|room| Raw::encode(&vec![3; size][..], room));
    }
    for (call, size) in calls.iter_mut().zip([SIZE + 1, SIZE + 2]) {
        assert_eq!(finish(&mut ends, call), Ok(vec![3; size]));
    }
    assert!(has_grown(&mut ends));
}

#[test]
fn slot_2_an_answer_that_nobody_wants_any_more_is_not_fetched() {
    for asks_first in [false, true] {
        let mut ends = growing(1, shm(), shm());
        let call = start(&ends, 0);
        request(&mut ends).reply(|room| Raw::encode(&[3; SIZE][..], room));
        if asks_first {
            while ends.channel.is_quiet() {}
            assert_eq!(ends.channel.credits().in_use, 1);
        }
        drop(call);
        // SLOT-2.
        until(&mut ends, |ends| ends.channel.credits().free == 1);
        // What was kept for it is forgotten.
        until(&mut ends, |ends| ends.mailbox.flush());
        self::call(&mut ends, 5, 5);
    }
}

#[test]
fn a_failure_is_cut_only_where_a_full_slot_would_cut_it() {
    for is_one_way in [false, true] {
        let mut ends = growing(2, shm(), shm());
        let failed = Arc::new(std::sync::Mutex::new(Vec::new()));
        let heard = failed.clone();
        ends.channel
            .listen(move |failure| heard.lock().unwrap().push(failure.cause));
        let fault = Fault::Raised {
            type_name: "Error".to_owned(),
            message: "m".repeat(SIZE),
            traceback: "t".repeat(SIZE),
        };
        if is_one_way {
            drop(ends.channel.tell(7, None, |_| Ok(0)).unwrap());
            request(&mut ends).fail(fault.clone());
            let until = Instant::now() + LONG;
            while failed.lock().unwrap().is_empty() {
                assert!(Instant::now() < until, "CALL-1: it is heard of");
                ends.channel.credits();
                ends.poll_in_vain();
            }
            let failed = std::mem::take(&mut *failed.lock().unwrap());
            assert_eq!(failed, [TellError::Fault(fault)]);
        } else {
            let mut call = start(&ends, 0);
            request(&mut ends).fail(fault.clone());
            assert_eq!(finish(&mut ends, &mut call), Err(Ok(fault)));
        }
        assert!(has_grown(&mut ends));
    }
}

#[test]
fn order_1_calls_that_fit_do_not_overtake_one_that_waits_for_a_larger_slot() {
    let mut ends = growing(5, shm(), shm());
    let sizes = [1, SIZE, 2, SIZE + 1, 3];
    let mut calls: Vec<_> = sizes.iter().map(|size| start(&ends, *size)).collect();
    let mut arrived = Vec::new();
    let until = Instant::now() + LONG;
    while arrived.len() < sizes.len() {
        assert!(Instant::now() < until, "CALL-1: {arrived:?}");
        ends.channel.credits();
        for request in ends.requests() {
            arrived.push(request.payload().len());
            request.reply(|_| Ok(0));
        }
    }
    assert_eq!(arrived, sizes);
    for call in &mut calls {
        assert_eq!(finish(&mut ends, call), Ok(Vec::new()));
    }
}

#[test]
fn slot_1_ring_1_a_slot_grows_at_its_next_call_however_long_the_others_take() {
    let mut ends = growing(3, shm(), shm());
    let mut slow = start(&ends, 100);
    let held = request(&mut ends);
    for _ in 0..4 {
        call(&mut ends, SIZE, SIZE);
    }
    assert!(has_grown(&mut ends));
    assert_eq!(held.payload(), [100; 100], "RING-1");
    assert!(
        !ends.channel.shrink_if_idle(Instant::now(), Duration::ZERO),
        "it is in flight"
    );
    // Its answer goes where its request came from, or into the larger place if it has to.
    held.reply(|room| Raw::encode(&[8; SIZE][..], room));
    assert_eq!(finish(&mut ends, &mut slow), Ok(vec![8; SIZE]));
    for _ in 0..6 {
        call(&mut ends, SIZE, SIZE);
    }
    assert_eq!(ends.channel.credits().free, 3, "SLOT-2");
}

#[test]
fn a_handler_that_writes_its_answer_in_place_has_the_room_of_a_full_slot() {
    for first in [SIZE, 10, 0] {
        let mut ends = growing(2, shm(), shm());
        for (at, size) in [first, LARGER - Header::LEN, 10].into_iter().enumerate() {
            let mut call = start(&ends, 0);
            let mut request = request(&mut ends);
            let (_, room) = request.parts().unwrap();
            assert_eq!(room.len(), LARGER - Header::LEN);
            room[..size].fill(at as u8);
            request.reply_written(size);
            assert_eq!(finish(&mut ends, &mut call), Ok(vec![at as u8; size]));
            // So that it need not be copied.
            until(&mut ends, has_grown);
        }
    }
}

#[test]
fn an_answer_whose_handler_has_not_looked_at_its_room_has_the_length_that_it_says() {
    let mut ends = growing(2, shm(), shm());
    for size in [10, SIZE] {
        let mut call = start(&ends, 0);
        request(&mut ends).reply_written(size);
        assert_eq!(finish(&mut ends, &mut call).unwrap().len(), size);
    }
}

#[test]
fn slots_are_small_again_after_a_time_without_calls_and_grow_anew() {
    let mut ends = growing(3, shm(), shm());
    for _ in 0..3 {
        call(&mut ends, SIZE, SIZE);
        let now = Instant::now();
        assert!(
            !ends.channel.shrink_if_idle(now, LONG),
            "a call was just made"
        );
        assert!(!ends.channel.shrink_if_idle(now + LONG / 2, LONG));
        call(&mut ends, 1, 1);
        assert!(
            !ends.channel.shrink_if_idle(now + LONG, LONG),
            "and another"
        );
        assert!(has_grown(&mut ends));
        until(&mut ends, |ends| {
            ends.channel.shrink_if_idle(now + 2 * LONG, LONG)
        });
        assert!(!has_grown(&mut ends));
        for ring in [&ends.channel.sends, &ends.channel.replies] {
            assert!(!ring.has_grown(), "DROP-1");
        }
        for _ in 0..4 {
            call(&mut ends, 100, 100);
        }
        assert!(!has_grown(&mut ends));
    }
    assert!(!shrink_is_possible(&ends), "they are small");
}

/// Lets the time pass after which the peer is asked again.
fn try_again(ends: &Loopback) {
    match &mut ends.channel.lock().growth {
        Growth::Refused { until, .. } => *until = Instant::now(),
        other => panic!("{other:?}"),
    }
}

fn shrink_is_possible(ends: &Loopback) -> bool {
    ends.channel.shrink_if_idle(Instant::now(), Duration::ZERO)
}

#[derive(Debug)]
struct Full {
    device: Arc<dyn Device>,
    /// Regions of fewer bytes are refused.
    refuses: AtomicUsize,
}

/// Rings are refused; memory of payloads is 64 KiB.
const RINGS: usize = 64 << 10;

fn full() -> Arc<Full> {
    Arc::new(Full {
        device: shm(),
        refuses: AtomicUsize::new(0),
    })
}

impl Device for Full {
    fn name(&self) -> &str {
        self.device.name()
    }
    fn port(&self) -> PortAttributes {
        self.device.port()
    }
    fn limits(&self) -> DeviceLimits {
        self.device.limits()
    }
    fn register(
        &self,
        length: usize,
        access: Access,
    ) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        if length < self.refuses.load(Ordering::Relaxed) {
            return Err(FabricError::Limit {
                what: "locked memory",
                given: length as u64,
                allowed: "nothing more".to_owned(),
                device: self.name().to_owned(),
            });
        }
        self.device.register(length, access)
    }
    fn create_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError> {
        self.device.create_completion_queue(depth)
    }
    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        self.device.create_queue_pair(init)
    }
}

#[test]
fn where_there_is_no_memory_for_larger_slots_large_messages_travel_outside() {
    for at_caller in [true, false] {
        let full = full();
        let mut ends = match at_caller {
            true => growing(3, full.clone(), shm()),
            false => growing(3, shm(), full.clone()),
        };
        full.refuses.store(RINGS, Ordering::Relaxed);
        for _ in 0..2 {
            // Those outside may be overtaken, as ever.
            let sizes = [SIZE, 1, SIZE + 1];
            let mut calls = sizes.map(|size| start(&ends, size));
            let mut arrived = sizes.map(|_| request(&mut ends));
            arrived.sort_by_key(|request| request.payload().len());
            for (request, size) in arrived.into_iter().zip([1, SIZE, SIZE + 1]) {
                assert_eq!(request.payload(), vec![size as u8; size]);
                request.reply(|room| Raw::encode(&vec![2; size][..], room));
            }
            for (call, size) in calls.iter_mut().zip(sizes) {
                assert_eq!(finish(&mut ends, call), Ok(vec![2; size]));
            }
            let fault = Fault::BadArguments {
                reason: "m".repeat(SIZE),
            };
            let mut call = start(&ends, 0);
            request(&mut ends).fail(fault.clone());
            assert_eq!(finish(&mut ends, &mut call), Err(Ok(fault)));
        }
        assert!(!has_grown(&mut ends), "at_caller: {at_caller}");
        assert!(!ends.channel.sends.has_grown(), "DROP-1: it is given back");
        // Nothing is kept.
        until(&mut ends, |ends| ends.mailbox.flush());
        full.refuses.store(0, Ordering::Relaxed);
        try_again(&ends);
        call(&mut ends, SIZE, SIZE);
        assert!(has_grown(&mut ends));
    }
}

#[test]
fn where_there_is_no_memory_at_all_large_messages_fail_and_small_ones_go_on() {
    let fails = |result: Result<Vec<u8>, Result<Fault, CallError>>| match result.unwrap_err() {
        Ok(Fault::NoMemory { reason, .. }) | Err(CallError::NoMemory { reason, .. }) => {
            assert!(reason.contains("locked memory"), "{reason}");
        }
        other => panic!("{other:?}"),
    };
    for at_caller in [true, false] {
        let full = full();
        let mut ends = match at_caller {
            true => growing(2, full.clone(), shm()),
            false => growing(2, shm(), full.clone()),
        };
        full.refuses.store(usize::MAX, Ordering::Relaxed);
        for _ in 0..2 {
            let (mut large, mut small) = (start(&ends, SIZE), start(&ends, 1));
            request(&mut ends).reply(|_| Ok(0));
            assert_eq!(finish(&mut ends, &mut small), Ok(Vec::new()));
            fails(finish(&mut ends, &mut large));
            let mut call = start(&ends, 0);
            request(&mut ends).reply(|room| Raw::encode(&[1; SIZE][..], room));
            fails(finish(&mut ends, &mut call));
            // Answers in place that fit need none.
            let mut call = start(&ends, 0);
            let mut request = request(&mut ends);
            request.parts().unwrap().1[0] = 9;
            request.reply_written(1);
            assert_eq!(finish(&mut ends, &mut call), Ok(vec![9]));
        }
        until(&mut ends, |ends| ends.mailbox.flush());
        full.refuses.store(0, Ordering::Relaxed);
        try_again(&ends);
        call(&mut ends, SIZE, SIZE);
    }
}

#[test]
fn a_one_way_call_that_needs_a_larger_slot_is_sent_though_nobody_waits_for_it() {
    let mut ends = growing(2, shm(), shm());
    let tell = |ends: &Loopback| {
        let encode = |room: &mut [u8]| Raw::encode(&[1; SIZE][..], room);
        ends.channel.tell(7, None, encode)
    };
    drop(tell(&ends).unwrap());
    assert_eq!(request(&mut ends).payload(), [1; SIZE]);
    // If it cannot be, the listener hears of it.
    let full = full();
    let ends = growing(2, full.clone(), shm());
    full.refuses.store(usize::MAX, Ordering::Relaxed);
    let failed = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = failed.clone();
    ends.channel
        .listen(move |failure| heard.lock().unwrap().push(failure.cause));
    // Or else its maker learns of it at once.
    let reported = match tell(&ends) {
        Ok(_) => matches!(failed.lock().unwrap()[..], [TellError::Failed(_)]),
        Err(error) => matches!(error, CallError::NoMemory { .. }),
    };
    assert!(reported);
}

#[test]
fn call_1_a_large_call_is_sent_though_nobody_polls_for_it() {
    let mut ends = growing(2, shm(), shm());
    let _call = start(&ends, SIZE);
    assert_eq!(ends.request().payload().len(), SIZE);
}

#[test]
fn larger_rings_that_nobody_wants_any_more_are_given_back() {
    let mut ends = growing(1, shm(), shm());
    let mut small = start(&ends, 0);
    let held = request(&mut ends);
    let large = start(&ends, SIZE);
    assert!(ends.channel.sends.has_grown());
    drop(large);
    assert!(!ends.channel.sends.has_grown());
    held.reply(|_| Ok(0));
    assert_eq!(finish(&mut ends, &mut small), Ok(Vec::new()));
    call(&mut ends, SIZE, SIZE);
}

#[test]
fn drop_1_a_channel_that_ends_while_it_grows_gives_everything_back() {
    for steps in 0..5 {
        let mut ends = growing(2, shm(), shm());
        let mut kept = Vec::new();
        if steps < 3 {
            kept.push(start(&ends, SIZE));
        } else {
            kept.push(start(&ends, 0));
            request(&mut ends).reply(|room| Raw::encode(&[1; SIZE][..], room));
        }
        if steps % 3 > 0 {
            ends.requests();
        }
        if steps % 3 > 1 {
            ends.channel.credits();
        }
        ends.channel.close(LossCause::Left);
        drop(kept);
        for ring in [&ends.channel.sends, &ends.channel.replies] {
            assert!(!ring.has_grown(), "after {steps}");
        }
    }
}

#[test]
fn slot_2_a_log_that_panics_over_a_violation_costs_no_slot() {
    let mut ends = growing(1, shm(), shm());
    let mut first = start(&ends, 0);
    let mut large = start(&ends, SIZE);
    // The only slot is in use, so the peer has yet to be asked. The larger ring is the first one.
    match &mut ends.channel.lock().growth {
        Growth::Ready(address) => address.rkey = ends.channel.replies.address().rkey,
        other => panic!("{other:?}"),
    }
    request(&mut ends).reply(|_| Ok(0));
    assert_eq!(finish(&mut ends, &mut first), Ok(Vec::new()));
    let log = || tracing::subscriber::with_default(PanickingLog, || finish(&mut ends, &mut large));
    assert_eq!(contain(log), Err("the log is full".to_owned()));
    // It is refused, and so the request travels outside.
    request(&mut ends).reply(|_| Ok(0));
    assert_eq!(finish(&mut ends, &mut large), Ok(Vec::new()));
    let [(_, violations)] = &ends.mailbox.violations()[..] else {
        panic!("one caller")
    };
    assert_eq!(violations.count(Violation::BadGrowth), 1);
    call(&mut ends, 1, 1);
}
