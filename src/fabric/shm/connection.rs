//! The part of a queue pair that its handle and the device's thread share.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use super::biased_lock::BiasedLock;
use super::completion_queue::{Sent, ShmCompletionQueue};
use super::control_socket::ControlSocket;
use super::key_table::KeyTable;
use super::message::{Hello, Message, RegionInfo, Welcome};
use super::receiver::Receiver;
use super::remote_regions::PlacedRegion;
use super::sender::{Executed, Need, Progress, Sender};
use crate::fabric::{
    Completion, CompletionStatus, FabricError, QueuePairAddress, QueuePairInit, QueuePairState,
    RemoteSlice, RetryPolicy, SendRequest,
};

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    number: u32,
    psn: u32,
    max_send_wr: u32,
    max_recv_wr: u32,
    retry: RetryPolicy,
    send_cq: Arc<ShmCompletionQueue>,
    recv_cq: Arc<ShmCompletionQueue>,
    receiver: Arc<Receiver>,
    keys: Arc<KeyTable>,
    remote: OnceLock<QueuePairAddress>,
    /// Number of sends that have been retired, of those that the sender has counted, modulo 2^32.
    retired: Arc<AtomicU32>,
    /// Owned by the handle's thread.
    sender: BiasedLock<Sender>,
    links: Mutex<ControlSockets>,
}

/// The two control sockets of a connection.
#[derive(Debug, Default)]
struct ControlSockets {
    /// The socket that this side dialled: its sends need it.
    outgoing: Option<ControlSocket>,
    /// The socket that the peer dialled.
    incoming: Option<ControlSocket>,
    /// File descriptors kept back until the connection is made.
    reserve: Reserve,
}

/// The file descriptors that a connection still needs once it has begun. If they were missing
/// later, no error could be returned: both ends would only see that the connection ends.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    /// For the peer's eventfd.
    pub(super) event: Option<OwnedFd>,
    /// For the socket that the peer dials.
    pub(super) incoming: Option<OwnedFd>,
}

impl Connection {
    pub(super) fn new(
        number: u32,
        psn: u32,
        init: &QueuePairInit,
        queues: [Arc<ShmCompletionQueue>; 2],
        keys: Arc<KeyTable>,
    ) -> Result<Self, FabricError> {
        let [send_cq, recv_cq] = queues;
        let receiver = Arc::new(Receiver::create(number, init.max_recv_wr)?);
        Ok(Self {
            number,
            psn,
            max_send_wr: init.max_send_wr,
            max_recv_wr: init.max_recv_wr,
            retry: init.retry,
            send_cq,
            recv_cq,
            receiver,
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
        Self::new(self.number, self.psn, &init, queues, self.keys.clone())
    }

    pub(super) fn number(&self) -> u32 {
        self.number
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

    /// Notes the peer and the socket dialled to it.
    pub(super) fn dialled(&self, remote: QueuePairAddress, link: ControlSocket, reserve: Reserve) {
        let mut links = self.links();
        links.outgoing = Some(link);
        links.reserve = reserve;
        drop(links);
        // Set once: only `to_rtr` calls this, at most once.
        let _ = self.remote.set(remote);
    }

    /// Has the completion queue poll the receive queue from now on, because a receive was posted.
    pub(super) fn attach(&self) {
        self.recv_cq.attach(self.receiver.clone());
    }

    /// Has receives that were posted in ERR flushed.
    pub(super) fn flush(&self) {
        self.recv_cq.flush();
    }

    /// Executes a request or queues it. Returns whether the device's thread has to continue it.
    ///
    /// # Safety
    /// Only the handle may call this and [`write_now`](Self::write_now), on one thread at a time.
    pub(super) unsafe fn post_send(&self, request: &SendRequest<'_>) -> Result<bool, FabricError> {
        // SAFETY: the caller is the owner; nobody else locks it so, nor below.
        let mut sender = unsafe { self.sender.lock_as_owner() };
        let state = self.state();
        if !matches!(state, QueuePairState::Rts | QueuePairState::Error) {
            return Err(FabricError::InvalidState {
                qp_num: self.number,
                verb: "post_send",
                state,
            });
        }
        let retired = self.retired.load(Ordering::Relaxed);
        if sender.posted.wrapping_sub(retired) >= self.max_send_wr {
            return Err(FabricError::QueueFull {
                qp_num: self.number,
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
        match sender.progress(&self.keys, now, |executed| self.complete(executed)) {
            Progress::Idle => None,
            Progress::Waiting(next) => Some(next),
            Progress::Stalled(need, next) => {
                if let Need::Region(rkey) = need
                    && !self.ask(&Message::WantRegion { rkey })
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

    fn ask(&self, message: &Message) -> bool {
        let link = self.links().outgoing.clone();
        link.is_some_and(|link| link.send(message, &[]).is_ok())
    }

    /// Frees the descriptor reserved for the peer's eventfd, which comes with the first message on
    /// the dialled socket.
    pub(super) fn make_room(&self) {
        self.links().reserve.event = None;
    }

    /// Handles a message of the peer on the dialled socket. Returns whether it made sense.
    pub(super) fn answered(&self, message: Message, fds: Vec<OwnedFd>) -> bool {
        let mut sender = self.sender.lock();
        let understood = match message {
            Message::Welcome(welcome) => {
                <[OwnedFd; 3]>::try_from(fds).is_ok_and(|fds| sender.welcome(welcome, fds).is_ok())
            }
            Message::Region(info) => fds
                .first()
                .is_some_and(|fd| sender.regions.add(info, fd).is_ok()),
            Message::NoRegion { rkey } => {
                sender.regions.set_unknown(rkey);
                true
            }
            Message::Hello(_) | Message::WantRegion { .. } => false,
        };
        if understood {
            // The wait that ends here is known to the device's thread already. A new wait that
            // begins here is known, too, because that thread is the caller.
            self.advance(&mut sender, Instant::now());
        }
        understood
    }

    /// Answers the peer's hello if it is the right one and this side is ready. Returns `None` if it
    /// is too early.
    pub(super) fn greet(&self, hello: &Hello, link: &ControlSocket) -> Option<bool> {
        match self.state() {
            QueuePairState::Reset | QueuePairState::Init => return None,
            QueuePairState::Error => return Some(false),
            QueuePairState::Rtr | QueuePairState::Rts => {}
        }
        let is_peer = self.remote.get().is_some_and(|remote| {
            remote.gid.0 == hello.from_gid
                && remote.qp_num == hello.from_qp
                && remote.psn == hello.psn
        });
        if !is_peer {
            return Some(false);
        }
        let (ring, capacity) = self.receiver.shared();
        let (doorbell, event) = self.recv_cq.shared();
        let welcome = Message::Welcome(Welcome {
            capacity,
            min_rnr_timer: self.retry.min_rnr_timer,
        });
        let mut links = self.links();
        links.incoming = Some(link.clone());
        links.reserve.incoming = None;
        drop(links);
        Some(link.send(&welcome, &[ring, doorbell, event]).is_ok())
    }

    /// Sends the region that the peer asks for on the socket that it dialled. Returns whether it
    /// could be sent.
    pub(super) fn tell_region(&self, rkey: u32, link: &ControlSocket) -> bool {
        let Some(memory) = self.keys.find(rkey).upgrade() else {
            return link.send(&Message::NoRegion { rkey }, &[]).is_ok();
        };
        let (info, fd): (RegionInfo, _) = memory.info(rkey);
        link.send(&Message::Region(info), &[fd]).is_ok()
    }

    /// Handles the end of a socket: the peer is in ERR, gone or dead.
    pub(super) fn lost(&self) {
        self.fail(&mut self.sender.lock(), CompletionStatus::RetryExceeded);
    }

    /// Enters ERR at this side's own request.
    pub(super) fn give_up(&self) {
        self.fail(&mut self.sender.lock(), CompletionStatus::Flushed);
    }

    /// Enters ERR, closes the sockets so that the peer does the same, and flushes.
    fn fail(&self, sender: &mut Sender, first: CompletionStatus) {
        if self.state() == QueuePairState::Error {
            return;
        }
        self.receiver.fail();
        self.recv_cq.flush();
        sender.flush(first, |executed| self.complete(executed));
        let links = std::mem::take(&mut *self.links());
        for link in [links.outgoing, links.incoming].into_iter().flatten() {
            link.end();
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
                qp_num: self.number,
            },
            retires: executed.retires,
            retired: self.retired.clone(),
        });
    }

    /// Removes the receive queue from its completion queue.
    pub(super) fn detach(&self) {
        self.recv_cq.detach(self.number);
    }

    fn links(&self) -> MutexGuard<'_, ControlSockets> {
        // Nothing panics while it is held.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
