//! The calling end of a channel, usable from any thread.
//!
//! Nothing here owns a thread. Whoever waits for an answer polls the completion queue; only when waiters go to
//! sleep does a small task, the [pump](super::pump), sleep on the queue's file descriptor for all of them.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::caller::{CallId, CallState, Caller, Credits, Placed, Received};
use super::lend::{Loan, RemoteRing, Ring};
use super::pump::Pump;
use super::send_queue::{SendQueue, Ticket};
use super::{
    CallError, ConnectError, Endpoint, Geometry, LossCause, RingAddress, Violation, Violations,
};
use crate::fabric::{
    Completion, CompletionEvents, CompletionQueue, Device, Opcode, Operation, Payload, QueuePair,
    QueuePairInit, RecvRequest, RetryPolicy, SendRequest,
};
use crate::wire::{EncodeError, Extension, Header, Immediate, MessageKind, Signal};

const RECEIVE: u64 = 1 << 63;
const BATCH: usize = 16;

/// Largest message that is copied into the work request instead of being fetched from send memory.
pub(super) const INLINE: u32 = 220;

/// The calling end before the peer's is known.
#[derive(Debug)]
pub struct Dialer {
    qp: Box<dyn QueuePair>,
    cq: Arc<dyn CompletionQueue>,
    sends: Ring,
    replies: Ring,
    geometry: Geometry,
    depth: u32,
    inline: u32,
}

impl Dialer {
    /// Creates queue pair and rings on `device`, ready to receive.
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(device: &dyn Device, geometry: Geometry) -> Result<Self, ConnectError> {
        // A request and a cancel for each slot; twice that, so that signalling every half queue is enough.
        let depth = 4 * geometry.slots() as u32;
        let receives = geometry.slots() as u32;
        let cq = device.create_completion_queue(depth + receives)?;
        let inline = INLINE.min(device.limits().max_inline);
        let mut qp = device.create_queue_pair(&QueuePairInit {
            send_cq: cq.clone(),
            recv_cq: cq.clone(),
            max_send_wr: depth,
            max_recv_wr: receives,
            max_inline: inline,
            retry: RetryPolicy::default(),
        })?;
        let sends = Ring::send(device, geometry)?;
        let replies = Ring::receive(device, geometry)?;
        qp.to_init()?;
        for _ in 0..receives {
            qp.post_recv(RecvRequest { wr_id: RECEIVE })?;
        }
        Ok(Self {
            qp,
            cq,
            sends,
            replies,
            geometry,
            depth,
            inline,
        })
    }

    /// What the peer must be told.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            qp: self.qp.address().into(),
            ring: RingAddress::of(self.replies.region(), self.geometry),
            geometry: self.geometry,
        }
    }

    /// Connects to the peer's end, which must be ready to receive.
    ///
    /// # Errors
    /// The peer's endpoint is not acceptable, or the device refuses.
    pub fn connect(
        mut self,
        peer: &str,
        theirs: &Endpoint,
        waiting: Patience,
    ) -> Result<Arc<ClientChannel>, ConnectError> {
        let remote = theirs.remote_ring(self.geometry)?;
        self.qp.to_rtr(&theirs.qp.into())?;
        self.qp.to_rts()?;
        let slots = self.geometry.slots();
        Ok(Arc::new(ClientChannel {
            core: Mutex::new(Core {
                qp: self.qp,
                caller: Caller::new(slots),
                queue: SendQueue::new(self.depth),
                remote,
                wakers: vec![None; slots].into(),
                waiting: HashMap::new(),
                ready: Vec::new(),
                violations: Violations::default(),
                cause: None,
            }),
            cq: self.cq,
            sends: self.sends,
            replies: self.replies,
            geometry: self.geometry,
            peer: peer.to_owned(),
            created: Instant::now(),
            inline: self.inline,
            waiting,
            pump: Pump::default(),
        }))
    }
}

/// The calling end of a connected channel.
#[derive(Debug)]
pub struct ClientChannel {
    // The queue pair in `core` is dropped, and so drained, before the rings it uses (DROP-1).
    core: Mutex<Core>,
    cq: Arc<dyn CompletionQueue>,
    sends: Ring,
    replies: Ring,
    geometry: Geometry,
    peer: String,
    created: Instant,
    inline: u32,
    waiting: Patience,
    pub(super) pump: Pump,
}

/// How callers wait.
#[derive(Debug, Clone)]
pub struct Patience {
    /// How long a waiter polls before it sleeps.
    pub busy_poll: Duration,
    /// Where timers run, and what watches the queue for callers outside of a runtime.
    pub runtime: Handle,
}

#[derive(Debug)]
struct Core {
    qp: Box<dyn QueuePair>,
    caller: Caller,
    queue: SendQueue,
    remote: RemoteRing,
    /// Who waits for the answer in each slot.
    wakers: Box<[Option<Waker>]>,
    /// Calls without a credit.
    waiting: HashMap<CallId, WaitingCall>,
    /// To be woken once the lock is released.
    ready: Vec<Waker>,
    violations: Violations,
    cause: Option<LossCause>,
}

#[derive(Debug)]
struct WaitingCall {
    method: u32,
    payload: Vec<u8>,
    waker: Option<Waker>,
}

/// A call that was made. Dropping it ends the call; its slot stays taken until the answer comes (SLOT-1).
#[derive(Debug)]
pub struct PendingCall {
    channel: Arc<ClientChannel>,
    id: CallId,
    slot: Option<u16>,
    deadline: Option<(Instant, Duration)>,
    done: bool,
}

impl ClientChannel {
    /// Makes a call now: encodes its arguments into send memory and posts them, or lines it up if no credit
    /// is free. `encode` gets the room there is and says how much it used.
    ///
    /// # Errors
    /// The arguments do not fit or do not encode, or the channel is closed. Nothing was sent then.
    pub fn call(
        self: &Arc<Self>,
        method: u32,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<PendingCall, CallError> {
        let placed = {
            let mut core = self.lock();
            let has_room = core.queue.has_room();
            match core.caller.open(has_room, None) {
                Some(placed) => placed,
                None => return Err(CallError::Closed(core.loss())),
            }
        };
        let (id, slot) = match placed {
            Placed::Slot(id, slot) => (id, Some(slot)),
            Placed::Waiting(id) => (id, None),
        };
        // From here on the call ends when `call` is dropped, also if `encode` fails or panics.
        let call = PendingCall {
            channel: self.clone(),
            id,
            slot,
            deadline: None,
            done: false,
        };
        match slot {
            Some(slot) => self.send_from_slot(id, slot, method, encode)?,
            None => self.line_up(id, method, encode)?,
        }
        Ok(call)
    }

    fn send_from_slot(
        &self,
        id: CallId,
        slot: u16,
        method: u32,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(), CallError> {
        let mut message = self
            .sends
            .lend(slot)
            .expect("a claimed slot is lent to its call only");
        let len = encode(&mut message[Header::LEN..])?;
        let mut core = self.lock();
        core.post(self, id, slot, method, len, None, &mut message);
        core.cause
            .clone()
            .map_or(Ok(()), |cause| Err(CallError::Closed(cause)))
    }

    fn line_up(
        &self,
        id: CallId,
        method: u32,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(), CallError> {
        let mut payload = vec![0; self.geometry.max_payload()];
        let len = encode(&mut payload)?;
        payload.truncate(len);
        payload.shrink_to_fit();
        let mut core = self.lock();
        core.waiting.insert(
            id,
            WaitingCall {
                method,
                payload,
                waker: None,
            },
        );
        // A credit may have come back while the arguments were encoded.
        core.grant(self);
        self.wake(core);
        Ok(())
    }

    /// Handles what has arrived. Says whether anything had.
    pub(super) fn progress(&self) -> bool {
        let mut core = self.lock();
        let progressed = core.progress(self);
        self.wake(core);
        progressed
    }

    /// Arms the completion queue, then looks once more, so that no event is lost.
    pub(super) fn arm(&self) -> bool {
        if let Err(error) = self.cq.arm() {
            self.close(LossCause::Fabric(error.to_string()));
        }
        self.progress()
    }

    /// The events of the completion queue, for the current runtime.
    pub(super) fn events(&self) -> io::Result<CompletionEvents> {
        CompletionEvents::new(self.cq.clone())
    }

    /// Whether anybody waits for the peer, and so wants to be woken.
    pub(super) fn has_sleepers(&self) -> bool {
        let core = self.lock();
        core.wakers.iter().any(Option::is_some)
            || core.waiting.values().any(|call| call.waker.is_some())
    }

    /// Closes the channel; every call that is not answered ends with `cause` (CALL-1).
    pub fn close(&self, cause: LossCause) {
        let mut core = self.lock();
        core.close(cause);
        self.wake(core);
    }

    /// Why the channel is closed; `None` while it is open.
    pub fn closed(&self) -> Option<LossCause> {
        self.lock().cause.clone()
    }

    /// The account of slots.
    pub fn credits(&self) -> Credits {
        self.lock().caller.credits()
    }

    /// What the peer did that it should not have done.
    pub fn violations(&self) -> Violations {
        self.lock().violations
    }

    /// Answers that came after their call had ended.
    pub fn late_answers(&self) -> u64 {
        self.lock().caller.late()
    }

    /// How long a waiter polls before it sleeps.
    pub fn patience(&self) -> Duration {
        self.waiting.busy_poll
    }

    /// The runtime that serves callers outside of one.
    pub fn runtime(&self) -> &Handle {
        &self.waiting.runtime
    }

    /// Alias of the peer.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The shape of the rings.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // No code of a user runs under this lock, so a panic cannot leave the core half changed.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Releases the lock, then wakes those whose calls are decided.
    fn wake(&self, mut core: MutexGuard<'_, Core>) {
        if core.ready.is_empty() {
            return;
        }
        let ready = std::mem::take(&mut core.ready);
        drop(core);
        ready.into_iter().for_each(Waker::wake);
    }
}

impl Core {
    fn progress(&mut self, channel: &ClientChannel) -> bool {
        let mut batch = [Completion::EMPTY; BATCH];
        let mut progressed = false;
        loop {
            let count = match channel.cq.poll(&mut batch) {
                Ok(count) => count,
                Err(error) => {
                    self.close(LossCause::Fabric(error.to_string()));
                    return true;
                }
            };
            for completion in &batch[..count] {
                self.complete(channel, completion);
            }
            progressed |= count > 0;
            if count < BATCH {
                break;
            }
        }
        if progressed {
            self.grant(channel);
        }
        progressed
    }

    fn complete(&mut self, channel: &ClientChannel, completion: &Completion) {
        if !completion.status.is_success() {
            self.close(completion.status.into());
        } else if completion.wr_id & RECEIVE == 0 {
            self.queue.retire(Ticket {
                retires: completion.wr_id as u32,
            });
        } else {
            if let Err(error) = self.qp.post_recv(RecvRequest { wr_id: RECEIVE }) {
                self.close(LossCause::Fabric(error.to_string()));
            }
            debug_assert_eq!(completion.opcode, Opcode::RecvWriteWithImm);
            self.receive(
                channel,
                Immediate::from_bits(completion.imm.unwrap_or_default()),
            );
        }
    }

    fn receive(&mut self, channel: &ClientChannel, imm: Immediate) {
        let violation = match read_reply(&channel.replies, imm) {
            Err(violation) => violation,
            Ok(id) => match self.caller.receive(imm.slot, id) {
                Received::Answer(_) => {
                    self.ready.extend(self.wakers[usize::from(imm.slot)].take());
                    return;
                }
                Received::Late => return,
                Received::Violation(violation) => violation,
            },
        };
        self.violations.record(violation, &channel.peer);
    }

    /// Sends calls that waited, as far as there are credits.
    fn grant(&mut self, channel: &ClientChannel) {
        while self.queue.has_room()
            && let Some(first) = self.caller.first_waiting()
            && self.waiting.contains_key(&first)
            && let Some((id, slot, deadline)) = self.caller.grant()
        {
            let Some(call) = self.waiting.remove(&id) else {
                break;
            };
            let mut message = channel.sends.lend(slot).expect("a free slot is not lent");
            message[Header::LEN..Header::LEN + call.payload.len()].copy_from_slice(&call.payload);
            self.wakers[usize::from(slot)] = call.waker;
            self.post(
                channel,
                id,
                slot,
                call.method,
                call.payload.len(),
                deadline,
                &mut message,
            );
        }
    }

    /// Posts the message of `len` payload bytes that stands in `slot` behind the place of its header.
    #[allow(clippy::too_many_arguments)]
    fn post(
        &mut self,
        channel: &ClientChannel,
        id: CallId,
        slot: u16,
        method: u32,
        len: usize,
        deadline: Option<Instant>,
        message: &mut Loan<'_>,
    ) {
        let header = Header {
            kind: MessageKind::Request,
            method,
            request_id: id.0,
            payload_len: len as u32,
            extension: None::<Extension>,
        };
        let posted = self.caller.posted(id, slot, deadline);
        let encoded = header.encode(message);
        let (true, Ok(payload_at), Some(ticket)) = (posted, encoded, self.queue.admit()) else {
            self.caller.abandon(id, slot);
            return;
        };
        let total = payload_at + len;
        let local = if total <= channel.inline as usize {
            Payload::Inline(&message[..total])
        } else {
            Payload::Region(channel.sends.sge(slot, total))
        };
        self.write(
            Immediate {
                slot,
                signal: Signal::Message,
            },
            local,
            ticket,
        );
    }

    fn write(&mut self, imm: Immediate, local: Payload<'_>, ticket: Ticket) {
        let request = SendRequest {
            wr_id: ticket.retires.into(),
            operation: Operation::WriteWithImm(imm.to_bits()),
            local,
            remote: self.remote.slot(imm.slot),
            signalled: ticket.retires > 0,
        };
        if let Err(error) = self.qp.post_send(&request) {
            self.close(LossCause::Fabric(error.to_string()));
        }
    }

    /// Tells the peer that nobody waits for the answer in `slot` any more.
    fn cancel(&mut self, slot: u16) {
        if self.cause.is_none()
            && let Some(ticket) = self.queue.admit()
        {
            self.write(
                Immediate {
                    slot,
                    signal: Signal::Cancel,
                },
                Payload::Inline(&[]),
                ticket,
            );
        }
    }

    fn close(&mut self, cause: LossCause) {
        if self.cause.is_some() {
            return;
        }
        tracing::debug!(%cause, "channel closed");
        self.cause = Some(cause);
        self.caller.close();
        if let Err(error) = self.qp.to_error() {
            tracing::warn!(%error, "the queue pair of a closed channel does not go to error");
        }
        self.ready
            .extend(self.wakers.iter_mut().filter_map(Option::take));
        self.ready
            .extend(self.waiting.drain().filter_map(|(_, call)| call.waker));
    }

    fn loss(&self) -> LossCause {
        self.cause.clone().unwrap_or(LossCause::ShutDown)
    }
}

/// Reads the header of the reply that `imm` announces.
fn read_reply(replies: &Ring, imm: Immediate) -> Result<CallId, Violation> {
    let Some(slot) = replies.lend(imm.slot) else {
        // A slot that is lent holds an answer already.
        return Err(if replies.has(imm.slot) {
            Violation::UnknownRequest
        } else {
            Violation::BadSlot
        });
    };
    let (header, _) = Header::decode(&slot).map_err(|_| Violation::BadHeader)?;
    match (imm.signal, header.kind) {
        (Signal::Message, MessageKind::Reply | MessageKind::Exception) => {
            Ok(CallId(header.request_id))
        }
        _ => Err(Violation::WrongKind),
    }
}

impl PendingCall {
    /// Sets the deadline, counted from now.
    pub fn set_timeout(&mut self, after: Duration) {
        // A deadline beyond the end of time is none.
        let at = Instant::now().checked_add(after);
        self.deadline = at.map(|at| (at, after));
        self.channel.lock().caller.set_deadline(self.id, at);
    }

    /// The deadline, if one was set.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.map(|(at, _)| at)
    }

    /// The channel that the call was made on.
    pub fn channel(&self) -> &Arc<ClientChannel> {
        &self.channel
    }

    /// Handles what has arrived and says whether this call is decided. If it is not and a `waker` is given, it
    /// is woken when it is (by whoever polls the channel next; see [`sleep`](Self::sleep)).
    pub fn poll(&mut self, waker: Option<&Waker>) -> Poll<Result<Answer<'_>, CallError>> {
        match self.poll_slot(waker) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(slot)) => {
                self.done = true;
                Poll::Ready(Answer::read(&self.channel, self.id, slot))
            }
            Poll::Ready(Err(error)) => {
                self.end();
                Poll::Ready(Err(error))
            }
        }
    }

    /// Decides in which slot the answer stands.
    fn poll_slot(&mut self, waker: Option<&Waker>) -> Poll<Result<u16, CallError>> {
        let channel = &*self.channel;
        let now = self.deadline.map_or(channel.created, |_| Instant::now());
        let mut core = channel.lock();
        let mut state = core.caller.state(self.id, self.slot, now);
        if !matches!(state, CallState::Answered(_)) {
            core.progress(channel);
            state = core.caller.state(self.id, self.slot, now);
        }
        let decided = match state {
            CallState::Answered(slot) => Poll::Ready(Ok(slot)),
            CallState::Closed => Poll::Ready(Err(CallError::Closed(core.loss()))),
            CallState::Expired => {
                let after = self.deadline.map_or(Duration::ZERO, |(_, after)| after);
                Poll::Ready(Err(CallError::Timeout(after)))
            }
            CallState::Pending(slot) => {
                self.slot = Some(slot);
                register(&mut core.wakers[usize::from(slot)], waker);
                Poll::Pending
            }
            CallState::Waiting => {
                if let Some(call) = core.waiting.get_mut(&self.id) {
                    register(&mut call.waker, waker);
                }
                Poll::Pending
            }
        };
        channel.wake(core);
        decided
    }

    /// To be called by who goes to sleep after [`poll`](Self::poll) gave `Pending` with a waker: makes sure
    /// that somebody watches the completion queue.
    pub fn sleep(&self) {
        Pump::ensure(&self.channel);
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let mut core = self.channel.lock();
        core.waiting.remove(&self.id);
        if let Some(slot) = core.caller.end(self.id) {
            core.wakers[usize::from(slot)] = None;
            core.cancel(slot);
        }
        core.grant(&self.channel);
        self.channel.wake(core);
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        self.end();
    }
}

fn register(place: &mut Option<Waker>, waker: Option<&Waker>) {
    match (place, waker) {
        (Some(held), Some(waker)) if held.will_wake(waker) => {}
        (place, waker) => *place = waker.cloned(),
    }
}

/// An answer, lent from the ring. The credit goes back when it is dropped.
#[derive(Debug)]
pub struct Answer<'a> {
    channel: &'a ClientChannel,
    id: CallId,
    slot: u16,
    loan: Option<Loan<'a>>,
    kind: MessageKind,
    payload: Range<usize>,
}

impl<'a> Answer<'a> {
    fn read(channel: &'a ClientChannel, id: CallId, slot: u16) -> Result<Self, CallError> {
        let loan = channel.replies.lend(slot);
        let loan = loan.expect("an answered slot is lent to its call only");
        let decoded = Header::decode(&loan);
        let mut answer = Self {
            channel,
            id,
            slot,
            loan: Some(loan),
            kind: MessageKind::Reply,
            payload: 0..0,
        };
        let (header, payload) = decoded?;
        answer.kind = header.kind;
        answer.payload = payload;
        Ok(answer)
    }

    /// Whether this is the failure of the call instead of its result.
    pub fn is_exception(&self) -> bool {
        self.kind == MessageKind::Exception
    }

    /// The payload, still in the ring.
    pub fn payload(&self) -> &[u8] {
        self.loan
            .as_ref()
            .map_or(&[], |loan| &loan[self.payload.clone()])
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.loan = None;
        let mut core = self.channel.lock();
        core.caller.finish(self.id, self.slot);
        core.grant(self.channel);
        self.channel.wake(core);
    }
}

impl From<EncodeError> for CallError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::TooLarge { size, limit } => Self::TooLarge { size, limit },
            EncodeError::Value(reason) => Self::Encode(reason),
        }
    }
}
