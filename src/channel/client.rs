//! The calling end of a channel, usable from any thread.
//!
//! Nothing here owns a thread. Whoever waits for an answer polls the completion queue; only when waiters go to
//! sleep does a small task, the [pump](super::pump), sleep on the queue's file descriptor for all of them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::bulk::Bulk;
use super::caller::{CallId, CallState, Caller, Credits, Placed, Received};
use super::lanes::{Lanes, LanesInit, Outgoing};
use super::lend::{Lent, Loan, RemoteRing, Ring};
use super::pump::{Pump, Pumped};
use super::rendezvous::Rendezvous;
use super::wake::wake_all;
use super::work_id::WorkId;
use super::{
    Answer, Block, CallError, ConnectError, Endpoint, Geometry, LossCause, Memory, MemoryError,
    Parker, Profile, QueuePairInfo, RingAddress, Violation, Violations,
};
use crate::fabric::{Completion, CompletionQueue, Device, Poller, RetryPolicy};
use crate::wire::{
    EncodeError, Extension, Fault, Header, Immediate, MessageKind, Outside, Signal, StreamPart,
};

const BATCH: usize = 16;
/// Names a client's queue pairs before they have been connected anew.
const OWNER: u64 = 0;

/// The calling end before the peer's is known.
#[derive(Debug)]
pub struct Dialer {
    lanes: Lanes,
    cq: Arc<dyn CompletionQueue>,
    poller: Box<dyn Poller>,
    /// With a native peer.
    rendezvous: Option<(Rendezvous<CallId>, Arc<Memory>)>,
    sends: Ring,
    replies: Ring,
    geometry: Geometry,
    profile: Profile,
    /// How often the queue pairs have been connected.
    reached: u64,
}

impl Dialer {
    /// Creates queue pairs and rings, ready to receive, for a native peer. Payloads beyond a slot go to `memory`.
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(
        memory: &Arc<Memory>,
        geometry: Geometry,
        retry: RetryPolicy,
    ) -> Result<Self, ConnectError> {
        let device = &**memory.device();
        let mut dialer = Self::create(device, geometry, retry, 1, Profile::Native)?;
        let bulk = Bulk::new(device, &dialer.cq, OWNER, retry)?;
        let rendezvous = Rendezvous::new(bulk);
        dialer.rendezvous = Some((rendezvous, memory.clone()));
        Ok(dialer)
    }

    /// The same for a DLSlime peer, with any number of queue pairs.
    ///
    /// # Errors
    /// The number is 0 or more than 64, or the device refuses.
    pub fn compatible(
        device: &dyn Device,
        geometry: Geometry,
        retry: RetryPolicy,
        queue_pairs: usize,
    ) -> Result<Self, ConnectError> {
        Self::create(device, geometry, retry, queue_pairs, Profile::Compatible)
    }

    fn create(
        device: &dyn Device,
        geometry: Geometry,
        retry: RetryPolicy,
        queue_pairs: usize,
        profile: Profile,
    ) -> Result<Self, ConnectError> {
        let slots = geometry.slots() as u32;
        // A request, a cancel and a release for each slot; twice that, so that signalling every half queue is enough.
        let sends = 6 * slots;
        let receives = match profile {
            Profile::Native => slots,
            // A DLSlime peer may call us where we call it. It should not; but what it sends has to arrive.
            Profile::Compatible => 2 * slots,
        };
        let entries =
            (sends + receives).saturating_mul(queue_pairs.clamp(1, WorkId::MAX_LANES) as u32);
        let (cq, poller) = device.create_completion_queue(entries + Bulk::ENTRIES)?;
        let lanes = Lanes::new(
            device,
            &LanesInit {
                cq: cq.clone(),
                count: queue_pairs,
                sends,
                receives,
                owner: OWNER,
                retry,
            },
        )?;
        Ok(Self {
            lanes,
            cq,
            poller,
            rendezvous: None,
            sends: Ring::send(device, geometry)?,
            replies: Ring::receive(device, geometry)?,
            geometry,
            profile,
            reached: 0,
        })
    }

    /// What a native peer must be told.
    pub fn endpoint(&self) -> Endpoint {
        let qp = self.lanes.addresses()[0];
        let rendezvous = self.rendezvous.as_ref();
        Endpoint {
            qp,
            bulk: rendezvous.map_or(qp, |(rendezvous, _)| rendezvous.address()),
            ring: self.ring(),
            geometry: self.geometry,
        }
    }

    /// The queue pairs that a DLSlime peer must be told.
    pub fn queue_pairs(&self) -> Vec<QueuePairInfo> {
        self.lanes.addresses()
    }

    /// The ring that a DLSlime peer must be told.
    pub fn ring(&self) -> RingAddress {
        RingAddress::of(self.replies.region(), self.geometry)
    }

    /// Connects the queue pairs to `theirs`, anew if they were connected to others before.
    ///
    /// # Errors
    /// Their number is not ours, their addresses are not acceptable, or the device refuses.
    pub fn reach(&mut self, theirs: &[QueuePairInfo]) -> Result<(), ConnectError> {
        if self.reached > 0 {
            self.lanes.reset(self.reached)?;
        }
        self.reached += 1;
        self.lanes.connect(theirs)
    }

    /// Connects to a native peer's end, which must be ready to receive.
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
        self.reach(&[theirs.qp])?;
        if let Some((rendezvous, _)) = &mut self.rendezvous {
            rendezvous.connect(theirs.bulk)?;
        }
        Ok(self.open(peer, remote, waiting))
    }

    /// Makes a channel to a DLSlime peer whose queue pairs have been [reached](Self::reach) and whose mailbox
    /// is `ring`.
    ///
    /// # Errors
    /// The mailbox does not fit our geometry.
    pub fn connect_compatible(
        self,
        peer: &str,
        ring: &RingAddress,
        waiting: Patience,
    ) -> Result<Arc<ClientChannel>, ConnectError> {
        let remote = ring.compatible_ring(self.geometry)?;
        Ok(self.open(peer, remote, waiting))
    }

    fn open(self, peer: &str, remote: RemoteRing, waiting: Patience) -> Arc<ClientChannel> {
        // A slot must exist at both ends.
        let slots = self.geometry.slots().min(remote.geometry.slots());
        let (rendezvous, memory) = self.rendezvous.unzip();
        let closing = Arc::<Notify>::default();
        Arc::new(ClientChannel {
            core: Mutex::new(Core {
                lanes: self.lanes,
                poller: self.poller,
                rendezvous,
                offers: Vec::new(),
                landed: vec![Landed::default(); slots].into(),
                read: HashMap::new(),
                releases: VecDeque::new(),
                caller: Caller::new(slots),
                remote,
                wakers: vec![None; slots].into(),
                waiting: HashMap::new(),
                told: HashMap::new(),
                ready: Vec::new(),
                failures: Vec::new(),
                violations: Violations::default(),
                cause: None,
                closing: closing.clone(),
                batch: Box::new([Completion::EMPTY; BATCH]),
            }),
            cq: self.cq,
            memory,
            sends: self.sends,
            replies: Arc::new(self.replies),
            geometry: self.geometry,
            profile: self.profile,
            peer: peer.to_owned(),
            created: Instant::now(),
            waiting,
            listener: OnceLock::new(),
            pump: Pump::default(),
            closing,
        })
    }
}

/// The calling end of a connected channel.
#[derive(Debug)]
pub struct ClientChannel {
    // The queue pairs in `core` are dropped, and so drained, before the rings they use (DROP-1).
    core: Mutex<Core>,
    cq: Arc<dyn CompletionQueue>,
    /// For payloads beyond a slot.
    memory: Option<Arc<Memory>>,
    sends: Ring,
    replies: Arc<Ring>,
    geometry: Geometry,
    profile: Profile,
    peer: String,
    created: Instant,
    waiting: Patience,
    listener: OnceLock<Listener>,
    pump: Pump,
    closing: Arc<Notify>,
}

/// Hears of told calls that fail.
struct Listener(Box<dyn Fn(TellFailure) + Send + Sync>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// A told call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TellFailure {
    /// Number of the method.
    pub method: u32,
    /// What came of it.
    pub cause: TellError,
}

/// Why a told call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TellError {
    /// The service said so.
    Fault(Fault),
    /// The channel was closed.
    Lost {
        /// Why.
        cause: LossCause,
        /// Whether the request was sent.
        sent: bool,
    },
}

/// Names an open stream of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamName(u64);

/// A call whose result nobody waits for. Dropping it before the transport has taken it takes it back.
#[derive(Debug)]
pub struct ToldCall(PendingCall);

impl ToldCall {
    /// Whether the transport has taken the request. If it has not, `waker` is woken when it has.
    pub fn poll_taken(&mut self, waker: &Waker) -> Poll<()> {
        let call = &mut self.0;
        if call.done {
            return Poll::Ready(());
        }
        let channel = &*call.channel;
        let mut core = channel.lock();
        core.progress(channel);
        let mut before = None;
        let taken = match core.waiting.get_mut(&call.id) {
            None => Poll::Ready(()),
            Some(waiting) => {
                before = register(&mut waiting.waker, Some(waker));
                Poll::Pending
            }
        };
        call.done = taken.is_ready();
        channel.wake(core);
        drop(before);
        taken
    }

    /// The channel that the call was made on.
    pub fn channel(&self) -> &Arc<ClientChannel> {
        &self.0.channel
    }

    /// Leaves it to the channel, also while it waits for a credit.
    fn detach(mut self) {
        self.0.done = true;
    }
}

impl Drop for ToldCall {
    fn drop(&mut self) {
        let call = &mut self.0;
        if call.done {
            return;
        }
        let mut core = call.channel.lock();
        if core.waiting.contains_key(&call.id) {
            core.told.remove(&call.id);
        } else {
            // The answer is taken in by whoever looks next.
            call.done = true;
        }
    }
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
    lanes: Lanes,
    poller: Box<dyn Poller>,
    /// With a native peer.
    rendezvous: Option<Rendezvous<CallId>>,
    /// Answers whose payload has to be read, once the lock is released: memory is needed for that.
    offers: Vec<(u16, CallId, Outside)>,
    /// The headers of answers that have arrived, by slot.
    landed: Box<[Landed]>,
    /// Payloads of answers that did not travel through the ring, by slot.
    read: HashMap<u16, Result<Block, CallError>>,
    /// Slots whose answer's payload the peer need not keep any more, which it has yet to be told.
    releases: VecDeque<u16>,
    caller: Caller,
    remote: RemoteRing,
    /// Who waits for the answer in each slot.
    wakers: Box<[Option<Waker>]>,
    /// Calls without a credit.
    waiting: HashMap<CallId, WaitingCall>,
    /// Calls that nobody waits for, and their methods.
    told: HashMap<CallId, u32>,
    /// To be woken once the lock is released.
    ready: Vec<Waker>,
    /// To be told to the listener once the lock is released.
    failures: Vec<TellFailure>,
    violations: Violations,
    cause: Option<LossCause>,
    closing: Arc<Notify>,
    /// Where completions are polled into.
    batch: Box<[Completion; BATCH]>,
}

/// What the header of an answer says about the bytes of its slot.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Landed {
    pub(super) is_exception: bool,
    /// The stream that was asked for an item has no more.
    pub(super) is_end: bool,
    /// The payload did not travel through the ring.
    pub(super) is_outside: bool,
    begin: u32,
    end: u32,
}

impl Landed {
    fn of(header: &Header, payload: Range<usize>) -> Self {
        Self {
            is_exception: header.kind == MessageKind::Exception,
            is_end: matches!(header.stream(), Some(StreamPart::End(_))),
            is_outside: header.extension.is_some_and(|e| e.outside.is_some()),
            begin: payload.start as u32,
            end: payload.end as u32,
        }
    }

    /// Where in its slot the payload is.
    #[inline]
    pub(super) fn payload(self) -> Range<usize> {
        self.begin as usize..self.end as usize
    }
}

#[derive(Debug)]
struct WaitingCall {
    method: u32,
    stream: Option<StreamPart>,
    payload: Prepared,
    waker: Option<Waker>,
}

/// The arguments of a call that waits.
#[derive(Debug)]
enum Prepared {
    Here(Vec<u8>),
    /// They do not fit a slot.
    Outside(Block),
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
    /// is free. `encode` gets the room there is and says how much it used. If it asks for more than a slot has, it is
    /// called again with that much, in memory that a native peer reads from.
    ///
    /// A `timeout` given here travels to a native peer, which does not run what has expired; one that is set
    /// [later](PendingCall::set_timeout) ends the call at this side only, and cancels it at the other.
    ///
    /// # Errors
    /// The arguments do not fit or do not encode, no time is allowed, or the channel is closed. Nothing was sent then.
    pub fn call(
        self: &Arc<Self>,
        method: u32,
        timeout: Option<Duration>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<PendingCall, CallError> {
        self.make(method, timeout, None, encode)
    }

    /// Opens a stream now; the call brings its first item. Native peers only.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn open_stream(
        self: &Arc<Self>,
        method: u32,
        timeout: Option<Duration>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(PendingCall, StreamName), CallError> {
        let call = self.make(method, timeout, Some(StreamPart::Open), encode)?;
        let stream = StreamName(call.id.0);
        Ok((call, stream))
    }

    /// Asks for the next item of a stream.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn next_item(
        self: &Arc<Self>,
        stream: StreamName,
        timeout: Option<Duration>,
    ) -> Result<PendingCall, CallError> {
        let part = StreamPart::Next(stream.0);
        self.make(0, timeout, Some(part), |_| Ok(0))
    }

    /// Says that no more items of a stream are wanted. If the channel is closed, the peer knows.
    pub fn end_stream(self: &Arc<Self>, stream: StreamName) {
        let part = StreamPart::End(stream.0);
        let told = self
            .make(0, None, Some(part), |_| Ok(0))
            .and_then(|call| self.told(call, 0));
        drop(told.map(ToldCall::detach));
    }

    fn make(
        self: &Arc<Self>,
        method: u32,
        timeout: Option<Duration>,
        stream: Option<StreamPart>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<PendingCall, CallError> {
        let deadline = match timeout {
            Some(Duration::ZERO) => {
                return Err(CallError::Timeout {
                    after: Duration::ZERO,
                    sent: false,
                });
            }
            // A deadline beyond the end of time is none.
            Some(after) => Instant::now().checked_add(after).map(|at| (at, after)),
            None => None,
        };
        let at = deadline.map(|(at, _)| at);
        let placed = {
            let mut core = self.lock();
            let has_room = core.lanes.has_room();
            match core.caller.open(has_room, at) {
                Some(placed) => placed,
                None => {
                    return Err(CallError::Closed {
                        cause: core.loss(),
                        sent: false,
                    });
                }
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
            deadline,
            done: false,
        };
        match slot {
            Some(slot) => {
                // All of it is left: it was allowed just now.
                let left = deadline.map(|(_, after)| after);
                let header = self.request(id, method, left, stream);
                self.send_from_slot(slot, header, at, encode)?;
            }
            None => self.line_up(id, method, stream, encode)?,
        }
        Ok(call)
    }

    /// Makes a call whose result nobody waits for. A failure goes to the [listener](Self::listen).
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn tell(
        self: &Arc<Self>,
        method: u32,
        timeout: Option<Duration>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<ToldCall, CallError> {
        let call = self.call(method, timeout, encode)?;
        self.told(call, method)
    }

    /// Nobody waits for `call`.
    fn told(self: &Arc<Self>, mut call: PendingCall, method: u32) -> Result<ToldCall, CallError> {
        let mut core = self.lock();
        match core.caller.state(call.id, call.slot, self.created) {
            // Decided before it could be noted as told.
            CallState::Answered(slot) => core.conclude_told(self, call.id, slot, method),
            CallState::Closed => {
                let cause = core.loss();
                let sent = core.caller.was_sent(call.id);
                call.done = true;
                return Err(CallError::Closed { cause, sent });
            }
            CallState::Waiting | CallState::Pending(_) | CallState::Expired => {
                core.told.insert(call.id, method);
            }
        }
        self.wake(core);
        // Somebody has to take the answer in, as nobody waits for it.
        Pump::ensure_at_home(self);
        Ok(ToldCall(call))
    }

    /// Has `listener` hear of every told call that fails. Only the first listener is heard.
    pub fn listen(&self, listener: impl Fn(TellFailure) + Send + Sync + 'static) {
        let _ = self.listener.set(Listener(Box::new(listener)));
    }

    fn send_from_slot(
        &self,
        slot: u16,
        mut header: Header,
        deadline: Option<Instant>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(), CallError> {
        let mut encode = encode;
        let mut message = self
            .sends
            .lend(slot)
            .expect("a claimed slot is lent to its call only");
        let block = match encode(&mut message[header.encoded_len()..]) {
            Ok(len) => {
                header.payload_len = len as u32;
                None
            }
            Err(error) => {
                let block = self.encode_outside(error, encode)?;
                header.set_outside(block.outside());
                Some(block)
            }
        };
        let mut core = self.lock();
        if let (Some(block), Some(rendezvous)) = (block, &mut core.rendezvous) {
            rendezvous.keep(slot, block);
        }
        core.post(self, slot, &header, deadline, &mut message);
        let closed = |cause| CallError::Closed { cause, sent: false };
        core.cause.clone().map(closed).map_or(Ok(()), Err)
    }

    /// Encodes what does not fit a slot, as `error` says, into memory that the peer can read.
    fn encode_outside(
        &self,
        error: EncodeError,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<Block, CallError> {
        let (EncodeError::TooLarge { size, .. }, Some(memory)) = (&error, &self.memory) else {
            return Err(error.into());
        };
        let block = memory.take(*size);
        let mut block = block.map_err(|error| no_memory(*size, &error, false))?;
        let len = encode(&mut block)?;
        block.truncate(len);
        Ok(block)
    }

    /// The header of a request that may take this long from now, and whose payload is still to come.
    #[inline]
    fn request(
        &self,
        id: CallId,
        method: u32,
        left: Option<Duration>,
        stream: Option<StreamPart>,
    ) -> Header {
        let left = left.filter(|_| self.profile == Profile::Native);
        let deadline_us = left.map(|left| u64::try_from(left.as_micros()).unwrap_or(u64::MAX));
        let extension = Extension {
            deadline_us,
            outside: None,
            stream,
        };
        Header {
            kind: MessageKind::Request,
            method,
            request_id: id.0,
            payload_len: 0,
            extension: Some(extension).filter(|e| *e != Extension::default()),
        }
    }

    fn line_up(
        &self,
        id: CallId,
        method: u32,
        stream: Option<StreamPart>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(), CallError> {
        let mut encode = encode;
        let in_front = self.request(id, method, None, stream).encoded_len();
        let mut payload = vec![0; self.geometry.slot_size() - in_front];
        let payload = match encode(&mut payload) {
            Ok(len) => {
                payload.truncate(len);
                payload.shrink_to_fit();
                Prepared::Here(payload)
            }
            Err(error) => Prepared::Outside(self.encode_outside(error, encode)?),
        };
        let mut core = self.lock();
        core.waiting.insert(
            id,
            WaitingCall {
                method,
                stream,
                payload,
                waker: None,
            },
        );
        // A credit may have come back while the arguments were encoded.
        core.grant(self);
        self.wake(core);
        Ok(())
    }

    /// Closes the channel; every call that is not answered ends with `cause` (CALL-1). Answers that have arrived count,
    /// looked at or not.
    pub fn close(&self, cause: LossCause) {
        let mut core = self.lock();
        if core.cause.is_none() {
            // What goes wrong with it matters no more.
            let _ = core.collect(self);
        }
        core.close(cause);
        self.wake(core);
    }

    /// Why the channel is closed; `None` while it is open.
    pub fn closed(&self) -> Option<LossCause> {
        self.lock().cause.clone()
    }

    /// Notified once when the channel is closed or dropped. For one waiter, who need not keep the channel.
    pub fn closing(&self) -> Arc<Notify> {
        self.closing.clone()
    }

    /// Sends something empty, unless that or something else is on its way: so a peer that is gone is noticed, if somebody
    /// looks.
    pub fn probe(&self) {
        let mut core = self.lock();
        let to = core.remote.slot(0);
        if core.cause.is_none()
            && let Err(error) = core.lanes.probe(to)
        {
            core.close(LossCause::Fabric(error.to_string()));
        }
        core.progress(self);
        self.wake(core);
    }

    /// The account of slots, with what has arrived taken in.
    pub fn credits(&self) -> Credits {
        self.progress();
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

    /// Whether nothing has arrived that nobody has taken in, by a look that is cheaper than [polling](PendingCall::poll).
    /// For who spins; now and then it has to poll, as others may have taken in its answer.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        // Whoever holds the lock looks, too.
        match self.core.try_lock() {
            Ok(core) => core.poller.is_quiet(),
            Err(_) => true,
        }
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

    /// Who the peer is.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The shape of our rings.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Lends the answer in `slot`.
    pub(super) fn lend_answer(&self, slot: u16) -> Loan<'_> {
        let loan = self.replies.lend(slot);
        loan.expect("an answered slot is lent to its call only")
    }

    /// The same; the loan keeps the ring.
    pub(super) fn lend_answer_shared(&self, slot: u16) -> Option<Lent<Arc<Ring>>> {
        self.replies.lend_shared(slot)
    }

    /// The payload of the answer in `slot`, which did not travel through the ring.
    pub(super) fn take_read(&self, slot: u16) -> Result<Option<Block>, CallError> {
        self.lock().read.remove(&slot).transpose()
    }

    /// The answer of a call has been read: its credit is back.
    pub(super) fn finish(&self, id: CallId, slot: u16) {
        let mut core = self.lock();
        core.finish(id, slot);
        core.grant(self);
        self.wake(core);
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, Core> {
        // No code of a user runs under this lock, so a panic cannot leave the core half changed.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Releases the lock, finds memory for answers that need some, and wakes those whose calls are decided.
    #[inline]
    fn wake<'a>(&'a self, core: MutexGuard<'a, Core>) {
        if !(core.offers.is_empty() && core.ready.is_empty() && core.failures.is_empty()) {
            self.wake_some(core);
        }
    }

    fn wake_some<'a>(&'a self, mut core: MutexGuard<'a, Core>) {
        if !core.offers.is_empty() {
            let offers = std::mem::take(&mut core.offers);
            drop(core);
            core = self.take_offers(offers);
        }
        let ready = std::mem::take(&mut core.ready);
        let failures = std::mem::take(&mut core.failures);
        drop(core);
        wake_all(ready);
        if let Some(Listener(listener)) = self.listener.get() {
            failures.into_iter().for_each(listener);
        }
    }
}

impl Drop for ClientChannel {
    fn drop(&mut self) {
        self.closing.notify_one();
    }
}

impl Pumped for ClientChannel {
    fn pump(&self) -> &Pump {
        &self.pump
    }

    fn runtime(&self) -> &Handle {
        &self.waiting.runtime
    }

    fn queue(&self) -> &Arc<dyn CompletionQueue> {
        &self.cq
    }

    fn progress(&self) -> bool {
        let mut core = self.lock();
        let progressed = core.progress(self);
        self.wake(core);
        progressed
    }

    fn arm(&self) -> bool {
        if let Err(error) = self.cq.arm() {
            self.close(LossCause::Fabric(error.to_string()));
        }
        self.progress()
    }

    /// Whether the payload of an answer is being read.
    fn is_moving(&self) -> bool {
        let core = self.lock();
        core.rendezvous.as_ref().is_some_and(Rendezvous::is_reading)
    }

    fn has_sleepers(&self) -> bool {
        let core = self.lock();
        !core.told.is_empty()
            || core.wakers.iter().any(Option::is_some)
            || core.waiting.values().any(|call| call.waker.is_some())
    }

    fn abandon(&self, cause: LossCause) {
        self.close(cause);
    }
}

impl ClientChannel {
    /// Begins to read answers that lie at the peer.
    fn take_offers(&self, offers: Vec<(u16, CallId, Outside)>) -> MutexGuard<'_, Core> {
        let blocks = offers.iter().map(|(_, _, outside)| {
            let size = usize::try_from(outside.len).unwrap_or(usize::MAX);
            let block = self.memory.as_ref().map(|memory| memory.take(size));
            block.map(|block| block.map_err(|error| no_memory(size, &error, true)))
        });
        let blocks: Vec<_> = blocks.collect();
        let mut core = self.lock();
        for ((slot, id, outside), block) in offers.into_iter().zip(blocks) {
            match block {
                Some(Ok(block)) => core.read(slot, id, outside, block),
                Some(Err(error)) => core.conclude_read(self, slot, id, Err(error)),
                None => {}
            }
        }
        core
    }
}

/// The call is lost for want of memory.
fn no_memory(size: usize, error: &MemoryError, is_answer: bool) -> CallError {
    match *error {
        MemoryError::TooLarge { size, limit } if !is_answer => CallError::TooLarge { size, limit },
        _ => CallError::NoMemory {
            size,
            reason: error.to_string(),
            is_answer,
        },
    }
}

impl Core {
    fn progress(&mut self, channel: &ClientChannel) -> bool {
        if self.cause.is_some() {
            // Every call has ended; an answer that still comes would make one that was sent look as if it had not been.
            return false;
        }
        match self.collect(channel) {
            Ok(progressed) => {
                if progressed {
                    self.grant(channel);
                }
                progressed
            }
            Err(cause) => {
                self.close(cause);
                true
            }
        }
    }

    /// Takes in what has arrived. Says whether anything had, or why the channel is lost; what has arrived nevertheless is
    /// taken in as well.
    fn collect(&mut self, channel: &ClientChannel) -> Result<bool, LossCause> {
        let mut lost = None;
        let mut batches = 0;
        loop {
            let count = self.poller.poll(&mut *self.batch);
            let count = count.map_err(|error| LossCause::Fabric(error.to_string()))?;
            for at in 0..count {
                let completion = self.batch[at];
                if let Err(cause) = self.complete(channel, &completion) {
                    lost.get_or_insert(cause);
                }
            }
            if count < BATCH {
                return lost.map_or(Ok(batches + count > 0), Err);
            }
            batches += 1;
            // Nothing is sent meanwhile, so there is an end to what a correct peer has to say.
            if batches > self.lanes.entries() {
                return Err(lost.unwrap_or(LossCause::Flood));
            }
        }
    }

    fn complete(
        &mut self,
        channel: &ClientChannel,
        completion: &Completion,
    ) -> Result<(), LossCause> {
        let id = WorkId::from_bits(completion.wr_id);
        // From before a reset, or after the end.
        if !self.lanes.owns(id) || self.cause.is_some() {
            return Ok(());
        }
        if !completion.status.is_success() {
            return Err(completion.status.into());
        }
        if id.lane == WorkId::BULK
            && let Some(rendezvous) = &mut self.rendezvous
        {
            let complete = rendezvous.complete();
            let complete = complete.map_err(|error| LossCause::Fabric(error.to_string()))?;
            if let Some((slot, call, block)) = complete {
                self.conclude_read(channel, slot, call, Ok(block));
            }
            return Ok(());
        }
        let completed = self.lanes.complete(id, completion);
        let imm = completed.map_err(|error| LossCause::Fabric(error.to_string()))?;
        if let Some(imm) = imm {
            self.receive(channel, channel.profile.immediate(imm));
        }
        Ok(())
    }

    fn receive(&mut self, channel: &ClientChannel, imm: Immediate) {
        let violation = match read_reply(channel, imm) {
            Err(violation) => violation,
            Ok((id, Some(outside), landed)) if self.caller.is_pending(imm.slot, id) => {
                let reading = self
                    .rendezvous
                    .as_mut()
                    .map(|r| r.reading(imm.slot).is_some());
                let is_known = self.offers.iter().any(|(slot, ..)| *slot == imm.slot);
                if reading == Some(false) && !is_known {
                    self.landed[usize::from(imm.slot)] = landed;
                    return self.offers.push((imm.slot, id, outside));
                }
                Violation::SlotBusy
            }
            Ok((id, outside, landed)) => match self.receive_answer(channel, imm.slot, id) {
                None => {
                    self.landed[usize::from(imm.slot)] = landed;
                    if outside.is_some() {
                        self.releases.push_back(imm.slot);
                    }
                    return;
                }
                Some(violation) => violation,
            },
        };
        self.violations.record(violation, &channel.peer);
        if violation == Violation::WrongKind && channel.profile == Profile::Compatible {
            self.refuse(channel, imm.slot);
        }
    }

    /// The answer to `id` has arrived in `slot`, or something that cannot be.
    fn receive_answer(
        &mut self,
        channel: &ClientChannel,
        slot: u16,
        id: CallId,
    ) -> Option<Violation> {
        match self.caller.receive(slot, id) {
            Received::Answer(id) => match self.take_told(id) {
                Some(method) => self.conclude_told(channel, id, slot, method),
                None => self.ready.extend(self.wakers[usize::from(slot)].take()),
            },
            Received::Late => {}
            Received::Violation(violation) => return Some(violation),
        }
        // The request's payload has been read long since.
        if let Some(rendezvous) = &mut self.rendezvous {
            rendezvous.release(slot);
        }
        None
    }

    /// The method of a call that nobody waits for.
    fn take_told(&mut self, id: CallId) -> Option<u32> {
        // Not hashed for nothing.
        if self.told.is_empty() {
            return None;
        }
        self.told.remove(&id)
    }

    /// Begins to read the answer to `id`, which lies at the peer.
    fn read(&mut self, slot: u16, id: CallId, from: Outside, block: Block) {
        // None once the channel is closed.
        let Some(rendezvous) = &mut self.rendezvous else {
            return;
        };
        if let Err(error) = rendezvous.read(slot, id, from, block) {
            self.close(LossCause::Fabric(error.to_string()));
        }
    }

    /// The answer to `id` has been read, or cannot be.
    fn conclude_read(
        &mut self,
        channel: &ClientChannel,
        slot: u16,
        id: CallId,
        payload: Result<Block, CallError>,
    ) {
        self.releases.push_back(slot);
        self.read.insert(slot, payload);
        self.receive_answer(channel, slot, id);
        if !self.caller.is_answered(slot, id) {
            self.read.remove(&slot);
        }
        self.release(channel);
    }

    /// Nobody needs the answer in `slot`, to `id`, any more: its credit is back, and what was read for it if nobody has looked.
    #[inline]
    fn finish(&mut self, id: CallId, slot: u16) {
        if !self.read.is_empty() {
            self.read.remove(&slot);
        }
        self.caller.finish(id, slot);
    }

    /// Tells the peer which payloads it need not keep any more.
    fn release(&mut self, channel: &ClientChannel) {
        while self.cause.is_none()
            && self.lanes.has_room()
            && let Some(slot) = self.releases.pop_front()
        {
            let signal = Signal::Release;
            self.write(channel, Immediate { slot, signal }, &[]);
        }
    }

    /// The answer to a told call has arrived in `slot`.
    fn conclude_told(&mut self, channel: &ClientChannel, id: CallId, slot: u16, method: u32) {
        let failure = channel.replies.lend(slot).and_then(|bytes| {
            let (header, payload) = channel.profile.decode(&bytes).ok()?;
            (header.kind == MessageKind::Exception)
                .then(|| channel.profile.decode_fault(&bytes[payload]))
        });
        if let Some(Ok(fault)) = failure {
            let cause = TellError::Fault(fault);
            self.failures.push(TellFailure { method, cause });
        }
        self.caller.finish(id, slot);
    }

    /// A DLSlime peer calls us where we call it. It cannot be served, as our next reply may stand where its next request
    /// does; but unanswered it would wait for ever. This answers if no call of ours is in the slot.
    fn refuse(&mut self, channel: &ClientChannel, slot: u16) {
        if self.cause.is_some() || !self.caller.is_free(slot) {
            return;
        }
        let request = channel.replies.lend(slot);
        let request = request.and_then(|bytes| channel.profile.decode(&bytes).ok());
        let (Some((request, _)), Some(mut message)) = (request, channel.sends.lend(slot)) else {
            return;
        };
        let fault = Fault::Raised {
            type_name: "RuntimeError".to_owned(),
            message: "you are called over this pair of aliases; call over another alias".to_owned(),
            traceback: String::new(),
        };
        let Ok(len) = channel
            .profile
            .encode_fault(fault, &mut message[Header::LEN..])
        else {
            return;
        };
        let header = Header {
            kind: MessageKind::Exception,
            payload_len: len as u32,
            ..request
        };
        if request.kind == MessageKind::Request && header.encode(&mut message).is_ok() {
            let signal = Signal::Message;
            self.write(
                channel,
                Immediate { slot, signal },
                &message[..Header::LEN + len],
            );
        }
    }

    /// Sends calls that waited, as far as there are credits.
    #[inline]
    fn grant(&mut self, channel: &ClientChannel) {
        if !self.releases.is_empty() || self.caller.waiting() > 0 {
            self.grant_some(channel);
        }
    }

    fn grant_some(&mut self, channel: &ClientChannel) {
        self.release(channel);
        while self.lanes.has_room()
            && let Some(first) = self.caller.first_waiting()
            && self.waiting.contains_key(&first)
            && let Some((id, slot, deadline)) = self.caller.grant()
        {
            let Some(call) = self.waiting.remove(&id) else {
                break;
            };
            let mut message = channel.sends.lend(slot).expect("a free slot is not lent");
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let mut header = channel.request(id, call.method, left, call.stream);
            match call.payload {
                Prepared::Here(payload) => {
                    if header.encoded_len() + payload.len() > message.len() {
                        // A deadline that was set later does not fit beside the arguments.
                        header.drop_deadline();
                    }
                    let at = header.encoded_len();
                    header.payload_len = payload.len() as u32;
                    message[at..at + payload.len()].copy_from_slice(&payload);
                }
                Prepared::Outside(block) => {
                    header.set_outside(block.outside());
                    if let Some(rendezvous) = &mut self.rendezvous {
                        rendezvous.keep(slot, block);
                    }
                }
            }
            if self.told.contains_key(&id) {
                self.ready.extend(call.waker);
            } else {
                self.wakers[usize::from(slot)] = call.waker;
            }
            self.post(channel, slot, &header, deadline, &mut message);
        }
    }

    /// Posts the request whose payload stands in `slot` behind the place of its `header`.
    fn post(
        &mut self,
        channel: &ClientChannel,
        slot: u16,
        header: &Header,
        deadline: Option<Instant>,
        message: &mut Loan<'_>,
    ) {
        let id = CallId(header.request_id);
        let posted = self.caller.posted(id, slot, deadline);
        let encoded = header.encode(message);
        let (true, Ok(payload_at), true) = (posted, encoded, self.lanes.has_room()) else {
            self.caller.abandon(id, slot);
            if let Some(rendezvous) = &mut self.rendezvous {
                rendezvous.release(slot);
            }
            return;
        };
        let total = payload_at + header.payload_len as usize;
        let imm = Immediate {
            slot,
            signal: Signal::Message,
        };
        self.write(channel, imm, &message[..total]);
    }

    /// Sends `bytes`, which stand in the send memory of the slot that `imm` names.
    fn write(&mut self, channel: &ClientChannel, imm: Immediate, bytes: &[u8]) -> bool {
        let sent = self.lanes.write(&Outgoing {
            imm: imm.to_bits(),
            bytes,
            at: channel.sends.sge(imm.slot, &(0..bytes.len())),
            to: self.remote.slot(imm.slot),
        });
        sent.unwrap_or_else(|error| {
            self.close(LossCause::Fabric(error.to_string()));
            false
        })
    }

    /// Tells the peer that nobody waits for the answer in `slot` any more.
    fn cancel(&mut self, channel: &ClientChannel, slot: u16) {
        if self.cause.is_none() && channel.profile == Profile::Native {
            let signal = Signal::Cancel;
            self.write(channel, Immediate { slot, signal }, &[]);
        }
    }

    fn close(&mut self, cause: LossCause) {
        if self.cause.is_some() {
            return;
        }
        tracing::debug!(%cause, "channel closed");
        self.closing.notify_one();
        self.cause = Some(cause.clone());
        self.caller.close();
        for (id, method) in self.told.drain() {
            let cause = TellError::Lost {
                cause: cause.clone(),
                sent: self.caller.was_sent(id),
            };
            self.failures.push(TellFailure { method, cause });
        }
        self.lanes.fail();
        // Drained by that, so that the memory of what it was reading comes back, however long the channel is kept (DROP-1).
        self.rendezvous = None;
        self.offers.clear();
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
fn read_reply(
    channel: &ClientChannel,
    imm: Immediate,
) -> Result<(CallId, Option<Outside>, Landed), Violation> {
    let Some(slot) = channel.replies.lend(imm.slot) else {
        // A slot that is lent holds an answer already.
        return Err(if channel.replies.has(imm.slot) {
            Violation::UnknownRequest
        } else {
            Violation::BadSlot
        });
    };
    let read = channel.profile.decode(&slot);
    let (header, payload) = read.map_err(|_| Violation::BadHeader)?;
    match (imm.signal, header.kind) {
        (Signal::Message, MessageKind::Reply | MessageKind::Exception) => {
            let outside = header.extension.and_then(|extension| extension.outside);
            let landed = Landed::of(&header, payload);
            Ok((CallId(header.request_id), outside, landed))
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

    /// Allows the call `after`, which ends then: of the time, some has passed already.
    pub fn set_deadline(&mut self, at: Instant, after: Duration) {
        self.deadline = Some((at, after));
        self.channel.lock().caller.set_deadline(self.id, Some(at));
    }

    /// The time allowed, if any was set.
    pub fn timeout(&self) -> Option<Duration> {
        self.deadline.map(|(_, after)| after)
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
            Poll::Ready(Ok((slot, landed))) => {
                self.done = true;
                Poll::Ready(Answer::read(&self.channel, self.id, slot, landed))
            }
            Poll::Ready(Err(error)) => {
                self.end();
                Poll::Ready(Err(error))
            }
        }
    }

    /// Decides in which slot the answer stands.
    fn poll_slot(&mut self, waker: Option<&Waker>) -> Poll<Result<(u16, Landed), CallError>> {
        let channel = &*self.channel;
        let mut core = channel.lock();
        // Nothing has expired as the channel was created.
        let mut state = core.caller.state(self.id, self.slot, channel.created);
        if !matches!(state, CallState::Answered(_)) {
            core.progress(channel);
            state = core.caller.state(self.id, self.slot, channel.created);
        }
        if self.deadline.is_some() && matches!(state, CallState::Pending(_) | CallState::Waiting) {
            state = core.caller.state(self.id, self.slot, Instant::now());
        }
        let mut before = None;
        let decided = match state {
            CallState::Answered(slot) => Poll::Ready(Ok((slot, core.landed[usize::from(slot)]))),
            CallState::Closed => Poll::Ready(Err(CallError::Closed {
                cause: core.loss(),
                sent: core.caller.was_sent(self.id),
            })),
            CallState::Expired => {
                let after = self.deadline.map_or(Duration::ZERO, |(_, after)| after);
                let sent = !core.waiting.contains_key(&self.id);
                Poll::Ready(Err(CallError::Timeout { after, sent }))
            }
            CallState::Pending(slot) => {
                self.slot = Some(slot);
                before = register(&mut core.wakers[usize::from(slot)], waker);
                Poll::Pending
            }
            CallState::Waiting => {
                if let Some(call) = core.waiting.get_mut(&self.id) {
                    before = register(&mut call.waker, waker);
                }
                Poll::Pending
            }
        };
        channel.wake(core);
        drop(before);
        decided
    }

    /// To be called by who goes to sleep after [`poll`](Self::poll) gave `Pending` with a waker: makes sure
    /// that somebody watches the completion queue.
    pub fn sleep(&self) {
        Pump::ensure(&self.channel);
    }

    /// The same for a thread outside of every runtime, which sleeps here until the waker of `parker` is woken or the deadline
    /// has passed; it may return for nothing. If nobody else does, the thread watches the completion queue itself.
    pub fn park(&self, parker: &Parker) {
        Pump::park(&self.channel, parker, self.deadline());
    }

    /// Ends the call. Says whether its request had been sent by then, so that its handler may run all the same.
    pub fn take_back(mut self) -> bool {
        self.end()
    }

    /// Whether the request had been sent.
    fn end(&mut self) -> bool {
        if std::mem::replace(&mut self.done, true) {
            return true;
        }
        let mut core = self.channel.lock();
        // With its waker, which is not dropped before the lock is released.
        let waiting = core.waiting.remove(&self.id);
        let mut _waker = None;
        let state = core.caller.state(self.id, self.slot, self.channel.created);
        if let CallState::Answered(slot) = state {
            core.finish(self.id, slot);
        } else if let Some(slot) = core.caller.end(self.id) {
            _waker = core.wakers[usize::from(slot)].take();
            core.cancel(&self.channel, slot);
        }
        let was_sent = match state {
            CallState::Closed => core.caller.was_sent(self.id),
            _ => waiting.is_none(),
        };
        core.grant(&self.channel);
        self.channel.wake(core);
        was_sent
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        self.end();
    }
}

/// Gives back the waker that was there before, to be dropped when the lock is released: with it may go the last of a task that
/// has other calls of the same channel.
#[must_use]
fn register(place: &mut Option<Waker>, waker: Option<&Waker>) -> Option<Waker> {
    match (place, waker) {
        (Some(held), Some(waker)) if held.will_wake(waker) => None,
        (place, waker) => std::mem::replace(place, waker.cloned()),
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

#[cfg(test)]
mod tests;
