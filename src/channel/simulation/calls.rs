//! Calls, from the program that makes them to its end of their answers.

use std::sync::Arc;

use super::agent::{Channels, Live, Spot, Subscription};
use super::fabric::{Completed, MessageContent, Port};
use super::pair::nothing;
use super::schedule::{Event, Micros};
use super::shells::Alarm;
use super::world::World;
use crate::channel::core::caller::{Attached, CallId, CallState, Prepared, Received};
use crate::channel::core::slot::ReplyMeta;
use crate::channel::lend::SlotToken;
use crate::channel::peer_connection::{Input, Session};
use crate::channel::work_id::WorkId;
use crate::channel::{CallError, TellError, TellFailure};
use crate::wire::{Extension, Fault, Header, Immediate, MessageKind, Signal, StreamPart};

/// In an immediate: it is about a reply ring. (Above the bits that immediates use.)
pub(super) const REPLY: u32 = 1 << 24;

/// The truth about a call, as the world knows it.
#[derive(Debug)]
pub(super) struct Call {
    /// What it was made over.
    pub(super) session: Session,
    pub(super) runs: u32,
    pub(super) has_ended: bool,
}

impl Call {
    pub(super) fn end(&mut self) {
        assert!(!self.has_ended, "CALL-1: a call ends once");
        self.has_ended = true;
    }
}

pub(super) fn message(kind: MessageKind, id: u64, stream: Option<StreamPart>) -> Header {
    let extension = stream.map(|part| Extension {
        stream: Some(part),
        ..Extension::default()
    });
    Header {
        kind,
        method: 0,
        request_id: id,
        payload_len: 0,
        extension,
    }
}

pub(super) fn immediate(slot: u16, signal: Signal) -> u32 {
    Immediate { slot, signal }.to_bits()
}

/// A failure of a handler.
pub(super) fn failed() -> Fault {
    Fault::Stalled { after_ms: 0 }
}

impl World {
    /// The program of an agent makes a call, and plans the next.
    pub(super) fn call(&mut self, spot: Spot, at: usize) {
        if self.is_calm {
            return;
        }
        let delay = self.rng.u64(200..9000);
        self.schedule.after(delay, Event::Call(spot, at));
        let Some(up) = &self.peer(spot, at).up else {
            return; // The caller is told so.
        };
        let port = up.port;
        match self.rng.u64(..10) {
            0 => self.subscribe(spot, port),
            1 | 2 => {
                let id = self.begin(spot, port, None, None);
                self.leave(spot, port, id);
            }
            _ => {
                let id = self.begin(spot, port, None, None);
                if self.percent(8) {
                    self.give_up(spot, port, id);
                }
            }
        }
        self.conclude(spot, port);
    }

    /// Makes a call.
    fn begin(
        &mut self,
        spot: Spot,
        port: Port,
        part: Option<StreamPart>,
        item: Option<(u64, u32)>,
    ) -> CallId {
        let (at, session) = (self.ports[port.0].peer, self.ports[port.0].session);
        let is_small = self.percent(50);
        let patience = self.percent(60).then(|| self.rng.u64(300..15_000));
        let deadline = patience.map(|patience: Micros| self.schedule.now + patience);
        let until = deadline.map(|deadline| self.schedule.instant_of(deadline));
        let looks_at = self.schedule.now + self.rng.u64(..1000);
        // Some take their time to encode their arguments, and some of them fail.
        let encodes = self.percent(20).then(|| self.rng.u64(..500));
        let call = self.calls.len();
        let channels = self.channels(spot, port).expect("they are up");
        let may_send = channels.may_send();
        let caller = &mut channels.caller;
        let claimed = may_send.then(|| caller.claim(is_small)).flatten();
        let (id, send) = match claimed {
            Some((id, send)) => (id, Some(send)),
            None => {
                let id = caller.wait(until);
                (id.expect("CALL-1: what is up takes calls"), None)
            }
        };
        let slot = send.as_ref().map(SlotToken::slot);
        let live = Live {
            call,
            slot,
            deadline: until,
            alarm: None,
            is_encoding: true,
            send,
            part,
            is_answered: false,
            reads_at: None,
            lent: None,
            is_told: false,
            item: item.or((part == Some(StreamPart::Open)).then_some((id.0, 0))),
        };
        channels.live.insert(id, live);
        self.calls.push(Call {
            session,
            runs: 0,
            has_ended: false,
        });
        match encodes {
            Some(delay) => {
                let encoded = Event::Encoded(spot, port, id);
                self.schedule.after(delay, encoded);
            }
            None => self.posts(spot, port, id),
        }
        self.schedule.at(looks_at, Event::Look(spot, at));
        if let Some(deadline) = deadline {
            self.schedule.at(deadline, Event::Look(spot, at));
        }
        id
    }

    /// The arguments of a call are encoded: it is posted, or waits for a credit.
    fn posts(&mut self, spot: Spot, port: Port, id: CallId) {
        let channels = self.channels(spot, port).expect("they are there");
        let Some(live) = channels.live.get_mut(&id) else {
            return;
        };
        if !std::mem::take(&mut live.is_encoding) {
            return;
        }
        let (send, stream) = (live.send.take(), live.part);
        let Some(send) = send else {
            let request = Prepared {
                attached: stream.map(|part| Attached {
                    stream: Some(part),
                    trace: None,
                }),
                ..nothing()
            };
            return channels.caller.line_up(id, request);
        };
        let slot = send.slot();
        if !channels.caller.is_claimed(id, slot) {
            return channels.caller.abandon(id, send); // It was closed meanwhile.
        }
        channels.caller.posted(id, send);
        self.request(spot, port, id, slot, stream);
    }

    /// A program has taken its time to encode the arguments of a call. They may not encode; in a
    /// slot they do not, for what is made later would be sent before.
    pub(super) fn encoded(&mut self, spot: Spot, port: Port, id: CallId) {
        let fails = self.percent(20);
        let Some(channels) = self.channels(spot, port) else {
            return;
        };
        match channels.live.get(&id) {
            Some(live) if live.is_encoding && (fails || live.send.is_some()) => {
                self.tire_of(spot, port, id);
            }
            _ => self.posts(spot, port, id),
        }
        let at = self.ports[port.0].peer;
        self.schedule.after(0, Event::Look(spot, at));
        self.conclude(spot, port);
    }

    /// Nobody waits for the answer of a call. Some take it back while it waits.
    fn leave(&mut self, spot: Spot, port: Port, id: CallId) {
        let is_taken_back = self.percent(20);
        self.posts(spot, port, id);
        let channels = self.channels(spot, port).expect("they are up");
        let live = channels.live.get_mut(&id).expect("it was just made");
        live.is_told = true;
        let (slot, method) = (live.slot, live.call as u32);
        let told = channels.caller.make_one_way(id, slot, method);
        assert_eq!(told, Ok(None), "it was just made");
        if is_taken_back && channels.caller.is_waiting(id) {
            self.give_up(spot, port, id);
        }
    }

    /// A program opens a stream.
    fn subscribe(&mut self, spot: Spot, port: Port) {
        let wanted = self.rng.u32(1..12);
        let id = self.begin(spot, port, Some(StreamPart::Open), None);
        let channels = self.channels(spot, port).expect("they are up");
        let subscription = Subscription {
            asked: 1,
            wanted,
            ..Subscription::default()
        };
        channels.subscriptions.insert(id.0, subscription);
        self.ask(spot, port, id.0);
    }

    /// A program asks a stream for items, or ends it.
    fn ask(&mut self, spot: Spot, port: Port, stream: u64) {
        let window = self.rng.u32(1..4);
        let is_tired = self.percent(5);
        let Some(channels) = self.channels(spot, port) else {
            return;
        };
        let Some(subscription) = channels.subscriptions.get_mut(&stream) else {
            return; // It was ended.
        };
        if channels.caller.closed().is_some() || subscription.end.is_some() {
            return;
        }
        if !is_tired && subscription.read < subscription.wanted {
            while let Some(channels) = self.channels(spot, port)
                && let Some(subscription) = channels.subscriptions.get_mut(&stream)
                && subscription.asked < subscription.read + window
            {
                let item = Some((stream, subscription.asked));
                subscription.asked += 1;
                self.begin(spot, port, Some(StreamPart::Next(stream)), item);
            }
            return;
        }
        self.unsubscribe(spot, port, stream);
    }

    /// A program wants no more items of a stream. Some say so, the others drop what they have asked
    /// for.
    fn unsubscribe(&mut self, spot: Spot, port: Port, stream: u64) {
        let says_so = self.percent(50);
        let channels = self.channels(spot, port).expect("they are there");
        if channels.subscriptions.remove(&stream).is_none() {
            return;
        }
        let is_open = channels.caller.closed().is_none();
        let of_stream = |(id, live): (&CallId, &Live)| {
            let is_of = live.item.is_some_and(|(of, _)| of == stream) && live.lent.is_none();
            is_of.then_some(*id)
        };
        let asked: Vec<_> = channels.live.iter().filter_map(of_stream).collect();
        if is_open && (says_so || asked.is_empty()) {
            let id = self.begin(spot, port, Some(StreamPart::End(stream)), None);
            self.leave(spot, port, id);
        }
        for id in asked {
            self.give_up(spot, port, id);
        }
    }

    fn request(&mut self, spot: Spot, port: Port, id: CallId, slot: u16, part: Option<StreamPart>) {
        let channels = self.channels(spot, port).expect("they are up");
        let call = channels.live[&id].call;
        let content = Some(MessageContent {
            header: message(MessageKind::Request, id.0, part),
            call,
            item: None,
        });
        self.send(spot, port, immediate(slot, Signal::Message), content);
    }

    /// Sends a message once there is room for it.
    pub(super) fn send(
        &mut self,
        spot: Spot,
        port: Port,
        imm: u32,
        content: Option<MessageContent>,
    ) {
        let channels = self.channels(spot, port);
        if let Some(up) = channels.filter(|channels| channels.caller.closed().is_none()) {
            up.unsent.push_back((imm, content));
            self.send_unsent(spot, port);
        }
    }

    fn send_unsent(&mut self, spot: Spot, port: Port) {
        loop {
            let owner = self.ports[port.0].generation;
            let Some(up) = self.channels(spot, port) else {
                return;
            };
            if up.unsent.is_empty() {
                return;
            }
            let Some(retires) = up.sends.admit() else {
                return;
            };
            let (imm, content) = up.unsent.pop_front().expect("it is not empty");
            let work = WorkId {
                receive: false,
                owner,
                queue_pair: 0,
                retires,
            };
            self.fly(port, imm, content, (retires > 0).then_some(work));
        }
    }

    /// Does what the machines of a session say, as the shells do when they release their lock.
    pub(super) fn conclude(&mut self, spot: Spot, port: Port) {
        while let Some(channels) = self.channels(spot, port)
            && channels.responder.has_effects()
        {
            let effects = channels.responder.take_effects();
            assert!(effects.offered.is_empty(), "no payload lies elsewhere");
            for (_, request_id) in effects.cancelled {
                let mut handled = channels.requests.iter();
                let mut made = channels.makers.values();
                let is_handled = handled.any(|(request, _)| request.request_id == request_id)
                    || made.any(|maker| {
                        let request = maker.request.as_ref();
                        request.is_some_and(|request| request.request_id == request_id)
                    });
                assert!(is_handled, "nobody has {request_id}, which is cancelled");
            }
            effects.wakers.into_iter().for_each(|waker| waker.wake());
            for (request, failure) in effects.ended {
                self.end(spot, port, request, failure);
            }
        }
        if let Some(channels) = self.channels(spot, port)
            && channels.caller.has_effects()
        {
            self.grant(spot, port);
        }
        if let Some(channels) = self.channels(spot, port)
            && channels.caller.has_effects()
        {
            let effects = channels.caller.take_effects();
            effects.wakers.into_iter().for_each(|waker| waker.wake());
            if effects.memory.is_some() {
                let mut live = channels.live.values();
                let is_used = live.any(|live| live.is_answered || live.send.is_some());
                assert!(!is_used, "RING-1: an answer has yet to be read");
                assert!(channels.has_memory, "DROP-1: it is given back once");
                channels.has_memory = false;
            }
            for failure in effects.failures {
                self.told_has_failed(spot, port, failure);
            }
        }
        self.wake(spot, port);
        self.check(spot, port);
        let peer = self.ports[port.0].peer;
        let peer = self.peer(spot, peer);
        let left = |channels: &mut Channels| channels.are_left();
        for mut channels in peer.closed.extract_if(.., left) {
            assert_eq!(
                channels.responder.unanswered(),
                0,
                "CALL-1: all are answered"
            );
            assert!(channels.responder.streams().is_empty());
            peer.late += channels.late;
        }
    }

    /// Who was woken looks soon.
    fn wake(&mut self, spot: Spot, port: Port) {
        let at = self.ports[port.0].peer;
        let delay = self.rng.u64(..100);
        let Some(channels) = self.channels(spot, port) else {
            return;
        };
        let mut woken = false;
        for live in channels.live.values_mut() {
            woken |= live.alarm.take_if(|alarm| alarm.has_rung()).is_some();
        }
        let mut makers = Vec::new();
        for (stream, maker) in &mut channels.makers {
            if maker.alarm.take_if(|alarm| alarm.has_rung()).is_some() {
                makers.push(*stream);
            }
        }
        if woken {
            self.schedule.after(delay, Event::Look(spot, at));
        }
        for stream in makers {
            self.schedule.after(delay, Event::Item(spot, port, stream));
        }
    }

    /// Gives waiting calls the credits there are.
    fn grant(&mut self, spot: Spot, port: Port) {
        while let Some(up) = self.channels(spot, port)
            && up.may_send()
            && let Some(granted) = up.caller.grant()
        {
            let (id, slot) = (granted.id, granted.send.slot());
            assert!(up.caller.is_claimed(id, slot));
            up.caller.posted(id, granted.send);
            let live = up.live.get(&id).expect("CALL-1: who waits is alive");
            assert_eq!(granted.deadline, live.deadline);
            let part = granted.request.attached.and_then(|it| it.stream);
            self.request(spot, port, id, slot, part);
        }
    }

    /// An agent takes in its completions, those of each queue pair in order.
    pub(super) fn poll(&mut self, spot: Spot) {
        self.living(spot).is_polling = false;
        loop {
            let count = self.living(spot).completions.len();
            if count == 0 {
                return;
            }
            let any = self.rng.usize(..count);
            let completions = &mut self.living(spot).completions;
            let port = completions[any].port;
            let first = completions.iter().position(|one| one.port == port);
            let first = first.and_then(|first| completions.remove(first));
            self.completed(spot, first.expect("it was there just now"));
        }
    }

    fn completed(&mut self, spot: Spot, completed: Completed) {
        let Completed { port, work, result } = completed;
        let (at, session) = (self.ports[port.0].peer, self.ports[port.0].session);
        if work.owner != self.peer(spot, at).generation {
            return; // From before a reset.
        }
        let Ok(imm) = result else {
            return self.handle(spot, at, Input::Lost(session));
        };
        let Some(channels) = self.channels(spot, port) else {
            return; // They were left.
        };
        let is_closed = channels.caller.closed().is_some();
        match imm {
            None => {
                channels.sends.retire(work.retires);
                channels.caller.make_room();
            }
            Some(imm) if imm & REPLY != 0 => self.take_reply(spot, port, imm),
            // It is being drained.
            Some(_) if is_closed => {}
            Some(imm) => self.take_request(spot, port, imm),
        }
        if !is_closed {
            self.send_unsent(spot, port);
        }
        self.conclude(spot, port);
    }

    /// An answer arrives; on a closed channel, in the batch in which its end did.
    fn take_reply(&mut self, spot: Spot, port: Port, imm: u32) {
        let at = self.ports[port.0].peer;
        let slot = Immediate::from_bits(imm).slot;
        let Some(channels) = self.channels(spot, port) else {
            return;
        };
        let is_closed = channels.caller.closed().is_some();
        if is_closed && !channels.has_memory {
            return;
        }
        let content = channels.replies[usize::from(slot)].expect("a reply was written here");
        let id = CallId(content.header.request_id);
        let (reply, _) = ReplyMeta::of(&content.header, 0..0);
        match channels.caller.receive(slot, id, reply, None) {
            Received::Answer => {
                let live = channels.live.get_mut(&id);
                let live = live.expect("CALL-2: the call had ended");
                live.is_answered = true;
                assert_eq!(live.call, content.call, "the answer is another's");
                self.schedule.after(0, Event::Look(spot, at));
            }
            Received::OneWay(method) => {
                let live = channels.live.get(&id).expect("CALL-1: it has not ended");
                assert_eq!((live.call, method as usize), (content.call, content.call));
                let failure =
                    (content.header.kind == MessageKind::Exception).then(|| TellFailure {
                        method,
                        cause: TellError::Fault(failed()),
                    });
                if failure.is_none() {
                    channels.live.remove(&id);
                    self.calls[content.call].end();
                }
                let channels = self.channels(spot, port).expect("they are there");
                channels.caller.complete(slot, failure);
            }
            Received::Late => {
                channels.late += 1;
                assert_eq!(
                    channels.caller.late(),
                    channels.late,
                    "CALL-2: late answers are counted"
                );
                if !is_closed {
                    assert!(!channels.live.contains_key(&id));
                    channels.forgotten -= 1;
                }
            }
            other => panic!("SLOT-1: a correct responder caused {other:?}"),
        }
    }

    /// A call that was told has failed.
    fn told_has_failed(&mut self, spot: Spot, port: Port, failure: TellFailure) {
        let number = failure.method as usize;
        let channels = self.channels(spot, port).expect("they are there");
        let told = channels.live.iter().find(|(_, live)| live.call == number);
        let (&id, live) = told.expect("CALL-1: a failure of a call that has ended");
        assert!(live.is_told);
        channels.live.remove(&id);
        let call = &mut self.calls[number];
        call.end();
        if let TellError::Lost { sent, .. } = failure.cause {
            assert!(sent || call.runs == 0, "{id:?} was run, and was not sent");
        }
    }

    /// A program looks at its calls.
    pub(super) fn look(&mut self, spot: Spot, at: usize) {
        let peer = self.peer(spot, at);
        let ports: Vec<_> = peer.channels().map(|channels| channels.port).collect();
        for port in ports {
            let channels = self.channels(spot, port).expect("they are there");
            let calls: Vec<_> = channels.live.keys().copied().collect();
            for id in calls {
                self.look_at(spot, port, id);
            }
            self.conclude(spot, port);
        }
    }

    fn look_at(&mut self, spot: Spot, port: Port, id: CallId) {
        let at = self.ports[port.0].peer;
        let (now, time) = (self.schedule.instant(), self.schedule.now);
        let (sleeps, gives_up, later) = (self.percent(75), self.percent(5), self.rng.u64(50..2000));
        // Some programs take their time.
        let most = if self.percent(5) { 20_000 } else { 600 };
        let reads_at = time + self.rng.u64(..most);
        let Some(channels) = self.channels(spot, port) else {
            return;
        };
        // Its program does not have a call whose arguments are being encoded yet.
        let is_held = |live: &&mut Live| !live.is_told && !live.is_encoding;
        let Some(live) = channels.live.get_mut(&id).filter(is_held) else {
            return;
        };
        if let Some(until) = live.reads_at {
            if until <= time {
                self.read(spot, port, id);
            } else if gives_up && live.lent.is_none() {
                // Its credit is that of a call that waits.
                self.tire_of(spot, port, id);
            }
            return;
        }
        let is_over = live.deadline.is_some_and(|deadline| deadline <= now);
        if !live.is_awake() && !is_over {
            return;
        }
        live.alarm = sleeps.then(Arc::<Alarm>::default);
        let waker = live.alarm.clone().map(Into::into);
        if let Some((slot, _)) = channels.caller.answer_of(id, &mut live.slot) {
            assert_eq!(live.slot, Some(slot));
            live.alarm = None;
            live.reads_at = Some(reads_at);
            return self.schedule.at(reads_at, Event::Look(spot, at));
        }
        let (caller, slot) = (&mut channels.caller, live.slot);
        match caller.look(id, slot, live.deadline, || now, waker.as_ref(), &mut None) {
            None => {
                assert!(!is_over, "CALL-1: {id:?} outlives its deadline");
                if !sleeps {
                    self.schedule.after(later, Event::Look(spot, at));
                }
            }
            Some(CallState::Expired) => {
                assert!(is_over, "CALL-1: {id:?} has time left");
                self.tire_of(spot, port, id);
            }
            Some(state) => {
                assert!(
                    channels.caller.closed().is_some(),
                    "CALL-1: {id:?} is {state:?}"
                );
                let failure = channels.caller.failure(id, live.slot, state, None);
                let CallError::Closed { sent, .. } = failure else {
                    panic!("{failure}");
                };
                let call = live.call;
                let call = &self.calls[call];
                assert!(sent || call.runs == 0, "{id:?} was run, and was not sent");
                self.give_up(spot, port, id);
            }
        }
    }

    /// A program reads an answer; some keep it for a while.
    fn read(&mut self, spot: Spot, port: Port, id: CallId) {
        let at = self.ports[port.0].peer;
        let keeps = self.percent(30).then(|| self.rng.u64(..3000));
        let keeps = keeps.map(|time| self.schedule.now + time);
        let channels = self.channels(spot, port).expect("they are there");
        let live = channels.live.get_mut(&id).expect("it is alive");
        let slot = live.slot.expect("it is answered");
        let content = channels.replies[usize::from(slot)].expect("it was answered");
        assert_eq!(
            content.call, live.call,
            "RING-1: the answer has been overwritten"
        );
        let is_read_before = live.lent.is_some();
        let replied = live.lent.take();
        let replied = replied.unwrap_or_else(|| channels.caller.lend_reply(slot));
        let (call, item) = (live.call, live.item);
        match keeps {
            Some(until) if !is_read_before => {
                live.lent = Some(replied);
                live.reads_at = Some(until);
                self.schedule.at(until, Event::Look(spot, at));
            }
            _ => {
                channels.caller.finish(id, replied);
                channels.live.remove(&id);
                self.calls[call].end();
            }
        }
        match item {
            Some((stream, nth)) if !is_read_before => {
                self.read_item(spot, port, stream, nth, content);
            }
            Some(_) => {}
            None => assert_eq!(self.calls[call].runs, 1, "it is answered, and so was run"),
        }
    }

    /// A program reads an item of a stream, or that there is none.
    fn read_item(
        &mut self,
        spot: Spot,
        port: Port,
        stream: u64,
        nth: u32,
        content: MessageContent,
    ) {
        let channels = self.channels(spot, port).expect("they are there");
        let Some(subscription) = channels.subscriptions.get_mut(&stream) else {
            return; // It was ended.
        };
        match content.item {
            Some(item) => {
                assert_eq!(item, nth, "ORDER-1: items go to requests in their order");
                let is_before = subscription.end.is_none_or(|end| item < end);
                assert!(is_before, "item {item} after the end of {stream}");
                subscription.read += 1;
                self.items += 1;
            }
            None => {
                let end = subscription.end.map_or(nth, |end| end.min(nth));
                subscription.end = Some(end);
            }
        }
        self.ask(spot, port, stream);
    }

    /// A program gives up a call, and the stream that it asks for an item.
    fn tire_of(&mut self, spot: Spot, port: Port, id: CallId) {
        let channels = self.channels(spot, port).expect("they are there");
        let item = channels.live.get(&id).and_then(|live| live.item);
        self.give_up(spot, port, id);
        if let Some((stream, _)) = item {
            self.unsubscribe(spot, port, stream);
        }
    }

    /// Nobody waits for a call any more.
    fn give_up(&mut self, spot: Spot, port: Port, id: CallId) {
        let Some(channels) = self.channels(spot, port) else {
            return;
        };
        let Some(live) = channels.live.remove(&id) else {
            return;
        };
        if let Some(send) = live.send {
            channels.caller.abandon(id, send);
        }
        let slot = channels.caller.end(id, live.slot).cancel;
        channels.forgotten += usize::from(slot.is_some());
        self.calls[live.call].end();
        if let Some(slot) = slot {
            self.send(spot, port, immediate(slot, Signal::Cancel), None);
        }
    }
}

impl Channels {
    pub(super) fn may_send(&self) -> bool {
        self.sends.has_room() && self.unsent.is_empty()
    }
}
