//! Calls, from the program that makes them to the handler and back.

use super::agent::{Live, Spot};
use super::fabric::{Completed, MessageContent, Port};
use super::pair::nothing;
use super::schedule::{Event, Micros};
use super::world::World;
use crate::channel::core::caller::{CallId, CallState, Received};
use crate::channel::core::responder::Arrival;
use crate::channel::core::slot::ReplyMeta;
use crate::channel::peer_connection::{Input, Session};
use crate::channel::work_id::WorkId;
use crate::wire::{Header, Immediate, MessageKind, Signal};

/// In an immediate: it is about a reply ring. (Above the bits that immediates use.)
const REPLY: u32 = 1 << 24;

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

fn message(kind: MessageKind, id: u64) -> Header {
    Header {
        kind,
        method: 0,
        request_id: id,
        payload_len: 0,
        extension: None,
    }
}

fn immediate(slot: u16, signal: Signal) -> u32 {
    Immediate { slot, signal }.to_bits()
}

impl World {
    /// The program of an agent makes a call, and plans the next.
    pub(super) fn call(&mut self, spot: Spot, at: usize) {
        if self.is_calm {
            return;
        }
        let delay = self.rng.u64(200..9000);
        self.schedule.after(delay, Event::Call(spot, at));
        let is_small = self.percent(50);
        let patience = self.percent(60).then(|| self.rng.u64(300..15_000));
        let deadline = patience.map(|patience: Micros| self.schedule.now + patience);
        let until = deadline.map(|deadline| self.schedule.instant_of(deadline));
        let call = self.calls.len();
        let peer = self.peer(spot, at);
        let Some(up) = &peer.up else {
            return; // The caller is told so.
        };
        let may_send = up.sends.has_room() && up.unsent.is_empty();
        let port = up.port;
        let claimed = may_send.then(|| peer.caller.claim(is_small)).flatten();
        let (id, slot) = match claimed {
            Some((id, send)) => {
                let slot = send.slot();
                assert!(peer.caller.is_claimed(id, slot));
                peer.caller.posted(id, send);
                (id, Some(slot))
            }
            None => {
                let id = peer.caller.wait(until);
                let id = id.expect("CALL-1: what is up takes calls");
                peer.caller.line_up(id, nothing());
                (id, None)
            }
        };
        peer.live.insert(
            id,
            Live {
                call,
                slot,
                deadline: until,
                reads_at: None,
            },
        );
        let session = self.ports[port.0].session;
        self.calls.push(Call {
            session,
            runs: 0,
            has_ended: false,
        });
        if let Some(slot) = slot {
            self.request(spot, at, id, slot, call);
        }
        if let Some(deadline) = deadline {
            self.schedule.at(deadline, Event::Look(spot, at));
        }
        if self.percent(8) {
            self.give_up(spot, at, id);
        }
        self.check(spot, at);
    }

    fn request(&mut self, spot: Spot, at: usize, id: CallId, slot: u16, call: usize) {
        let header = message(MessageKind::Request, id.0);
        let content = Some(MessageContent { header, call });
        self.send(spot, at, immediate(slot, Signal::Message), content);
    }

    /// Sends a message once there is room for it.
    fn send(&mut self, spot: Spot, at: usize, imm: u32, content: Option<MessageContent>) {
        let Some(up) = &mut self.peer(spot, at).up else {
            return;
        };
        up.unsent.push_back((imm, content));
        self.send_unsent(spot, at);
    }

    fn send_unsent(&mut self, spot: Spot, at: usize) {
        loop {
            let peer = self.peer(spot, at);
            let owner = peer.generation;
            let Some(up) = &mut peer.up else { return };
            if up.unsent.is_empty() {
                return;
            }
            let Some(retires) = up.sends.admit() else {
                return;
            };
            let port = up.port;
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

    /// Gives waiting calls the credits there are.
    fn grant(&mut self, spot: Spot, at: usize) {
        loop {
            let peer = self.peer(spot, at);
            let may_send = |up: &super::agent::Up| up.sends.has_room() && up.unsent.is_empty();
            if !peer.up.as_ref().is_some_and(may_send) {
                return;
            }
            let Some(granted) = peer.caller.grant() else {
                return;
            };
            let (id, slot) = (granted.id, granted.send.slot());
            assert!(peer.caller.is_claimed(id, slot));
            peer.caller.posted(id, granted.send);
            let live = peer.live.get_mut(&id).expect("CALL-1: who waits is alive");
            live.slot = Some(slot);
            let call = live.call;
            self.request(spot, at, id, slot, call);
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
        let peer = self.peer(spot, at);
        if work.owner != peer.generation {
            return; // From before a reset.
        }
        let Ok(imm) = result else {
            return self.handle(spot, at, Input::Lost(session));
        };
        let Some(up) = &mut peer.up else {
            return; // It is being drained.
        };
        assert_eq!(up.port, port, "FENCE-1: this is of an earlier session");
        match imm {
            None => up.sends.retire(work.retires),
            Some(imm) if imm & REPLY == 0 => self.take_request(spot, at, imm),
            Some(imm) => self.take_reply(spot, at, imm),
        }
        self.send_unsent(spot, at);
        self.grant(spot, at);
        self.check(spot, at);
    }

    fn take_request(&mut self, spot: Spot, at: usize, imm: u32) {
        let imm = Immediate::from_bits(imm);
        let Some(up) = &self.peer(spot, at).up else {
            return;
        };
        let port = up.port;
        let content = self.ports[port.0].requests[usize::from(imm.slot)];
        let delay = self.rng.u64(20..1500);
        let Some(up) = &mut self.peer(spot, at).up else {
            return;
        };
        let message = content.as_ref().map(|content| (&content.header, 0..0));
        match (up.responder.receive(imm, message), content) {
            (Arrival::Request(request), Some(content)) => {
                let request_id = request.request_id;
                assert!(
                    up.last < Some(request_id),
                    "ORDER-1: {request_id} after {:?}",
                    up.last
                );
                up.last = Some(request_id);
                up.requests.push_back((request, content));
                let is_idle = up.requests.len() == 1;
                let call = &mut self.calls[content.call];
                assert_eq!(
                    call.session, self.ports[port.0].session,
                    "FENCE-1: a request of an earlier session"
                );
                call.runs += 1;
                assert_eq!(call.runs, 1, "CALL-1: a call is run at most once");
                if is_idle {
                    self.schedule.after(delay, Event::Handled(spot, port));
                }
            }
            (Arrival::Cancel { .. } | Arrival::Noted, _) => {}
            (other, _) => panic!("SLOT-1: a correct caller caused {other:?}"),
        }
    }

    /// The handler in front of a session has ended.
    pub(super) fn handled(&mut self, spot: Spot, port: Port) {
        let at = self.ports[port.0].peer;
        let delay = self.rng.u64(20..1500);
        let Some(up) = &mut self.peer(spot, at).up else {
            return;
        };
        if up.port != port {
            return; // FENCE-1: the answer is for an earlier session, and goes nowhere.
        }
        let (lent, request) = up.requests.pop_front().expect("it was handled");
        if !up.requests.is_empty() {
            self.schedule.after(delay, Event::Handled(spot, port));
        }
        let id = request.header.request_id;
        let ring = &mut self.ports[port.0].requests;
        let slot = ring.iter().position(|content| *content == Some(request));
        let slot = slot.expect("RING-1: the bytes of a request stay until it is answered");
        ring[slot] = None;
        let slot = slot as u16;
        assert_eq!(lent.slot(), slot, "RING-1: it is the request's");
        if let Some(up) = &mut self.peer(spot, at).up {
            assert!(up.responder.answered(lent).is_none());
        }
        let content = MessageContent {
            header: message(MessageKind::Reply, id),
            call: request.call,
        };
        let imm = immediate(slot, Signal::Message) | REPLY;
        self.send(spot, at, imm, Some(content));
    }

    fn take_reply(&mut self, spot: Spot, at: usize, imm: u32) {
        let slot = Immediate::from_bits(imm).slot;
        // Some programs take their time.
        let most = if self.percent(5) { 20_000 } else { 600 };
        let reads_at = self.schedule.now + self.rng.u64(..most);
        let peer = self.peer(spot, at);
        let content = peer.replies[usize::from(slot)].expect("a reply was written here");
        let id = CallId(content.header.request_id);
        match peer.caller.receive(slot, id, ReplyMeta::default(), None) {
            Received::Answer => {
                let live = peer.live.get_mut(&id);
                let live = live.expect("CALL-2: the call had ended");
                assert_eq!(live.call, content.call, "the answer is another's");
                live.reads_at = Some(reads_at);
                self.schedule.at(reads_at, Event::Look(spot, at));
            }
            Received::Late => {
                assert!(!peer.live.contains_key(&id));
                peer.late += 1;
                assert_eq!(
                    peer.caller.late(),
                    peer.late,
                    "CALL-2: late answers are counted"
                );
                peer.forgotten -= 1;
            }
            other => panic!("SLOT-1: a correct responder caused {other:?}"),
        }
    }

    /// A program looks at its calls.
    pub(super) fn look(&mut self, spot: Spot, at: usize) {
        let now = self.schedule.instant();
        let peer = self.peer(spot, at);
        let states = peer.live.iter().map(|(id, live)| {
            let state = peer.caller.state(*id, live.slot);
            (*id, *live, state.by(live.deadline, || now))
        });
        for (id, live, state) in states.collect::<Vec<_>>() {
            let is_over = live.deadline.is_some_and(|deadline| deadline <= now);
            match state {
                CallState::Answered(slot) => {
                    if live
                        .reads_at
                        .is_some_and(|reads_at| reads_at <= self.schedule.now)
                    {
                        self.read(spot, at, id, slot);
                    }
                }
                CallState::Expired => self.give_up(spot, at, id),
                CallState::Waiting | CallState::Pending => {
                    assert!(!is_over, "CALL-1: {id:?} outlives its deadline");
                }
                CallState::Closed => panic!("CALL-1: {id:?} was not told that it has ended"),
            }
        }
        self.grant(spot, at);
        self.check(spot, at);
    }

    fn read(&mut self, spot: Spot, at: usize, id: CallId, slot: u16) {
        let peer = self.peer(spot, at);
        let live = peer.live.remove(&id).expect("it is alive");
        let content = peer.replies[usize::from(slot)].expect("it was answered");
        assert_eq!(
            content.call, live.call,
            "RING-1: the answer has been overwritten"
        );
        let replied = peer.caller.lend_reply(slot);
        peer.caller.finish(id, replied);
        let call = &mut self.calls[live.call];
        assert_eq!(call.runs, 1, "it is answered, and so was run");
        call.end();
    }

    /// Nobody waits for a call any more.
    fn give_up(&mut self, spot: Spot, at: usize, id: CallId) {
        let peer = self.peer(spot, at);
        let Some(live) = peer.live.remove(&id) else {
            return;
        };
        let slot = peer.caller.end(id, live.slot).cancel;
        peer.forgotten += usize::from(slot.is_some());
        self.calls[live.call].end();
        if let Some(slot) = slot {
            self.send(spot, at, immediate(slot, Signal::Cancel), None);
        }
    }
}
