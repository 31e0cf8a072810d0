//! The answering end of a channel: one caller's rings at a service.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Instant;

use super::bulk::Bulk;
use super::core::responder::{Arrival, PreparedReply, Rare, Responder, SlotRequest};
use super::geometry::RingShape;
use super::growth::{self, Growth};
use super::in_order::{InOrder, Ready};
use super::lend::{RemoteRing, RemoteRings, Ring, SlotToken};
use super::queue_pair_group::{QueuePairGroup, WriteRequest};
use super::work_id::WorkId;
use super::{
    BufferPool, Delivery, Endpoint, Geometry, Inbound, LossCause, MemoryError, PooledBuffer,
    Profile, QueuePairInfo, RequestId, RingAddress, ServiceInfo, Violation, Violations,
};
use crate::fabric::shm::{OwnerGuard, OwnerLock};
use crate::fabric::{Completion, FabricError};
use crate::panics::wake_all;
use crate::wire::{Fault, FixedHeader, Header, Immediate, RendezvousDescriptor, Signal};

/// How many probes are left out until a native caller has called: before, it may not have connected
/// its end, and a probe would end the channel.
const LEFT_OUT: u8 = 20;

/// One caller, as its service sees it. Its mailbox handles completions on one thread, which locks
/// it at no cost; handlers may answer on others.
#[derive(Debug)]
pub(super) struct PeerChannel {
    // Dropped first, and so drained before the rings are deregistered (DROP-1).
    core: OwnerLock<PeerChannelState>,
    pub(super) requests: Ring,
    pub(super) sends: Ring,
    /// Memory for payloads beyond a slot.
    pub(super) memory: Option<Arc<BufferPool>>,
    pub(super) geometry: Geometry,
    pub(super) shape: RingShape,
    pub(super) profile: Profile,
    /// The service that it calls.
    pub(super) service: Arc<ServiceInfo>,
    pub(super) peer: String,
    /// Incarnation of the caller, if it is native.
    pub(super) life: Option<u64>,
}

#[derive(Debug)]
struct PeerChannelState {
    /// `None` once another channel has taken them over.
    queue_pairs: Option<QueuePairGroup>,
    /// Reads payloads beyond a slot; with a native caller only.
    bulk: Option<Bulk>,
    responder: Responder,
    remote: RemoteRings,
    growth: Growth,
    in_order: InOrder,
    /// Whether the mailbox waits until all answers have arrived, including later ones.
    is_flushing: bool,
    /// How many more probes are left out.
    left_out: u8,
    violations: Violations,
}

impl PeerChannel {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        (peer, life): (&str, Option<u64>),
        service: Arc<ServiceInfo>,
        queue_pairs: QueuePairGroup,
        bulk: Option<(Bulk, Arc<BufferPool>)>,
        rings: [(Ring, Vec<SlotToken>); 2],
        geometry: Geometry,
        remote: RemoteRing,
        profile: Profile,
    ) -> Self {
        let (bulk, memory) = bulk.unzip();
        let [(requests, mut arrivals), (sends, mut answers)] = rings;
        let shape = RingShape::of(geometry, profile);
        let growth = Growth::new(shape, &mut answers, &mut arrivals);
        // A slot must exist at both ends.
        arrivals.truncate(remote.geometry.slots());
        Self {
            core: OwnerLock::new(PeerChannelState {
                queue_pairs: Some(queue_pairs),
                bulk,
                responder: Responder::new(arrivals, answers),
                remote: RemoteRings::new(remote),
                growth,
                in_order: InOrder::default(),
                is_flushing: false,
                left_out: match profile {
                    Profile::Native => LEFT_OUT,
                    Profile::Compatible => 0,
                },
                violations: Violations::default(),
            }),
            requests,
            sends,
            memory,
            geometry,
            shape,
            profile,
            service,
            peer: peer.to_owned(),
            life,
        }
    }

    pub(super) fn endpoint(&self, qp: QueuePairInfo, bulk: QueuePairInfo) -> Endpoint {
        Endpoint {
            qp,
            bulk,
            ring: self.ring(),
            geometry: self.geometry,
        }
    }

    /// The ring that the caller writes requests into.
    pub(super) fn ring(&self) -> RingAddress {
        self.requests.address()
    }

    /// Handles what has arrived on one queue pair. Requests go to `deliveries`.
    ///
    /// # Errors
    /// Why the channel is closed.
    #[inline]
    pub(super) fn receive(
        self: &Arc<Self>,
        id: WorkId,
        arrivals: &[Completion],
        deliveries: &mut VecDeque<Delivery>,
    ) -> Result<(), LossCause> {
        let mut core = self.lock();
        core.open()?;
        core.left_out = 0;
        for arrival in arrivals {
            let (queue_pairs, imm) = (core.queue_pairs.as_mut(), arrival.imm.unwrap_or_default());
            let Some(imm) = queue_pairs.and_then(|queue_pairs| queue_pairs.receive(id, imm)) else {
                continue;
            };
            match self.take_in(&mut core, self.profile.immediate(imm)) {
                Arrival::Request(mut request) if core.in_order.is_waiting() => {
                    request.begin_to_wait(Instant::now);
                    core.in_order.push(Ready::Request(request));
                }
                Arrival::Request(request) => {
                    deliveries.push_back(Delivery::Request(self.inbound(request)));
                }
                Arrival::Noted => {}
                Arrival::Violation(violation) => self.violated(&mut core, violation),
            }
        }
        if let Some(Err(error)) = core.queue_pairs.as_mut().map(QueuePairGroup::post_receives) {
            core.close(LossCause::Fabric(error.to_string()));
        }
        let open = core.open();
        if core.responder.has_effects() {
            self.attend(core, deliveries);
        }
        open
    }

    #[cold]
    fn violated(&self, core: &mut PeerChannelState, violation: Violation) {
        core.violations.record(violation, &self.peer);
        if let Some(figures) = &self.service.figures {
            figures.count_violation(violation);
        }
    }

    /// Handles one immediate.
    #[inline]
    fn take_in(&self, core: &mut PeerChannelState, imm: Immediate) -> Arrival {
        // The bytes of a slot are lent to its handler until it is answered.
        let mut arrived = core.responder.arrived(imm.slot);
        match imm.signal {
            Signal::Message => {}
            Signal::Large => {
                if arrived.is_some_and(|arrived| !arrived.is_large()) {
                    if !core.enlarge(self, imm.slot) {
                        return Arrival::Violation(Violation::BadRing);
                    }
                    arrived = core.responder.arrived(imm.slot);
                }
            }
            Signal::Cancel | Signal::Release => arrived = None,
            Signal::Grown => return self.learn(core),
        }
        let bytes = arrived.map(|arrived| self.requests.bytes(arrived));
        let fixed = bytes.and_then(|bytes| self.profile.decode_fixed(bytes).ok());
        match (fixed, bytes) {
            (Some(fixed), Some(bytes)) if fixed.is_extended => match fixed.with_deadline(bytes) {
                Some((deadline_us, header, payload)) => {
                    let mut arrival = self.accept(core, imm, Some((header, payload)));
                    if let Arrival::Request(request) = &mut arrival {
                        request.allowed_us = deadline_us;
                    }
                    arrival
                }
                None => self.take_in_extended(core, imm, fixed),
            },
            (fixed, _) => self.accept(core, imm, fixed.map(FixedHeader::plain)),
        }
    }

    /// Handles that the caller's ring has grown.
    #[cold]
    fn learn(&self, core: &mut PeerChannelState) -> Arrival {
        let learnt = core
            .growth
            .learn(self.shape, &self.requests, &mut core.remote);
        if let Err(violation) = learnt {
            return Arrival::Violation(violation);
        }
        if let Some(queue_pairs) = &mut core.queue_pairs {
            queue_pairs.place_again();
        }
        // If this side has not grown, it is to do so once the lock is released.
        core.responder.note_effect();
        Arrival::Noted
    }

    /// Has the rings grow, unless they have.
    #[cold]
    fn grow(&self) {
        let Some(memory) = &self.memory else {
            return; // Only towards a native caller.
        };
        let mut core = self.lock();
        if core.responder.closed().is_some() || !core.growth.begin() {
            return;
        }
        drop(core);
        let are_there = growth::register(&**memory.device(), &self.sends, &self.requests);
        let core = &mut *self.lock();
        core.growth.registered(are_there);
        core.tell_growth(self);
    }

    /// Has the rings grow for a message of this size that did not fit, if it then would.
    #[cold]
    pub(super) fn grow_for(&self, size: usize) {
        if self.shape.fits_grown(size) {
            self.grow();
        }
    }

    /// Gives `message` to the state machine.
    #[inline]
    fn accept(
        &self,
        core: &mut PeerChannelState,
        imm: Immediate,
        message: Option<(Header, Range<usize>)>,
    ) -> Arrival {
        let message = message
            .as_ref()
            .map(|(header, payload)| (header, payload.clone()));
        let mut arrival = core.responder.receive(imm, message);
        if let (Arrival::Request(request), Some(queue_pairs)) =
            (&mut arrival, &mut core.queue_pairs)
        {
            queue_pairs.renew(&self.sends, &mut request.send, &core.remote);
        }
        arrival
    }

    /// Handles a message with an extension.
    #[cold]
    fn take_in_extended(
        &self,
        core: &mut PeerChannelState,
        imm: Immediate,
        fixed: FixedHeader,
    ) -> Arrival {
        let arrived = core.responder.arrived(imm.slot);
        let read = arrived.and_then(|arrived| fixed.extension(self.requests.bytes(arrived)).ok());
        let (extension, payload) = read.unzip();
        let message = payload.map(|payload| (fixed.plain().0, payload));
        match (self.accept(core, imm, message), extension) {
            (Arrival::Request(request), Some(extension)) => {
                let arrival = core.responder.extended(request, &extension);
                if let Some(outside) = extension.outside
                    && core.responder.is_offered(imm.slot)
                    && self
                        .shape
                        .fits_grown(usize::try_from(outside.len).unwrap_or(usize::MAX))
                {
                    core.in_order.await_payload(imm.slot);
                }
                arrival
            }
            (arrival, _) => arrival,
        }
    }

    /// Releases the lock and does what needs none. Requests of which nobody wants the answers go to
    /// `deliveries`.
    #[cold]
    fn attend(
        self: &Arc<Self>,
        mut core: OwnerGuard<'_, PeerChannelState>,
        deliveries: &mut VecDeque<Delivery>,
    ) {
        let effects = core.responder.take_effects();
        let is_to_grow = core.remote.grown().is_some() && core.growth.is_small();
        let mut cancelled = effects.cancelled;
        if core.in_order.is_waiting() {
            cancelled.retain(|(slot, request_id)| !core.in_order.cancel(*slot, *request_id));
        }
        drop(core);
        if is_to_grow {
            self.grow();
        }
        for (slot, request_id) in cancelled {
            let request = RequestId::new(self, slot, request_id);
            deliveries.push_back(Delivery::Cancel(request));
        }
        for (slot, outside) in effects.offered {
            self.read(slot, outside, deliveries);
        }
        for (request, failure) in effects.ended {
            let request = self.inbound(request);
            match failure {
                Some(fault) => request.fail(fault),
                None => request.end(),
            }
        }
        wake_all(effects.wakers);
    }

    /// Does what an answer, or the end of a stream or of the channel, brings about: that delivers
    /// nothing.
    #[cold]
    fn settle(self: &Arc<Self>, core: OwnerGuard<'_, PeerChannelState>) {
        self.attend(core, &mut VecDeque::new());
    }

    #[inline]
    fn inbound(self: &Arc<Self>, request: Box<SlotRequest>) -> Inbound {
        Inbound::new(self.clone(), request)
    }

    /// Begins to read the payload of the request in `slot`, which lies at its caller, or answers
    /// that it cannot be read.
    fn read(
        self: &Arc<Self>,
        slot: u16,
        outside: RendezvousDescriptor,
        deliveries: &mut VecDeque<Delivery>,
    ) {
        let Some(memory) = &self.memory else {
            return; // Only with a native caller.
        };
        let size = usize::try_from(outside.len).unwrap_or(usize::MAX);
        self.grow_for(size);
        let taken = self.shape.take(memory, size);
        let mut core = self.lock();
        let PeerChannelState {
            responder, bulk, ..
        } = &mut *core;
        let fault = match (taken, responder.closed(), bulk) {
            (Ok(block), None, Some(bulk)) => {
                if let Err(cause) = bulk.read(slot, outside, block) {
                    core.close(cause);
                }
                return;
            }
            (Ok(_), _, _) => return,
            (Err(MemoryError::TooLarge { limit, .. }), _, _) => Fault::RequestTooLarge {
                size: outside.len,
                limit: limit as u64,
            },
            (Err(error), _, _) => Fault::NoMemory {
                size: outside.len,
                reason: error.to_string(),
                is_reply: false,
            },
        };
        let request = core.responder.take_read(slot);
        core.in_order.read(slot, None);
        self.deliver_in_order(&mut core, deliveries);
        drop(core);
        if let Some(request) = request {
            self.inbound(request).fail(fault);
        }
    }

    /// Hands over what waits for nothing any more.
    #[cold]
    fn deliver_in_order(
        self: &Arc<Self>,
        core: &mut PeerChannelState,
        deliveries: &mut VecDeque<Delivery>,
    ) {
        while let Some(ready) = core.in_order.next() {
            deliveries.push_back(match ready {
                Ready::Request(request) => Delivery::Request(self.inbound(request)),
                Ready::Cancel(slot, request_id) => {
                    Delivery::Cancel(RequestId::new(self, slot, request_id))
                }
            });
        }
    }

    /// Handles the completion of posted work. A request whose payload has been read goes to
    /// `deliveries`.
    ///
    /// # Errors
    /// Why the channel is closed.
    pub(super) fn complete(
        self: &Arc<Self>,
        id: WorkId,
        deliveries: &mut VecDeque<Delivery>,
    ) -> Result<(), LossCause> {
        let mut core = self.lock();
        if id.queue_pair != WorkId::BULK {
            if let Some(queue_pairs) = &mut core.queue_pairs {
                queue_pairs.retire(id);
            }
            self.post_unsent(&mut core);
            core.tell_growth(self);
            return core.open();
        }
        let complete = core.bulk.as_mut().map_or(Ok(None), Bulk::complete);
        let complete = complete.map_err(|error| LossCause::Fabric(error.to_string()))?;
        if let Some((slot, payload)) = complete {
            let request = core.responder.read(slot as u16, payload);
            let request = core.in_order.read(slot as u16, request);
            let request = request.map(|request| Delivery::Request(self.inbound(request)));
            deliveries.extend(request);
            self.deliver_in_order(&mut core, deliveries);
            self.attend(core, deliveries);
        }
        Ok(())
    }

    fn post_unsent(&self, core: &mut PeerChannelState) {
        while let Some(queue_pairs) = &mut core.queue_pairs
            && queue_pairs.has_room()
            && let Some((reply, request)) = core.responder.take_unsent()
        {
            let written = self.write(queue_pairs, &core.remote, request, &reply);
            core.written(written, reply);
        }
    }

    /// Returns whether all answers have arrived at the caller, or never will. Ask again after each
    /// completion.
    pub(super) fn flush(&self) -> bool {
        let mut core = self.lock();
        core.is_flushing = true;
        core.flush()
    }

    /// Makes sure that a later poll notices if the caller is gone.
    pub(super) fn probe(&self) {
        let core = &mut *self.lock();
        if core.left_out > 0 {
            core.left_out -= 1;
            return;
        }
        let to = core.remote.first().slot(0);
        let (None, Some(queue_pairs)) = (core.responder.closed(), &mut core.queue_pairs) else {
            return;
        };
        if let Err(error) = queue_pairs.probe(to) {
            core.close(LossCause::Fabric(error.to_string()));
        }
    }

    /// Returns whether there is nothing to answer.
    pub(super) fn is_idle(&self) -> bool {
        let core = self.lock();
        core.responder.closed().is_some() || core.responder.unanswered() == 0
    }

    #[inline]
    fn lock(&self) -> OwnerGuard<'_, PeerChannelState> {
        self.core.lock()
    }

    /// Takes the queue pairs; the channel is closed then.
    pub(super) fn take_queue_pairs(&self) -> Option<QueuePairGroup> {
        let mut core = self.lock();
        let queue_pairs = core.queue_pairs.take();
        core.close(LossCause::Gone);
        queue_pairs
    }

    pub(super) fn close(self: &Arc<Self>, cause: LossCause) {
        let mut core = self.lock();
        core.close(cause);
        self.settle(core);
    }

    /// The next request for an item of a stream; `None` once no item is wanted any more. Until
    /// then, `waker` is woken when there may be one.
    pub(super) fn poll_asked(
        self: &Arc<Self>,
        stream: u64,
        waker: &Waker,
    ) -> Poll<Option<Inbound>> {
        let mut _before = None;
        let mut core = self.lock();
        let asked = core
            .responder
            .streams()
            .poll_asked(stream, waker, &mut _before);
        drop(core);
        asked.map(|request| request.map(|request| self.inbound(request)))
    }

    /// Ready once no item of a stream is wanted any more. Until then, `waker` is woken when that
    /// may be so.
    pub(super) fn poll_unwanted(&self, stream: u64, waker: &Waker) -> Poll<()> {
        let mut _before = None;
        let mut core = self.lock();
        core.responder
            .streams()
            .poll_unwanted(stream, waker, &mut _before)
    }

    /// Ends a stream, because there are no more items, or because of `failure`.
    pub(super) fn complete_stream(self: &Arc<Self>, stream: u64, failure: Option<Fault>) {
        let mut core = self.lock();
        core.responder.complete(stream, failure);
        self.settle(core);
    }

    pub(super) fn closed(&self) -> Option<LossCause> {
        self.lock().responder.closed().cloned()
    }

    /// Returns whether this is the channel of the DLSlime peer `peer`.
    pub(super) fn is_compatible(&self, peer: &str) -> bool {
        self.peer == peer && self.profile == Profile::Compatible
    }

    pub(super) fn violations(&self) -> Violations {
        self.lock().violations
    }

    /// Sends the answer to `request`, whose payload may be in `block`.
    #[inline]
    pub(super) fn answer(
        self: &Arc<Self>,
        request: Box<SlotRequest>,
        reply: PreparedReply,
        block: Option<PooledBuffer>,
    ) {
        let rare = self.post_answer(request, reply, block);
        if let Some(rare) = rare {
            drop(rare);
            self.settle(self.lock());
        }
    }

    /// Returns the request's rare parts, to be dropped without the lock.
    #[inline]
    fn post_answer(
        &self,
        request: Box<SlotRequest>,
        reply: PreparedReply,
        block: Option<PooledBuffer>,
    ) -> Option<Box<Rare>> {
        let mut core = self.lock();
        let core = &mut *core;
        let (None, Some(queue_pairs)) = (core.responder.closed(), &mut core.queue_pairs) else {
            return core.responder.answered(request);
        };
        if let Some(block) = block {
            core.responder.keep(reply.slot, block);
        }
        let written = self.write(queue_pairs, &core.remote, &request, &reply);
        let rare = core.responder.answered(request);
        core.written(written, reply);
        if core.is_flushing {
            core.flush();
        }
        rare
    }

    #[inline]
    fn write(
        &self,
        queue_pairs: &mut QueuePairGroup,
        remote: &RemoteRings,
        request: &SlotRequest,
        reply: &PreparedReply,
    ) -> Result<bool, FabricError> {
        let (ring, token) = if reply.is_rewritten {
            (&self.requests, &request.arrived)
        } else {
            (&self.sends, &request.send)
        };
        let imm = Immediate {
            slot: reply.slot,
            signal: Signal::Message,
        };
        queue_pairs.write(&WriteRequest {
            imm: imm.to_bits(),
            bytes: &ring.bytes(token)[reply.bytes.clone()],
            lkey: token.lkey(),
            to: remote.to(token),
        })
    }
}

impl PeerChannelState {
    /// Handles the result of writing `reply`. If it was not sent, it waits for a place in the send
    /// queue.
    #[inline(always)]
    fn written(&mut self, written: Result<bool, FabricError>, reply: PreparedReply) {
        match written {
            Ok(true) => {}
            Ok(false) => self.responder.queue(reply),
            Err(error) => self.close(LossCause::Fabric(error.to_string())),
        }
    }

    /// An error with the reason if the channel is closed.
    fn open(&self) -> Result<(), LossCause> {
        self.responder.closed().cloned().map_or(Ok(()), Err)
    }

    /// Makes a slot a large one, the first time that the caller says to have made a request there.
    /// Returns whether it may stand there.
    #[cold]
    fn enlarge(&mut self, channel: &PeerChannel, slot: u16) -> bool {
        // The answer is written there.
        self.remote.grown().is_some()
            && self.responder.free_request(slot).is_some_and(|request| {
                channel.requests.enlarge(&mut request.arrived)
                    && channel.sends.enlarge(&mut request.send)
            })
    }

    /// Tells the caller where the new request ring is, if it is there and was not told.
    #[cold]
    fn tell_growth(&mut self, channel: &PeerChannel) {
        let Some(queue_pairs) = &mut self.queue_pairs else {
            return;
        };
        let rings = (&channel.sends, &channel.requests);
        match self.growth.tell(queue_pairs, rings, &self.remote) {
            Ok(true) => queue_pairs.place_again(),
            Ok(false) => {}
            Err(error) => self.close(LossCause::Fabric(error.to_string())),
        }
    }

    fn flush(&mut self) -> bool {
        let to = self.remote.first().slot(0);
        let (None, Some(queue_pairs)) = (self.responder.closed(), &mut self.queue_pairs) else {
            return true;
        };
        match queue_pairs.flush(to) {
            Ok(flushed) => flushed && self.responder.is_flushed(),
            Err(error) => {
                self.close(LossCause::Fabric(error.to_string()));
                true
            }
        }
    }

    fn close(&mut self, cause: LossCause) {
        if !self.responder.close(cause) {
            return;
        }
        if let Some(queue_pairs) = &mut self.queue_pairs {
            queue_pairs.fail();
        }
        if let Some(bulk) = &mut self.bulk {
            bulk.fail();
        }
        for request in self.in_order.give_up() {
            self.responder.give_up(*request);
        }
    }
}
