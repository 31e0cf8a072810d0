//! Memory that peers use without asking, and the handle by which it is named in messages.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};
use slimerpc::channel::{Buffer, BufferLocation, LossCause, MemoryError, Rights};
use slimerpc::fabric::{LinkType, OutOfRange};

use crate::AgentError;

/// Names registered memory of an agent: a plain value that travels in messages. Whoever has it, and is let to, reads and
/// writes that memory one-sided, without the owner's doing; see [`PeerAgent::attach`](crate::PeerAgent::attach).
///
/// It is worth something until the [`OwnBuffer`] is dropped or its agent goes; a later life of that agent under the same alias
/// does not count (FENCE-1).
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
    /// Alias of the agent whose memory it is.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What its holder may do with it.
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// The life of its owner.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Where it lies for peers on this kind of link.
    pub(crate) fn place(&self, link: LinkType) -> Option<BufferLocation> {
        self.places.iter().find(|place| place.link == link).copied()
    }

    /// Refuses ranges that leave it, and rights that it does not give.
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

/// Memory of this agent, offered to whoever is given its [handle](Self::handle), until this is dropped. Made by
/// [`PeerAgent::allocate`](crate::PeerAgent::allocate).
///
/// Peers may use it while its owner does, and so may threads of the owner that share it; as with any DMA, bytes that are written
/// meanwhile are then a mixture of old and new ones. Tell them when it is ready.
#[derive(Debug)]
pub struct OwnBuffer {
    handle: RdmaBuffer,
    buffer: Arc<Buffer>,
    offered: Arc<Offered>,
}

impl OwnBuffer {
    /// To be sent to peers.
    pub fn handle(&self) -> RdmaBuffer {
        self.handle.clone()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    /// [`BufferError::OutOfRange`]; nothing is written then.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), BufferError> {
        Ok(self.buffer.write(offset, bytes)?)
    }

    /// Copies from `offset` into `bytes`.
    ///
    /// # Errors
    /// [`BufferError::OutOfRange`]; nothing is read then.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), BufferError> {
        Ok(self.buffer.read(offset, bytes)?)
    }

    /// Takes the offer back; as does dropping it. From now on peers are refused.
    pub fn revoke(self) {}
}

impl Drop for OwnBuffer {
    fn drop(&mut self) {
        self.offered.forget(self.handle.id);
    }
}

/// What an agent exported, for those of its own process.
#[derive(Debug, Default)]
pub(crate) struct Offered(Mutex<ExportedBuffers>);

#[derive(Debug, Default)]
struct ExportedBuffers {
    next: u64,
    by_id: HashMap<u64, Weak<Buffer>>,
}

impl Offered {
    /// Exports `buffer` in the name of this life of an agent.
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

    /// The memory that `handle`, which is of this life of this agent, names. Nothing is trusted but its number.
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

/// Memory of a peer could not be used, or own memory not be offered.
///
/// It travels, as [`RpcError`](crate::RpcError) does.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum BufferError {
    /// The range leaves the buffer. Nothing was touched.
    #[error("{len} bytes at {offset} leave a buffer of {size} bytes")]
    OutOfRange {
        /// Where it begins.
        offset: u64,
        /// Bytes.
        len: usize,
        /// Bytes of the buffer.
        size: u64,
    },
    /// The buffer was not offered for this. Nothing was touched.
    #[error("the buffer is offered for {rights:?}, not for {right:?}")]
    NotAllowed {
        /// What was to be done.
        right: Rights,
        /// What may be done.
        rights: Rights,
    },
    /// The owner has taken the buffer back, or the handle is not one that it made.
    #[error("`{owner}` does not, or no longer, offer this buffer")]
    Revoked {
        /// The owner.
        owner: String,
    },
    /// The owner has gone, or has come back as another incarnation, which offered other memory.
    #[error("`{owner}` has gone, and its memory with it")]
    OwnerGone {
        /// The owner.
        owner: String,
    },
    /// The connection with the owner was lost, several times in a row. A write may have taken place in part.
    #[error("lost `{owner}`: {cause}")]
    Lost {
        /// The owner.
        owner: String,
        /// What ended the connection.
        cause: LossCause,
    },
    /// There is no memory to register: `payload_memory` is spent, or the device or the system's limits (`ulimit -l`) do not
    /// allow more.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The agents cannot be connected.
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
