//! Completion queues, each with a completion channel of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ibverbs_sys::{
    ibv_ack_cq_events, ibv_comp_channel, ibv_cq, ibv_create_comp_channel, ibv_create_cq,
    ibv_destroy_comp_channel, ibv_destroy_cq, ibv_get_cq_event, ibv_wc, ibv_wc_opcode,
    ibv_wc_status,
};
use rustix::event::epoll;

use super::context::Context;
use super::diagnosis::{check, failed, last_failed};
use super::work_request_table::{QueuePairKey, WorkNumber, WorkRequestTable};
use crate::fabric::{Completion, CompletionQueue, CompletionStatus, FabricError, Opcode, Poller};

const BATCH: usize = 16;

/// An `ibv_cq`.
#[derive(Debug)]
pub(super) struct VerbsCompletionQueue {
    raw: NonNull<ibv_cq>,
    channel: Channel,
    /// Joins the channel with the events of the device, because a queue that has failed raises none
    /// itself.
    events: OwnedFd,
    failed: Arc<AtomicBool>,
    /// The queue pairs that complete here. Locked once per batch.
    register: Mutex<Vec<RegisterEntry>>,
}

// SAFETY: the verbs API is thread safe for every object (ibverbs(7)); what we keep besides is
// behind a lock.
unsafe impl Send for VerbsCompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for VerbsCompletionQueue {}

/// A place in the register.
#[derive(Debug)]
struct RegisterEntry {
    owner: QueuePairKey,
    tables: Option<Arc<WorkRequestTables>>,
}

/// The two queues of a queue pair.
#[derive(Debug)]
pub(super) struct WorkRequestTables {
    pub(super) sends: WorkRequestTable,
    pub(super) receives: WorkRequestTable,
}

/// An `ibv_comp_channel`.
#[derive(Debug)]
struct Channel {
    raw: NonNull<ibv_comp_channel>,
    context: Arc<Context>,
}

impl Channel {
    fn new(context: Arc<Context>) -> Result<Self, FabricError> {
        // SAFETY: the context is open.
        let raw = NonNull::new(unsafe { ibv_create_comp_channel(context.raw()) });
        let raw = raw.ok_or_else(|| last_failed("ibv_create_comp_channel", context.name()))?;
        let channel = Self { raw, context };
        rustix::io::ioctl_fionbio(channel.as_fd(), true)
            .map_err(FabricError::os("making a completion channel non-blocking"))?;
        Ok(channel)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the channel, which `self` owns.
        unsafe { BorrowedFd::borrow_raw((*self.raw.as_ptr()).fd) }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: created by us, destroyed once; the queue that used it is destroyed before its
        // fields are dropped.
        if unsafe { ibv_destroy_comp_channel(self.raw.as_ptr()) } != 0 {
            tracing::warn!(
                device = self.context.name(),
                "a completion channel cannot be destroyed"
            );
        }
    }
}

impl VerbsCompletionQueue {
    pub(super) fn new(context: &Arc<Context>, depth: u32) -> Result<Self, FabricError> {
        let channel = Channel::new(context.clone())?;
        let events =
            join(&channel, context).map_err(FabricError::os("joining event descriptors"))?;
        let entries = i32::try_from(depth).unwrap_or(i32::MAX);
        // SAFETY: context and channel are alive, and outlive the queue.
        let raw = unsafe {
            ibv_create_cq(
                context.raw(),
                entries,
                ptr::null_mut(),
                channel.raw.as_ptr(),
                0,
            )
        };
        let raw = NonNull::new(raw).ok_or_else(|| {
            last_failed(
                "ibv_create_cq",
                format!("{depth} entries on {}", context.name()),
            )
        })?;
        let failed = Arc::new(AtomicBool::new(false));
        context.watch(raw.as_ptr() as usize, &failed);
        Ok(Self {
            raw,
            channel,
            events,
            failed,
            register: Mutex::default(),
        })
    }

    pub(super) fn raw(&self) -> *mut ibv_cq {
        self.raw.as_ptr()
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.channel.context
    }

    /// Registers a queue pair. Its completions are found by the returned key.
    pub(super) fn insert(
        &self,
        tables: &Arc<WorkRequestTables>,
    ) -> Result<QueuePairKey, FabricError> {
        let mut register = self.register();
        let free = register.iter_mut().find(|place| place.tables.is_none());
        if let Some(place) = free {
            place.tables = Some(tables.clone());
            return Ok(place.owner);
        }
        let Ok(place) = u16::try_from(register.len()) else {
            return Err(FabricError::Limit {
                what: "the number of queue pairs of a completion queue",
                given: register.len() as u64 + 1,
                allowed: format!("at most {}", register.len()),
                device: self.context().name().to_owned(),
            });
        };
        let owner = QueuePairKey {
            place,
            generation: 0,
        };
        register.push(RegisterEntry {
            owner,
            tables: Some(tables.clone()),
        });
        Ok(owner)
    }

    /// Unregisters a queue pair. Its completions that are still in the queue are dropped.
    pub(super) fn remove(&self, owner: QueuePairKey) {
        if let Some(place) = self.register().get_mut(usize::from(owner.place)) {
            place.tables = None;
            place.owner = owner.next();
        }
    }

    fn register(&self) -> MutexGuard<'_, Vec<RegisterEntry>> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_raw(&self, out: &mut [ibv_wc]) -> Result<usize, FabricError> {
        let count = i32::try_from(out.len()).unwrap_or(i32::MAX);
        // SAFETY: the queue is alive, its context's table has this entry, and `out` has room for
        // `count` entries.
        let polled = unsafe {
            let poll = (*self.context().raw()).ops.poll_cq;
            poll.map_or(-1, |poll| poll(self.raw(), count, out.as_mut_ptr()))
        };
        usize::try_from(polled).map_err(|_| failed("ibv_poll_cq", self.context().name(), libc::EIO))
    }
}

/// A descriptor that is readable when either of the two is.
fn join(channel: &Channel, context: &Context) -> rustix::io::Result<OwnedFd> {
    let joined = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for fd in [channel.as_fd(), context.as_fd()] {
        let data = epoll::EventData::new_u64(0);
        epoll::add(&joined, fd, data, epoll::EventFlags::IN)?;
    }
    Ok(joined)
}

/// Takes the completions of a queue.
#[derive(Debug)]
pub(super) struct VerbsPoller(pub(super) Arc<VerbsCompletionQueue>);

impl Poller for VerbsPoller {
    fn poll(&mut self, out: &mut [Completion]) -> Result<usize, FabricError> {
        let queue = &*self.0;
        let mut filled = 0;
        while filled < out.len() {
            let mut batch = [ibv_wc::default(); BATCH];
            let wanted = BATCH.min(out.len() - filled);
            let count = queue.poll_raw(&mut batch[..wanted])?;
            if count > 0 {
                let register = queue.register();
                for entry in &batch[..count] {
                    if let Some(completion) = completion(&register, entry) {
                        out[filled] = completion;
                        filled += 1;
                    }
                }
            }
            if count < wanted {
                break;
            }
        }
        if filled == 0 && queue.failed.load(Ordering::Acquire) {
            return Err(failed(
                "ibv_poll_cq",
                "the completion queue has failed: overrun, or the device is gone",
                libc::EIO,
            ));
        }
        Ok(filled)
    }
}

impl CompletionQueue for VerbsCompletionQueue {
    fn arm(&self) -> Result<(), FabricError> {
        // SAFETY: the queue is alive, and its context's table has this entry.
        let armed = unsafe {
            let arm = (*self.context().raw()).ops.req_notify_cq;
            arm.map_or(libc::ENOSYS, |arm| arm(self.raw(), 0))
        };
        check("ibv_req_notify_cq", armed, || {
            self.context().name().to_owned()
        })
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    fn clear_events(&self) {
        let (mut queue, mut user) = (ptr::null_mut(), ptr::null_mut());
        let mut count = 0;
        // SAFETY: the channel is alive and non-blocking, and both places are valid for writes.
        while unsafe { ibv_get_cq_event(self.channel.raw.as_ptr(), &mut queue, &mut user) } == 0 {
            count += 1;
        }
        if count > 0 {
            // SAFETY: that many events of this queue, the only one of its channel, were given to
            // us.
            unsafe { ibv_ack_cq_events(self.raw(), count) };
        }
        self.context().drain_events();
    }
}

impl Drop for VerbsCompletionQueue {
    fn drop(&mut self) {
        // Destroying waits for every event to be acknowledged.
        self.clear_events();
        self.context().forget(self.raw() as usize);
        // SAFETY: created by us, destroyed once; queue pairs hold an `Arc` of it and so are gone.
        if unsafe { ibv_destroy_cq(self.raw()) } != 0 {
            tracing::warn!(
                device = self.context().name(),
                "a completion queue cannot be destroyed"
            );
        }
    }
}

/// Finds the queue pair of a completion; `None` if it is gone.
fn completion(register: &[RegisterEntry], entry: &ibv_wc) -> Option<Completion> {
    let number = WorkNumber::from_bits(entry.wr_id());
    let place = register.get(usize::from(number.owner.place))?;
    let tables = place
        .tables
        .as_ref()
        .filter(|_| place.owner == number.owner)?;
    let table = if number.receive {
        &tables.receives
    } else {
        &tables.sends
    };
    Some(Completion {
        wr_id: table.complete(number.sequence),
        status: status(entry),
        opcode: opcode(entry),
        byte_len: entry.len() as u32,
        // soft-RoCE reports an immediate for sends, too.
        imm: entry.imm_data().filter(|_| number.receive),
        qp_num: entry.qp_num,
    })
}

fn status(entry: &ibv_wc) -> CompletionStatus {
    match entry.error() {
        None => CompletionStatus::Success,
        Some((ibv_wc_status::IBV_WC_LOC_LEN_ERR, _)) => CompletionStatus::LocalLength,
        Some((ibv_wc_status::IBV_WC_LOC_PROT_ERR, _)) => CompletionStatus::LocalProtection,
        Some((ibv_wc_status::IBV_WC_WR_FLUSH_ERR, _)) => CompletionStatus::Flushed,
        Some((ibv_wc_status::IBV_WC_REM_ACCESS_ERR, _)) => CompletionStatus::RemoteAccess,
        Some((ibv_wc_status::IBV_WC_RETRY_EXC_ERR, _)) => CompletionStatus::RetryExceeded,
        Some((ibv_wc_status::IBV_WC_RNR_RETRY_EXC_ERR, _)) => CompletionStatus::RnrRetryExceeded,
        Some((other, _)) => CompletionStatus::Other(other),
    }
}

fn opcode(entry: &ibv_wc) -> Opcode {
    match entry.opcode() {
        ibv_wc_opcode::IBV_WC_RDMA_READ => Opcode::Read,
        ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM => Opcode::RecvWriteWithImm,
        _ => Opcode::Write,
    }
}
