//! Queue pairs.

use std::fmt;
use std::sync::Arc;

use super::{CompletionQueue, FabricError, MemoryRegion, RecvRequest, RemoteSlice, SendRequest};

/// One end of a reliable connection: ordered, each message delivered once or the pair is in error.
///
/// The life of one: created in RESET; [`to_init`](Self::to_init); receives posted;
/// [`address`](Self::address) told to the peer; [`to_rtr`](Self::to_rtr) with the peer's address;
/// [`to_rts`](Self::to_rts); sends posted. An error on either side moves the pair to ERR, where everything
/// posted is completed as [flushed](super::CompletionStatus::Flushed). Dropping drains it (DROP-1).
pub trait QueuePair: Send + fmt::Debug {
    /// Number, unique within the device while the pair lives.
    fn number(&self) -> u32;

    /// What the peer needs to reach this end.
    fn address(&self) -> QueuePairAddress;

    /// The state it is in now; ERR can be entered at any time.
    fn state(&self) -> QueuePairState;

    /// RESET to INIT. Receives may be posted from now on.
    ///
    /// # Errors
    /// Not in RESET, or refused by the device.
    fn to_init(&mut self) -> Result<(), FabricError>;

    /// INIT to RTR (ready to receive) from the peer at `remote`. Does not wait for the peer.
    ///
    /// # Errors
    /// Not in INIT, or the address cannot be reached.
    fn to_rtr(&mut self, remote: &QueuePairAddress) -> Result<(), FabricError>;

    /// RTR to RTS (ready to send).
    ///
    /// # Errors
    /// Not in RTR, or refused by the device.
    fn to_rts(&mut self) -> Result<(), FabricError>;

    /// Any state to ERR. Everything posted completes as flushed. Harmless when repeated.
    ///
    /// # Errors
    /// Refused by the device.
    fn to_error(&mut self) -> Result<(), FabricError>;

    /// Any state to RESET: whatever was posted is forgotten, though completions of it may still come. The number
    /// and [`address`](Self::address) stay, so a peer that was told them can be connected with again.
    ///
    /// # Errors
    /// Refused by the device.
    fn to_reset(&mut self) -> Result<(), FabricError>;

    /// Posts a receive.
    ///
    /// # Errors
    /// In RESET, or the receive queue is full. In ERR it is accepted and then flushed.
    fn post_recv(&mut self, request: RecvRequest) -> Result<(), FabricError>;

    /// Posts so many receives of one `wr_id`, with one doorbell.
    ///
    /// # Errors
    /// As [`post_recv`](Self::post_recv). Some of them may have been posted then.
    fn post_recvs(&mut self, request: RecvRequest, count: u32) -> Result<(), FabricError> {
        (0..count).try_for_each(|_| self.post_recv(request))
    }

    /// Posts a send. A bad key or address is not an error here but a completion.
    ///
    /// A key is all that the device asks for, so it is for who posts to see to these, until the request has completed or the
    /// queue pair is dropped: the memory that `request` names here stays registered (a region that is dropped earlier makes
    /// the request fail), and no thread has a reference to bytes that it changes, nor changes bytes that it sends. Inline bytes
    /// are taken before this returns.
    ///
    /// # Errors
    /// Not in RTS or ERR, the send queue is full, or inline data is longer than `max_inline` or given for
    /// a read. In ERR it is accepted and then flushed, unsignalled ones too.
    fn post_send(&mut self, request: &SendRequest<'_>) -> Result<(), FabricError>;

    /// Executes a solicited WRITE_WITH_IMM here and now, after those that were posted, if that is possible, and says whether it
    /// was. Such a write takes no place in the send queue and completes at the peer only. If it was not possible, nothing was
    /// done: [`post_send`](Self::post_send) then. The bytes may be reused as soon as this returns.
    fn write_now(&mut self, imm: u32, bytes: &[u8], remote: RemoteSlice) -> bool {
        let _ = (imm, bytes, remote);
        false
    }

    /// Whether [`place`](Self::place) can ever give anything.
    fn can_place(&self) -> bool {
        false
    }

    /// The `len` bytes at `remote`, if this process can reach them and the peer lets them be written. A WRITE there from there
    /// copies nothing: whoever makes a message in this memory spares a copy. They stay readable and writable as long as the
    /// region is held, whatever becomes of the peer.
    ///
    /// `None` also while the peer has yet to be met; so ask once something was sent there.
    fn place(&mut self, remote: RemoteSlice, len: usize) -> Option<Arc<dyn MemoryRegion>> {
        let _ = (remote, len);
        None
    }
}

/// What a queue pair is created with.
#[derive(Debug, Clone)]
pub struct QueuePairInit {
    /// Completions of sends go here.
    pub send_cq: Arc<dyn CompletionQueue>,
    /// Completions of receives go here; may be the same queue.
    pub recv_cq: Arc<dyn CompletionQueue>,
    /// Sends that may be outstanding. An unsignalled one counts until a later signalled one completes.
    pub max_send_wr: u32,
    /// Receives that may be outstanding.
    pub max_recv_wr: u32,
    /// Bytes that a send may carry inline.
    pub max_inline: u32,
    /// How long to insist.
    pub retry: RetryPolicy,
}

/// How long a queue pair insists before it gives a peer up (volume 1, 9.7.5 and 9.7.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Code of the shortest wait that we ask of a sender when we have no receive posted; 12 is 0.64 ms.
    pub min_rnr_timer: u8,
    /// Tries after "receiver not ready"; 7 means for ever.
    pub rnr_retry: u8,
    /// Code of the wait for an acknowledgement, 1 to 31: 4.096 us times 2 to this power; 14 is 67 ms.
    pub timeout: u8,
    /// Tries after such a wait, 0 to 6. (7 is refused: soft-RoCE never gives up with it.)
    pub retry_cnt: u8,
}

impl RetryPolicy {
    /// Refuses what does not fit its bits, and what never ends.
    ///
    /// # Errors
    /// [`FabricError::Limit`] in the name of `device`.
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

/// What one end tells the other so that it can connect (PROTOCOL "QP": gid, gidx, lid, mtu, psn, qpn).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePairAddress {
    /// Global identifier of the port.
    pub gid: Gid,
    /// Its index in the owner's table; informative. -1 where LIDs are used.
    pub gid_index: i32,
    /// Local identifier of the port, 0 on RoCE and shm.
    pub lid: u16,
    /// `ibv_mtu` code of the port's active MTU.
    pub mtu: u8,
    /// First packet sequence number, 24 bits.
    pub psn: u32,
    /// Number of the queue pair, 24 bits.
    pub qp_num: u32,
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
    /// Fresh.
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
