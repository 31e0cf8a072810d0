//! Queue pairs.

use std::fmt;
use std::mem::offset_of;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use ibverbs_sys::{
    ibv_access_flags, ibv_create_cq, ibv_create_qp, ibv_destroy_cq, ibv_destroy_qp, ibv_gid,
    ibv_modify_qp, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask, ibv_qp_cap, ibv_qp_init_attr,
    ibv_qp_state, ibv_qp_type, ibv_query_qp, ibv_recv_wr, ibv_send_flags, ibv_send_wr, ibv_sge,
    ibv_wr_opcode,
};

use super::address::{Address, query_port};
use super::completion_queue::{VerbsCompletionQueue, WorkRequestTables};
use super::diagnosis::{check, last_failed};
use super::protection_domain::ProtectionDomain;
use super::work_request_table::{QueuePairKey, WorkNumber, WorkRequestTable};
use crate::fabric::{
    FabricError, Operation, Payload, QueuePair, QueuePairAddress, QueuePairInit, QueuePairState,
    RecvRequest, RetryPolicy, SendRequest,
};

/// Most routers that a packet may pass.
const HOP_LIMIT: u8 = 64;
/// Largest number of 24 bits: queue pair numbers and packet sequence numbers.
const MAX_24: u32 = (1 << 24) - 1;

/// Most reads that may be in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) initiated: u8,
    pub(super) served: u8,
}

/// A work request and its one element, which it points to.
#[repr(C)]
struct SendWork(ibv_send_wr, ibv_sge);

impl fmt::Debug for SendWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendWork({:#x})", self.0.wr_id)
    }
}

/// An `ibv_qp` of type RC.
#[derive(Debug)]
pub(super) struct VerbsQueuePair {
    raw: NonNull<ibv_qp>,
    domain: Arc<ProtectionDomain>,
    send_cq: Arc<VerbsCompletionQueue>,
    recv_cq: Arc<VerbsCompletionQueue>,
    /// Its keys in the registers of the send queue's and the receive queue's completion queues.
    owners: [QueuePairKey; 2],
    tables: Arc<WorkRequestTables>,
    /// Sends that are being posted.
    sends: Vec<SendWork>,
    /// Receives that are being posted.
    receives: Vec<ibv_recv_wr>,
    /// The state that this side put it into. The device may have put it into ERR since.
    state: QueuePairState,
    port: u8,
    address: Address,
    psn: u32,
    max_inline: u32,
    retry: RetryPolicy,
    reads: Limits,
}

// SAFETY: the verbs API is thread safe for every object (ibverbs(7)).
unsafe impl Send for VerbsQueuePair {}

impl VerbsQueuePair {
    pub(super) fn new(
        domain: Arc<ProtectionDomain>,
        init: &QueuePairInit,
        [send_cq, recv_cq]: [Arc<VerbsCompletionQueue>; 2],
        (port, address): (u8, Address),
        reads: Limits,
    ) -> Result<Self, FabricError> {
        let mut wanted = ibv_qp_init_attr {
            send_cq: send_cq.raw(),
            recv_cq: recv_cq.raw(),
            cap: ibv_qp_cap {
                max_send_wr: init.max_send_wr,
                max_recv_wr: init.max_recv_wr,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: init.max_inline,
            },
            qp_type: ibv_qp_type::IBV_QPT_RC,
            sq_sig_all: 0,
            ..ibv_qp_init_attr::default()
        };
        // SAFETY: domain and completion queues are alive, and outlive the queue pair, which holds
        // them.
        let raw = NonNull::new(unsafe { ibv_create_qp(domain.raw(), &mut wanted) });
        let raw = raw.ok_or_else(|| {
            let attributes = format!(
                "max_send_wr {}, max_recv_wr {}, max_inline {} on {}",
                init.max_send_wr,
                init.max_recv_wr,
                init.max_inline,
                domain.context().name()
            );
            last_failed("ibv_create_qp", attributes)
        })?;
        let tables = Arc::new(WorkRequestTables {
            sends: WorkRequestTable::new(init.max_send_wr),
            receives: WorkRequestTable::new(init.max_recv_wr),
        });
        let entered = send_cq.insert(&tables).and_then(|sends| {
            let receives = if Arc::ptr_eq(&send_cq, &recv_cq) {
                Ok(sends)
            } else {
                recv_cq.insert(&tables)
            };
            receives
                .inspect_err(|_| send_cq.remove(sends))
                .map(|receives| [sends, receives])
        });
        let owners = match entered {
            Ok(owners) => owners,
            Err(error) => {
                // SAFETY: just created, nothing was posted.
                unsafe { ibv_destroy_qp(raw.as_ptr()) };
                return Err(error);
            }
        };
        Ok(Self {
            raw,
            domain,
            send_cq,
            recv_cq,
            owners,
            tables,
            sends: Vec::new(),
            receives: Vec::new(),
            state: QueuePairState::Reset,
            port,
            address,
            psn: random_24(),
            max_inline: init.max_inline,
            retry: init.retry,
            reads,
        })
    }

    fn raw(&self) -> *mut ibv_qp {
        self.raw.as_ptr()
    }

    fn device(&self) -> &str {
        self.domain.context().name()
    }

    fn modify(
        &mut self,
        verb: &'static str,
        attributes: &mut ibv_qp_attr,
        mask: ibv_qp_attr_mask,
        what: impl FnOnce() -> String,
    ) -> Result<(), FabricError> {
        let mask = (mask | ibv_qp_attr_mask::IBV_QP_STATE).0 as i32;
        // SAFETY: the queue pair is alive and `attributes` valid.
        let modified = unsafe { ibv_modify_qp(self.raw(), attributes, mask) };
        let number = self.number();
        check(verb, modified, || {
            format!("queue pair {number}: {}", what())
        })
    }

    fn expect(&self, verb: &'static str, state: QueuePairState) -> Result<(), FabricError> {
        let found = self.state();
        if found == state {
            return Ok(());
        }
        Err(FabricError::InvalidState {
            qp_num: self.number(),
            verb,
            state: found,
        })
    }

    fn unreachable(&self, reason: String) -> FabricError {
        FabricError::Unreachable {
            qp_num: self.number(),
            reason,
        }
    }

    /// Refuses values that no peer can have, before the driver sees them.
    fn check_remote(&self, remote: &QueuePairAddress) -> Result<(), FabricError> {
        if !(1..=MAX_24).contains(&remote.qp_num) {
            return Err(self.unreachable(format!("qpn {} is no 24-bit number", remote.qp_num)));
        }
        if remote.psn > MAX_24 {
            return Err(self.unreachable(format!("psn {} is no 24-bit number", remote.psn)));
        }
        if !(1..=5).contains(&remote.mtu) {
            return Err(self.unreachable(format!("mtu code {} is not 1 to 5", remote.mtu)));
        }
        if self.address.index >= 0 && remote.gid == crate::fabric::Gid::default() {
            return Err(self.unreachable("its GID is empty".to_owned()));
        }
        Ok(())
    }

    fn full(&self, queue: &'static str, depth: u32) -> FabricError {
        FabricError::QueueFull {
            qp_num: self.number(),
            queue,
            depth,
        }
    }
}

impl QueuePair for VerbsQueuePair {
    fn number(&self) -> u32 {
        // SAFETY: the queue pair is alive; its number never changes.
        unsafe { (*self.raw()).qp_num }
    }

    fn address(&self) -> QueuePairAddress {
        let port = super::address::port_attributes(self.domain.context(), self.port, self.address);
        QueuePairAddress {
            gid: port.gid,
            gid_index: port.gid_index,
            lid: port.lid,
            mtu: port.mtu,
            psn: self.psn,
            qp_num: self.number(),
            tcp: None,
        }
    }

    fn state(&self) -> QueuePairState {
        if self.state == QueuePairState::Reset {
            return self.state;
        }
        let (mut attributes, mut init) = (ibv_qp_attr::default(), ibv_qp_init_attr::default());
        let mask = ibv_qp_attr_mask::IBV_QP_STATE.0 as i32;
        // SAFETY: the queue pair is alive and both places are valid for writes.
        let queried = unsafe { ibv_query_qp(self.raw(), &mut attributes, mask, &mut init) };
        match (queried, attributes.qp_state) {
            (0, ibv_qp_state::IBV_QPS_ERR | ibv_qp_state::IBV_QPS_SQE) => QueuePairState::Error,
            (0, _) => self.state,
            // The device is gone.
            _ => QueuePairState::Error,
        }
    }

    fn to_init(&mut self) -> Result<(), FabricError> {
        self.expect("to_init", QueuePairState::Reset)?;
        let access = ibv_access_flags::IBV_ACCESS_LOCAL_WRITE
            | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE
            | ibv_access_flags::IBV_ACCESS_REMOTE_READ;
        let mut attributes = ibv_qp_attr {
            qp_state: ibv_qp_state::IBV_QPS_INIT,
            pkey_index: 0,
            port_num: self.port,
            qp_access_flags: access.0,
            ..ibv_qp_attr::default()
        };
        let mask = ibv_qp_attr_mask::IBV_QP_PKEY_INDEX
            | ibv_qp_attr_mask::IBV_QP_PORT
            | ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS;
        let port = self.port;
        self.modify("ibv_modify_qp to INIT", &mut attributes, mask, || {
            format!("port {port}")
        })?;
        self.state = QueuePairState::Init;
        Ok(())
    }

    fn to_rtr(&mut self, remote: &QueuePairAddress) -> Result<(), FabricError> {
        self.expect("to_rtr", QueuePairState::Init)?;
        self.check_remote(remote)?;
        let ours = query_port(self.domain.context(), self.port)?.active_mtu;
        let mtu = ours.min(remote.mtu.into());
        let mut attributes = ibv_qp_attr {
            qp_state: ibv_qp_state::IBV_QPS_RTR,
            path_mtu: mtu,
            dest_qp_num: remote.qp_num,
            rq_psn: remote.psn,
            max_dest_rd_atomic: self.reads.served,
            min_rnr_timer: self.retry.min_rnr_timer,
            ..ibv_qp_attr::default()
        };
        let path = &mut attributes.ah_attr;
        path.port_num = self.port;
        path.dlid = remote.lid;
        if let Ok(index) = u8::try_from(self.address.index) {
            path.is_global = 1;
            path.grh.dgid = ibv_gid { raw: remote.gid.0 };
            path.grh.sgid_index = index;
            path.grh.hop_limit = HOP_LIMIT;
        }
        let mask = ibv_qp_attr_mask::IBV_QP_AV
            | ibv_qp_attr_mask::IBV_QP_PATH_MTU
            | ibv_qp_attr_mask::IBV_QP_DEST_QPN
            | ibv_qp_attr_mask::IBV_QP_RQ_PSN
            | ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC
            | ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER;
        let (index, lid) = (self.address.index, remote.lid);
        let what = || {
            format!(
                "from GID index {index} to GID {}, lid {lid}, qpn {}, mtu code {mtu}",
                remote.gid, remote.qp_num
            )
        };
        self.modify("ibv_modify_qp to RTR", &mut attributes, mask, what)
            .map_err(|error| self.unreachable(error.to_string()))?;
        self.state = QueuePairState::Rtr;
        Ok(())
    }

    fn to_rts(&mut self) -> Result<(), FabricError> {
        self.expect("to_rts", QueuePairState::Rtr)?;
        let mut attributes = ibv_qp_attr {
            qp_state: ibv_qp_state::IBV_QPS_RTS,
            sq_psn: self.psn,
            timeout: self.retry.timeout,
            retry_cnt: self.retry.retry_cnt,
            rnr_retry: self.retry.rnr_retry,
            max_rd_atomic: self.reads.initiated,
            ..ibv_qp_attr::default()
        };
        let mask = ibv_qp_attr_mask::IBV_QP_SQ_PSN
            | ibv_qp_attr_mask::IBV_QP_TIMEOUT
            | ibv_qp_attr_mask::IBV_QP_RETRY_CNT
            | ibv_qp_attr_mask::IBV_QP_RNR_RETRY
            | ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC;
        let retry = self.retry;
        self.modify("ibv_modify_qp to RTS", &mut attributes, mask, || {
            format!("{retry:?}")
        })?;
        self.state = QueuePairState::Rts;
        Ok(())
    }

    fn to_error(&mut self) -> Result<(), FabricError> {
        let mut attributes = ibv_qp_attr {
            qp_state: ibv_qp_state::IBV_QPS_ERR,
            ..ibv_qp_attr::default()
        };
        let mask = ibv_qp_attr_mask::IBV_QP_STATE;
        self.modify("ibv_modify_qp to ERR", &mut attributes, mask, String::new)?;
        self.state = QueuePairState::Error;
        Ok(())
    }

    fn to_reset(&mut self) -> Result<(), FabricError> {
        let mut attributes = ibv_qp_attr {
            qp_state: ibv_qp_state::IBV_QPS_RESET,
            ..ibv_qp_attr::default()
        };
        let mask = ibv_qp_attr_mask::IBV_QP_STATE;
        self.modify("ibv_modify_qp to RESET", &mut attributes, mask, String::new)?;
        self.state = QueuePairState::Reset;
        // Nothing that was posted counts any more; its completions belong to no request.
        let tables = Arc::new(WorkRequestTables {
            sends: WorkRequestTable::new(self.tables.sends.depth()),
            receives: WorkRequestTable::new(self.tables.receives.depth()),
        });
        self.unregister();
        let sends = self.send_cq.insert(&tables)?;
        let receives = if Arc::ptr_eq(&self.send_cq, &self.recv_cq) {
            sends
        } else {
            self.recv_cq.insert(&tables)?
        };
        self.owners = [sends, receives];
        self.tables = tables;
        Ok(())
    }

    fn post_recv(&mut self, request: RecvRequest) -> Result<(), FabricError> {
        self.post_recvs(request, 1)
    }

    fn post_recvs(&mut self, request: RecvRequest, count: u32) -> Result<(), FabricError> {
        if self.state == QueuePairState::Reset {
            return Err(FabricError::InvalidState {
                qp_num: self.number(),
                verb: "post_recv",
                state: self.state,
            });
        }
        let table = &self.tables.receives;
        self.receives.clear();
        self.receives.reserve(count as usize);
        // It stays where it is, because there is room for all of them.
        let list = self.receives.as_mut_ptr();
        for at in 0..count as usize {
            let Some(sequence) = table.post(request.wr_id) else {
                break;
            };
            let number = WorkNumber {
                receive: true,
                owner: self.owners[1],
                sequence,
            };
            self.receives.push(ibv_recv_wr {
                wr_id: number.to_bits(),
                next: list.wrapping_add(at + 1),
                sg_list: ptr::null_mut(),
                num_sge: 0,
            });
        }
        let is_full = self.receives.len() < count as usize;
        if let Some(last) = self.receives.last_mut() {
            last.next = ptr::null_mut();
            self.post_receives()?;
        }
        if is_full {
            return Err(self.full("receive", self.tables.receives.depth()));
        }
        if self.state == QueuePairState::Error {
            // soft-RoCE does not look at the receive queue until something happens.
            self.to_error()?;
        }
        Ok(())
    }

    fn post_send(&mut self, request: &SendRequest<'_>) -> Result<(), FabricError> {
        self.post_sends(std::slice::from_ref(request))
    }

    fn post_sends(&mut self, requests: &[SendRequest<'_>]) -> Result<(), FabricError> {
        if !matches!(self.state, QueuePairState::Rts | QueuePairState::Error) {
            return Err(FabricError::InvalidState {
                qp_num: self.number(),
                verb: "post_send",
                state: self.state,
            });
        }
        self.sends.clear();
        self.sends.reserve(requests.len());
        // They stay where they are, because there is room for all of them.
        let list = self.sends.as_mut_ptr();
        let mut refusal = Ok(());
        for (at, request) in requests.iter().enumerate() {
            match self.work_of(request, list.wrapping_add(at)) {
                Ok(work) => self.sends.push(work),
                Err(error) => {
                    refusal = Err(error);
                    break;
                }
            }
        }
        if let Some(last) = self.sends.last_mut() {
            last.0.next = ptr::null_mut();
            self.ring_send_doorbell()?;
        }
        refusal
    }
}

impl VerbsQueuePair {
    /// Takes a place in the send queue for `request`. Returns what to post from `place`, which has
    /// its element beside it and another one behind it.
    fn work_of(
        &self,
        request: &SendRequest<'_>,
        place: *mut SendWork,
    ) -> Result<SendWork, FabricError> {
        request.check_inline(self.max_inline, self.device())?;
        let mut flags = 0;
        let element = match request.local {
            Payload::Region(sge) => ibv_sge {
                addr: sge.addr,
                length: sge.length,
                lkey: sge.lkey,
            },
            Payload::Inline(bytes) => {
                flags |= ibv_send_flags::IBV_SEND_INLINE.0;
                ibv_sge {
                    addr: bytes.as_ptr() as u64,
                    length: bytes.len() as u32,
                    lkey: 0,
                }
            }
        };
        let table = &self.tables.sends;
        let Some(sequence) = table.post(request.wr_id) else {
            return Err(self.full("send", table.depth()));
        };
        if request.signalled {
            flags |= ibv_send_flags::IBV_SEND_SIGNALED.0;
        }
        let number = WorkNumber {
            receive: false,
            owner: self.owners[0],
            sequence,
        };
        let (opcode, imm) = match request.operation {
            Operation::Write => (ibv_wr_opcode::IBV_WR_RDMA_WRITE, 0),
            Operation::WriteWithImm(imm) => (ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM, imm),
            Operation::Read => (ibv_wr_opcode::IBV_WR_RDMA_READ, 0),
        };
        let mut work = ibv_send_wr {
            wr_id: number.to_bits(),
            next: place.wrapping_add(1).cast(),
            sg_list: place.wrapping_byte_add(offset_of!(SendWork, 1)).cast(),
            // A transfer of nothing needs no memory.
            num_sge: i32::from(element.length > 0),
            opcode,
            send_flags: flags,
            ..ibv_send_wr::default()
        };
        work.__bindgen_anon_1.imm_data = imm;
        work.wr.rdma.remote_addr = request.remote.addr;
        work.wr.rdma.rkey = request.remote.rkey;
        Ok(SendWork(work, element))
    }

    /// Posts the list of `sends`, which is not empty.
    fn ring_send_doorbell(&mut self) -> Result<(), FabricError> {
        let list = self.sends.as_mut_ptr().cast();
        let mut refused = ptr::null_mut();
        // SAFETY: the queue pair is alive, its context's table has this entry, and `&mut self`
        // makes this the only post to its send queue. The work requests lie one after the other
        // from `list`, each but the last with the address of the next one, and with that of its one
        // element; they, the elements and the inline bytes, which are at most as many as the queue
        // pair was made for, are valid now and read before the call returns; `refused` is valid for
        // a write. Other memory is not reached by pointer: the device checks address, length and
        // right against the key, and a key is worth nothing once its region is deregistered, which
        // comes before its memory is freed (DROP-1). That nobody here has a reference to bytes that
        // the device changes is the contract of `QueuePair::post_send`.
        let posted = unsafe {
            let post = (*(*self.raw()).context).ops.post_send;
            post.map_or(libc::ENOSYS, |post| post(self.raw(), list, &mut refused))
        };
        check("ibv_post_send", posted, || self.device().to_owned()).inspect_err(|_| {
            // The sends before it have been posted.
            let is_refused = |work: &&SendWork| ptr::eq(&work.0, refused);
            let work = self.sends.iter().find(is_refused);
            let work = work.unwrap_or(&self.sends[0]);
            let sequence = WorkNumber::from_bits(work.0.wr_id).sequence;
            self.tables.sends.unpost(sequence);
        })
    }

    /// Posts the list of `receives`, which is not empty.
    fn post_receives(&mut self) -> Result<(), FabricError> {
        let list = self.receives.as_mut_ptr();
        let mut refused = list;
        // SAFETY: the queue pair is alive, its context's table has this entry, and `&mut self`
        // makes this the only post to its receive queue. The work requests, which have no buffers,
        // lie one after the other from `list`, each but the last with the address of the next one,
        // and are read before the call returns; `refused` is valid for a write.
        let posted = unsafe {
            let post = (*(*self.raw()).context).ops.post_recv;
            post.map_or(libc::ENOSYS, |post| post(self.raw(), list, &mut refused))
        };
        check("ibv_post_recv", posted, || self.device().to_owned()).inspect_err(|_| {
            // The receives before it have been posted.
            let is_refused = |work: &&ibv_recv_wr| ptr::eq(*work, refused);
            let first = self.receives.iter().find(is_refused);
            let work = first.unwrap_or(&self.receives[0]);
            let sequence = WorkNumber::from_bits(work.wr_id).sequence;
            self.tables.receives.unpost(sequence);
        })
    }

    fn unregister(&self) {
        self.send_cq.remove(self.owners[0]);
        if !Arc::ptr_eq(&self.send_cq, &self.recv_cq) {
            self.recv_cq.remove(self.owners[1]);
        }
    }
}

impl Drop for VerbsQueuePair {
    /// Moves to ERR, so that the peer learns of it at once, and destroys the queue pair: the device
    /// touches no memory of this process afterwards (DROP-1).
    fn drop(&mut self) {
        if self.state != QueuePairState::Reset
            && let Err(error) = self.to_error()
        {
            tracing::debug!(%error, "a queue pair goes without having been in ERR");
        }
        self.unregister();
        self.domain.context().drain_events();
        // SAFETY: created by us, destroyed once, and nobody uses it any more.
        if unsafe { ibv_destroy_qp(self.raw()) } != 0 {
            tracing::warn!(device = self.device(), "a queue pair cannot be destroyed");
        }
    }
}

/// The most inline bytes that the device grants, found by trying.
pub(super) fn granted_inline(domain: &ProtectionDomain) -> u32 {
    // SAFETY: the context is open; the queue is destroyed below.
    let cq = unsafe {
        ibv_create_cq(
            domain.context().raw(),
            2,
            ptr::null_mut(),
            ptr::null_mut(),
            0,
        )
    };
    if cq.is_null() {
        return 0;
    }
    let granted = [512, 256, 128, 64].into_iter().find(|wanted| {
        let mut attributes = ibv_qp_init_attr {
            send_cq: cq,
            recv_cq: cq,
            cap: ibv_qp_cap {
                max_send_wr: 1,
                max_recv_wr: 1,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: *wanted,
            },
            qp_type: ibv_qp_type::IBV_QPT_RC,
            ..ibv_qp_init_attr::default()
        };
        // SAFETY: domain and queue are alive; the queue pair is destroyed before them.
        let qp = unsafe { ibv_create_qp(domain.raw(), &mut attributes) };
        if qp.is_null() {
            return false;
        }
        // SAFETY: created above, destroyed once.
        unsafe { ibv_destroy_qp(qp) };
        true
    });
    // SAFETY: created above, destroyed once, and the queue pairs that used it are gone.
    unsafe { ibv_destroy_cq(cq) };
    granted.unwrap_or(0)
}

/// A first packet sequence number that packets of earlier connections do not have.
fn random_24() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) as u32 & MAX_24
}
