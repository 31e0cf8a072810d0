//! Two state machines face each other through random schedules, without I/O or clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::channel::core::caller::{
    CallId, CallState, Caller, Prepared, PreparedPayload, Received,
};
use crate::channel::core::responder::{Arrival, FOREVER, PreparedReply, Responder, SlotRequest};
use crate::channel::core::slot::ReplyMeta;
use crate::channel::lend::SlotToken;
use crate::channel::{LossCause, Violation};
use crate::wire::{
    Extension, Header, Immediate, MessageKind, RendezvousDescriptor, Signal, StreamPart,
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
        stream: None,
        payload: PreparedPayload::Here(Vec::new()),
    }
}

/// What the caller's program still holds.
#[derive(Debug, Clone, Copy)]
struct Live {
    slot: Option<u16>,
    deadline: Option<Instant>,
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
    streams: BTreeSet<u64>,
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
            streams: BTreeSet::new(),
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
        let open = |which| self.streams.iter().nth(which).copied().unwrap_or(u64::MAX);
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
        let id = request.request_id;
        let request = match self.responder.extended(request, extension) {
            Arrival::Request(request) => {
                let opens = extension.stream == Some(StreamPart::Open);
                let credit = request.rare.as_ref().map(|rare| &rare.stream_credit);
                assert_eq!(credit.is_some_and(Option::is_some), opens);
                if opens {
                    self.streams.insert(id);
                }
                request
            }
            Arrival::Offered(slot, _) => return self.reading.push_back((slot, false)),
            Arrival::Next(request, stream) => {
                let Some(StreamPart::Next(asked)) = extension.stream else {
                    panic!("it asks for no item")
                };
                assert_eq!(stream.is_some(), self.streams.contains(&asked));
                request
            }
            Arrival::End(request, stream) => {
                let Some(StreamPart::End(ended)) = extension.stream else {
                    panic!("it ends no stream")
                };
                assert_eq!(stream.is_some(), self.streams.remove(&ended));
                request
            }
            other => panic!("SLOT-1: a correct caller caused {other:?}"),
        };
        assert_eq!(request.allowed_us, extension.deadline_us.unwrap_or(FOREVER));
        self.handling.push(request);
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
            Arrival::Cancel { request_id, .. } => {
                let mut handled = self.handling.iter();
                assert!(handled.any(|request| request.request_id == request_id));
                assert_eq!(request_id, id.0);
            }
            Arrival::Noted => {
                assert_ne!(signal, Signal::Message);
                let reading = self.reading.iter_mut().find(|(at, _)| *at == slot);
                if let Some((_, is_cancelled)) = reading {
                    *is_cancelled |= signal == Signal::Cancel;
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
        drop(self.responder.answered(request));
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
        if let CallState::Answered(slot) = self.caller.state(id, self.live[&id].slot) {
            let replied = self.caller.lend_reply(slot);
            self.caller.finish(id, replied);
            self.live.remove(&id);
        }
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
        let states: Vec<_> = self
            .live
            .iter()
            .map(|(id, live)| {
                let state = self.caller.state(*id, live.slot);
                (*id, live.deadline, state.by(live.deadline, || self.now))
            })
            .collect();
        for (id, deadline, state) in states {
            let is_over = deadline.is_some_and(|deadline| deadline <= self.now);
            let is_expired = matches!(state, CallState::Expired);
            if !matches!(state, CallState::Answered(..)) {
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
        self.handling.clear();
        self.reading.clear();
        self.unsent.clear();
        assert!(self.responder.close(LossCause::Gone));
        assert!(!self.responder.close(LossCause::Left), "it has one cause");
        assert_eq!(self.responder.closed(), Some(&LossCause::Gone));
        assert!(self.responder.take_unsent().is_none() && self.responder.is_flushed());
        let streams = self.responder.take_streams();
        let streams: BTreeSet<_> = streams.into_keys().collect();
        assert_eq!(streams, std::mem::take(&mut self.streams));
        self.responder = Responder::of(self.slots);
        self.forgotten = 0;
        self.live.retain(|id, live| {
            let state = self.caller.state(*id, live.slot);
            let has_answer = matches!(state, CallState::Answered(..));
            assert!(
                has_answer || matches!(state, CallState::Closed),
                "CALL-1: {id:?} is {state:?}"
            );
            has_answer
        });
        self.caller.reset();
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
