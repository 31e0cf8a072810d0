//! Memory that peers read and write one-sided, and the handle that names it in messages.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};
use slimerpc::channel::{Buffer, BufferLocation, LossCause, MemoryError, Rights};
use slimerpc::fabric::{LinkType, OutOfRange};

use crate::AgentError;

/// A handle of an agent's registered memory: a plain value that travels in messages. Its holder
/// reads and writes that memory as far as the handle's rights allow, without work by the owner; see
/// [`PeerAgent::attach`](crate::PeerAgent::attach).
///
/// The handle is valid until the [`OwnBuffer`] is dropped or its agent ends. A later incarnation of
/// the agent under the same alias does not accept it (FENCE-1).
///
/// ```
/// # use slimerpc_actors::{PeerAgent, RdmaBuffer, Rights, service};
/// #[derive(Default)]
/// struct Trainer {
///     offered: Option<RdmaBuffer>,
/// }
///
/// #[service]
/// impl Trainer {
///     #[method]
///     fn offer(&mut self, weights: RdmaBuffer) {
///         self.offered = Some(weights);
///     }
///     #[method]
///     fn weights(&mut self) -> Option<RdmaBuffer> {
///         self.offered.clone()
///     }
/// }
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let owner = PeerAgent::builder().local().alias("buffer:owner").start().await?;
/// owner.serve(Trainer::default()).await?;
/// let weights = owner.allocate(1_000, Rights::Read)?;
/// weights.write(0, b"0.5, 0.25")?;
/// owner.proxy::<Trainer>("buffer:owner").await?.offer(weights.handle()).await?;
///
/// let worker = PeerAgent::builder().local().alias("buffer:worker").start().await?;
/// let trainer = worker.proxy::<Trainer>("buffer:owner").await?;
/// let offered = trainer.weights().await?.ok_or("nothing is offered")?;
/// let mut first = [0; 9];
/// worker.attach(&offered).await?.read_at(0, &mut first).await?;
/// assert_eq!(&first, b"0.5, 0.25");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RdmaBuffer {
    owner: String,
    incarnation: u64,
    id: u64,
    len: u64,
    rights: Rights,
    places: Vec<BufferLocation>,
}

impl RdmaBuffer {
    /// Alias of the agent that owns the memory.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Length of the memory in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether the memory has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The access that a holder of the handle has to the memory.
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// Incarnation of the owner.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Location of the memory for peers on this kind of link.
    pub(crate) fn place(&self, link: LinkType) -> Option<BufferLocation> {
        self.places.iter().find(|place| place.link == link).copied()
    }

    /// Refuses ranges beyond the memory, and rights that the handle does not give.
    pub(crate) fn check(&self, offset: u64, len: usize, right: Rights) -> Result<(), BufferError> {
        if !self.rights.include(right) {
            return Err(BufferError::NotAllowed {
                right,
                rights: self.rights,
            });
        }
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(BufferError::OutOfRange {
                offset,
                len,
                size: self.len,
            });
        }
        Ok(())
    }
}

impl fmt::Debug for RdmaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RdmaBuffer")
            .field("owner", &self.owner)
            .field("len", &self.len)
            .field("rights", &self.rights)
            .finish_non_exhaustive()
    }
}

/// Memory of this agent that peers with its [handle](Self::handle) may use until it is dropped.
/// [`PeerAgent::allocate`](crate::PeerAgent::allocate) makes it.
///
/// Peers may access the memory at the same time as the owner's threads. As with any DMA, a
/// concurrent read then returns a mixture of old and new bytes: tell peers when the content is
/// ready.
#[derive(Debug)]
pub struct OwnBuffer {
    handle: RdmaBuffer,
    buffer: Arc<Buffer>,
    offered: Arc<Offered>,
}

impl OwnBuffer {
    /// The handle to send to peers.
    pub fn handle(&self) -> RdmaBuffer {
        self.handle.clone()
    }

    /// Length of the memory in bytes.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Returns whether the memory has no bytes.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Copies `bytes` into the memory, from byte `offset` on.
    ///
    /// # Errors
    /// [`BufferError::OutOfRange`]; nothing is written then.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), BufferError> {
        Ok(self.buffer.write(offset, bytes)?)
    }

    /// Fills `bytes` with a copy of the memory from byte `offset` on.
    ///
    /// # Errors
    /// [`BufferError::OutOfRange`]; nothing is read then.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), BufferError> {
        Ok(self.buffer.read(offset, bytes)?)
    }

    /// Withdraws the memory, as dropping it does: from now on peers are refused.
    pub fn revoke(self) {}
}

impl Drop for OwnBuffer {
    fn drop(&mut self) {
        self.offered.forget(self.handle.id);
    }
}

/// The memory that an agent has exported, for users in the same process.
#[derive(Debug, Default)]
pub(crate) struct Offered(Mutex<ExportedBuffers>);

#[derive(Debug, Default)]
struct ExportedBuffers {
    next: u64,
    by_id: HashMap<u64, Weak<Buffer>>,
}

impl Offered {
    /// Exports `buffer` in the name of this incarnation of an agent.
    pub(crate) fn offer(
        self: &Arc<Self>,
        owner: &str,
        incarnation: u64,
        buffer: Buffer,
    ) -> OwnBuffer {
        let buffer = Arc::new(buffer);
        let id = {
            let mut exported = self.lock();
            let id = exported.next;
            exported.next += 1;
            exported.by_id.insert(id, Arc::downgrade(&buffer));
            id
        };
        let handle = RdmaBuffer {
            owner: owner.to_owned(),
            incarnation,
            id,
            len: buffer.len() as u64,
            rights: buffer.rights(),
            places: buffer.places(),
        };
        OwnBuffer {
            handle,
            buffer,
            offered: self.clone(),
        }
    }

    /// Finds the memory that `handle` of this incarnation names. Only the handle's number is
    /// trusted.
    pub(crate) fn find(&self, handle: &RdmaBuffer, right: Rights) -> Option<Arc<Buffer>> {
        let buffer = self.lock().by_id.get(&handle.id)?.upgrade()?;
        buffer.rights().include(right).then_some(buffer)
    }

    fn forget(&self, id: u64) {
        self.lock().by_id.remove(&id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ExportedBuffers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory of a peer could not be used, or this agent's memory could not be exported.
///
/// The error can travel, as [`RpcError`](crate::RpcError) does.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum BufferError {
    /// The range exceeds the buffer. Nothing was touched.
    #[error("{len} bytes at {offset} leave a buffer of {size} bytes")]
    OutOfRange {
        /// First byte of the range.
        offset: u64,
        /// Length of the range in bytes.
        len: usize,
        /// Length of the buffer in bytes.
        size: u64,
    },
    /// The buffer's handle does not allow this access. Nothing was touched.
    #[error("the buffer is offered for {rights:?}, not for {right:?}")]
    NotAllowed {
        /// The access that was attempted.
        right: Rights,
        /// The access that the handle allows.
        rights: Rights,
    },
    /// The owner has withdrawn the buffer, or has never made this handle.
    #[error("`{owner}` does not, or no longer, offer this buffer")]
    Revoked {
        /// Alias of the owner.
        owner: String,
    },
    /// The owner has ended, or has come back as another incarnation, which has not exported this
    /// memory.
    #[error("`{owner}` has gone, and its memory with it")]
    OwnerGone {
        /// Alias of the owner.
        owner: String,
    },
    /// The connection to the owner was lost several times in a row. A write may have taken place in
    /// part.
    #[error("lost `{owner}`: {cause}")]
    Lost {
        /// Alias of the owner.
        owner: String,
        /// What ended the connection.
        cause: LossCause,
    },
    /// No memory can be registered: `payload_memory` is used up, or the device or the system's
    /// limits (`ulimit -l`) allow no more.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The two agents cannot be connected.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

impl From<OutOfRange> for BufferError {
    fn from(error: OutOfRange) -> Self {
        Self::OutOfRange {
            offset: error.range.start as u64,
            len: error.range.len(),
            size: error.len as u64,
        }
    }
}
