//! The sending half of a queue pair: executes work requests, in order.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::bell::Bell;
use super::borrowed_lot::BorrowedLot;
use super::completion_queue::page_in;
use super::key_table::KeyTable;
use super::link::Link;
use super::message::Welcome;
use super::queue_page::QueuePage;
use super::receive_ring::{Arrival, Producer};
use super::receiver::RingMemory;
use super::region::RegionMemory;
use super::remote_regions::{Located, PlacedRegion, RemoteRegions};
use super::segment::{Segment, View};
use crate::fabric::{
    Access, CompletionStatus, Opcode, Operation, Payload, RemoteSlice, RetryPolicy, SendRequest,
    Sge,
    retry_timing::{ack_timeout, rnr_timer},
    software::MAX_MESSAGE,
};

/// How often a request at most waits longer, by the time of one retry, because what it waits for
/// has come and could not be received.
const MAX_PUT_OFF: u32 = 32;

/// How long a request waits at most for a peer that is slow to read. What others have said to the
/// same process may be unread at any moment.
const LONGEST_STALL: Duration = Duration::from_secs(60);

/// The state of a sender.
#[derive(Debug)]
pub(super) struct Sender {
    retry: RetryPolicy,
    peer: Option<Peer>,
    pub(super) regions: RemoteRegions,
    /// The local region that was used last.
    local: (u32, Weak<RegionMemory>),
    /// Requests that have to wait for something; the first of them waits for `stall`.
    pending: VecDeque<Pending>,
    stall: Option<Stall>,
    /// Requests completed since the last signalled one.
    unsignalled: u32,
    /// Number of requests so far, modulo 2^32.
    pub(super) posted: u32,
}

/// The peer's receive queue and how to wake its owner.
#[derive(Debug)]
struct Peer {
    memory: RingMemory,
    producer: Producer,
    /// Number of the peer's queue pair.
    number: u32,
    page: View<QueuePage>,
    bell: Arc<Bell>,
    /// Messages that were published when the doorbell was rung last, modulo 2^32.
    rung: u32,
    /// Pause before a message without a receive is tried again.
    rnr_timer: Duration,
}

/// A work request that has to wait.
#[derive(Debug)]
struct Pending {
    wr_id: u64,
    operation: Operation,
    local: PendingPayload,
    remote: RemoteSlice,
    signalled: bool,
    solicited: bool,
}

#[derive(Debug)]
enum PendingPayload {
    Region(Sge),
    Inline(Box<[u8]>),
}

/// What the first pending request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The peer's answer to the hello.
    Welcome,
    /// The region with this rkey.
    Region(u32),
    /// A receive of the peer.
    Receive,
}

#[derive(Debug)]
struct Stall {
    need: Need,
    /// When to look again.
    next: Instant,
    /// When to fail; `None` means never.
    end: Option<Instant>,
    /// How often the end was put off.
    put_off: u32,
    /// When to fail in any case, unless there is no end.
    latest: Instant,
    /// An answer has come and could not be received.
    is_missed: bool,
}

/// The result of trying one request.
enum Attempt {
    Done(u32),
    Needs(Need),
    Failed(CompletionStatus),
}

/// How far the pending requests got.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// No request is left.
    Idle,
    /// The first request waits for this; look again at this time. Whether the peer has to be asked
    /// for it, perhaps once more.
    Stalled(Need, Instant, bool),
    /// The first request has failed for good.
    Failed(CompletionStatus),
}

/// A work request that is over.
pub(super) struct Executed {
    pub(super) wr_id: u64,
    pub(super) status: CompletionStatus,
    pub(super) opcode: Opcode,
    pub(super) byte_len: u32,
    /// Places in the send queue that its completion frees; 0 if it gets none.
    pub(super) retires: u32,
}

impl Sender {
    pub(super) fn new(retry: RetryPolicy) -> Self {
        Self {
            retry,
            peer: None,
            regions: RemoteRegions::default(),
            local: (0, Weak::new()),
            pending: VecDeque::new(),
            stall: None,
            unsignalled: 0,
            posted: 0,
        }
    }

    /// Notes the receive queue of the peer's queue pair with this number, the page of its
    /// completion queue, and eventfd, which a quiet one has not. The latter two may be known
    /// already.
    pub(super) fn welcome(
        &mut self,
        number: u32,
        welcome: Welcome,
        fds: Vec<OwnedFd>,
        lots: [BorrowedLot; 2],
        link: &Arc<Link>,
    ) -> io::Result<()> {
        let malformed = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the peer's receive queue is malformed",
            )
        };
        let mut fds = fds.into_iter();
        let (Some(ring), Some(page), event) = (fds.next(), fds.next(), fds.next()) else {
            return Err(malformed());
        };
        let [ring_lot, page_lot] = lots;
        let capacity = welcome.capacity as usize;
        let (offset, len) = (welcome.ring.offset, RingMemory::len(capacity));
        let ring = Segment::open(&ring, offset, len, Some(ring_lot))?;
        let memory = RingMemory::new(ring, capacity).ok_or_else(malformed)?;
        let bell = link.bell(welcome.queue, || {
            let (offset, len) = (welcome.page.offset, size_of::<QueuePage>());
            let page = Segment::open(&page, offset, len, Some(page_lot))?;
            let page = page_in(page).ok_or_else(malformed)?;
            match event {
                Some(event) => Bell::new(page, event),
                None => Ok(Bell::quiet(page, link, welcome.queue)),
            }
        })?;
        self.peer = Some(Peer {
            memory,
            producer: Producer::default(),
            number,
            page: bell.page().clone(),
            bell,
            rung: 0,
            rnr_timer: rnr_timer(welcome.min_rnr_timer),
        });
        Ok(())
    }

    /// Executes a request or queues it. Returns `None` if it is queued; `is_first` then says
    /// whether it is the first.
    #[inline]
    pub(super) fn post(&mut self, keys: &KeyTable, request: &SendRequest<'_>) -> Option<Executed> {
        if self.pending.is_empty() {
            match self.attempt(keys, request) {
                Attempt::Done(byte_len) => {
                    return Some(self.executed(request, CompletionStatus::Success, byte_len));
                }
                Attempt::Failed(status) => return Some(self.executed(request, status, 0)),
                Attempt::Needs(_) => {}
            }
        }
        self.pending.push_back(Pending::of(request));
        None
    }

    /// Executes a solicited WRITE_WITH_IMM if nothing is missing, and returns whether it did. The
    /// request is not accounted for.
    #[inline]
    pub(super) fn write_now(&mut self, imm: u32, bytes: &[u8], remote: RemoteSlice) -> bool {
        let Some(peer) = &mut self.peer else {
            return false;
        };
        let ring = peer.memory.ring();
        let is_ready = self.pending.is_empty()
            && bytes.len() <= MAX_MESSAGE as usize
            && peer.producer.has_receive(ring);
        if !is_ready {
            return false;
        }
        if !bytes.is_empty() {
            let RemoteSlice { addr, rkey } = remote;
            let access = Access::REMOTE_WRITE.bits();
            let Located::At(to) = self.regions.locate(rkey, addr, bytes.len(), access) else {
                return false;
            };
            if to.as_ptr().cast_const() != bytes.as_ptr() {
                // SAFETY: `to` is as many bytes of a mapping held by `self.regions`, valid for
                // writes; as in `attempt`.
                unsafe { ptr::copy(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
            }
        }
        let byte_len = bytes.len() as u32;
        peer.deliver(Arrival { imm, byte_len }, true);
        true
    }

    /// Returns whether requests wait.
    pub(super) fn is_stalled(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Executes pending requests as far as possible and passes each to `done`. `is_behind` tells
    /// whether an answer of the peer may be on its way.
    pub(super) fn progress(
        &mut self,
        keys: &KeyTable,
        now: Instant,
        is_behind: impl Fn() -> bool,
        mut done: impl FnMut(Executed),
    ) -> Progress {
        while let Some(pending) = self.pending.pop_front() {
            let request = pending.as_request();
            match self.attempt(keys, &request) {
                Attempt::Done(byte_len) => {
                    self.stall = None;
                    done(self.executed(&request, CompletionStatus::Success, byte_len));
                }
                Attempt::Failed(status) => {
                    self.pending.push_front(pending);
                    return Progress::Failed(status);
                }
                Attempt::Needs(need) => {
                    self.pending.push_front(pending);
                    return self.stall(need, now, is_behind);
                }
            }
        }
        Progress::Idle
    }

    fn stall(&mut self, need: Need, now: Instant, is_behind: impl Fn() -> bool) -> Progress {
        let step = match need {
            Need::Receive => self
                .peer
                .as_ref()
                .map_or(Duration::ZERO, |peer| peer.rnr_timer),
            Need::Welcome | Need::Region(_) => ack_timeout(self.retry.timeout),
        };
        let patience = step * (u32::from(self.retry.retry_cnt) + 1);
        match &mut self.stall {
            Some(stall) if stall.need == need => {
                // A device answers by itself, and here the peer's process has to: one that is only
                // slow is not gone. Its end is noticed otherwise.
                let is_behind = need != Need::Receive && is_behind();
                if is_behind {
                    stall.end = Some((now + patience).min(stall.latest));
                }
                if stall.end.is_some_and(|end| now >= end) {
                    return Progress::Failed(match need {
                        Need::Receive => CompletionStatus::RnrRetryExceeded,
                        Need::Welcome | Need::Region(_) => CompletionStatus::RetryExceeded,
                    });
                }
                stall.next = now + step;
                // Who has not read the first question yet is not asked once more.
                let has_to_ask = std::mem::take(&mut stall.is_missed) || !is_behind;
                Progress::Stalled(need, stall.next, has_to_ask)
            }
            stall => {
                let end = match need {
                    Need::Receive if self.retry.rnr_retry == 7 => None,
                    Need::Receive => Some(now + step * u32::from(self.retry.rnr_retry)),
                    Need::Welcome | Need::Region(_) => Some(now + patience),
                };
                let next = now + step;
                *stall = Some(Stall {
                    need,
                    next,
                    end,
                    put_off: 0,
                    latest: now + LONGEST_STALL,
                    is_missed: false,
                });
                Progress::Stalled(need, next, true)
            }
        }
    }

    /// Notes an answer whose descriptors could not be received. The peer is there, so the request
    /// that waits for it does so for longer; not for ever, as there may never be any.
    pub(super) fn not_received(&mut self) {
        let step = ack_timeout(self.retry.timeout);
        let Some(stall) = &mut self.stall else { return };
        stall.is_missed = true;
        if let Some(end) = &mut stall.end
            && stall.put_off < MAX_PUT_OFF
        {
            stall.put_off += 1;
            *end += step;
        }
    }

    /// Ends every pending request: the first with `first`, the others flushed.
    pub(super) fn flush(&mut self, first: CompletionStatus, mut done: impl FnMut(Executed)) {
        self.stall = None;
        let mut status = first;
        while let Some(pending) = self.pending.pop_front() {
            done(self.executed(&pending.as_request(), status, 0));
            status = CompletionStatus::Flushed;
        }
    }

    /// Accounts for a request that is over.
    #[inline]
    pub(super) fn executed(
        &mut self,
        request: &SendRequest<'_>,
        status: CompletionStatus,
        byte_len: u32,
    ) -> Executed {
        self.unsignalled += 1;
        let reported = request.signalled || !status.is_success();
        Executed {
            wr_id: request.wr_id,
            status,
            opcode: match request.operation {
                Operation::Read => Opcode::Read,
                Operation::Write | Operation::WriteWithImm(_) => Opcode::Write,
            },
            byte_len,
            retires: if reported {
                std::mem::take(&mut self.unsignalled)
            } else {
                0
            },
        }
    }

    /// Executes a request if nothing is missing. The peer sees the effects in the order of calls.
    fn attempt(&mut self, keys: &KeyTable, request: &SendRequest<'_>) -> Attempt {
        let Some(peer) = &mut self.peer else {
            return Attempt::Needs(Need::Welcome);
        };
        let ring = peer.memory.ring();
        if let Operation::WriteWithImm(_) = request.operation {
            if !peer.producer.has_receive(ring) {
                return Attempt::Needs(Need::Receive);
            }
        } else if ring.posted.is_over() {
            // The goodbye is still on its way.
            return Attempt::Failed(CompletionStatus::RetryExceeded);
        }
        let (length, is_read) = (request.local.len(), request.operation == Operation::Read);
        if length > MAX_MESSAGE as usize {
            return Attempt::Failed(CompletionStatus::LocalLength);
        }
        if length > 0 {
            // Held until the bytes are copied.
            let memory;
            // `None`: the bytes stand in the peer's memory already.
            let local = match request.local {
                Payload::Inline(bytes) => Some(NonNull::from(bytes).cast::<u8>()),
                Payload::Region(sge) if sge.lkey == PlacedRegion::KEY && !is_read => None,
                Payload::Region(sge) => {
                    if self.local.0 != sge.lkey || self.local.1.strong_count() == 0 {
                        self.local = (sge.lkey, keys.find(sge.lkey));
                    }
                    let access = if is_read {
                        Access::LOCAL_WRITE
                    } else {
                        Access::LOCAL_READ
                    };
                    memory = self.local.1.upgrade();
                    let found = memory
                        .as_ref()
                        .and_then(|m| m.locate(sge.addr, length, access));
                    if found.is_none() {
                        return Attempt::Failed(CompletionStatus::LocalProtection);
                    }
                    found
                }
            };
            let access = if is_read {
                Access::REMOTE_READ
            } else {
                Access::REMOTE_WRITE
            };
            let RemoteSlice { addr, rkey } = request.remote;
            let remote = match self.regions.locate(rkey, addr, length, access.bits()) {
                Located::At(remote) => remote,
                Located::Ask => return Attempt::Needs(Need::Region(rkey)),
                Located::Refused => return Attempt::Failed(CompletionStatus::RemoteAccess),
            };
            let local = match (local, request.local) {
                (Some(local), _) => local,
                // The bytes may be sent to the place where they are, and to no other.
                (None, Payload::Region(sge)) if sge.addr == remote.as_ptr() as u64 => remote,
                (None, _) => return Attempt::Failed(CompletionStatus::LocalProtection),
            };
            let (from, to) = if is_read {
                (remote, local)
            } else {
                (local, remote)
            };
            if from != to {
                // SAFETY: `local` is `length` bytes of a slice (only read, since inline reads are
                // refused when posted) or of a region held by `memory`; `remote` is `length` bytes
                // of a mapping held by `self.regions`. Both are valid for that. This plays the
                // device, whose part it is to move bytes that others use: by the contract of
                // `post_send` nobody here has a reference to those that change, and bytes that are
                // changed meanwhile, by another process or by a copy of another thread, arrive as
                // some mixture, as they do by DMA. The ranges may be the same memory in a loopback,
                // hence `copy`.
                unsafe { ptr::copy(from.as_ptr(), to.as_ptr(), length) };
            }
        }
        if let Operation::WriteWithImm(imm) = request.operation {
            let byte_len = length as u32;
            peer.deliver(Arrival { imm, byte_len }, request.solicited);
        }
        Attempt::Done(if is_read { length as u32 } else { 0 })
    }
}

impl Peer {
    /// Publishes a message for which there is a receive, and wakes a peer that sleeps until it
    /// comes.
    #[inline(always)]
    fn deliver(&mut self, arrival: Arrival, solicited: bool) {
        self.producer.publish(self.memory.ring(), arrival);
        let published = self.producer.published();
        let since = published.wrapping_sub(self.rung);
        let rest = self.memory.rest();
        if self.page.needs_ring(self.number, rest, solicited, since) {
            self.rung = published;
            self.bell.ring();
        }
    }
}

impl Pending {
    fn of(request: &SendRequest<'_>) -> Self {
        Self {
            wr_id: request.wr_id,
            operation: request.operation,
            local: match request.local {
                Payload::Region(sge) => PendingPayload::Region(sge),
                Payload::Inline(bytes) => PendingPayload::Inline(bytes.into()),
            },
            remote: request.remote,
            signalled: request.signalled,
            solicited: request.solicited,
        }
    }

    fn as_request(&self) -> SendRequest<'_> {
        SendRequest {
            wr_id: self.wr_id,
            operation: self.operation,
            local: match &self.local {
                PendingPayload::Region(sge) => Payload::Region(*sge),
                PendingPayload::Inline(bytes) => Payload::Inline(bytes),
            },
            remote: self.remote,
            signalled: self.signalled,
            solicited: self.solicited,
        }
    }
}
