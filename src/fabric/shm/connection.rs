//! The part of a queue pair that its handle and the port's thread share.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use super::arena::Arena;
use super::biased_lock::BiasedLock;
use super::borrowed_lot::BorrowedLot;
use super::completion_queue::{Sent, ShmCompletionQueue};
use super::key_table::KeyTable;
use super::link::Link;
use super::message::{ConnectionId, Hello, Message, Welcome};
use super::port::PortState;
use super::receiver::Receiver;
use super::remote_regions::PlacedRegion;
use super::sender::{Executed, Need, Progress, Sender};
use crate::fabric::{
    Completion, CompletionStatus, FabricError, QueuePairAddress, QueuePairInit, QueuePairState,
    RemoteSlice, RetryPolicy, SendRequest, SystemLimit,
};

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    id: ConnectionId,
    psn: u32,
    max_send_wr: u32,
    max_recv_wr: u32,
    retry: RetryPolicy,
    send_cq: Arc<ShmCompletionQueue>,
    recv_cq: Arc<ShmCompletionQueue>,
    receiver: Arc<Receiver>,
    /// Where the receive queue is made.
    arena: Arc<Arena>,
    keys: Arc<KeyTable>,
    remote: OnceLock<QueuePairAddress>,
    /// Number of sends that have been retired, of those that the sender has counted, modulo 2^32.
    retired: Arc<AtomicU32>,
    /// Owned by the handle's thread.
    sender: BiasedLock<Sender>,
    links: Mutex<ConnectionLinks>,
}

/// The links of a connection.
#[derive(Debug, Default)]
struct ConnectionLinks {
    /// The link over which this side asks: its sends need it.
    outgoing: Option<Arc<Link>>,
    /// The link over which the peer asks, and the peer's end of this connection.
    incoming: Option<(Arc<Link>, ConnectionId)>,
    /// A descriptor kept back for the peer's eventfd. If it was missing later, no error could be
    /// returned: both ends would only see that the connection ends.
    reserve: Option<OwnedFd>,
}

impl ConnectionLinks {
    fn asks_over(&self, link: &Arc<Link>) -> bool {
        let ours = self.outgoing.as_ref();
        ours.is_some_and(|ours| Arc::ptr_eq(ours, link))
    }
}

impl Connection {
    pub(super) fn new(
        number: u32,
        psn: u32,
        init: &QueuePairInit,
        queues: [Arc<ShmCompletionQueue>; 2],
        (arena, keys): (Arc<Arena>, Arc<KeyTable>),
    ) -> Result<Self, FabricError> {
        static LIVES: AtomicU64 = AtomicU64::new(0);
        let [send_cq, recv_cq] = queues;
        let receiver = Arc::new(Receiver::create(&arena, number, init.max_recv_wr)?);
        Ok(Self {
            id: ConnectionId {
                qp_num: number,
                life: LIVES.fetch_add(1, Ordering::Relaxed),
            },
            psn,
            max_send_wr: init.max_send_wr,
            max_recv_wr: init.max_recv_wr,
            retry: init.retry,
            send_cq,
            recv_cq,
            receiver,
            arena,
            keys,
            remote: OnceLock::new(),
            retired: Arc::default(),
            sender: BiasedLock::new(Sender::new(init.retry)),
            links: Mutex::default(),
        })
    }

    /// Makes this queue pair anew, in RESET. The old one must have given up and been detached.
    pub(super) fn renewed(&self) -> Result<Self, FabricError> {
        let init = QueuePairInit {
            send_cq: self.send_cq.clone(),
            recv_cq: self.recv_cq.clone(),
            max_send_wr: self.max_send_wr,
            max_recv_wr: self.max_recv_wr,
            max_inline: 0,
            retry: self.retry,
        };
        let queues = [self.send_cq.clone(), self.recv_cq.clone()];
        let memory = (self.arena.clone(), self.keys.clone());
        Self::new(self.number(), self.psn, &init, queues, memory)
    }

    pub(super) fn number(&self) -> u32 {
        self.id.qp_num
    }

    pub(super) fn psn(&self) -> u32 {
        self.psn
    }

    pub(super) fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    pub(super) fn state(&self) -> QueuePairState {
        self.receiver.state()
    }

    /// Notes the peer, the link to it that `find` has the connection join, and the descriptor that
    /// is kept back.
    pub(super) fn dial(
        &self,
        remote: QueuePairAddress,
        find: impl FnOnce() -> Result<(Arc<Link>, OwnedFd), FabricError>,
    ) -> Result<(), FabricError> {
        // Held meanwhile: the link may turn out to be crossed at any moment.
        let mut links = self.links();
        let (link, reserve) = find()?;
        links.outgoing = Some(link);
        links.reserve = Some(reserve);
        // Set once: only `to_rtr` calls this, at most once.
        let _ = self.remote.set(remote);
        Ok(())
    }

    /// Notes that the peer does not answer on this link, because it has dialled as well. Returns
    /// whether the connection has yet to ask over the other one.
    pub(super) fn crossed(&self, link: &Arc<Link>) -> bool {
        let mut links = self.links();
        let was_welcomed = links.reserve.is_none();
        if was_welcomed || !links.asks_over(link) {
            return false;
        }
        links.outgoing = None;
        true
    }

    /// Says hello over the link that is used of two that were crossed, or over a new one. Returns
    /// whether that has to wait.
    pub(super) fn ask_elsewhere(self: &Arc<Self>, port: &PortState) -> io::Result<bool> {
        let mut links = self.links();
        match (self.state(), self.remote.get()) {
            (QueuePairState::Rtr | QueuePairState::Rts, Some(remote)) => {
                match port.link(remote.gid, self) {
                    Ok(link) => links.outgoing = Some(link),
                    // It may have what it takes later.
                    Err(error)
                        if SystemLimit::of(&error).is_some()
                            || error.kind() == io::ErrorKind::WouldBlock =>
                    {
                        return Ok(true);
                    }
                    Err(error) => return Err(error),
                }
                self.say_hello_over(&links).map(|()| false)
            }
            (QueuePairState::Error, _) => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(true),
        }
    }

    /// Says hello to the peer, or leaves that to [`ask_elsewhere`](Self::ask_elsewhere).
    pub(super) fn say_hello(&self) -> io::Result<()> {
        self.say_hello_over(&self.links())
    }

    /// The links are held meanwhile, so that a goodbye comes behind it.
    fn say_hello_over(&self, links: &ConnectionLinks) -> io::Result<()> {
        let (Some(link), Some(remote)) = (&links.outgoing, self.remote.get()) else {
            return match links.reserve {
                Some(_) => Ok(()),
                None => Err(io::ErrorKind::ConnectionAborted.into()),
            };
        };
        let hello = Hello {
            from: self.id,
            psn: self.psn,
            to_qp: remote.qp_num,
        };
        link.send(&Message::Hello(hello))
    }

    /// Has the completion queue poll the receive queue from now on, because a receive was posted.
    pub(super) fn attach(&self) {
        self.recv_cq.attach(self.receiver.clone());
    }

    /// Has receives that were posted in ERR flushed.
    pub(super) fn flush(&self) {
        self.recv_cq.flush();
    }

    /// Executes a request or queues it. Returns whether the port's thread has to continue it.
    ///
    /// # Safety
    /// Only the handle may call this and [`write_now`](Self::write_now), on one thread at a time.
    pub(super) unsafe fn post_send(&self, request: &SendRequest<'_>) -> Result<bool, FabricError> {
        // SAFETY: the caller is the owner; nobody else locks it so, nor below.
        let mut sender = unsafe { self.sender.lock_as_owner() };
        let state = self.state();
        if !matches!(state, QueuePairState::Rts | QueuePairState::Error) {
            return Err(FabricError::InvalidState {
                qp_num: self.number(),
                verb: "post_send",
                state,
            });
        }
        let retired = self.retired.load(Ordering::Relaxed);
        if sender.posted.wrapping_sub(retired) >= self.max_send_wr {
            return Err(FabricError::QueueFull {
                qp_num: self.number(),
                queue: "send",
                depth: self.max_send_wr,
            });
        }
        sender.posted = sender.posted.wrapping_add(1);
        if state == QueuePairState::Error {
            let flushed = sender.executed(request, CompletionStatus::Flushed, 0);
            self.complete(flushed);
            return Ok(false);
        }
        let was_stalled = sender.is_stalled();
        match sender.post(&self.keys, request) {
            None => return Ok(!was_stalled),
            Some(executed) if executed.status.is_success() => self.complete(executed),
            Some(executed) => {
                self.complete(executed);
                self.fail(&mut sender, CompletionStatus::Flushed);
            }
        }
        Ok(false)
    }

    /// Executes a solicited WRITE_WITH_IMM if that is possible at once. Returns whether it was.
    ///
    /// # Safety
    /// The contract of [`post_send`](Self::post_send).
    #[inline]
    pub(super) unsafe fn write_now(&self, imm: u32, bytes: &[u8], remote: RemoteSlice) -> bool {
        // SAFETY: the caller is the owner; nobody else locks it so, nor below.
        let mut sender = unsafe { self.sender.lock_as_owner() };
        self.receiver.is_rts() && sender.write_now(imm, bytes, remote)
    }

    /// The peer's memory at `remote`, if it is mapped.
    ///
    /// # Safety
    /// The contract of [`post_send`](Self::post_send).
    pub(super) unsafe fn place(&self, remote: RemoteSlice, len: usize) -> Option<PlacedRegion> {
        // SAFETY: the caller is the owner; nobody else locks it so, nor below.
        let mut sender = unsafe { self.sender.lock_as_owner() };
        sender.regions.place(remote, len)
    }

    /// Continues waiting requests. Returns when to look again, if that is necessary.
    pub(super) fn progress(&self, now: Instant) -> Option<Instant> {
        self.advance(&mut self.sender.lock(), now)
    }

    fn advance(&self, sender: &mut Sender, now: Instant) -> Option<Instant> {
        let is_behind = || {
            let links = self.links();
            let is_crossed = links.outgoing.is_none() && links.reserve.is_some();
            let link = links.outgoing.clone();
            drop(links);
            is_crossed || link.is_some_and(|link| link.is_behind())
        };
        let done = |executed| self.complete(executed);
        match sender.progress(&self.keys, now, is_behind, done) {
            Progress::Idle => None,
            Progress::Stalled(need, next, has_to_ask) => {
                if let Need::Region(rkey) = need
                    && has_to_ask
                    && !self.ask_for(rkey)
                {
                    self.fail(sender, CompletionStatus::RetryExceeded);
                    return None;
                }
                Some(next)
            }
            Progress::Failed(status) => {
                self.fail(sender, status);
                None
            }
        }
    }

    fn ask_for(&self, rkey: u32) -> bool {
        let link = self.links().outgoing.clone();
        let (Some(link), Some(remote)) = (link, self.remote.get()) else {
            return false;
        };
        let wanted = Message::WantRegion {
            from: self.id,
            to_qp: remote.qp_num,
            rkey,
        };
        link.send(&wanted).is_ok()
    }

    /// Returns whether this is the connection that the peer answers on `link`.
    pub(super) fn is_asking(&self, id: ConnectionId, link: &Arc<Link>) -> bool {
        self.id == id && self.links().asks_over(link)
    }

    /// Returns whether this connection has welcomed that end of it on `link`.
    pub(super) fn has_welcomed(&self, id: ConnectionId, link: &Arc<Link>) -> bool {
        let links = self.links();
        let incoming = links.incoming.as_ref();
        incoming.is_some_and(|(theirs, peer)| *peer == id && Arc::ptr_eq(theirs, link))
    }

    /// Handles an answer of the peer. Returns whether it made sense.
    pub(super) fn answered(
        &self,
        answer: Message,
        fds: Vec<OwnedFd>,
        lots: Vec<BorrowedLot>,
        link: &Arc<Link>,
    ) -> bool {
        let mut sender = self.sender.lock();
        let understood = match answer {
            // It has asked twice, over a link that it has left and over this one.
            Message::Welcome(_) if self.links().reserve.is_none() => true,
            Message::Welcome(welcome) => {
                let welcomed = match <[_; 2]>::try_from(lots) {
                    Ok(lots) => {
                        let number = self.remote.get().map_or(0, |remote| remote.qp_num);
                        sender.welcome(number, welcome, fds, lots, link).is_ok()
                    }
                    _ => false,
                };
                // It was kept for the eventfd that the sender has now.
                self.links().reserve = None;
                welcomed
            }
            Message::Region { info, .. } => match (fds.first(), lots.into_iter().next()) {
                (Some(fd), Some(lot)) => sender.regions.add(info, fd, lot).is_ok(),
                _ => false,
            },
            Message::NoRegion { rkey, .. } => {
                sender.regions.set_unknown(rkey);
                true
            }
            _ => false,
        };
        if understood {
            // The wait that ends here is known to the port's thread already. A new wait that
            // begins here is known, too, because that thread is the caller.
            self.advance(&mut sender, Instant::now());
        }
        understood
    }

    /// Notes that the peer has answered, although this process had no room for the descriptors.
    pub(super) fn not_received(&self) {
        self.sender.lock().not_received();
    }

    /// Returns whether this hello is from the queue pair that this one connects with.
    pub(super) fn is_of_peer(&self, hello: &Hello, link: &Link) -> bool {
        self.remote.get().is_some_and(|remote| {
            remote.gid == link.peer()
                && remote.qp_num == hello.from.qp_num
                && remote.psn == hello.psn
        })
    }

    /// Answers the peer's hello if it is the right one and this side is ready. Returns `None` if it
    /// is too early.
    pub(super) fn greet(self: &Arc<Self>, hello: &Hello, link: &Arc<Link>) -> Option<bool> {
        match self.state() {
            QueuePairState::Reset | QueuePairState::Init => return None,
            QueuePairState::Error => return Some(false),
            QueuePairState::Rtr | QueuePairState::Rts => {}
        }
        if !self.is_of_peer(hello, link) {
            return Some(false);
        }
        let (ring, capacity) = self.receiver.shared();
        let (page, event) = self.recv_cq.shared();
        let welcome = Message::Welcome(Welcome {
            to: hello.from,
            queue: self.recv_cq.number(),
            capacity,
            min_rnr_timer: self.retry.min_rnr_timer,
            ring: ring.address(),
            page: page.address(),
        });
        let mut links = self.links();
        // Whoever enters it leaves the links afterwards. The link must not be joined then: the next
        // life of the queue pair may have joined it.
        if self.state() == QueuePairState::Error {
            return Some(false);
        }
        match &links.incoming {
            // The peer has not received the answer.
            Some((theirs, id)) if Arc::ptr_eq(theirs, link) && *id == hello.from => {}
            Some(_) => return Some(false),
            None if link.join(self) => links.incoming = Some((link.clone(), hello.from)),
            None => return Some(false),
        }
        drop(links);
        let told = link.tell(&welcome, &[ring, page], event);
        Some(told.is_ok())
    }

    /// Sends the region that the peer asks for. Returns whether it could be sent.
    pub(super) fn tell_region(&self, to: ConnectionId, rkey: u32, link: &Link) -> bool {
        let Some(memory) = self.keys.find(rkey).upgrade() else {
            return link.send(&Message::NoRegion { to, rkey }).is_ok();
        };
        let (info, lot) = memory.info(rkey);
        link.tell(&Message::Region { to, info }, &[lot], None)
            .is_ok()
    }

    /// Handles the peer's goodbye, or the end of a link: the peer is in ERR, gone or dead.
    pub(super) fn lost(&self) {
        self.fail(&mut self.sender.lock(), CompletionStatus::RetryExceeded);
    }

    /// Enters ERR at this side's own request.
    pub(super) fn give_up(&self) {
        self.fail(&mut self.sender.lock(), CompletionStatus::Flushed);
    }

    /// Enters ERR, says goodbye so that the peer does the same, and flushes.
    fn fail(&self, sender: &mut Sender, first: CompletionStatus) {
        if self.state() == QueuePairState::Error {
            return;
        }
        self.receiver.fail();
        self.recv_cq.flush();
        sender.flush(first, |executed| self.complete(executed));
        let links = std::mem::take(&mut *self.links());
        if let Some((link, id)) = links.incoming {
            let is_other = |ours: &Arc<Link>| !Arc::ptr_eq(ours, &link);
            if links.outgoing.as_ref().is_none_or(is_other) {
                // Whoever asked here need not have accepted the link on which the goodbye goes.
                let _ = link.send(&Message::Refusal { to: id });
            }
            link.leave(self);
        }
        if let (Some(link), Some(remote)) = (links.outgoing, self.remote.get()) {
            let (from, to_qp) = (self.id, remote.qp_num);
            // A link that has ended says it, too.
            let _ = link.send(&Message::Goodbye { from, to_qp });
            link.leave(self);
        }
        self.recv_cq.ring(true);
        self.send_cq.ring(true);
    }

    fn complete(&self, executed: Executed) {
        if executed.retires == 0 {
            return;
        }
        self.send_cq.push(Sent {
            completion: Completion {
                wr_id: executed.wr_id,
                status: executed.status,
                opcode: executed.opcode,
                byte_len: executed.byte_len,
                imm: None,
                qp_num: self.number(),
            },
            retires: executed.retires,
            retired: self.retired.clone(),
        });
    }

    /// Removes the receive queue from its completion queue.
    pub(super) fn detach(&self) {
        self.recv_cq.detach(self.number());
    }

    fn links(&self) -> MutexGuard<'_, ConnectionLinks> {
        // Nothing panics while it is held.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
