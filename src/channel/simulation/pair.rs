//! Two state machines face each other through random schedules, without I/O or clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::calls::failed;
use super::shells::Alarm;
use crate::channel::core::caller::{
    CallId, CallState, Caller, Prepared, PreparedPayload, Received,
};
use crate::channel::core::responder::{Arrival, FOREVER, PreparedReply, Responder, SlotRequest};
use crate::channel::core::slot::ReplyMeta;
use crate::channel::lend::SlotToken;
use crate::channel::{LossCause, Violation};
use crate::wire::{
    Extension, Fault, Header, Immediate, MessageKind, RendezvousDescriptor, Signal, StreamPart,
};

/// What is unusual about a request.
#[derive(Debug, Clone, Copy)]
enum Rare {
    Nothing,
    Deadline,
    /// Its payload lies at the caller.
    Outside,
    OpensStream,
    /// It asks a stream for an item, or one that is not open.
    Next {
        which: usize,
    },
    EndsStream {
        which: usize,
    },
}

/// One thing that may happen next.
#[derive(Debug, Clone)]
enum Step {
    Call {
        is_small: bool,
        with_deadline: bool,
        transport_has_room: bool,
    },
    DeliverRequest(Rare),
    /// The payload of a request has been read.
    ReadPayload,
    /// Somebody makes items for a request that opens a stream, from now on.
    BeginStream,
    /// The next request for an item of a stream goes to whoever makes them.
    TakeAsked {
        which: usize,
    },
    /// There are no more items.
    FinishStream {
        which: usize,
        has_failed: bool,
    },
    Answer {
        which: usize,
        transport_has_room: bool,
    },
    /// A place in the responder's send queue is free.
    Room,
    /// A caller uses a slot again whose answer it does not have.
    HastyRequest,
    DeliverReply,
    Read {
        which: usize,
    },
    Drop {
        which: usize,
    },
    Tick {
        millis: u64,
    },
    DuplicateReply,
    ForeignReply {
        slot: u16,
        id: u64,
    },
    Grant,
    Reset,
}

fn any_rare() -> impl Strategy<Value = Rare> {
    let which = || 0..3_usize;
    prop_oneof![
        3 => Just(Rare::Nothing),
        1 => Just(Rare::Deadline),
        3 => Just(Rare::Outside),
        2 => Just(Rare::OpensStream),
        2 => which().prop_map(|which| Rare::Next { which }),
        1 => which().prop_map(|which| Rare::EndsStream { which }),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let which = 0..8_usize;
    prop_oneof![
        6 => any::<(bool, bool, bool)>().prop_map(|(is_small, with_deadline, full)| Step::Call { is_small, with_deadline, transport_has_room: !full }),
        6 => any_rare().prop_map(Step::DeliverRequest),
        3 => Just(Step::ReadPayload),
        3 => Just(Step::BeginStream),
        3 => (0..3_usize).prop_map(|which| Step::TakeAsked { which }),
        1 => (0..3_usize, any::<bool>()).prop_map(|(which, has_failed)| Step::FinishStream { which, has_failed }),
        5 => (which.clone(), any::<bool>()).prop_map(|(which, transport_has_room)| Step::Answer { which, transport_has_room }),
        3 => Just(Step::Room),
        1 => Just(Step::HastyRequest),
        6 => Just(Step::DeliverReply),
        5 => which.clone().prop_map(|which| Step::Read { which }),
        2 => which.prop_map(|which| Step::Drop { which }),
        2 => (1..40_u64).prop_map(|millis| Step::Tick { millis }),
        1 => Just(Step::DuplicateReply),
        1 => (0..6_u16, 0..50_u64).prop_map(|(slot, id)| Step::ForeignReply { slot, id }),
        4 => Just(Step::Grant),
        1 => Just(Step::Reset),
    ]
}

fn request_header(id: CallId) -> Header {
    Header {
        kind: MessageKind::Request,
        method: 0,
        request_id: id.0,
        payload_len: 0,
        extension: None,
    }
}

/// A request without arguments, to be lined up.
pub(super) fn nothing() -> Prepared {
    Prepared {
        method: 0,
        attached: None,
        payload: PreparedPayload::Here(Vec::new()),
    }
}

/// What a look at a call finds.
#[derive(Debug)]
enum Look {
    Undecided,
    /// In this slot.
    Answered(u16),
    Ended(CallState),
}

/// What the caller's program still holds.
#[derive(Debug, Clone, Copy)]
struct Live {
    slot: Option<u16>,
    deadline: Option<Instant>,
}

/// A stream that is open, as far as its caller knows.
#[derive(Debug, Default)]
struct OpenStream {
    /// Requests for items that nobody has taken.
    asked: VecDeque<u64>,
    /// Whether somebody makes its items.
    is_made: bool,
    /// It has failed, and its caller does not know.
    has_failed: bool,
    /// What wakes whoever makes the items.
    alarm: Option<Arc<Alarm>>,
}

struct World {
    slots: usize,
    caller: Caller,
    responder: Responder,
    now: Instant,
    to_server: VecDeque<(Signal, u16, CallId)>,
    to_client: VecDeque<(u16, CallId)>,
    // As they are handed out.
    #[allow(clippy::vec_box)]
    handling: Vec<Box<SlotRequest>>,
    /// The slots of requests whose payload is being read, and whether they were cancelled
    /// meanwhile.
    reading: VecDeque<(u16, bool)>,
    /// Answers that wait for a place in the send queue.
    unsent: VecDeque<(u16, CallId)>,
    /// The streams that are open, by the request that opened each.
    streams: BTreeMap<u64, OpenStream>,
    live: BTreeMap<CallId, Live>,
    /// Ended by their callers while the server still had them.
    forgotten: usize,
    last_arrived: Option<CallId>,
    last_reply: Option<(u16, CallId)>,
}

impl World {
    fn new(slots: usize) -> Self {
        Self {
            slots,
            caller: Caller::of(slots),
            responder: Responder::of(slots),
            now: Instant::now(),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            handling: Vec::new(),
            reading: VecDeque::new(),
            unsent: VecDeque::new(),
            streams: BTreeMap::new(),
            live: BTreeMap::new(),
            forgotten: 0,
            last_arrived: None,
            last_reply: None,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Call {
                is_small,
                with_deadline,
                transport_has_room,
            } => self.call(is_small, with_deadline, transport_has_room),
            Step::DeliverRequest(rare) => self.deliver_request(rare),
            Step::ReadPayload => self.read_payload(),
            Step::BeginStream => self.begin_stream(),
            Step::TakeAsked { which } => self.take_asked(which),
            Step::FinishStream { which, has_failed } => self.finish_stream(which, has_failed),
            Step::Answer {
                which,
                transport_has_room,
            } => self.answer(which, transport_has_room),
            Step::Room => self.send_unsent(),
            Step::HastyRequest => self.hasty_request(),
            Step::DeliverReply => self.deliver_reply(),
            Step::Read { which } => self.read(which),
            Step::Drop { which } => {
                if let Some(id) = self.pick(which) {
                    self.give_up(id);
                }
            }
            Step::Tick { millis } => self.tick(millis),
            Step::DuplicateReply => self.duplicate_reply(),
            Step::ForeignReply { slot, id } => self.foreign_reply(slot, CallId(1_000_000 + id)),
            Step::Grant => self.grant(),
            Step::Reset => self.reset(),
        }
    }

    fn pick(&self, which: usize) -> Option<CallId> {
        self.live
            .keys()
            .nth(which % self.live.len().max(1))
            .copied()
    }

    fn call(&mut self, is_small: bool, with_deadline: bool, has_room: bool) {
        let deadline = with_deadline.then(|| self.now + Duration::from_millis(30));
        let claimed = has_room.then(|| self.caller.claim(is_small)).flatten();
        let (id, slot) = match claimed {
            None => {
                let id = self.caller.wait(deadline);
                let id = id.expect("the channel is open");
                self.caller.line_up(id, nothing());
                (id, None)
            }
            Some((id, send)) => {
                let slot = send.slot();
                self.post(id, send);
                (id, Some(slot))
            }
        };
        self.live.insert(id, Live { slot, deadline });
    }

    fn post(&mut self, id: CallId, send: SlotToken) {
        let slot = send.slot();
        assert!(self.caller.is_claimed(id, slot));
        self.caller.posted(id, send);
        self.to_server.push_back((Signal::Message, slot, id));
    }

    fn grant(&mut self) {
        while let Some(granted) = self.caller.grant() {
            self.post(granted.id, granted.send);
        }
    }

    /// What a request carries beside its payload.
    fn extension(&self, rare: Rare) -> Option<Extension> {
        let plain = Extension::default();
        let open = |which| self.streams.keys().nth(which).copied().unwrap_or(u64::MAX);
        let of_stream = |part| Extension {
            stream: Some(part),
            ..plain
        };
        Some(match rare {
            Rare::Nothing => return None,
            Rare::Deadline => Extension {
                deadline_us: Some(7),
                ..plain
            },
            Rare::Outside => Extension {
                outside: Some(RendezvousDescriptor {
                    addr: 0,
                    rkey: 0,
                    len: 0,
                }),
                ..plain
            },
            Rare::OpensStream => of_stream(StreamPart::Open),
            Rare::Next { which } => of_stream(StreamPart::Next(open(which))),
            Rare::EndsStream { which } => of_stream(StreamPart::End(open(which))),
        })
    }

    /// Takes in a request that carries an `extension`.
    fn take_extended(&mut self, request: Box<SlotRequest>, extension: &Extension) {
        let (id, slot) = (request.request_id, request.slot());
        match self.responder.extended(request, extension) {
            Arrival::Request(request) => {
                let is_open = request.rare.as_ref().and_then(|rare| rare.stream);
                assert_eq!(is_open, extension.stream, "it opens a stream");
                if is_open.is_some() {
                    self.streams.insert(id, OpenStream::default());
                }
                assert_eq!(request.allowed_us, extension.deadline_us.unwrap_or(FOREVER));
                self.handling.push(request);
            }
            Arrival::Noted => {}
            other => panic!("SLOT-1: a correct caller caused {other:?}"),
        }
        match extension.stream {
            Some(StreamPart::Next(stream)) => match self.streams.get_mut(&stream) {
                Some(open) if !open.has_failed => {
                    open.asked.push_back(id);
                    let alarm = open.alarm.take();
                    self.attend(&[], None);
                    assert!(alarm.is_none_or(|alarm| alarm.has_rung()), "CALL-1");
                }
                open => {
                    let failure = open.map(|_| failed());
                    self.streams.remove(&stream);
                    self.attend(&[id], failure);
                }
            },
            Some(StreamPart::End(stream)) => {
                self.end_stream(stream, &[id], None);
            }
            Some(StreamPart::Open) | None => self.attend(&[], None),
        }
        if extension.outside.is_some() {
            assert_eq!(self.reading.back(), Some(&(slot, false)));
        }
    }

    /// A stream has ended: its requests for items are answered, and `others` after them. The first
    /// answer is a failure if there is one.
    fn end_stream(&mut self, stream: u64, others: &[u64], failure: Option<Fault>) {
        let open = self.streams.remove(&stream).unwrap_or_default();
        let ended: Vec<_> = open.asked.iter().chain(others).copied().collect();
        self.attend(&ended, failure);
        let is_woken = open.alarm.is_none_or(|alarm| alarm.has_rung());
        assert!(is_woken, "CALL-1: who makes items is told of the end");
    }

    /// Does what the answering side says. It ends these requests.
    fn attend(&mut self, ended: &[u64], failure: Option<Fault>) {
        let effects = self.responder.take_effects();
        let ids: Vec<_> = effects
            .ended
            .iter()
            .map(|(request, _)| request.request_id)
            .collect();
        assert_eq!(ids, ended, "CALL-1: they are answered");
        let failures = effects.ended.iter().map(|(_, failure)| failure.clone());
        let expected = ended
            .iter()
            .enumerate()
            .map(|(at, _)| failure.clone().filter(|_| at == 0));
        assert!(failures.eq(expected), "the first learns of {failure:?}");
        self.handling
            .extend(effects.ended.into_iter().map(|(request, _)| request));
        let offered = effects.offered.iter().map(|(slot, _)| (*slot, false));
        self.reading.extend(offered);
        for (_, id) in effects.cancelled {
            let mut handled = self.handling.iter();
            assert!(handled.any(|request| request.request_id == id));
        }
        effects.wakers.into_iter().for_each(|waker| waker.wake());
    }

    fn begin_stream(&mut self) {
        for request in &mut self.handling {
            if let Some(rare) = &mut request.rare
                && rare.stream == Some(StreamPart::Open)
            {
                rare.stream = None;
                if let Some(open) = self.streams.get_mut(&request.request_id) {
                    open.is_made = true;
                }
            }
        }
    }

    fn take_asked(&mut self, which: usize) {
        let mut made = self.streams.iter_mut().filter(|(_, open)| open.is_made);
        let Some((&stream, open)) = made.nth(which) else {
            return;
        };
        let alarm = Arc::<Alarm>::default();
        let (waker, mut before) = (alarm.clone().into(), None);
        match self
            .responder
            .streams()
            .poll_asked(stream, &waker, &mut before)
        {
            Poll::Pending => {
                assert!(open.asked.is_empty() && !open.has_failed);
                open.alarm = Some(alarm);
            }
            Poll::Ready(request) => {
                let id = request.as_ref().map(|request| request.request_id);
                assert_eq!(id, open.asked.pop_front(), "ORDER-1");
                self.handling.extend(request);
            }
        }
    }

    fn finish_stream(&mut self, which: usize, has_failed: bool) {
        let mut made = self.streams.iter_mut().filter(|(_, open)| open.is_made);
        let Some((&stream, open)) = made.nth(which).filter(|(_, open)| !open.has_failed) else {
            return;
        };
        let failure = has_failed.then(failed);
        self.responder.complete(stream, failure.clone());
        if has_failed && open.asked.is_empty() {
            open.has_failed = true;
            open.alarm = None;
            return self.attend(&[], None);
        }
        self.end_stream(stream, &[], failure);
    }

    fn deliver_request(&mut self, rare: Rare) {
        let Some((signal, slot, id)) = self.to_server.pop_front() else {
            return;
        };
        let header = Header {
            extension: self.extension(rare),
            ..request_header(id)
        };
        let imm = Immediate { slot, signal };
        match self.responder.receive(imm, Some((&header, 0..0))) {
            Arrival::Request(request) => {
                assert_eq!(request.request_id, id.0);
                assert!(
                    self.last_arrived < Some(id),
                    "ORDER-1: {id:?} after {:?}",
                    self.last_arrived
                );
                self.last_arrived = Some(id);
                match &header.extension {
                    Some(extension) => self.take_extended(request, extension),
                    None => self.handling.push(request),
                }
            }
            Arrival::Noted => {
                assert_ne!(signal, Signal::Message);
                let reading = self.reading.iter_mut().find(|(at, _)| *at == slot);
                if let Some((_, is_cancelled)) = reading {
                    *is_cancelled |= signal == Signal::Cancel;
                }
                // To cancel a request for an item is to end the stream.
                let mut streams = self.streams.iter();
                let of = streams.find(|(_, open)| open.asked.contains(&id.0));
                match of.map(|(stream, _)| *stream) {
                    Some(stream) => self.end_stream(stream, &[], None),
                    None => self.attend(&[], None),
                }
            }
            other => panic!("SLOT-1: a correct caller caused {other:?}"),
        }
    }

    fn read_payload(&mut self) {
        let Some((slot, is_cancelled)) = self.reading.pop_front() else {
            return;
        };
        let request = self.responder.take_read(slot);
        let request = request.expect("RING-1: it waits for its payload");
        let is_unwanted = request.rare.as_ref().is_some_and(|rare| rare.is_unwanted);
        assert_eq!(is_unwanted, is_cancelled);
        self.handling.push(request);
    }

    fn answer(&mut self, which: usize, transport_has_room: bool) {
        if self.handling.is_empty() {
            return;
        }
        let request = self.handling.remove(which % self.handling.len());
        let answer = (request.slot(), CallId(request.request_id));
        let rare = self.responder.answered(request);
        if rare.is_some_and(|rare| rare.stream == Some(StreamPart::Open)) {
            self.end_stream(answer.1.0, &[], None);
        }
        if transport_has_room {
            return self.to_client.push_back(answer);
        }
        self.unsent.push_back(answer);
        self.responder.queue(PreparedReply {
            slot: answer.0,
            is_rewritten: false,
            bytes: 0..0,
        });
    }

    fn send_unsent(&mut self) {
        let taken = self.responder.take_unsent();
        let sent = taken.map(|(reply, request)| (reply.slot, CallId(request.request_id)));
        assert_eq!(sent, self.unsent.pop_front(), "CALL-1: it is sent yet");
        self.to_client.extend(sent);
    }

    /// RING-1: neither a request that is handled nor an answer that is not sent is written over.
    fn hasty_request(&mut self) {
        let handled = self.handling.iter().map(|request| request.slot());
        let unsent = self.unsent.iter().map(|(slot, _)| *slot);
        let read = self.reading.iter().map(|(slot, _)| *slot);
        let slots: Vec<_> = handled.chain(unsent).chain(read).collect();
        for slot in slots {
            assert!(self.responder.arrived(slot).is_none());
            let imm = Immediate {
                slot,
                signal: Signal::Message,
            };
            let header = request_header(CallId(u64::MAX));
            let message = Some((&header, 0..0));
            let arrival = self.responder.receive(imm, message);
            let is_refused = matches!(arrival, Arrival::Violation(Violation::SlotBusy));
            assert!(is_refused, "{arrival:?}");
        }
    }

    fn deliver_reply(&mut self) {
        let Some((slot, id)) = self.to_client.pop_front() else {
            return;
        };
        let late = self.caller.late();
        match self.receive(slot, id) {
            Received::Answer => {
                assert!(self.live.contains_key(&id), "CALL-2: {id:?} had ended");
                self.last_reply = Some((slot, id));
            }
            Received::Late => {
                assert!(!self.live.contains_key(&id));
                assert_eq!(
                    self.caller.late(),
                    late + 1,
                    "CALL-2: late answers are counted"
                );
                self.forgotten -= 1;
            }
            other => panic!("a correct responder caused {other:?}"),
        }
    }

    fn receive(&mut self, slot: u16, id: CallId) -> Received {
        self.caller.receive(slot, id, ReplyMeta::default(), None)
    }

    fn read(&mut self, which: usize) {
        let Some(id) = self.pick(which) else { return };
        if let Look::Answered(slot) = self.look(id) {
            let replied = self.caller.lend_reply(slot);
            self.caller.finish(id, replied);
            self.live.remove(&id);
        }
    }

    fn look(&mut self, id: CallId) -> Look {
        let live = self.live.get_mut(&id).expect("it is alive");
        if let Some((slot, _)) = self.caller.answer_of(id, &mut live.slot) {
            return Look::Answered(slot);
        }
        let (slot, deadline, now) = (live.slot, live.deadline, self.now);
        let ended = self
            .caller
            .look(id, slot, deadline, || now, None, &mut None);
        ended.map_or(Look::Undecided, Look::Ended)
    }

    /// Ends a call whose caller has lost interest or patience.
    fn give_up(&mut self, id: CallId) {
        let Some(live) = self.live.remove(&id) else {
            return;
        };
        if let Some(slot) = self.caller.end(id, live.slot).cancel {
            self.forgotten += 1;
            self.to_server.push_back((Signal::Cancel, slot, id));
        }
    }

    fn tick(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        for id in self.live.keys().copied().collect::<Vec<_>>() {
            let deadline = self.live[&id].deadline;
            let is_over = deadline.is_some_and(|deadline| deadline <= self.now);
            let look = self.look(id);
            let is_expired = matches!(look, Look::Ended(CallState::Expired));
            if !matches!(look, Look::Answered(..)) {
                assert_eq!(is_expired, is_over, "CALL-1: deadlines end calls");
            }
            if is_expired {
                self.give_up(id);
            }
        }
    }

    fn duplicate_reply(&mut self) {
        let Some((slot, id)) = self.last_reply else {
            return;
        };
        let before = self.caller.credits();
        let received = self.receive(slot, id);
        assert!(
            matches!(received, Received::Violation(_)),
            "a second reply is {received:?}"
        );
        assert_eq!(self.caller.credits(), before);
    }

    fn foreign_reply(&mut self, slot: u16, id: CallId) {
        let before = self.caller.credits();
        assert!(matches!(self.receive(slot, id), Received::Violation(_)));
        assert_eq!(self.caller.credits(), before);
    }

    /// The connection breaks, is drained and set up again.
    fn reset(&mut self) {
        self.caller.close(LossCause::Gone);
        self.check();
        assert!(
            self.caller.claim(true).is_none() && self.caller.wait(None).is_none(),
            "SLOT-1: no credit before the drain"
        );
        self.to_server.clear();
        self.to_client.clear();
        self.unsent.clear();
        assert!(self.responder.close(LossCause::Gone));
        assert!(!self.responder.close(LossCause::Left), "it has one cause");
        assert_eq!(self.responder.closed(), Some(&LossCause::Gone));
        assert!(self.responder.take_unsent().is_none() && self.responder.is_flushed());
        let effects = self.responder.take_effects();
        effects.wakers.into_iter().for_each(|waker| waker.wake());
        let streams = std::mem::take(&mut self.streams);
        let mut alarms = streams.values().filter_map(|open| open.alarm.as_ref());
        assert!(
            alarms.all(|alarm| alarm.has_rung()),
            "CALL-1: they are told"
        );
        let asked: usize = streams.values().map(|open| open.asked.len()).sum();
        assert_eq!(effects.ended.len(), asked, "CALL-1");
        self.handling
            .extend(effects.ended.into_iter().map(|(request, _)| request));
        for request in self.handling.drain(..) {
            drop(self.responder.answered(request));
        }
        assert_eq!(self.responder.unanswered(), self.reading.len(), "CALL-1");
        self.reading.clear();
        self.responder = Responder::of(self.slots);
        self.forgotten = 0;
        self.end_calls();
        self.caller = Caller::of(self.slots);
        (self.last_arrived, self.last_reply) = (None, None);
    }

    /// CALL-1: no call is pending on a closed channel. Its memory is back once its answers are
    /// read.
    fn end_calls(&mut self) {
        for id in self.live.keys().copied().collect::<Vec<_>>() {
            match self.look(id) {
                Look::Answered(slot) => {
                    let effects = self.caller.take_effects();
                    assert!(effects.memory.is_none(), "RING-1: an answer is unread");
                    let replied = self.caller.lend_reply(slot);
                    assert!(
                        self.caller.take_effects().memory.is_none(),
                        "RING-1: it is lent"
                    );
                    self.caller.finish(id, replied);
                }
                Look::Ended(CallState::Closed) => {
                    self.caller.end(id, self.live[&id].slot);
                }
                Look::Ended(CallState::Expired) => {
                    self.caller.end(id, self.live[&id].slot);
                }
                other => panic!("CALL-1: {id:?} is {other:?}"),
            }
            self.live.remove(&id);
        }
        assert!(self.caller.take_effects().memory.is_some(), "DROP-1");
    }

    fn check(&self) {
        let credits = self.caller.credits();
        assert_eq!(
            credits.free + credits.in_use + credits.orphaned,
            self.slots,
            "SLOT-2"
        );
        if self.caller.closed().is_none() {
            assert_eq!(
                credits.orphaned, self.forgotten,
                "SLOT-1: a slot is kept until its answer"
            );
        }
        assert!(
            self.responder.unanswered() <= self.slots - credits.free,
            "SLOT-1"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn slot_1_slot_2_call_1_call_2_order_1_hold_after_every_step(
        slots in 1..5_usize,
        steps in proptest::collection::vec(any_step(), 1..120),
    ) {
        let mut world = World::new(slots);
        for step in &steps {
            world.step(step);
            world.check();
        }
        // CALL-1, SLOT-2: when everything has run dry, all credits are free.
        for _ in 0..1000 {
            world.deliver_request(Rare::Nothing);
            world.read_payload();
            world.begin_stream();
            world.take_asked(0);
            world.finish_stream(0, false);
            world.answer(0, true);
            world.send_unsent();
            world.deliver_reply();
            for which in 0..8 {
                world.read(which);
            }
            world.grant();
        }
        prop_assert!(world.live.is_empty());
        prop_assert_eq!(world.caller.credits().free, slots);
    }
}
