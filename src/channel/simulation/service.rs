//! Requests, from their arrival to their answers, and the items of streams.

use std::sync::Arc;

use super::agent::{Maker, Spot};
use super::calls::{REPLY, failed, immediate, message};
use super::fabric::{MessageContent, Port};
use super::schedule::Event;
use super::shells::Alarm;
use super::world::World;
use crate::channel::core::responder::{Arrival, SlotRequest};
use crate::wire::{Fault, Immediate, MessageKind, Signal, StreamPart};
use std::task::Poll;

impl World {
    pub(super) fn take_request(&mut self, spot: Spot, port: Port, imm: u32) {
        let imm = Immediate::from_bits(imm);
        let content = self.ports[port.0].requests[usize::from(imm.slot)];
        let delay = self.rng.u64(20..1500);
        let Some(up) = self.channels(spot, port) else {
            return;
        };
        let message = content.as_ref().map(|content| (&content.header, 0..0));
        let mut arrival = up.responder.receive(imm, message);
        if let (Arrival::Request(request), Some(content)) = (&arrival, content) {
            let request_id = request.request_id;
            assert!(
                up.last < Some(request_id),
                "ORDER-1: {request_id} after {:?}",
                up.last
            );
            up.last = Some(request_id);
            if let Some(extension) = &content.header.extension
                && let Arrival::Request(request) = arrival
            {
                arrival = up.responder.extended(request, extension);
            }
        }
        match (arrival, content) {
            (Arrival::Request(request), Some(content)) => {
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
            (Arrival::Noted, _) => {}
            (other, _) => panic!("SLOT-1: a correct caller caused {other:?}"),
        }
    }

    /// The handler in front of a session has ended. Its answer goes nowhere if the session has.
    pub(super) fn handled(&mut self, spot: Spot, port: Port) {
        let delay = self.rng.u64(20..1500);
        let (has, is_streamed, fails) = (self.rng.u32(..12), self.percent(85), self.percent(10));
        let Some(channels) = self.channels(spot, port) else {
            return;
        };
        let (mut request, _) = channels.requests.pop_front().expect("it was handled");
        if !channels.requests.is_empty() {
            self.schedule.after(delay, Event::Handled(spot, port));
        }
        let channels = self.channels(spot, port).expect("they were there");
        match &mut request.rare {
            Some(rare) if rare.stream == Some(StreamPart::Open) && is_streamed => {
                rare.stream = None;
                let stream = request.request_id;
                let maker = Maker {
                    request: Some(request),
                    has,
                    ..Maker::default()
                };
                assert!(channels.makers.insert(stream, maker).is_none());
                self.schedule.after(delay, Event::Item(spot, port, stream));
            }
            Some(_) => self.end(spot, port, request, fails.then(failed)),
            None if fails => self.end(spot, port, request, Some(failed())),
            None => self.answer(spot, port, request, MessageKind::Reply, None, None),
        }
        self.conclude(spot, port);
    }

    /// Whoever makes the items of a stream goes on.
    pub(super) fn make_item(&mut self, spot: Spot, port: Port, stream: u64) {
        let (looks, fails) = (self.percent(30), self.percent(5));
        let delay = self.rng.u64(20..800);
        let Some(channels) = self.channels(spot, port) else {
            return;
        };
        let Some(maker) = channels.makers.get_mut(&stream) else {
            return;
        };
        let alarm = Arc::<Alarm>::default();
        let (waker, mut before) = (alarm.clone().into(), None);
        let responder = &mut channels.responder;
        if let Some(request) = maker.request.take() {
            let is_wanted = !looks
                || responder
                    .streams()
                    .poll_unwanted(stream, &waker, &mut before)
                    .is_pending();
            if !is_wanted || maker.made == maker.has {
                self.end(spot, port, request, (fails && is_wanted).then(failed));
                self.finish(spot, port, stream, None);
            } else {
                let item = Some(maker.made);
                maker.made += 1;
                self.answer(spot, port, request, MessageKind::Reply, None, item);
                self.schedule.after(delay, Event::Item(spot, port, stream));
            }
        } else if fails {
            self.finish(spot, port, stream, Some(failed()));
        } else {
            match responder.streams().poll_asked(stream, &waker, &mut before) {
                Poll::Pending => maker.alarm = Some(alarm),
                Poll::Ready(None) => self.finish(spot, port, stream, None),
                Poll::Ready(request) => {
                    maker.request = request;
                    self.schedule.after(delay, Event::Item(spot, port, stream));
                }
            }
        }
        self.conclude(spot, port);
    }

    /// Whoever makes the items of a stream makes no more.
    fn finish(&mut self, spot: Spot, port: Port, stream: u64, failure: Option<Fault>) {
        let channels = self.channels(spot, port).expect("they are there");
        channels.makers.remove(&stream);
        channels.responder.complete(stream, failure);
    }

    /// Answers a request with the end of its stream, or with a failure.
    pub(super) fn end(
        &mut self,
        spot: Spot,
        port: Port,
        request: Box<SlotRequest>,
        failure: Option<Fault>,
    ) {
        let (kind, part) = match failure {
            Some(_) => (MessageKind::Exception, None),
            None => (MessageKind::Reply, Some(StreamPart::End(1))),
        };
        self.answer(spot, port, request, kind, part, None);
    }

    fn answer(
        &mut self,
        spot: Spot,
        port: Port,
        request: Box<SlotRequest>,
        kind: MessageKind,
        part: Option<StreamPart>,
        item: Option<u32>,
    ) {
        let (id, slot) = (request.request_id, request.slot());
        let asked = self.ports[port.0].requests[usize::from(slot)].take();
        let asked = asked.expect("RING-1: the bytes of a request stay until it is answered");
        assert_eq!(
            asked.header.request_id, id,
            "RING-1: they are the request's"
        );
        let channels = self.channels(spot, port).expect("they are there");
        drop(channels.responder.answered(request));
        let content = MessageContent {
            header: message(kind, id, part),
            call: asked.call,
            item,
        };
        let imm = immediate(slot, Signal::Message) | REPLY;
        self.send(spot, port, imm, Some(content));
    }
}
