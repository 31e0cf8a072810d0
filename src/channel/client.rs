//! The calling end of a channel, usable from any thread.
//!
//! Nothing here owns a thread. A waiter polls the completion queue itself; only while waiters sleep
//! does a small task, the [watcher](super::completion_watcher), sleep on the queue's file
//! descriptor for all of them.

mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;

pub(super) use self::state::{BATCH, ClientState};
use super::call_figures::{Begun, CallFigures, Outcome};
use super::completion_watcher::{CompletionWatcher, WatchedQueue};
use super::core::caller::{Attached, CallId, Prepared, PreparedPayload};
use super::geometry::RingShape;
use super::growth;
use super::lend::{Ring, SlotToken};
use super::{
    BufferPool, CallError, Credits, Geometry, LossCause, MemoryError, OneWayCall, PendingCall,
    PooledBuffer, Profile, Violation, Violations,
};
use crate::fabric::shm::{SpinGuard, SpinLock};
use crate::fabric::{CompletionQueue, FabricError, LinkType};
use crate::panics::wake_all;
use crate::wire::{
    EncodeError, Extension, Fault, Header, MessageKind, RendezvousDescriptor, StreamPart,
    Traceparent,
};

/// Bytes of a payload that is sent from the slot that was freed last. The other core still has the
/// lines of that slot: to write many of them anew takes longer than to write to lines that it has
/// not used for a while.
const SMALL: usize = 4096;

/// The calling end of a connected channel.
#[derive(Debug)]
pub struct ClientChannel {
    // The queue pairs in `core` are dropped, and so drained, before the rings that they use
    // (DROP-1).
    pub(super) core: SpinLock<ClientState>,
    /// Memory for payloads beyond a slot.
    pub(super) memory: Option<Arc<BufferPool>>,
    pub(super) sends: Ring,
    pub(super) replies: Ring,
    pub(super) geometry: Geometry,
    pub(super) shape: RingShape,
    /// Size of the slots that requests are made in.
    pub(super) room: AtomicUsize,
    pub(super) profile: Profile,
    pub(super) peer: String,
    pub(super) waiting: WaitPolicy,
    /// Where calls are counted, if they are.
    pub(super) figures: OnceLock<Arc<CallFigures>>,
    pub(super) listener: OnceLock<Listener>,
    pub(super) watcher: CompletionWatcher,
    pub(super) closing: Arc<Notify>,
}

/// Called when a one-way call fails.
pub(super) struct Listener(Box<dyn Fn(TellFailure) + Send + Sync>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// A one-way call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TellFailure {
    /// Number of the method.
    pub method: u32,
    /// Why the call failed.
    pub cause: TellError,
}

/// Why a one-way call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TellError {
    /// The service reported this failure.
    Fault(Fault),
    /// The channel was closed.
    Lost {
        /// Why the channel was closed.
        cause: LossCause,
        /// Whether the request was sent.
        sent: bool,
    },
}

/// Identifies an open stream of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamName(u64);

/// How callers wait.
#[derive(Debug, Clone)]
pub struct WaitPolicy {
    /// How long a waiter polls before it sleeps.
    pub busy_poll: Duration,
    /// Runs timers, and watches the queue for callers outside of a runtime.
    pub runtime: Handle,
}

/// The deadline of a call that may take `timeout` from now.
///
/// # Errors
/// The time allowed is zero.
#[inline]
fn deadline_of(timeout: Option<Duration>) -> Result<Option<(Instant, Duration)>, CallError> {
    match timeout {
        None => Ok(None),
        Some(after @ Duration::ZERO) => Err(CallError::Timeout { after, sent: false }),
        // A deadline beyond the end of time is none.
        Some(after) => Ok(Instant::now().checked_add(after).map(|at| (at, after))),
    }
}

impl ClientChannel {
    /// Makes a call now: encodes its arguments into send memory and posts them, or queues them if
    /// no credit is free. `encode` gets the room there is and returns how much it used. If it asks
    /// for more than a slot has, it is called again with that much, in memory that a native peer
    /// reads from.
    ///
    /// A `timeout` given here travels to a native peer, which does not run an expired request. One
    /// that is set [later](PendingCall::set_timeout) ends the call at this side only, and cancels
    /// it at the other.
    ///
    /// # Errors
    /// The arguments do not fit or do not encode, the time allowed is zero, or the channel is
    /// closed. Nothing was sent then.
    pub fn call(
        self: &Arc<Self>,
        method: u32,
        timeout: Option<Duration>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<PendingCall, CallError> {
        let deadline = deadline_of(timeout)?;
        self.begin(method, deadline, None, encode)
    }

    /// Makes a call as [`call`](Self::call) does, for a span of a trace: a native peer is told
    /// which.
    ///
    /// # Errors
    /// The errors of [`call`](Self::call).
    pub fn call_traced(
        self: &Arc<Self>,
        method: u32,
        timeout: Option<Duration>,
        trace: Traceparent,
        encode: &mut dyn FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<PendingCall, CallError> {
        let deadline = deadline_of(timeout)?;
        let attached = self.attach(None, Some(trace));
        self.begin(method, deadline, attached.as_ref(), encode)
    }

    /// Makes a call whose arguments are bytes already. It is cheaper than [`call`](Self::call) with
    /// a closure that copies them, because no code of the caller's runs between claiming a slot and
    /// posting it.
    ///
    /// # Errors
    /// The errors of [`call`](Self::call).
    #[inline]
    pub fn call_bytes(
        self: &Arc<Self>,
        method: u32,
        timeout: Option<Duration>,
        payload: &[u8],
    ) -> Result<PendingCall, CallError> {
        // The deadline is handed over in memory, so a call that is not counted makes its own.
        match self.figures.get() {
            None => self.make_of_bytes(method, deadline_of(timeout)?, payload, Begun::default()),
            Some(figures) => self.make_of_bytes_counted(figures, method, timeout, payload),
        }
    }

    /// Makes a call of bytes that is counted.
    #[cold]
    fn make_of_bytes_counted(
        self: &Arc<Self>,
        figures: &CallFigures,
        method: u32,
        timeout: Option<Duration>,
        payload: &[u8],
    ) -> Result<PendingCall, CallError> {
        let deadline = deadline_of(timeout)?;
        let left = deadline.map(|(_, after)| after);
        let payload_at = self.request(CallId(0), method, left, None).encoded_len();
        let is_inline = payload_at + payload.len() <= self.room();
        let begun = figures.begin(method);
        let call = self.make_of_bytes(method, deadline, payload, begun)?;
        figures.count_sent(payload.len(), is_inline);
        Ok(call)
    }

    #[inline(always)]
    fn make_of_bytes(
        self: &Arc<Self>,
        method: u32,
        deadline: Option<(Instant, Duration)>,
        payload: &[u8],
        begun: Begun,
    ) -> Result<PendingCall, CallError> {
        let left = deadline.map(|(_, after)| after);
        let mut header = self.request(CallId(0), method, left, None);
        let payload_at = header.encoded_len();
        if payload_at + payload.len() <= self.room() {
            // Slots grow only, so the one that is claimed has that room.
            let mut core = self.lock();
            let is_small = payload.len() <= SMALL;
            if let Some((id, mut send)) = core.claim(self, is_small) {
                header.request_id = id.0;
                header.payload_len = payload.len() as u32;
                let message = self.sends.bytes_mut(&mut send);
                message[payload_at..payload_at + payload.len()].copy_from_slice(payload);
                let slot = send.slot();
                core.post(self, &header, send);
                // From here on the call ends when this is dropped.
                let call = PendingCall::new(self, id, Some(slot), deadline, begun);
                return call.unless_failed(self.conclude_post(core));
            }
        }
        self.make(method, deadline, None, begun, |room| {
            let limit = room.len();
            let size = payload.len();
            let room = room.get_mut(..size);
            room.ok_or(EncodeError::TooLarge { size, limit })?
                .copy_from_slice(payload);
            Ok(size)
        })
    }

    /// Opens a stream now, for a span of a trace if one is given; the call returns its first item.
    /// Native peers only.
    ///
    /// # Errors
    /// The errors of [`call`](Self::call).
    pub fn open_stream(
        self: &Arc<Self>,
        method: u32,
        timeout: Option<Duration>,
        trace: Option<Traceparent>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(PendingCall, StreamName), CallError> {
        let deadline = deadline_of(timeout)?;
        let attached = self.attach(Some(StreamPart::Open), trace);
        let call = self.begin(method, deadline, attached.as_ref(), encode)?;
        let stream = StreamName(call.id.0);
        Ok((call, stream))
    }

    /// Requests the next item of a stream.
    ///
    /// # Errors
    /// The errors of [`call`](Self::call).
    pub fn next_item(
        self: &Arc<Self>,
        stream: StreamName,
        timeout: Option<Duration>,
    ) -> Result<PendingCall, CallError> {
        let attached = self.attach(Some(StreamPart::Next(stream.0)), None);
        let deadline = deadline_of(timeout)?;
        let begun = match self.figures.get() {
            None => Begun::default(),
            Some(_) => Begun::PART,
        };
        self.make(0, deadline, attached.as_ref(), begun, |_| Ok(0))
    }

    /// Tells the peer that no more items of a stream are wanted. If the channel is closed, the peer
    /// knows.
    pub fn end_stream(self: &Arc<Self>, stream: StreamName) {
        let attached = self.attach(Some(StreamPart::End(stream.0)), None);
        let told = self
            .make(0, None, attached.as_ref(), Begun::default(), |_| Ok(0))
            .and_then(|call| self.told(call, 0));
        drop(told.map(OneWayCall::detach));
    }

    /// Makes a call, and counts it if calls are counted.
    #[inline]
    fn begin(
        self: &Arc<Self>,
        method: u32,
        deadline: Option<(Instant, Duration)>,
        attached: Option<&Attached>,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<PendingCall, CallError> {
        match self.figures.get() {
            None => self.make(method, deadline, attached, Begun::default(), encode),
            Some(figures) => self.make_counted(figures, method, deadline, attached, &mut encode),
        }
    }

    /// Makes a call that is counted.
    #[cold]
    fn make_counted(
        self: &Arc<Self>,
        figures: &CallFigures,
        method: u32,
        deadline: Option<(Instant, Duration)>,
        attached: Option<&Attached>,
        encode: &mut dyn FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<PendingCall, CallError> {
        let (mut sent, mut is_inline) = (0, true);
        let begun = figures.begin(method);
        let call = self.make(method, deadline, attached, begun, |room: &mut [u8]| {
            let encoded = encode(room);
            match encoded {
                Ok(len) => sent = len,
                // It is called again, with memory that the peer reads from.
                Err(_) => is_inline = false,
            }
            encoded
        })?;
        figures.count_sent(sent, is_inline);
        Ok(call)
    }

    fn make(
        self: &Arc<Self>,
        method: u32,
        deadline: Option<(Instant, Duration)>,
        attached: Option<&Attached>,
        begun: Begun,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<PendingCall, CallError> {
        let mut core = self.lock();
        // How long it will be is not known.
        let Some((id, send)) = core.claim(self, false) else {
            let waiting = core.caller.wait(deadline.map(|(at, _)| at));
            drop(core);
            let Some(id) = waiting else {
                self.forget(begun);
                return Err(self.unsent());
            };
            let call = PendingCall::new(self, id, None, deadline, begun);
            let lined_up = self.line_up(id, method, attached, encode);
            return call.unless_failed(lined_up);
        };
        drop(core);
        // From here on the call ends when `call` is dropped, even if `encode` fails or panics.
        let call = PendingCall::new(self, id, Some(send.slot()), deadline, begun);
        // The whole time is left: it was allowed just now.
        let left = deadline.map(|(_, after)| after);
        let header = self.request(id, method, left, attached);
        let sent = self.send_from_slot(send, header, encode);
        call.unless_failed(sent)
    }

    /// What to attach to a request. A DLSlime peer knows nothing of it, and slots of the smallest
    /// size have no room for a trace beside everything else.
    fn attach(&self, stream: Option<StreamPart>, trace: Option<Traceparent>) -> Option<Attached> {
        let is_native = self.profile == Profile::Native;
        let room = self.shape.first.max_payload();
        let trace = trace.filter(|_| room >= Extension::LARGEST);
        is_native.then_some(Attached { stream, trace })
    }

    /// Makes a call whose result nobody waits for, for a span of a trace if one is given. A failure
    /// goes to the [listener](Self::listen).
    ///
    /// # Errors
    /// The errors of [`call`](Self::call).
    pub fn tell(
        self: &Arc<Self>,
        method: u32,
        timeout: Option<Duration>,
        trace: Option<Traceparent>,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<OneWayCall, CallError> {
        let call = match trace {
            None => self.call(method, timeout, encode),
            Some(trace) => self.call_traced(method, timeout, trace, &mut encode),
        }?;
        self.told(call, method)
    }

    /// Turns `call` into one that nobody waits for.
    fn told(self: &Arc<Self>, mut call: PendingCall, method: u32) -> Result<OneWayCall, CallError> {
        let mut core = self.lock();
        let told = core.caller.make_one_way(call.id, call.slot, method);
        if let Ok(Some(slot)) = told {
            core.complete_one_way(self, slot, method);
        }
        call.done = told.is_err();
        self.wake(core);
        call.count(match &told {
            Ok(_) => Outcome::Told,
            Err(_) => Outcome::Lost,
        });
        told?;
        // A watcher has to receive the answer, because nobody waits for it.
        CompletionWatcher::ensure_fallback(self);
        Ok(OneWayCall::new(call))
    }

    /// Counts calls in `figures` from now on. Only the first figures are used.
    pub fn count_in(&self, figures: Arc<CallFigures>) {
        let _ = self.figures.set(figures);
    }

    /// Counts the end of a call that was counted.
    #[cold]
    pub(super) fn count_end(&self, call: Begun, outcome: Outcome) {
        if let (true, Some(figures)) = (call.is_counted(), self.figures.get()) {
            figures.end(call, outcome);
        }
    }

    /// Counts a breach of the protocol, if calls are counted.
    #[cold]
    pub(super) fn count_violation(&self, violation: Violation) {
        if let Some(figures) = self.figures.get() {
            figures.count_violation(violation);
        }
    }

    /// Counts a payload that was read from the peer, if calls are counted.
    #[cold]
    pub(super) fn count_read(&self, len: usize) {
        if let Some(figures) = self.figures.get() {
            figures.count_received(len, false);
        }
    }

    /// Tells the figures how often the channel was polled since they were told last, if calls are
    /// counted.
    pub fn count_polls(&self) {
        if let Some(figures) = self.figures.get() {
            figures.count_polls(std::mem::take(&mut self.lock().polls));
        }
    }

    /// Counts that a waiter goes to sleep, if calls are counted.
    pub(super) fn count_sleep(&self) {
        if let Some(figures) = self.figures.get() {
            figures.count_sleep();
        }
    }

    /// Takes back that a call has begun, if that was counted.
    #[cold]
    pub(super) fn forget(&self, call: Begun) {
        if let (true, Some(figures)) = (call.is_counted(), self.figures.get()) {
            figures.forget(call);
        }
    }

    /// Calls `listener` for every one-way call that fails. Only the first listener is used.
    pub fn listen(&self, listener: impl Fn(TellFailure) + Send + Sync + 'static) {
        let _ = self.listener.set(Listener(Box::new(listener)));
    }

    fn send_from_slot(
        &self,
        send: SlotToken,
        mut header: Header,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(), CallError> {
        let mut claimed = Claimed {
            channel: self,
            id: CallId(header.request_id),
            send: Some(send),
        };
        match encode(&mut claimed.message()[header.encoded_len()..]) {
            Ok(len) => header.payload_len = len as u32,
            Err(error) => return self.send_outside(claimed, header, error, encode),
        }
        let mut core = self.lock();
        if let Some(send) = claimed.send.take() {
            // Meanwhile the channel may have been closed.
            if core.caller.is_claimed(claimed.id, send.slot()) && core.queue_pairs.has_room() {
                core.post(self, &header, send);
            } else {
                core.caller.abandon(claimed.id, send);
            }
        }
        self.conclude_post(core)
    }

    /// Sends a request whose arguments do not fit its slot, as `error` says.
    #[cold]
    fn send_outside(
        &self,
        mut claimed: Claimed<'_>,
        mut header: Header,
        error: EncodeError,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(), CallError> {
        let block = self.encode_outside(error, encode)?;
        header.set_outside(block.outside());
        let len = block.len();
        let mut core = self.lock();
        if let Some(send) = claimed.send.take() {
            // Meanwhile the channel may have been closed.
            if core.caller.is_claimed(claimed.id, send.slot()) && core.queue_pairs.has_room() {
                core.caller.export(claimed.id, send.slot(), block);
                core.post(self, &header, send);
            } else {
                core.caller.abandon(claimed.id, send);
            }
        }
        self.conclude_post(core)?;
        self.grow_for(len);
        Ok(())
    }

    /// Has the rings grow for a message of this size that did not fit, if it then would.
    #[cold]
    fn grow_for(&self, size: usize) {
        if self.shape.fits_grown(size) {
            self.grow();
        }
    }

    /// Has the rings grow, unless they have.
    #[cold]
    fn grow(&self) {
        let Some(memory) = &self.memory else {
            return; // Only towards a native peer.
        };
        let mut core = self.lock();
        if core.caller.closed().is_some() || !core.growth.begin() {
            return;
        }
        drop(core);
        let are_there = growth::register(&**memory.device(), &self.sends, &self.replies);
        let mut core = self.lock();
        core.growth.registered(are_there);
        core.tell_growth(self);
        self.wake(core);
    }

    /// Memory for a request that has waited, and fits what was agreed on but not its slot; `None`
    /// if the device refuses.
    #[cold]
    fn take_for_slot(&self, len: usize) -> Option<PooledBuffer> {
        let memory = self.memory.as_ref()?;
        let taken = memory.take_for_slot(len);
        let refused = |error: &MemoryError| tracing::warn!(%error, "a request is given up");
        taken.inspect_err(refused).ok()
    }

    /// Size of the slots that requests are made in now. They only grow.
    #[inline]
    fn room(&self) -> usize {
        self.room.load(Ordering::Relaxed)
    }

    /// Releases the lock, after a request was posted. Whatever closed the channel meanwhile has
    /// effects.
    #[inline]
    fn conclude_post(&self, core: SpinGuard<'_, ClientState>) -> Result<(), CallError> {
        if !core.caller.has_effects() {
            return Ok(());
        }
        let is_closed = core.caller.closed().is_some();
        self.wake_slow(core);
        match is_closed {
            true => Err(self.unsent()),
            false => Ok(()),
        }
    }

    /// Encodes arguments that do not fit a slot, as `error` says, into memory that the peer can
    /// read.
    fn encode_outside(
        &self,
        error: EncodeError,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<PooledBuffer, CallError> {
        let (EncodeError::TooLarge { size, .. }, Some(memory)) = (&error, &self.memory) else {
            return Err(error.into());
        };
        let block = self.shape.take(memory, *size);
        let mut block = block.map_err(|error| no_memory(*size, &error, false))?;
        let len = encode(&mut block)?;
        block.truncate(len);
        Ok(block)
    }

    /// The header of a request that may take this long from now, and whose payload is not known
    /// yet.
    #[inline]
    fn request(
        &self,
        id: CallId,
        method: u32,
        left: Option<Duration>,
        attached: Option<&Attached>,
    ) -> Header {
        let left = left.filter(|_| self.profile == Profile::Native);
        let extension = match (left, attached) {
            (None, None) => None,
            _ => Some(Extension {
                deadline_us: left.map(|left| u64::try_from(left.as_micros()).unwrap_or(u64::MAX)),
                outside: None,
                stream: attached.and_then(|attached| attached.stream),
                trace: attached.and_then(|attached| attached.trace),
            }),
        };
        Header {
            kind: MessageKind::Request,
            method,
            request_id: id.0,
            payload_len: 0,
            extension,
        }
    }

    #[cold]
    fn line_up(
        &self,
        id: CallId,
        method: u32,
        attached: Option<&Attached>,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(), CallError> {
        let in_front = self.request(id, method, None, attached).encoded_len();
        let mut payload = vec![0; self.geometry.slot_size() - in_front];
        let payload = match encode(&mut payload) {
            Ok(len) => {
                if in_front + len > self.room() {
                    self.grow_for(len);
                }
                payload.truncate(len);
                payload.shrink_to_fit();
                PreparedPayload::Here(payload)
            }
            Err(error) => PreparedPayload::Pooled(self.encode_outside(error, encode)?),
        };
        let request = Prepared {
            method,
            attached: attached.copied(),
            payload,
        };
        let mut core = self.lock();
        core.caller.line_up(id, request);
        self.wake(core);
        Ok(())
    }

    /// The error for a closed channel: nothing was sent.
    #[cold]
    fn unsent(&self) -> CallError {
        CallError::Closed {
            cause: self.lock().caller.loss(),
            sent: false,
        }
    }

    /// Closes the channel; every unanswered call ends with `cause` (CALL-1). Answers that have
    /// arrived count, even if nobody has polled for them.
    pub fn close(&self, cause: LossCause) {
        let mut core = self.lock();
        // Its failure does not matter any more.
        let _ = core.collect(self);
        core.close(cause);
        self.wake(core);
    }

    /// The number of calls that were made, if the channel is open and nothing is under way; two
    /// equal answers say that it had nothing to do in between.
    pub fn calls_if_idle(&self) -> Option<u64> {
        self.progress();
        self.lock().caller.calls_if_idle()
    }

    /// Closes channels that belong together, if each has still made this many calls and [is
    /// idle](Self::calls_if_idle): none of them, or all at once. Calls that come later find them
    /// closed, so none is lost.
    pub fn rest(channels: &[(&Self, u64)]) -> bool {
        let cores: Vec<_> = channels.iter().map(|(channel, _)| channel.lock()).collect();
        let mut both = cores.iter().zip(channels);
        if !both.all(|(core, (_, calls))| core.caller.calls_if_idle() == Some(*calls)) {
            return false;
        }
        for (mut core, (channel, _)) in cores.into_iter().zip(channels) {
            core.close(LossCause::Resting);
            channel.wake(core);
        }
        true
    }

    /// Returns whether the peer has been met, where that can be told: nothing is lost by calls
    /// before, but their errors do not say why the peer was not met.
    ///
    /// # Errors
    /// Why this side or the peer refuses the other.
    pub fn has_met_peer(&self) -> Result<bool, FabricError> {
        self.lock().has_met_peer()
    }

    /// Why the channel is closed; `None` while it is open.
    pub fn closed(&self) -> Option<LossCause> {
        self.lock().caller.closed().cloned()
    }

    /// Notified once when the channel is closed or dropped. For one waiter, which need not keep the
    /// channel.
    pub fn closing(&self) -> Arc<Notify> {
        self.closing.clone()
    }

    /// Makes sure that a later poll notices if the peer has given up its end of the channel. A
    /// request that arrives as it does so is never answered, and not every device tells this side.
    /// Without unanswered calls, this does nothing for a native peer: its heartbeats tell whether
    /// it lives.
    pub fn probe(&self) {
        let mut core = self.lock();
        if self.profile == Profile::Native && core.caller.is_idle() {
            return;
        }
        let to = core.remote.first().slot(0);
        if let Err(error) = core.queue_pairs.probe(to) {
            core.close(LossCause::Fabric(error.to_string()));
        }
        core.progress(self);
        self.wake(core);
    }

    /// The account of slots, after everything that has arrived was handled.
    pub fn credits(&self) -> Credits {
        self.progress();
        self.lock().caller.credits()
    }

    /// The numbers of free slots, of others, and of calls that wait for one, as they were when the
    /// channel was polled last. One that is closed has none.
    pub fn occupancy(&self) -> (usize, usize, usize) {
        self.lock().caller.occupancy()
    }

    /// Counts of the peer's protocol violations.
    pub fn violations(&self) -> Violations {
        self.lock().violations
    }

    /// Number of answers that came after their call had ended.
    pub fn late_answers(&self) -> u64 {
        self.lock().caller.late()
    }

    /// Returns whether nothing has arrived that was not handled, by a check that is cheaper than
    /// [polling](PendingCall::poll). For busy pollers, which must still poll at intervals: another
    /// poller may have received their answer.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        // The holder of the lock polls, too.
        let core = self.core.try_lock();
        core.is_none_or(|mut core| {
            core.polls += 1;
            core.queue
                .as_ref()
                .is_none_or(|(_, poller)| poller.is_quiet())
        })
    }

    /// How long a waiter polls before it sleeps.
    pub fn busy_poll(&self) -> Duration {
        self.waiting.busy_poll
    }

    /// The runtime for callers that are not in one.
    pub fn runtime(&self) -> &Handle {
        &self.waiting.runtime
    }

    /// Alias of the peer.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The protocol of the peer.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The kind of link that the channel runs over; unknown towards DLSlime peers.
    pub fn link(&self) -> Option<LinkType> {
        let memory = self.memory.as_ref()?;
        Some(memory.device().port().link_type)
    }

    /// The shape of this side's rings.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Takes the payload of the answer in `slot`, if it did not travel through the ring.
    pub(super) fn take_read(&self, slot: u16) -> Result<Option<PooledBuffer>, CallError> {
        self.lock().caller.take_read(slot)
    }

    /// Returns the credit of a call whose answer has been read.
    #[inline]
    pub(super) fn finish(&self, id: CallId, replied: SlotToken) {
        let mut core = self.lock();
        core.caller.finish(id, replied);
        self.wake(core);
    }

    #[inline]
    pub(super) fn lock(&self) -> SpinGuard<'_, ClientState> {
        // No code of a user runs under this lock, so a panic cannot leave the state half changed.
        self.core.lock()
    }

    /// Sends what can be sent now, releases the lock, allocates memory for answers that need some,
    /// and wakes the waiters of calls that have ended.
    #[inline]
    pub(super) fn wake<'a>(&'a self, core: SpinGuard<'a, ClientState>) {
        if core.caller.has_effects() {
            self.wake_slow(core);
        }
    }

    #[cold]
    fn wake_slow<'a>(&'a self, mut core: SpinGuard<'a, ClientState>) {
        core.grant(self);
        let mut effects = core.caller.take_effects();
        let is_closed = core.caller.closed().is_some();
        if let Some((sends, replies)) = &mut effects.memory
            && let Some([send, reply]) = core.growth.take_tokens()
        {
            sends.push(send);
            replies.push(reply);
        }
        let is_to_grow = core.has_to_grow();
        drop(core);
        if !effects.pending_reads.is_empty() {
            let sizes = effects.pending_reads.iter();
            let sizes = sizes.map(|(_, outside)| usize::try_from(outside.len));
            sizes.flatten().for_each(|size| self.grow_for(size));
            self.wake(self.take_pending_reads(effects.pending_reads));
        }
        if is_to_grow {
            self.grow();
        }
        if let Some((sends, replies)) = effects.memory {
            self.sends.release(sends);
            self.replies.release(replies);
        }
        if is_closed {
            self.watcher.end();
        }
        wake_all(effects.wakers);
        if let Some(Listener(listener)) = self.listener.get() {
            effects.failures.into_iter().for_each(listener);
        }
    }

    /// Begins to read payloads of answers that lie at the peer.
    fn take_pending_reads(
        &self,
        pending_reads: Vec<(u16, RendezvousDescriptor)>,
    ) -> SpinGuard<'_, ClientState> {
        let blocks = pending_reads.iter().map(|(_, outside)| {
            let size = usize::try_from(outside.len).unwrap_or(usize::MAX);
            let memory = self.memory.as_ref();
            let block = memory.map(|memory| self.shape.take(memory, size));
            block.map(|block| block.map_err(|error| no_memory(size, &error, true)))
        });
        let blocks: Vec<_> = blocks.collect();
        let mut core = self.lock();
        for ((slot, outside), block) in pending_reads.into_iter().zip(blocks) {
            match block {
                Some(Ok(block)) => core.read(slot, outside, block),
                Some(Err(error)) => core.complete_read(self, slot, Err(error)),
                None => {}
            }
        }
        core
    }
}

/// The send memory of a call whose request is being written. Dropping it gives up the call.
struct Claimed<'a> {
    channel: &'a ClientChannel,
    id: CallId,
    send: Option<SlotToken>,
}

impl Claimed<'_> {
    #[inline]
    fn message(&mut self) -> &mut [u8] {
        let send = self.send.as_mut();
        send.map_or(&mut [], |send| self.channel.sends.bytes_mut(send))
    }
}

impl Drop for Claimed<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(send) = self.send.take() {
            self.channel.lock().caller.abandon(self.id, send);
        }
    }
}

impl Drop for ClientChannel {
    fn drop(&mut self) {
        self.count_polls();
        self.closing.notify_one();
    }
}

impl WatchedQueue for ClientChannel {
    fn watcher(&self) -> &CompletionWatcher {
        &self.watcher
    }

    fn runtime(&self) -> &Handle {
        &self.waiting.runtime
    }

    fn queue(&self) -> Option<Arc<dyn CompletionQueue>> {
        self.lock().queue.as_ref().map(|(cq, _)| cq.clone())
    }

    fn progress(&self) -> bool {
        let mut core = self.lock();
        let progressed = core.progress(self);
        self.wake(core);
        progressed
    }

    fn arm(&self) -> bool {
        let mut core = self.lock();
        if let Some((cq, _)) = &core.queue
            && let Err(error) = cq.arm()
        {
            core.close(LossCause::Fabric(error.to_string()));
        }
        let progressed = core.progress(self);
        self.wake(core);
        progressed
    }

    /// Returns whether the payload of an answer is being read.
    fn is_moving(&self) -> bool {
        self.lock()
            .bulk
            .as_ref()
            .is_some_and(|bulk| !bulk.is_idle())
    }

    fn has_sleepers(&self) -> bool {
        self.lock().caller.has_sleepers()
    }

    fn abandon(&self, cause: LossCause) {
        self.close(cause);
    }
}

/// The error of a call for whose payload there is no memory.
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

impl From<EncodeError> for CallError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::TooLarge { size, limit } => Self::TooLarge { size, limit },
            EncodeError::Value(reason) => Self::Encode(reason),
        }
    }
}
