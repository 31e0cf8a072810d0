//! Queue pairs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::retry_timing::ack_timeout;
use super::{
    CompletionQueue, FabricError, MemoryRegion, RecvRequest, RemoteSlice, SendRequest, TcpAddress,
};

/// One end of a reliable connection: messages arrive in order and exactly once, or the queue pair
/// is in error.
///
/// A queue pair is created in RESET; then [`to_init`](Self::to_init), receives are posted, its
/// [`address`](Self::address) goes to the peer, [`to_rtr`](Self::to_rtr) takes the peer's address,
/// [`to_rts`](Self::to_rts), and sends are posted. An error on either side moves the pair to ERR,
/// where all posted work completes as [flushed](super::CompletionStatus::Flushed). Dropping drains
/// it (DROP-1).
pub trait QueuePair: Send + fmt::Debug {
    /// Number of the queue pair, unique within the device while it lives.
    fn number(&self) -> u32;

    /// The address that the peer needs to reach this end.
    fn address(&self) -> QueuePairAddress;

    /// State of the queue pair at this moment; ERR can be entered at any time.
    fn state(&self) -> QueuePairState;

    /// Moves from RESET to INIT. Receives may be posted from now on.
    ///
    /// # Errors
    /// The state is not RESET, or the device refuses.
    fn to_init(&mut self) -> Result<(), FabricError>;

    /// Moves from INIT to RTR (ready to receive) from the peer at `remote`. Does not wait for the
    /// peer.
    ///
    /// # Errors
    /// The state is not INIT, or the address cannot be reached.
    fn to_rtr(&mut self, remote: &QueuePairAddress) -> Result<(), FabricError>;

    /// Says which alias the peer must prove to have, before [`to_rtr`](Self::to_rtr). A fabric that
    /// has no means for that takes no notice; tcp with TLS accepts every peer whose certificate the
    /// authority has signed if nobody says this.
    fn expect_peer(&mut self, alias: &str) {
        let _ = alias;
    }

    /// Returns whether the peer has been met since [`to_rtr`](Self::to_rtr). A fabric that cannot
    /// tell says yes.
    ///
    /// # Errors
    /// [`FabricError::Tls`] if this side or the peer refuses the other; the queue pair is in ERR.
    fn has_met_peer(&self) -> Result<bool, FabricError> {
        Ok(true)
    }

    /// Moves from RTR to RTS (ready to send).
    ///
    /// # Errors
    /// The state is not RTR, or the device refuses.
    fn to_rts(&mut self) -> Result<(), FabricError>;

    /// Moves from any state to ERR. All posted work completes as flushed. A repeated call does
    /// nothing.
    ///
    /// # Errors
    /// The device refuses.
    fn to_error(&mut self) -> Result<(), FabricError>;

    /// Moves from any state to RESET: all posted work is forgotten, though its completions may
    /// still come. The number and [`address`](Self::address) stay, so a peer that was told them can
    /// be connected with again.
    ///
    /// # Errors
    /// The device refuses.
    fn to_reset(&mut self) -> Result<(), FabricError>;

    /// Posts a receive.
    ///
    /// # Errors
    /// The state is RESET, or the receive queue is full. In ERR the receive is accepted and then
    /// flushed.
    fn post_recv(&mut self, request: RecvRequest) -> Result<(), FabricError>;

    /// Posts `count` receives with the same `wr_id`, with one doorbell.
    ///
    /// # Errors
    /// The errors of [`post_recv`](Self::post_recv). Some receives may have been posted then.
    fn post_recvs(&mut self, request: RecvRequest, count: u32) -> Result<(), FabricError> {
        (0..count).try_for_each(|_| self.post_recv(request))
    }

    /// Posts a send. A bad key or address is reported by a completion, not by an error here.
    ///
    /// The device checks keys only, so the caller must ensure, until the request has completed or
    /// the queue pair is dropped: the memory that `request` names here stays registered (a region
    /// that is dropped earlier makes the request fail), and no thread has a reference to bytes that
    /// it changes, nor changes bytes that it sends. Inline bytes are copied before this returns.
    ///
    /// # Errors
    /// The state is not RTS or ERR, the send queue is full, or inline data is longer than
    /// `max_inline` or given for a read. In ERR the send is accepted and then flushed, even if it
    /// is unsignalled.
    fn post_send(&mut self, request: &SendRequest<'_>) -> Result<(), FabricError>;

    /// Posts sends, with one doorbell for all of them if the device has one, or in one system call.
    /// The caller ensures for each of them what [`post_send`](Self::post_send) asks.
    ///
    /// # Errors
    /// The errors of [`post_send`](Self::post_send). The sends before the refused one have been
    /// posted then, and none behind it.
    fn post_sends(&mut self, requests: &[SendRequest<'_>]) -> Result<(), FabricError> {
        requests
            .iter()
            .try_for_each(|request| self.post_send(request))
    }

    /// Executes a solicited WRITE_WITH_IMM at once, after all posted sends, if that is possible,
    /// and returns whether it did. Such a write takes no place in the send queue and completes at
    /// the peer only. If it was not possible, nothing was done: call [`post_send`](Self::post_send)
    /// then. The bytes may be reused as soon as this returns.
    fn write_now(&mut self, imm: u32, bytes: &[u8], remote: RemoteSlice) -> bool {
        let _ = (imm, bytes, remote);
        false
    }

    /// Returns whether the queue pair fails by itself when that of its peer is gone. Others notice
    /// only when they send.
    fn notices_end(&self) -> bool {
        false
    }

    /// Returns whether [`place`](Self::place) can ever return memory.
    fn can_place(&self) -> bool {
        false
    }

    /// Maps the `len` bytes at `remote`, if this process can reach them and the peer lets them be
    /// written. A WRITE from there to there copies nothing: a message that is made in this memory
    /// saves a copy. The bytes stay readable and writable as long as the region is held, whatever
    /// happens to the peer.
    ///
    /// Returns `None` also before the first contact with the peer, so call it after something was
    /// sent there.
    fn place(&mut self, remote: RemoteSlice, len: usize) -> Option<Arc<dyn MemoryRegion>> {
        let _ = (remote, len);
        None
    }
}

/// The parameters of a new queue pair.
#[derive(Debug, Clone)]
pub struct QueuePairInit {
    /// Completion queue for sends.
    pub send_cq: Arc<dyn CompletionQueue>,
    /// Completion queue for receives; may be the same queue.
    pub recv_cq: Arc<dyn CompletionQueue>,
    /// Most outstanding sends. An unsignalled one counts until a later signalled one completes.
    pub max_send_wr: u32,
    /// Most outstanding receives.
    pub max_recv_wr: u32,
    /// Most bytes that a send may carry inline.
    pub max_inline: u32,
    /// How long the queue pair retries.
    pub retry: RetryPolicy,
}

/// How long a queue pair retries before it gives a peer up.
///
/// The fields are those of `ibv_modify_qp`; the InfiniBand Architecture (volume 1, 9.7.5 and 9.7.6)
/// says what a device does with them. The default is 12, 6, 14 and 6: a peer that does not answer
/// is given up after some seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Code of the shortest wait that this side asks of a sender when no receive is posted, 0 to
    /// 31: 1 is 0.01 ms, 12 is 0.64 ms, 31 is 491.52 ms, and 0 is 655.36 ms.
    pub min_rnr_timer: u8,
    /// Retries after "receiver not ready"; 7 means without end.
    pub rnr_retry: u8,
    /// Code of the wait for an acknowledgement, 1 to 31: 4.096 us times 2 to this power; 14 is 67
    /// ms.
    pub timeout: u8,
    /// Retries after such a wait, 0 to 6. (7 is refused: soft-RoCE never gives up with it.)
    pub retry_cnt: u8,
}

impl RetryPolicy {
    /// Refuses values that do not fit their bits, and those that never end.
    ///
    /// # Errors
    /// [`FabricError::Limit`] with the name of `device`.
    ///
    /// ```
    /// use slimerpc::fabric::RetryPolicy;
    /// assert!(RetryPolicy::default().check("rxe0").is_ok());
    /// let for_ever = RetryPolicy { retry_cnt: 7, ..RetryPolicy::default() };
    /// assert!(for_ever.check("rxe0").is_err());
    /// ```
    pub fn check(&self, device: &str) -> Result<(), FabricError> {
        let fields = [
            ("min_rnr_timer", self.min_rnr_timer, 0..=31),
            ("rnr_retry", self.rnr_retry, 0..=7),
            ("timeout", self.timeout, 1..=31),
            ("retry_cnt", self.retry_cnt, 0..=6),
        ];
        for (what, given, allowed) in fields {
            if !allowed.contains(&given) {
                return Err(FabricError::Limit {
                    what,
                    given: given.into(),
                    allowed: format!("{} to {}", allowed.start(), allowed.end()),
                    device: device.to_owned(),
                });
            }
        }
        Ok(())
    }
}

impl RetryPolicy {
    /// How long a peer that does not answer is tried: each wait and its retries. Devices may take
    /// up to four times as long (volume 1, 9.7.6.1.3).
    ///
    /// ```
    /// use std::time::Duration;
    /// use slimerpc::fabric::RetryPolicy;
    /// let nominal = RetryPolicy::default().gives_up_after();
    /// assert_eq!(nominal, 7 * Duration::from_nanos(67_108_864));
    /// ```
    pub fn gives_up_after(&self) -> Duration {
        ack_timeout(self.timeout) * (u32::from(self.retry_cnt) + 1)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            min_rnr_timer: 12,
            rnr_retry: 6,
            timeout: 14,
            retry_cnt: 6,
        }
    }
}

/// The address of one end, which the other needs to connect (PROTOCOL "QP": gid, gidx, lid, mtu,
/// psn, qpn).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePairAddress {
    /// Global identifier of the port.
    pub gid: Gid,
    /// Index of the GID in the owner's table; informative. -1 where LIDs are used.
    pub gid_index: i32,
    /// Local identifier of the port, 0 on RoCE and shm.
    pub lid: u16,
    /// `ibv_mtu` code of the port's active MTU.
    pub mtu: u8,
    /// First packet sequence number, 24 bits.
    pub psn: u32,
    /// Number of the queue pair, 24 bits.
    pub qp_num: u32,
    /// Where to dial, and with which key; of the tcp fabric alone.
    pub tcp: Option<TcpAddress>,
}

/// A 128-bit global identifier, in network order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Gid(pub [u8; 16]);

impl fmt::Debug for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::Ipv6Addr::from(self.0).fmt(f)
    }
}

/// States of a queue pair (`ibv_qp_state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueuePairState {
    /// New or reset; nothing can be posted.
    Reset,
    /// Receives can be posted.
    Init,
    /// Ready to receive.
    Rtr,
    /// Ready to send.
    Rts,
    /// In error; everything is flushed.
    Error,
}

impl fmt::Display for QueuePairState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset => "RESET",
            Self::Init => "INIT",
            Self::Rtr => "RTR",
            Self::Rts => "RTS",
            Self::Error => "ERR",
        })
    }
}
