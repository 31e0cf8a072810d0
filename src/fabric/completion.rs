//! Work completions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The outcome of one work request, in the terms of `ibv_wc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The `wr_id` that the work request was posted with.
    pub wr_id: u64,
    /// Success, or the kind of failure.
    pub status: CompletionStatus,
    /// The kind of work. Meaningful only when `status` is [`CompletionStatus::Success`].
    pub opcode: Opcode,
    /// Bytes received (for receives) or read (for reads).
    pub byte_len: u32,
    /// For receives, the immediate of the WRITE_WITH_IMM in host order, not byte-swapped.
    pub imm: Option<u32>,
    /// Number of the local queue pair.
    pub qp_num: u32,
}

/// The kind of work that completed (`ibv_wc_opcode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// An RDMA write of this queue pair, with or without immediate.
    Write,
    /// An RDMA read of this queue pair.
    Read,
    /// A WRITE_WITH_IMM of the peer, which consumed a receive.
    RecvWriteWithImm,
}

/// Status of a completion (`ibv_wc_status`, as far as an RC queue pair returns it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CompletionStatus {
    /// The work request was executed.
    Success,
    /// The local scatter-gather entry is longer than the operation allows.
    LocalLength,
    /// The local scatter-gather entry does not name registered memory with the needed access.
    LocalProtection,
    /// The queue pair was in error; the request was not executed.
    Flushed,
    /// The peer refused the access: wrong rkey, out of bounds or lacking rights.
    RemoteAccess,
    /// The peer did not answer within the retry policy.
    RetryExceeded,
    /// The peer had no receive posted within the retry policy.
    RnrRetryExceeded,
    /// Any other failure, with the provider's number.
    Other(u32),
}

impl CompletionStatus {
    /// Returns whether the work request was executed.
    ///
    /// ```
    /// use slimerpc::fabric::CompletionStatus;
    /// assert!(CompletionStatus::Success.is_success());
    /// assert!(!CompletionStatus::Flushed.is_success());
    /// ```
    pub fn is_success(self) -> bool {
        self == Self::Success
    }
}

impl fmt::Display for CompletionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::LocalLength => "local length error",
            Self::LocalProtection => "local protection error",
            Self::Flushed => "flushed: the queue pair is in error",
            Self::RemoteAccess => "remote access error: wrong rkey, out of bounds or no right",
            Self::RetryExceeded => "retries exceeded: the peer does not answer",
            Self::RnrRetryExceeded => "RNR retries exceeded: the peer posts no receives",
            Self::Other(code) => return write!(f, "completion status {code}"),
        })
    }
}
