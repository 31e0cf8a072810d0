//! Work requests.

use super::FabricError;

/// A receive. Its buffer is always empty: a WRITE_WITH_IMM consumes a receive but not its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecvRequest {
    /// Returned in the completion.
    pub wr_id: u64,
}

/// One RDMA operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendRequest<'a> {
    /// Returned in the completion.
    pub wr_id: u64,
    /// The kind of transfer.
    pub operation: Operation,
    /// The local side of the transfer.
    pub local: Payload<'a>,
    /// The peer's side. Ignored by zero-length operations, which may use rkey 0.
    pub remote: RemoteSlice,
    /// Whether success is reported. Failure always is.
    pub signalled: bool,
    /// Whether to wake a peer that sleeps until a
    /// [solicited](super::CompletionQueue::arm_solicited) completion.
    pub solicited: bool,
}

/// Kinds of RDMA operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Copies from local to remote memory; the peer's program does not notice.
    Write,
    /// Copies from local to remote memory, consumes a receive of the peer and completes it with
    /// this immediate. The number is stored in host order, not byte-swapped.
    WriteWithImm(u32),
    /// Copies from remote to local memory.
    Read,
}

/// The local side of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Registered memory. It may be reused once the work request has completed.
    Region(Sge),
    /// Bytes copied into the work request: at most the queue pair's `max_inline`, never for reads.
    /// They may be reused as soon as `post_send` returns.
    Inline(&'a [u8]),
}

/// A piece of registered local memory (scatter-gather entry).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sge {
    /// Address of the first byte.
    pub addr: u64,
    /// Length in bytes; 0 is allowed.
    pub length: u32,
    /// Key of the region.
    pub lkey: u32,
}

/// The beginning of a range in the peer's memory; the local side determines the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoteSlice {
    /// Address of the first byte, in the peer's address space.
    pub addr: u64,
    /// Key of the peer's region.
    pub rkey: u32,
}

impl SendRequest<'_> {
    /// Refuses inline data that is too long for a queue pair of `device`, or that a read has.
    pub(super) fn check_inline(&self, max_inline: u32, device: &str) -> Result<(), FabricError> {
        let Payload::Inline(bytes) = self.local else {
            return Ok(());
        };
        let (what, allowed) = if self.operation == Operation::Read {
            ("the inline data of a read", "none".to_owned())
        } else if bytes.len() > max_inline as usize {
            let allowed = format!("at most {max_inline} bytes on this queue pair");
            ("the inline data", allowed)
        } else {
            return Ok(());
        };
        Err(FabricError::Limit {
            what,
            given: bytes.len() as u64,
            allowed,
            device: device.to_owned(),
        })
    }
}

impl Payload<'_> {
    /// Length of the transfer in bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Region(sge) => sge.length as usize,
            Self::Inline(bytes) => bytes.len(),
        }
    }
}
