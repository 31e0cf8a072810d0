//! What the lock of a [`ClientChannel`] guards: the shell of the calling state machine, which takes
//! completions in and posts what the machine says.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::Notify;

use super::{ClientChannel, TellError, TellFailure};
use crate::channel::bulk::Bulk;
use crate::channel::core::caller::{CallId, Caller, Granted, PreparedPayload, Received};
use crate::channel::core::slot::ReplyMeta;
use crate::channel::growth::Growth;
use crate::channel::lend::{RemoteRings, SlotToken};
use crate::channel::queue_pair_group::{QueuePairGroup, WriteRequest};
use crate::channel::work_id::WorkId;
use crate::channel::{CallError, LossCause, PooledBuffer, Profile, Violation, Violations};
use crate::fabric::{Completion, FabricError, QueueHalves, RemoteSlice};
use crate::wire::{
    Fault, FixedHeader, Header, Immediate, MessageKind, RendezvousDescriptor, Signal,
};

pub(in crate::channel) const BATCH: usize = 16;
/// The key for an empty message.
const NO_KEY: u32 = 0;

/// The state behind the lock: the state machine, and the queue pairs that post for it.
#[derive(Debug)]
pub(in crate::channel) struct ClientState {
    // The queue pairs are dropped, and so drained, before the memory that `caller` holds (DROP-1).
    pub(in crate::channel) queue_pairs: QueuePairGroup,
    /// Both halves of the queue; `None` once the channel is closed.
    pub(in crate::channel) queue: Option<QueueHalves>,
    /// Reads payloads beyond a slot; with a native peer only.
    pub(in crate::channel) bulk: Option<Bulk>,
    pub(in crate::channel) caller: Caller,
    pub(in crate::channel) remote: RemoteRings,
    pub(in crate::channel) growth: Growth,
    /// Whether requests are made in large slots.
    pub(in crate::channel) uses_large: bool,
    pub(in crate::channel) violations: Violations,
    /// How often arrivals were looked for since the figures were told.
    pub(in crate::channel) polls: u64,
    pub(in crate::channel) closing: Arc<Notify>,
    /// Completions are polled into this.
    pub(in crate::channel) batch: Box<[Completion; BATCH]>,
}

impl ClientState {
    pub(in crate::channel) fn progress(&mut self, channel: &ClientChannel) -> bool {
        let collected = self.collect(channel);
        collected.unwrap_or_else(|cause| {
            self.close(cause);
            true
        })
    }

    /// Whether the peer has been met, where that can be told.
    pub(super) fn has_met_peer(&self) -> Result<bool, FabricError> {
        let has_met = self.queue_pairs.have_met_peer()?;
        Ok(has_met && self.bulk.as_ref().map_or(Ok(true), Bulk::has_met_peer)?)
    }

    /// Handles what has arrived. Returns whether anything had, or why the channel is lost; arrivals
    /// before the loss are handled as well. Nothing arrives once the channel is closed.
    #[inline(always)]
    pub(super) fn collect(&mut self, channel: &ClientChannel) -> Result<bool, LossCause> {
        let mut lost = None;
        let mut batches = 0;
        while let Some((_, poller)) = &mut self.queue {
            self.polls += 1;
            let count = poller.poll(&mut *self.batch);
            let count = count.map_err(|error| LossCause::Fabric(error.to_string()))?;
            for at in 0..count {
                let completion = self.batch[at];
                if let Err(cause) = self.complete(channel, &completion) {
                    lost.get_or_insert(cause);
                }
            }
            if let Err(error) = self.queue_pairs.post_receives() {
                lost.get_or_insert(LossCause::Fabric(error.to_string()));
            }
            if count < BATCH {
                return lost.map_or(Ok(batches + count > 0), Err);
            }
            batches += 1;
            // Nothing is sent meanwhile, so a correct peer's messages come to an end.
            if batches > self.queue_pairs.entries() {
                return Err(lost.unwrap_or(LossCause::Flood));
            }
        }
        // Closed, maybe meanwhile.
        lost.map_or(Ok(batches > 0), Err)
    }

    pub(in crate::channel) fn complete(
        &mut self,
        channel: &ClientChannel,
        completion: &Completion,
    ) -> Result<(), LossCause> {
        match self.queue_pairs.receive_alone(completion) {
            Some(imm) => {
                self.receive(channel, channel.profile.immediate(imm));
                Ok(())
            }
            None => self.complete_rare(channel, completion),
        }
    }

    #[cold]
    fn complete_rare(
        &mut self,
        channel: &ClientChannel,
        completion: &Completion,
    ) -> Result<(), LossCause> {
        let id = WorkId::from_bits(completion.wr_id);
        // The completion is from before a reset.
        if !self.queue_pairs.owns(id) {
            return Ok(());
        }
        if !completion.status.is_success() {
            return Err(completion.status.into());
        }
        if id.queue_pair == WorkId::BULK
            && let Some(bulk) = &mut self.bulk
        {
            let complete = bulk.complete();
            let complete = complete.map_err(|error| LossCause::Fabric(error.to_string()))?;
            if let Some((slot, block)) = complete {
                self.complete_read(channel, slot as u16, Ok(block));
            }
            return Ok(());
        }
        if !id.receive {
            self.queue_pairs.retire(id);
            self.caller.make_room();
            self.tell_growth(channel);
        } else if let Some(imm) = self
            .queue_pairs
            .receive(id, completion.imm.unwrap_or_default())
        {
            self.receive(channel, channel.profile.immediate(imm));
        }
        Ok(())
    }

    /// Gives the reply that `imm` announces to the state machine.
    #[inline]
    fn receive_reply(
        &mut self,
        channel: &ClientChannel,
        imm: Immediate,
    ) -> Result<Received, Violation> {
        if imm.signal != Signal::Message {
            return self.receive_signal(channel, imm.signal);
        }
        let slot = channel.replies.bytes(self.caller.replied(imm.slot)?);
        let fixed = channel.profile.decode_fixed(slot);
        let fixed = fixed.map_err(|_| Violation::BadHeader)?;
        if fixed.kind == MessageKind::Request {
            return Err(Violation::WrongKind);
        }
        if fixed.is_extended {
            return self.receive_extended(channel, imm.slot, fixed);
        }
        let (header, payload) = fixed.plain();
        let (reply, outside) = ReplyMeta::of(&header, payload);
        Ok(self
            .caller
            .receive(imm.slot, CallId(header.request_id), reply, outside))
    }

    /// Handles what is no message.
    #[cold]
    fn receive_signal(
        &mut self,
        channel: &ClientChannel,
        signal: Signal,
    ) -> Result<Received, Violation> {
        if signal != Signal::Grown {
            return Err(Violation::WrongKind);
        }
        self.growth
            .learn(channel.shape, &channel.replies, &mut self.remote)?;
        self.use_large(channel);
        // If this side has not grown, it is to do so once the lock is released.
        self.caller.note_effect();
        Ok(Received::Late)
    }

    /// Tells the peer where the new reply ring is, if it is there and was not told.
    pub(super) fn tell_growth(&mut self, channel: &ClientChannel) {
        let rings = (&channel.sends, &channel.replies);
        match self.growth.tell(&mut self.queue_pairs, rings, &self.remote) {
            Ok(true) => self.use_large(channel),
            Ok(false) => {}
            Err(error) => self.close(LossCause::Fabric(error.to_string())),
        }
    }

    /// Has requests made in large slots from now on, if both ends have told each other.
    fn use_large(&mut self, channel: &ClientChannel) {
        if let (true, Some(grown)) = (self.growth.is_told(), self.remote.grown()) {
            self.uses_large = true;
            let room = grown.geometry.slot_size();
            channel.room.store(room, Ordering::Relaxed);
            self.queue_pairs.place_again();
        }
    }

    /// Returns whether the peer has grown and this side has yet to begin.
    pub(super) fn has_to_grow(&self) -> bool {
        let is_open = self.caller.closed().is_none();
        is_open && self.remote.grown().is_some() && self.growth.is_small()
    }

    /// Handles a reply with an extension.
    #[cold]
    fn receive_extended(
        &mut self,
        channel: &ClientChannel,
        slot: u16,
        fixed: FixedHeader,
    ) -> Result<Received, Violation> {
        let read = fixed.complete(channel.replies.bytes(self.caller.replied(slot)?));
        let (header, payload) = read.map_err(|_| Violation::BadHeader)?;
        let (reply, outside) = ReplyMeta::of(&header, payload);
        Ok(self
            .caller
            .receive(slot, CallId(header.request_id), reply, outside))
    }

    #[inline(always)]
    pub(in crate::channel) fn receive(&mut self, channel: &ClientChannel, imm: Immediate) {
        let received = self.receive_reply(channel, imm);
        let received = received.unwrap_or_else(Received::Violation);
        if received != Received::Answer {
            self.received_rare(channel, imm.slot, received);
        }
    }

    #[cold]
    fn received_rare(&mut self, channel: &ClientChannel, slot: u16, received: Received) {
        match received {
            Received::Answer | Received::Offered | Received::Late => {}
            Received::OneWay(method) => self.complete_one_way(channel, slot, method),
            Received::Violation(violation) => {
                self.violations.record(violation, &channel.peer);
                channel.count_violation(violation);
                if violation == Violation::WrongKind && channel.profile == Profile::Compatible {
                    self.refuse(channel, slot);
                }
            }
        }
    }

    /// Begins to read the payload of the answer in `slot`, which lies at the peer.
    pub(super) fn read(&mut self, slot: u16, from: RendezvousDescriptor, block: PooledBuffer) {
        // `None` once the channel is closed.
        let Some(bulk) = &mut self.bulk else {
            return;
        };
        if let Err(cause) = bulk.read(slot, from, block) {
            self.close(cause);
        }
    }

    /// Notes that the payload of the answer in `slot` was read, or cannot be.
    pub(super) fn complete_read(
        &mut self,
        channel: &ClientChannel,
        slot: u16,
        payload: Result<PooledBuffer, CallError>,
    ) {
        if let Ok(block) = &payload {
            channel.count_read(block.len());
        }
        if let Received::OneWay(method) = self.caller.read(slot, payload) {
            self.complete_one_way(channel, slot, method);
        }
    }

    /// Handles the answer to a one-way call, in `slot`.
    pub(super) fn complete_one_way(&mut self, channel: &ClientChannel, slot: u16, method: u32) {
        let outside = match self.caller.take_read(slot) {
            Ok(outside) => outside,
            Err(error) => {
                let cause = TellError::Fault(unread(error));
                return self
                    .caller
                    .complete(slot, Some(TellFailure { method, cause }));
            }
        };
        let fault = self.caller.replied(slot).ok().and_then(|replied| {
            let bytes = channel.replies.bytes(replied);
            let (header, payload) = channel.profile.decode(bytes).ok()?;
            let payload = outside.as_deref().unwrap_or(&bytes[payload]);
            (header.kind == MessageKind::Exception)
                .then(|| channel.profile.decode_fault(payload).ok())?
        });
        let failure = fault.map(|fault| TellFailure {
            method,
            cause: TellError::Fault(fault),
        });
        self.caller.complete(slot, failure);
    }

    /// Refuses a request of a DLSlime peer that calls over the connection on which it is called. It
    /// cannot be served, because the next reply may stand where the next request does; without an
    /// answer it would wait for ever. This answers if no call of this side is in the slot.
    fn refuse(&mut self, channel: &ClientChannel, slot: u16) {
        let request = self.caller.replied(slot).ok();
        let request = request.and_then(|replied| {
            let bytes = channel.replies.bytes(replied);
            channel.profile.decode(bytes).ok()
        });
        let (Some((request, _)), Some(mut send)) = (request, self.caller.take_free_memory(slot))
        else {
            return;
        };
        let lkey = send.lkey();
        let message = channel.sends.bytes_mut(&mut send);
        let fault = Fault::Raised {
            type_name: "RuntimeError".to_owned(),
            message: "you are called over this pair of aliases; call over another alias".to_owned(),
            traceback: String::new(),
        };
        let len = channel
            .profile
            .encode_fault(fault, &mut message[Header::LEN..], 0)
            .unwrap_or_default();
        let header = Header {
            kind: MessageKind::Exception,
            payload_len: len as u32,
            ..request
        };
        let is_request = request.kind == MessageKind::Request && len > 0;
        if is_request && header.encode(message).is_ok() {
            let signal = Signal::Message;
            let message = &message[..Header::LEN + len];
            let to = self.remote.first().slot(slot);
            self.write(Immediate { slot, signal }, message, lkey, to);
        }
        self.caller.posted(CallId(request.request_id), send);
    }

    /// Copies the payload of the answer in `slot`, if it fits `room`, and returns the credit.
    /// Returns whether it did.
    #[inline]
    pub(in crate::channel) fn copy_answer(
        &mut self,
        channel: &ClientChannel,
        slot: u16,
        reply: ReplyMeta,
        room: &mut [u8],
    ) -> bool {
        let (Ok(replied), false) = (self.caller.replied(slot), reply.is_outside) else {
            return false;
        };
        let payload = &channel.replies.bytes(replied)[reply.payload()];
        let Some(room) = room.get_mut(..payload.len()) else {
            return false;
        };
        room.copy_from_slice(payload);
        self.caller.release(slot);
        true
    }

    /// Acknowledges payloads that the peer need not keep any more, and sends waiting requests, as
    /// far as there are credits and places in the send queue.
    pub(super) fn grant(&mut self, channel: &ClientChannel) {
        while self.queue_pairs.has_room()
            && let Some(slot) = self.caller.take_release()
        {
            let signal = Signal::Release;
            self.signal(slot, signal);
        }
        // One doorbell for as many as there are.
        loop {
            let mut written = Vec::new();
            let room = self.queue_pairs.room().min(BATCH);
            while written.len() < room
                && let Some(granted) = self.caller.grant()
            {
                written.extend(self.write_granted(channel, granted));
            }
            if written.is_empty() {
                return;
            }
            let remote = &self.remote;
            let messages = written.iter().map(|(_, send, len)| WriteRequest {
                imm: message_in(send).to_bits(),
                bytes: &channel.sends.bytes(send)[..*len],
                lkey: send.lkey(),
                to: remote.to(send),
            });
            if let Err(error) = self.queue_pairs.write_all(messages) {
                self.close(LossCause::Fabric(error.to_string()));
            }
            for (id, send, _) in written {
                self.caller.posted(id, send);
            }
        }
    }

    /// Writes a request that has waited into its slot. Returns its length.
    fn write_granted(
        &mut self,
        channel: &ClientChannel,
        granted: Granted,
    ) -> Option<(CallId, SlotToken, usize)> {
        let Granted {
            id,
            mut send,
            deadline,
            request,
        } = granted;
        self.renew(channel, &mut send);
        let slot = send.slot();
        let message = channel.sends.bytes_mut(&mut send);
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let mut header = channel.request(id, request.method, left, request.attached.as_ref());
        match request.payload {
            PreparedPayload::Here(payload) => {
                if header.encoded_len() + payload.len() > channel.geometry.slot_size() {
                    // A deadline that was set later does not fit beside the arguments.
                    header.drop_deadline();
                }
                let at = header.encoded_len();
                match message.get_mut(at..at + payload.len()) {
                    Some(room) => {
                        header.payload_len = payload.len() as u32;
                        room.copy_from_slice(&payload);
                    }
                    // The rings have yet to grow, or cannot.
                    None => {
                        let Some(mut block) = channel.take_for_slot(payload.len()) else {
                            self.caller.abandon(id, send);
                            return None;
                        };
                        block.copy_from_slice(&payload);
                        header.set_outside(block.outside());
                        self.caller.export(id, slot, block);
                    }
                }
            }
            PreparedPayload::Pooled(block) => {
                header.set_outside(block.outside());
                self.caller.export(id, slot, block);
            }
        }
        let Ok(payload_at) = header.encode(message) else {
            self.caller.abandon(id, send);
            return None;
        };
        Some((id, send, payload_at + header.payload_len as usize))
    }

    /// Posts the request whose payload stands in `send` behind the place of its `header`, or is
    /// [exported](Caller::export). There must be room for it.
    #[inline(always)]
    pub(super) fn post(&mut self, channel: &ClientChannel, header: &Header, mut send: SlotToken) {
        let (id, imm, lkey) = (CallId(header.request_id), message_in(&send), send.lkey());
        let to = self.remote.to(&send);
        let message = channel.sends.bytes_mut(&mut send);
        let Ok(payload_at) = header.encode(message) else {
            return self.caller.abandon(id, send);
        };
        let total = payload_at + header.payload_len as usize;
        self.write(imm, &message[..total], lkey, to);
        self.caller.posted(id, send);
    }

    /// Opens a call whose request can be sent now, in the slot of this memory.
    #[inline(always)]
    pub(super) fn claim(
        &mut self,
        channel: &ClientChannel,
        is_small: bool,
    ) -> Option<(CallId, SlotToken)> {
        if !self.queue_pairs.has_room() {
            return None;
        }
        let (id, mut send) = self.caller.claim(is_small)?;
        self.renew(channel, &mut send);
        Some((id, send))
    }

    /// Prepares the memory of `send` for a new message.
    #[inline]
    pub(super) fn renew(&mut self, channel: &ClientChannel, send: &mut SlotToken) {
        if self.uses_large && !send.is_large() {
            self.enlarge(channel, send);
        }
        self.queue_pairs.renew(&channel.sends, send, &self.remote);
    }

    /// Moves the slot of `send`, which was claimed just now, to the large one of its number.
    #[cold]
    fn enlarge(&mut self, channel: &ClientChannel, send: &mut SlotToken) {
        let replied = self.caller.free_reply(send.slot());
        if replied.is_some_and(|replied| channel.replies.enlarge(replied)) {
            channel.sends.enlarge(send);
        }
    }

    /// Sends `bytes`, which stand in registered memory with this key, to this place at the peer.
    #[inline]
    fn write(&mut self, imm: Immediate, bytes: &[u8], lkey: u32, to: RemoteSlice) {
        let sent = self.queue_pairs.write(&WriteRequest {
            imm: imm.to_bits(),
            bytes,
            lkey,
            to,
        });
        if let Err(error) = sent {
            self.close(LossCause::Fabric(error.to_string()));
        }
    }

    /// Tells the peer that nobody waits for the answer in `slot` any more.
    pub(in crate::channel) fn cancel(&mut self, channel: &ClientChannel, slot: u16) {
        if channel.profile == Profile::Native {
            self.signal(slot, Signal::Cancel);
        }
    }

    /// Sends a signal without a message.
    #[inline]
    fn signal(&mut self, slot: u16, signal: Signal) {
        let to = self.remote.first().slot(slot);
        self.write(Immediate { slot, signal }, &[], NO_KEY, to);
    }

    #[cold]
    pub(super) fn close(&mut self, cause: LossCause) {
        if self.caller.closed().is_some() {
            return;
        }
        tracing::debug!(%cause, "channel closed");
        self.closing.notify_one();
        // The channel may be kept for long after its end, so free everything now that nobody reads
        // or writes: draining returns the memory of reads in progress, and lets go of requests and
        // rings (DROP-1).
        self.queue_pairs.end();
        self.bulk = None;
        self.queue = None;
        self.caller.close(cause);
    }
}

/// Why the failure of a call that nobody waits for could not be read.
fn unread(error: CallError) -> Fault {
    let (size, reason) = match error {
        CallError::NoMemory { size, reason, .. } => (size, reason),
        other => (0, other.to_string()),
    };
    Fault::NoMemory {
        size: size as u64,
        reason,
        is_reply: true,
    }
}

/// Announces the message in the slot of `send`.
#[inline]
fn message_in(send: &SlotToken) -> Immediate {
    Immediate {
        slot: send.slot(),
        signal: match send.is_large() {
            false => Signal::Message,
            true => Signal::Large,
        },
    }
}
