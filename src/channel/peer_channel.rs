//! The answering end of a channel: one caller's rings at a service.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lanes::{Lanes, Outgoing};
use super::lend::{Loan, RemoteRing, Ring};
use super::responder::{Arrival, Responder};
use super::work_id::WorkId;
use super::{
    Endpoint, Geometry, LossCause, Profile, QueuePairInfo, RingAddress, Violation, Violations,
};
use crate::fabric::{Completion, RemoteSlice};
use crate::wire::{EncodeError, Fault, Header, Immediate, MessageKind, Signal};

/// One caller, as its service sees it. Its mailbox takes in completions on one thread; handlers may answer on others.
#[derive(Debug)]
pub(super) struct PeerChannel {
    // Dropped first, and so drained before the rings are deregistered (DROP-1).
    core: Mutex<Core>,
    requests: Ring,
    sends: Ring,
    remote: RemoteRing,
    geometry: Geometry,
    profile: Profile,
    pub(super) peer: String,
}

#[derive(Debug)]
struct Core {
    /// Gone once another channel has taken them over.
    lanes: Option<Lanes>,
    responder: Responder,
    /// Answers that wait for a place in the send queue: slot and length.
    unsent: VecDeque<(u16, usize)>,
    /// Whether the mailbox waits until all answers have arrived, those to come as well.
    is_flushing: bool,
    violations: Violations,
    cause: Option<LossCause>,
}

impl PeerChannel {
    pub(super) fn new(
        peer: &str,
        lanes: Lanes,
        rings: (Ring, Ring),
        geometry: Geometry,
        remote: RemoteRing,
        profile: Profile,
    ) -> Self {
        Self {
            core: Mutex::new(Core {
                lanes: Some(lanes),
                // A slot must exist at both ends.
                responder: Responder::new(geometry.slots().min(remote.geometry.slots())),
                unsent: VecDeque::new(),
                is_flushing: false,
                violations: Violations::default(),
                cause: None,
            }),
            requests: rings.0,
            sends: rings.1,
            remote,
            geometry,
            profile,
            peer: peer.to_owned(),
        }
    }

    pub(super) fn endpoint(&self, qp: QueuePairInfo) -> Endpoint {
        Endpoint {
            qp,
            ring: self.ring(),
            geometry: self.geometry,
        }
    }

    /// The ring that the caller writes requests into.
    pub(super) fn ring(&self) -> RingAddress {
        RingAddress::of(self.requests.region(), self.geometry)
    }

    /// Takes in a completion that succeeded.
    ///
    /// # Errors
    /// Why the channel is closed.
    pub(super) fn complete(
        &self,
        id: WorkId,
        completion: &Completion,
    ) -> Result<Option<Arrived>, LossCause> {
        let mut core = self.lock();
        let Some(lanes) = &mut core.lanes else {
            return Err(LossCause::Gone);
        };
        let arrived = match lanes.complete(id, completion) {
            Ok(None) => {
                self.post_unsent(&mut core);
                None
            }
            Ok(Some(imm)) => self.receive(&mut core, self.profile.immediate(imm)),
            Err(error) => {
                core.close(LossCause::Fabric(error.to_string()));
                None
            }
        };
        core.cause.clone().map_or(Ok(arrived), Err)
    }

    fn receive(&self, core: &mut Core, imm: Immediate) -> Option<Arrived> {
        let read = match imm.signal {
            Signal::Message => self
                .requests
                .lend(imm.slot)
                .and_then(|slot| self.profile.decode(&slot).ok()),
            Signal::Cancel => None,
        };
        let arrival = core
            .responder
            .receive(imm, read.as_ref().map(|(header, _)| header));
        match (arrival, read) {
            (Arrival::Request { slot, request_id }, Some((header, payload))) => {
                Some(Arrived::Request(Slotted {
                    slot,
                    request_id,
                    header,
                    payload,
                }))
            }
            (Arrival::Cancel { slot, request_id }, _) => Some(Arrived::Cancel { slot, request_id }),
            (Arrival::Violation(violation), _) => {
                core.violations.record(violation, &self.peer);
                None
            }
            (Arrival::TooLate | Arrival::Request { .. }, _) => None,
        }
    }

    fn post_unsent(&self, core: &mut Core) {
        while core.lanes.as_ref().is_some_and(Lanes::has_room)
            && let Some((slot, len)) = core.unsent.pop_front()
        {
            self.post(core, slot, len);
        }
    }

    /// Whether all answers have arrived at the caller, or never will. Ask again after each completion.
    pub(super) fn flush(&self) -> bool {
        let mut core = self.lock();
        core.is_flushing = true;
        core.flush(self.remote.slot(0))
    }

    /// Whether there is nothing to answer.
    pub(super) fn is_idle(&self) -> bool {
        let core = self.lock();
        core.cause.is_some() || core.responder.unanswered() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // Nothing that can panic runs under the lock.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the queue pairs away; the channel is closed then.
    pub(super) fn take_lanes(&self) -> Option<Lanes> {
        let mut core = self.lock();
        let lanes = core.lanes.take();
        core.close(LossCause::Gone);
        lanes
    }

    pub(super) fn close(&self, cause: LossCause) {
        self.lock().close(cause);
    }

    pub(super) fn closed(&self) -> Option<LossCause> {
        self.lock().cause.clone()
    }

    /// Whether this is the channel of the DLSlime peer `peer`.
    pub(super) fn is_compatible(&self, peer: &str) -> bool {
        self.peer == peer && self.profile == Profile::Compatible
    }

    pub(super) fn violations(&self) -> Violations {
        self.lock().violations
    }

    /// Writes the answer to the request in `slot` into the caller's ring.
    fn answer(
        &self,
        request: &Slotted,
        encode: impl FnOnce(&mut [u8]) -> Result<(MessageKind, usize), EncodeError>,
    ) -> Result<(), EncodeError> {
        let slot = request.slot;
        let mut message = self
            .sends
            .lend(slot)
            .expect("an unanswered slot's send memory is lent to its answer only");
        let (kind, len) = encode(&mut message[Header::LEN..])?;
        let header = Header {
            kind,
            method: request.header.method,
            request_id: request.request_id,
            payload_len: len as u32,
            extension: None,
        };
        header
            .encode(&mut message)
            .map_err(|error| EncodeError::Value(error.to_string()))?;
        drop(message);
        let mut core = self.lock();
        core.responder.answered(slot);
        self.post(&mut core, slot, Header::LEN + len);
        if core.is_flushing {
            core.flush(self.remote.slot(0));
        }
        Ok(())
    }

    fn post(&self, core: &mut Core, slot: u16, len: usize) {
        let (None, Some(lanes)) = (&core.cause, &mut core.lanes) else {
            return;
        };
        let message = self
            .sends
            .lend(slot)
            .expect("the answer in a slot is posted once");
        let imm = Immediate {
            slot,
            signal: Signal::Message,
        };
        let written = lanes.write(&Outgoing {
            imm: imm.to_bits(),
            bytes: &message[..len],
            at: self.sends.sge(slot, len),
            to: self.remote.slot(slot),
        });
        match written {
            Ok(true) => {}
            Ok(false) => core.unsent.push_back((slot, len)),
            Err(error) => core.close(LossCause::Fabric(error.to_string())),
        }
    }
}

impl Core {
    fn flush(&mut self, to: RemoteSlice) -> bool {
        let (None, Some(lanes)) = (&self.cause, &mut self.lanes) else {
            return true;
        };
        match lanes.flush(to) {
            Ok(flushed) => flushed && self.unsent.is_empty(),
            Err(error) => {
                self.close(LossCause::Fabric(error.to_string()));
                true
            }
        }
    }

    fn close(&mut self, cause: LossCause) {
        if self.cause.is_some() {
            return;
        }
        self.cause = Some(cause);
        self.unsent.clear();
        if let Some(lanes) = &mut self.lanes {
            lanes.fail();
        }
    }
}

/// What an immediate brought.
#[derive(Debug)]
pub(super) enum Arrived {
    Request(Slotted),
    Cancel { slot: u16, request_id: u64 },
}

/// A request in its slot.
#[derive(Debug)]
pub(super) struct Slotted {
    pub(super) slot: u16,
    pub(super) request_id: u64,
    header: Header,
    payload: Range<usize>,
}

/// A request that is not answered yet. Its bytes stay in the ring until it is (RING-1).
///
/// Every request is answered: one that is dropped answers with [`Fault::ServiceDown`].
#[derive(Debug)]
pub struct Inbound {
    channel: Arc<PeerChannel>,
    request: Slotted,
    service: Arc<str>,
    /// When its caller has stopped waiting.
    expires: Option<Instant>,
    answered: bool,
}

/// Names a request, also after that was handed to its handler. Tells it from all others that are unanswered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Where its channel stands in memory.
    channel: usize,
    slot: u16,
    request_id: u64,
}

impl Ticket {
    pub(super) fn new(channel: &Arc<PeerChannel>, slot: u16, request_id: u64) -> Self {
        Self {
            channel: Arc::as_ptr(channel).addr(),
            slot,
            request_id,
        }
    }
}

impl Inbound {
    pub(super) fn new(channel: Arc<PeerChannel>, request: Slotted, service: Arc<str>) -> Self {
        // The time in flight is not known, so a request may live a little longer here than at its caller.
        let allowed = request.header.extension.and_then(|e| e.deadline_us);
        let expires = allowed.and_then(|us| Instant::now().checked_add(Duration::from_micros(us)));
        Self {
            channel,
            request,
            service,
            expires,
            answered: false,
        }
    }

    /// Number of the method.
    pub fn method(&self) -> u32 {
        self.request.header.method
    }

    /// Alias of the caller.
    pub fn peer(&self) -> &str {
        &self.channel.peer
    }

    /// Name of the service that was called.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Who the caller is.
    pub fn profile(&self) -> Profile {
        self.channel.profile
    }

    /// Whether its caller can still be answered.
    pub fn is_connected(&self) -> bool {
        self.channel.closed().is_none()
    }

    /// When the caller has stopped waiting for the answer, if it said so.
    pub fn expires(&self) -> Option<Instant> {
        self.expires
    }

    /// Names this request.
    pub fn ticket(&self) -> Ticket {
        Ticket::new(&self.channel, self.request.slot, self.request.request_id)
    }

    /// The arguments, borrowed from the ring. They begin at a multiple of 8 bytes.
    pub fn payload(&self) -> Payload<'_> {
        let slot = self.channel.requests.lend(self.request.slot);
        Payload {
            loan: slot.expect("a request's slot is lent to the request only"),
            range: self.request.payload.clone(),
        }
    }

    /// The send memory of the answer, to be written before [`reply`](Self::reply) says how much of it was used.
    pub fn room(&self) -> Room<'_> {
        let slot = self.channel.sends.lend(self.request.slot);
        Room(slot.expect("an unanswered slot's send memory is lent to its answer only"))
    }

    /// Answers with a result, encoded straight into send memory. If it does not fit or does not encode, the
    /// caller gets a [`Fault`] that says so.
    pub fn reply(mut self, encode: impl FnOnce(&mut [u8]) -> Result<usize, EncodeError>) {
        let fault = match self.answer(|room| Ok((MessageKind::Reply, encode(room)?))) {
            Ok(()) => return,
            Err(EncodeError::TooLarge { size, limit }) => Fault::ReplyTooLarge {
                size: size as u64,
                limit: limit as u64,
            },
            Err(EncodeError::Value(reason)) => Fault::Raised {
                type_name: "EncodeError".to_owned(),
                message: format!("the reply cannot be encoded: {reason}"),
                traceback: String::new(),
            },
        };
        self.fault(fault);
    }

    /// Answers with a failure, shortened if it does not fit.
    pub fn fail(mut self, fault: Fault) {
        self.fault(fault);
    }

    fn fault(&mut self, fault: Fault) {
        let profile = self.channel.profile;
        let sent =
            self.answer(|room| Ok((MessageKind::Exception, profile.encode_fault(fault, room)?)));
        if let Err(error) = sent {
            tracing::error!(%error, "a slot has no room for any fault; the caller will time out");
            self.answered = true;
        }
    }

    fn answer(
        &mut self,
        encode: impl FnOnce(&mut [u8]) -> Result<(MessageKind, usize), EncodeError>,
    ) -> Result<(), EncodeError> {
        self.channel.answer(&self.request, encode)?;
        self.answered = true;
        Ok(())
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        if !self.answered {
            let service = self.service.to_string();
            self.fault(Fault::ServiceDown { service });
        }
    }
}

/// Where the answer to a request is written.
#[derive(Debug)]
pub struct Room<'a>(Loan<'a>);

impl std::ops::Deref for Room<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0[Header::LEN..]
    }
}

impl std::ops::DerefMut for Room<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0[Header::LEN..]
    }
}

/// The arguments of a request, borrowed from the ring.
#[derive(Debug)]
pub struct Payload<'a> {
    loan: Loan<'a>,
    range: Range<usize>,
}

impl std::ops::Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.loan[self.range.clone()]
    }
}

impl Violation {
    /// Every kind, for reports.
    pub const ALL: [Self; 5] = [
        Self::BadHeader,
        Self::BadSlot,
        Self::WrongKind,
        Self::SlotBusy,
        Self::UnknownRequest,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_may_be_handled_and_answered_on_any_thread() {
        fn can_be_shared<T: Send + Sync>() {}
        can_be_shared::<Inbound>();
        can_be_shared::<super::super::Delivery>();
    }
}
