//! Access to a peer's memory.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{Message, Recipient};
use slimerpc::channel::{
    Buffer, BufferLocation, LossCause, OneSided, PendingTransfer, PooledBuffer, Rights,
    TransferError, WaitPolicy,
};

use crate::AgentError;
use crate::memory::buffer::{BufferError, Offered, RdmaBuffer};
use crate::observe::Observed;

/// Bytes that one transfer moves when the caller's memory is not registered.
const CHUNK: usize = 4 << 20;
/// How often a transfer is attempted before an interruption becomes an error.
const TRIES: usize = 3;

/// Connects with the owner of a buffer.
#[derive(Message)]
#[rtype(result = "Result<BufferConnection, BufferError>")]
pub(crate) struct ConnectBuffer {
    pub(crate) buffer: RdmaBuffer,
    pub(crate) wait_policy: WaitPolicy,
    pub(crate) timeout: Duration,
}

/// A connection to a buffer's memory.
#[derive(Clone)]
pub(crate) struct BufferConnection {
    pub(crate) connection: Arc<OneSided>,
    pub(crate) place: BufferLocation,
}

/// Memory of a peer that this agent reads and writes without work by the peer.
/// [`PeerAgent::attach`](crate::PeerAgent::attach) makes it; it is cheap to clone and usable from
/// any task.
///
/// A transfer that is dropped early may still take place. A transfer is restarted if another user's
/// transfer has closed the shared connection.
///
/// ```no_run
/// # use slimerpc_actors::{BufferError, PeerAgent, RdmaBuffer};
/// # async fn example(agent: PeerAgent, weights: RdmaBuffer) -> Result<(), BufferError> {
/// let weights = agent.attach(&weights).await?;
/// let mut first_layer = vec![0; 4_096];
/// weights.read_at(0, &mut first_layer).await?;
/// // In registered memory, without another copy.
/// let all = weights.read(0, weights.len() as usize).await?;
/// # drop(all);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RemoteBuffer {
    handle: RdmaBuffer,
    way: AccessPath,
}

#[derive(Clone)]
enum AccessPath {
    /// The memory belongs to this agent.
    Local(Arc<Offered>),
    Remote(Arc<Remote>),
}

struct Remote {
    supervisor: Recipient<ConnectBuffer>,
    wait_policy: WaitPolicy,
    timeout: Duration,
    reached: Mutex<BufferConnection>,
    /// Where transfers are counted, if they are.
    observed: Option<Arc<Observed>>,
}

impl RemoteBuffer {
    pub(crate) fn local(handle: &RdmaBuffer, offered: Arc<Offered>) -> Self {
        Self {
            handle: handle.clone(),
            way: AccessPath::Local(offered),
        }
    }

    pub(crate) async fn remote(
        handle: &RdmaBuffer,
        supervisor: Recipient<ConnectBuffer>,
        wait_policy: WaitPolicy,
        timeout: Duration,
        observed: Option<Arc<Observed>>,
    ) -> Result<Self, BufferError> {
        let reached = reach(handle, &supervisor, &wait_policy, timeout).await?;
        let remote = Remote {
            supervisor,
            wait_policy,
            timeout,
            reached: Mutex::new(reached),
            observed,
        };
        Ok(Self {
            handle: handle.clone(),
            way: AccessPath::Remote(Arc::new(remote)),
        })
    }

    /// The handle that was attached.
    pub fn handle(&self) -> &RdmaBuffer {
        &self.handle
    }

    /// Length of the memory in bytes.
    pub fn len(&self) -> u64 {
        self.handle.len()
    }

    /// Returns whether the memory has no bytes.
    pub fn is_empty(&self) -> bool {
        self.handle.is_empty()
    }

    /// Reads from byte `offset` on, until `into` is full.
    ///
    /// # Errors
    /// [`BufferError`]; some bytes may have been read.
    pub async fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), BufferError> {
        self.read_scattered(&mut [(offset, into)]).await
    }

    /// Reads many ranges: each from its offset on, until its bytes are full.
    ///
    /// # Errors
    /// [`BufferError`]; some bytes may have been read.
    pub async fn read_scattered(&self, parts: &mut [(u64, &mut [u8])]) -> Result<(), BufferError> {
        for (offset, into) in &*parts {
            self.handle.check(*offset, into.len(), Rights::Read)?;
        }
        let pieces = parts.iter_mut().flat_map(|(offset, into)| {
            let offsets = (*offset..).step_by(CHUNK);
            offsets.zip(into.chunks_mut(CHUNK))
        });
        for mut batch in batches(pieces, |(_, into)| into.len()) {
            let ranges: Vec<_> = batch.iter().map(|(at, into)| (*at, into.len())).collect();
            let bytes = self.fetch(&ranges).await?;
            let mut rest = &bytes[..];
            for (_, into) in &mut batch {
                let (these, others) = rest.split_at(into.len());
                into.copy_from_slice(these);
                rest = others;
            }
        }
        Ok(())
    }

    /// Reads `len` bytes from byte `offset` on, and lends them where they arrived.
    ///
    /// # Errors
    /// Any [`BufferError`].
    pub async fn read(&self, offset: u64, len: usize) -> Result<BufferBytes, BufferError> {
        self.handle.check(offset, len, Rights::Read)?;
        self.fetch(&[(offset, len)]).await
    }

    /// Writes `from` at byte `offset`.
    ///
    /// # Errors
    /// [`BufferError`]; some bytes may have been written.
    pub async fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), BufferError> {
        self.write_scattered(&[(offset, from)]).await
    }

    /// Writes many ranges: the bytes of each at its offset.
    ///
    /// # Errors
    /// [`BufferError`]; some bytes may have been written.
    pub async fn write_scattered(&self, parts: &[(u64, &[u8])]) -> Result<(), BufferError> {
        for (offset, from) in parts {
            self.handle.check(*offset, from.len(), Rights::Write)?;
        }
        let pieces = parts.iter().flat_map(|(offset, from)| {
            let offsets = (*offset..).step_by(CHUNK);
            offsets.zip(from.chunks(CHUNK))
        });
        for batch in batches(pieces, |(_, from)| from.len()) {
            self.store(&batch).await?;
        }
        Ok(())
    }

    async fn fetch(&self, ranges: &[(u64, usize)]) -> Result<BufferBytes, BufferError> {
        let total: usize = ranges.iter().map(|(_, len)| len).sum();
        if total == 0 {
            return Ok(BufferBytes(HeldBuffer::Here(Vec::new())));
        }
        match &self.way {
            AccessPath::Local(offered) => {
                let buffer = self.own(offered, Rights::Read)?;
                let mut bytes = vec![0; total];
                let mut rest = &mut bytes[..];
                for (offset, len) in ranges {
                    let (these, others) = rest.split_at_mut(*len);
                    buffer.read(local_offset(*offset), these)?;
                    rest = others;
                }
                Ok(BufferBytes(HeldBuffer::Here(bytes)))
            }
            AccessPath::Remote(remote) => {
                let begin =
                    |reached: &BufferConnection| reached.connection.read(reached.place, ranges);
                let block = self.transfer(remote, begin).await?;
                if let Some(observed) = &remote.observed {
                    observed.one_sided.count_read(total);
                }
                Ok(BufferBytes(HeldBuffer::Registered(block)))
            }
        }
    }

    async fn store(&self, parts: &[(u64, &[u8])]) -> Result<(), BufferError> {
        match &self.way {
            AccessPath::Local(offered) => {
                let buffer = self.own(offered, Rights::Write)?;
                for (offset, from) in parts {
                    buffer.write(local_offset(*offset), from)?;
                }
            }
            AccessPath::Remote(remote) => {
                let ranges: Vec<_> = parts.iter().map(|(at, from)| (*at, from.len())).collect();
                let fill = |mut room: &mut [u8]| {
                    for (_, from) in parts {
                        let (these, others) = room.split_at_mut(from.len());
                        these.copy_from_slice(from);
                        room = others;
                    }
                };
                let begin = |reached: &BufferConnection| {
                    reached.connection.write(reached.place, &ranges, fill)
                };
                self.transfer(remote, begin).await?;
                if let Some(observed) = &remote.observed {
                    let total = parts.iter().map(|(_, from)| from.len()).sum();
                    observed.one_sided.count_written(total);
                }
            }
        }
        Ok(())
    }

    /// Runs a transfer to its end, and restarts it if it is interrupted.
    async fn transfer(
        &self,
        remote: &Remote,
        begin: impl Fn(&BufferConnection) -> Result<PendingTransfer, TransferError>,
    ) -> Result<PooledBuffer, BufferError> {
        let mut cause = LossCause::Gone;
        for _ in 0..TRIES {
            let reached = remote.reached();
            let ended = match begin(&reached) {
                Ok(pending) => pending.await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(block) => return Ok(block),
                Err(TransferError::Memory(error)) => return Err(error.into()),
                Err(TransferError::Closed(why)) => cause = why,
                Err(_) => {
                    return Err(BufferError::Revoked {
                        owner: self.handle.owner().to_owned(),
                    });
                }
            }
            remote.reach_again(&self.handle).await?;
        }
        Err(BufferError::Lost {
            owner: self.handle.owner().to_owned(),
            cause,
        })
    }

    fn own(&self, offered: &Offered, right: Rights) -> Result<Arc<Buffer>, BufferError> {
        offered
            .find(&self.handle, right)
            .ok_or_else(|| BufferError::Revoked {
                owner: self.handle.owner().to_owned(),
            })
    }
}

impl Remote {
    fn reached(&self) -> BufferConnection {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.clone()
    }

    async fn reach_again(&self, handle: &RdmaBuffer) -> Result<(), BufferError> {
        let anew = reach(handle, &self.supervisor, &self.wait_policy, self.timeout).await?;
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = anew;
        Ok(())
    }
}

async fn reach(
    handle: &RdmaBuffer,
    supervisor: &Recipient<ConnectBuffer>,
    wait_policy: &WaitPolicy,
    timeout: Duration,
) -> Result<BufferConnection, BufferError> {
    let reach = ConnectBuffer {
        buffer: handle.clone(),
        wait_policy: wait_policy.clone(),
        timeout,
    };
    let reached = supervisor.send(reach).await;
    reached.unwrap_or(Err(AgentError::ShutDown.into()))
}

/// Groups consecutive pieces until a group holds a chunk.
fn batches<T>(
    pieces: impl Iterator<Item = T>,
    len: impl Fn(&T) -> usize,
) -> impl Iterator<Item = Vec<T>> {
    let mut pieces = pieces.peekable();
    std::iter::from_fn(move || {
        let (mut batch, mut total) = (Vec::new(), 0);
        while let Some(piece) =
            pieces.next_if(|piece| batch.is_empty() || total + len(piece) <= CHUNK)
        {
            total += len(&piece);
            batch.push(piece);
        }
        (!batch.is_empty()).then_some(batch)
    })
}

/// Converts an offset into memory of this process, which the caller has checked.
fn local_offset(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl fmt::Debug for RemoteBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteBuffer").field(&self.handle).finish()
    }
}

/// Bytes of a peer's buffer, in the registered memory where they arrived. Dropping them returns the
/// memory.
#[derive(Debug)]
pub struct BufferBytes(HeldBuffer);

#[derive(Debug)]
enum HeldBuffer {
    Registered(PooledBuffer),
    Here(Vec<u8>),
}

impl Deref for BufferBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            HeldBuffer::Registered(block) => block,
            HeldBuffer::Here(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for BufferBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
