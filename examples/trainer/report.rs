//! What a worker says of a step.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Before a gradient it stands as [`LEN`](Self::LEN) bytes, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Mean over the worker's images.
    pub(crate) loss: f32,
    pub(crate) compute_ns: u64,
    /// Bytes that it was sent, has read and has sent.
    pub(crate) moved: u64,
}

impl Report {
    pub(crate) const LEN: usize = 4 + 8 + 8;

    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.loss.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.compute_ns.to_le_bytes());
        bytes[12..].copy_from_slice(&self.moved.to_le_bytes());
        bytes
    }

    /// From the beginning of a reply, and what comes behind it.
    pub(crate) fn split(reply: &[u8]) -> Option<(Self, &[u8])> {
        let (loss, rest) = reply.split_first_chunk()?;
        let (compute_ns, rest) = rest.split_first_chunk()?;
        let (moved, rest) = rest.split_first_chunk()?;
        let report = Self {
            loss: f32::from_le_bytes(*loss),
            compute_ns: u64::from_le_bytes(*compute_ns),
            moved: u64::from_le_bytes(*moved),
        };
        Some((report, rest))
    }

    pub(crate) fn compute(&self) -> Duration {
        Duration::from_nanos(self.compute_ns)
    }
}
