//! How the slots of a channel become larger.
//!
//! A channel whose ends both know how begins with [small](crate::channel::Geometry::first) slots,
//! as many as it may have calls in flight. What does not fit travels outside of them, as payloads
//! do that fit no slot. The first such message for which a full slot would do makes the caller ask
//! for full ones:
//!
//! 1. It registers larger rings, and tells the service where it wants answers, in a request of its
//!    own ([`Signal::Grow`]). Calls go on meanwhile.
//! 2. The service registers larger rings, and answers where it wants requests; or that it cannot.
//!    Then both go on with what they have, and the caller asks again only after many more such
//!    messages.
//! 3. From then on the next call in each slot uses the larger place, and says so
//!    ([`Signal::Grown`]). Whoever has a slot's credit is alone with the slot at both ends
//!    (SLOT-1), so nothing of the smaller place is in use then (RING-1), and slots change one by
//!    one, however busy the others are.
//!
//! The smaller rings stay: slots that no call has used since still need them.

use crate::channel::client::ClientState;
use crate::channel::lend::{LargerRings, SlotToken};
use crate::channel::{ClientChannel, RingAddress, Violation};
use crate::wire::{Header, MessageKind, Signal};

/// Messages that do not fit after the first refusal before the peer is asked again; twice as many
/// after each further one.
const PATIENCE: u32 = 16;
const MOST_DOUBLINGS: u32 = 10;

/// How far the growth of a channel's slots is.
#[derive(Debug)]
pub(in crate::channel) enum Growth {
    /// They are small. So many messages that do not fit are still no reason to ask for larger ones.
    Small { patience: u32, refusals: u32 },
    /// A thread registers larger rings.
    Registering,
    /// The peer is to be asked as soon as there is a credit.
    Ready(LargerSlots),
    /// The peer has been asked.
    Asked(LargerSlots),
    /// They are as large as they will be.
    Done,
}

/// The larger slots of this side, before they are agreed on.
#[derive(Debug)]
pub(in crate::channel) struct LargerSlots {
    replies: Vec<SlotToken>,
    sends: Vec<SlotToken>,
    /// Where the peer shall write answers.
    address: RingAddress,
    refusals: u32,
}

impl Default for Growth {
    /// They are small, and the first message that does not fit is a reason to ask for larger ones.
    fn default() -> Self {
        Self::Small {
            patience: 0,
            refusals: 0,
        }
    }
}

impl Growth {
    fn refused(refusals: u32) -> Self {
        Self::Small {
            patience: PATIENCE << refusals.min(MOST_DOUBLINGS),
            refusals: refusals.saturating_add(1),
        }
    }

    /// On a closed channel: gives back the tokens that it has.
    pub(super) fn give_back(&mut self, sends: &mut Vec<SlotToken>, replies: &mut Vec<SlotToken>) {
        if let Self::Ready(larger) | Self::Asked(larger) = std::mem::replace(self, Self::Done) {
            sends.extend(larger.sends);
            replies.extend(larger.replies);
        }
    }
}

impl ClientChannel {
    /// Notes that a payload of so many bytes did not travel through the ring. If it would through a
    /// larger one, the peer is asked for that.
    #[cold]
    pub(super) fn note_outside(&self, size: usize) {
        if size > self.geometry.max_payload() {
            return;
        }
        let mut core = self.lock();
        let refusals = match &mut core.growth {
            Growth::Small {
                patience: 0,
                refusals,
            } => *refusals,
            Growth::Small { patience, .. } => {
                *patience -= 1;
                return;
            }
            Growth::Registering | Growth::Ready(_) | Growth::Asked(_) | Growth::Done => return,
        };
        let Some(memory) = &self.memory else {
            return; // Only with a native peer.
        };
        core.growth = Growth::Registering;
        drop(core);
        let larger = LargerRings::register(&**memory.device(), self.geometry);
        let mut core = self.lock();
        match larger {
            Ok(larger) if core.caller.closed().is_none() => {
                let (address, replies) = self.replies.grow(larger.receive);
                let (_, sends) = self.sends.grow(larger.send);
                core.growth = Growth::Ready(LargerSlots {
                    replies,
                    sends,
                    address,
                    refusals,
                });
                core.caller.set_wants_growth(true);
                core.ask_for_growth(self);
            }
            Ok(_) => {}
            Err(error) => {
                core.growth = Growth::refused(refusals);
                drop(core);
                let peer = &self.peer;
                return tracing::info!(%peer, %error, "a channel goes on with small slots");
            }
        }
        self.wake(core);
    }
}

impl ClientState {
    /// Asks the peer for larger slots, if that is to be done and there is a credit.
    pub(super) fn ask_for_growth(&mut self, channel: &ClientChannel) {
        if !matches!(self.growth, Growth::Ready(_)) || !self.queue_pairs.has_room() {
            return;
        }
        let Some((id, mut send)) = self.caller.claim_for_growth() else {
            return;
        };
        let Growth::Ready(larger) = std::mem::replace(&mut self.growth, Growth::Done) else {
            return;
        };
        self.renew(channel, &mut send);
        let header = Header {
            kind: MessageKind::Request,
            method: 0,
            request_id: id.0,
            payload_len: RingAddress::LEN as u32,
            extension: None,
        };
        let message = channel.sends.bytes_mut(&mut send);
        message[Header::LEN..][..RingAddress::LEN].copy_from_slice(&larger.address.to_bytes());
        self.growth = Growth::Asked(larger);
        self.caller.set_wants_growth(false);
        self.post_as(channel, &header, send, Signal::Grow);
    }

    /// Handles the answer in `slot` to the request for larger slots.
    pub(super) fn conclude_growth(&mut self, channel: &ClientChannel, slot: u16) {
        let replied = self.caller.replied(slot).ok();
        let answer = replied.and_then(|replied| {
            let bytes = channel.replies.bytes(replied);
            let (header, payload) = channel.profile.decode(bytes).ok()?;
            let is_agreed = header.kind == MessageKind::Reply;
            is_agreed.then(|| RingAddress::from_bytes(&bytes[payload]))
        });
        self.caller.release(slot);
        let Growth::Asked(larger) = std::mem::replace(&mut self.growth, Growth::Done) else {
            return;
        };
        let ring = answer.flatten();
        let ring = ring.and_then(|ring| ring.native_ring(channel.geometry).ok());
        if let Some(ring) = ring {
            self.remotes.grow(ring);
            self.queue_pairs.remote_has_grown();
            return self.caller.grow(larger.replies, larger.sends);
        }
        if answer.is_some() {
            self.violations.record(Violation::BadGrowth, &channel.peer);
        }
        // DROP-1: nothing was sent from the one, and the peer was refused the other.
        let mut unwanted = channel.replies.shrink(larger.replies);
        unwanted.extend(channel.sends.shrink(larger.sends));
        self.caller.give_up(unwanted);
        self.growth = Growth::refused(larger.refusals);
    }

    /// Returns the size of the slots that calls are made in from now on, in bytes.
    #[inline]
    pub(super) fn slot_size(&self) -> usize {
        self.remotes.newest().geometry.slot_size()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Poll;
    use std::time::Instant;

    use super::*;
    use crate::channel::Geometry;
    use crate::channel::loopback::{LONG, Loopback};
    use crate::fabric::shm::ShmDevice;
    use crate::fabric::{
        Access, Device, DeviceLimits, FabricError, MemoryRegion, PortAttributes, QueueHalves,
        QueuePair, QueuePairInit,
    };
    use crate::wire::{Codec, Raw};

    const FIRST: usize = 256;
    const LARGER: usize = 4096;
    /// Bytes of a payload that fits the larger slots only.
    const SIZE: usize = 1000;

    fn growing(slots: usize, caller: Arc<dyn Device>, called: Arc<dyn Device>) -> Loopback {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let geometry = |size| Geometry::new(slots, size).unwrap();
        Loopback::growing(runtime, caller, called, (geometry(FIRST), geometry(LARGER)))
    }

    fn shm() -> Arc<dyn Device> {
        ShmDevice::open().unwrap()
    }

    /// Makes a call with this many bytes, which the answer repeats in so many. Says whether the
    /// arguments travelled through the ring.
    fn call(ends: &mut Loopback, size: usize, answer: usize) -> bool {
        let sent = vec![size as u8; size];
        let encode = |room: &mut [u8]| Raw::encode(&sent[..], room);
        let mut call = ends.channel.call(7, None, encode).unwrap();
        let account = ends.channel.memory.as_ref().unwrap().account();
        let request = ends.request();
        assert_eq!(request.payload(), sent, "RING-1");
        let answered = vec![answer as u8; answer];
        request.reply(|room| Raw::encode(&answered[..], room));
        let until = Instant::now() + LONG;
        loop {
            if let Poll::Ready(read) = call.poll(None) {
                assert_eq!(read.unwrap().payload(), answered);
                return account.lent == 0;
            }
            assert!(Instant::now() < until, "no answer arrives");
            // The request for larger slots, and reads of the mailbox.
            ends.poll_in_vain();
        }
    }

    fn grown(ends: &mut Loopback) -> bool {
        ends.poll_in_vain();
        assert_eq!(ends.channel.violations().total(), 0);
        for (_, violations) in ends.mailbox.violations() {
            assert_eq!(violations.total(), 0);
        }
        ends.channel.lock().remotes.has_grown()
    }

    #[test]
    fn the_first_arguments_that_do_not_fit_make_all_slots_larger() {
        let mut ends = growing(3, shm(), shm());
        assert!(call(&mut ends, 100, 100) && !grown(&mut ends));
        assert!(!call(&mut ends, SIZE, 0), "it works at once");
        call(&mut ends, 0, 0);
        assert!(grown(&mut ends));
        for size in [SIZE, 0, LARGER - Header::LEN, 1, SIZE, SIZE, SIZE] {
            assert!(call(&mut ends, size, size), "{size}");
        }
        // What fits no slot still does not, and is no reason for more.
        assert!(!call(&mut ends, LARGER, LARGER));
        assert_eq!(ends.channel.credits().free, 3, "SLOT-2");
    }

    #[test]
    fn so_does_the_first_answer_and_what_fits_no_slot_does_not() {
        let mut ends = growing(2, shm(), shm());
        for _ in 0..3 {
            call(&mut ends, LARGER, LARGER);
            assert!(!grown(&mut ends));
        }
        call(&mut ends, 0, SIZE);
        call(&mut ends, 0, 0);
        assert!(grown(&mut ends));
    }

    #[test]
    fn slot_1_ring_1_a_slot_grows_at_its_next_call_however_long_the_others_take() {
        let mut ends = growing(3, shm(), shm());
        let sent = [9; 100];
        let encode = |room: &mut [u8]| Raw::encode(&sent[..], room);
        let mut slow = ends.channel.call(7, None, encode).unwrap();
        let held = ends.request();
        for _ in 0..4 {
            call(&mut ends, SIZE, SIZE);
        }
        assert!(grown(&mut ends) && call(&mut ends, SIZE, SIZE));
        assert_eq!(held.payload(), sent, "RING-1");
        // Its answer goes where its request came from, and its slot is a larger one next.
        held.reply(|room| Raw::encode(&sent[..], room));
        let until = Instant::now() + LONG;
        loop {
            if let Poll::Ready(read) = slow.poll(None) {
                break assert_eq!(read.unwrap().payload(), sent);
            }
            assert!(Instant::now() < until, "no answer arrives");
        }
        for _ in 0..6 {
            assert!(call(&mut ends, SIZE, SIZE));
        }
        assert_eq!(ends.channel.credits().free, 3, "SLOT-2");
    }

    #[test]
    fn a_request_for_larger_slots_goes_before_calls_that_wait_for_one() {
        let mut ends = growing(2, shm(), shm());
        let sent = vec![1; SIZE];
        let encode = |room: &mut [u8]| Raw::encode(&sent[..], room);
        let mut calls: Vec<_> = (0..12)
            .map(|_| ends.channel.call(7, None, encode).unwrap())
            .collect();
        let until = Instant::now() + LONG;
        let mut in_rings = 0;
        while !calls.is_empty() {
            assert!(Instant::now() < until, "CALL-1");
            calls.retain_mut(|call| call.poll(None).map(Result::unwrap).is_pending());
            for request in ends.requests() {
                assert_eq!(request.payload(), sent);
                request.reply(|room| Raw::encode(&sent[..], room));
            }
            in_rings += usize::from(grown_now(&ends));
        }
        assert!(in_rings > 0 && grown(&mut ends));
    }

    fn grown_now(ends: &Loopback) -> bool {
        ends.channel.lock().remotes.has_grown()
    }

    #[test]
    fn who_takes_all_slots_at_once_again_and_again_leaves_one_for_that_request() {
        let mut ends = growing(2, shm(), shm());
        for _ in 0..3 {
            let mut calls = vec![ends.call(), ends.call()];
            let until = Instant::now() + LONG;
            while !calls.is_empty() {
                assert!(Instant::now() < until, "CALL-1");
                calls.retain_mut(|call| call.poll(None).map(Result::unwrap).is_pending());
                for request in ends.requests() {
                    request.reply(|room| Raw::encode(&[3; SIZE][..], room));
                }
            }
        }
        assert!(grown(&mut ends));
    }

    #[test]
    fn a_handler_that_writes_its_answer_in_place_has_the_room_of_a_full_slot() {
        let mut ends = growing(2, shm(), shm());
        for (at, size) in [SIZE, 10, 0, LARGER - Header::LEN, 10]
            .into_iter()
            .enumerate()
        {
            let mut call = ends.call();
            let mut request = ends.request();
            let (_, room) = request.parts();
            assert_eq!(room.len(), LARGER - Header::LEN);
            room[..size].fill(at as u8);
            request.reply_written(size);
            let until = Instant::now() + LONG;
            loop {
                if let Poll::Ready(read) = call.poll(None) {
                    break assert_eq!(read.unwrap().payload(), vec![at as u8; size]);
                }
                assert!(Instant::now() < until, "no answer arrives");
                ends.poll_in_vain();
            }
        }
        assert!(grown(&mut ends), "so that it need not be copied");
    }

    #[derive(Debug)]
    struct Full {
        device: Arc<dyn Device>,
        is_full: AtomicBool,
    }

    impl Device for Full {
        fn name(&self) -> &str {
            self.device.name()
        }
        fn port(&self) -> PortAttributes {
            self.device.port()
        }
        fn limits(&self) -> DeviceLimits {
            self.device.limits()
        }
        fn register(
            &self,
            length: usize,
            access: Access,
        ) -> Result<Arc<dyn MemoryRegion>, FabricError> {
            // That of payloads is 64 KiB.
            if self.is_full.load(Ordering::Relaxed) && length < 64 << 10 {
                return Err(FabricError::Limit {
                    what: "locked memory",
                    given: length as u64,
                    allowed: "nothing more".to_owned(),
                    device: self.name().to_owned(),
                });
            }
            self.device.register(length, access)
        }
        fn create_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError> {
            self.device.create_completion_queue(depth)
        }
        fn create_queue_pair(
            &self,
            init: &QueuePairInit,
        ) -> Result<Box<dyn QueuePair>, FabricError> {
            self.device.create_queue_pair(init)
        }
    }

    #[test]
    fn where_there_is_no_memory_a_channel_goes_on_with_what_it_has_and_asks_again_later() {
        for at_caller in [true, false] {
            let full = Arc::new(Full {
                device: shm(),
                is_full: AtomicBool::new(false),
            });
            let mut ends = match at_caller {
                true => growing(2, full.clone(), shm()),
                false => growing(2, shm(), full.clone()),
            };
            full.is_full.store(true, Ordering::Relaxed);
            call(&mut ends, SIZE, 0);
            call(&mut ends, 0, 0);
            full.is_full.store(false, Ordering::Relaxed);
            for _ in 0..PATIENCE {
                assert!(!call(&mut ends, SIZE, 0), "it still works");
                assert!(!grown(&mut ends), "at_caller: {at_caller}");
            }
            let has_larger = ends.channel.sends.has_grown();
            assert!(!has_larger, "DROP-1: what is useless is given back");
            call(&mut ends, SIZE, 0);
            call(&mut ends, 0, 0);
            assert!(grown(&mut ends) && call(&mut ends, SIZE, SIZE));
        }
    }

    #[test]
    fn drop_1_a_channel_that_ends_while_it_grows_gives_everything_back() {
        for steps in 0..4 {
            let mut ends = growing(2, shm(), shm());
            let sent = vec![1; SIZE];
            let encode = |room: &mut [u8]| Raw::encode(&sent[..], room);
            let asking = ends.channel.call(7, None, encode).unwrap();
            if steps > 0 {
                ends.request().reply(|_| Ok(0));
            }
            if steps > 1 {
                ends.channel.credits();
            }
            if steps > 2 {
                call(&mut ends, SIZE, 0);
            }
            drop(asking);
            ends.channel.close(crate::channel::LossCause::Left);
            assert!(!ends.channel.sends.has_grown() && !ends.channel.replies.has_grown());
            assert!(ends.channel.closed().is_some());
        }
    }
}
