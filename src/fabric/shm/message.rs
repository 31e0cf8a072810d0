//! Messages that two ports exchange on a control socket.

use serde::{Deserialize, Serialize};

/// Version of the layout of shared memory and of these messages.
pub(super) const VERSION: u32 = 0x51_4d_00_05;

/// Longest message in bytes.
pub(super) const MAX_LEN: usize = 128;

/// A message. Each variant names the file descriptors that go with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// The first message of the dialling side.
    Device { version: u32, gid: [u8; 16] },
    /// The asking side's queue pair wants to send. Either side asks.
    Hello(Hello),
    /// The other side's queue pair is ready to receive. With: receive queue, page of its completion
    /// queue, eventfd; the last not for a quiet one.
    Welcome(Welcome),
    /// The other side's queue pair is in ERR, gone, or connected with another.
    Refusal { to: ConnectionId },
    /// Asks for the region of an rkey.
    WantRegion {
        from: ConnectionId,
        to_qp: u32,
        rkey: u32,
    },
    /// A region. With: its memory.
    Region { to: ConnectionId, info: RegionInfo },
    /// No region has this rkey.
    NoRegion { to: ConnectionId, rkey: u32 },
    /// The asking side's queue pair is in ERR or gone.
    Goodbye { from: ConnectionId, to_qp: u32 },
    /// The asking side has unmapped memory that it was told of.
    Unmapped { lot: u64 },
    /// The dialling side has no need of the link any more.
    Done,
    /// Wakes the owner of a quiet completion queue.
    Ring { queue: u64 },
    /// The accepting side has dialled as well, and this link is the one of the two that is not
    /// used: the dialling side asks over the other.
    Crossed,
}

/// One life of a queue pair: it begins anew when it is reset, under the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ConnectionId {
    pub(super) qp_num: u32,
    /// No other connection of the process has it.
    pub(super) life: u64,
}

/// Names both queue pairs. The answer follows once they name each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) from: ConnectionId,
    pub(super) psn: u32,
    pub(super) to_qp: u32,
}

/// What a sender needs to know of the receive queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) to: ConnectionId,
    /// Number of the completion queue.
    pub(super) queue: u64,
    /// Entries; a power of two.
    pub(super) capacity: u32,
    /// Code of the wait that a sender without a receive must keep.
    pub(super) min_rnr_timer: u8,
    pub(super) ring: LotAddress,
    pub(super) page: LotAddress,
}

/// A memory region in its owner's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RegionInfo {
    pub(super) rkey: u32,
    pub(super) access: u32,
    /// Address of the first byte in the owner's address space.
    pub(super) addr: u64,
    pub(super) len: u64,
    pub(super) memory: LotAddress,
}

/// Memory of the answering side, in the memfd that comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LotAddress {
    /// Its number, to be told back.
    pub(super) lot: u64,
    /// Where it begins in the memfd.
    pub(super) offset: u64,
}

impl Message {
    /// Returns whether descriptors go with it.
    pub(super) fn has_descriptors(&self) -> bool {
        matches!(self, Self::Welcome(_) | Self::Region { .. })
    }

    /// Writes the message; returns the number of bytes.
    pub(super) fn encode(&self, into: &mut [u8; MAX_LEN]) -> usize {
        bincode::serde::encode_into_slice(self, into, bincode::config::standard())
            .expect("the longest message fits")
    }

    /// Reads a message. Returns `None` unless the bytes are exactly one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let config = bincode::config::standard().with_limit::<MAX_LEN>();
        let (message, used) = bincode::serde::decode_from_slice(bytes, config).ok()?;
        (used == bytes.len()).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..MAX_LEN)) {
            if let Some(message) = Message::decode(&bytes) {
                let mut buffer = [0; MAX_LEN];
                let len = message.encode(&mut buffer);
                prop_assert_eq!(Message::decode(&buffer[..len]), Some(message));
            }
        }

        #[test]
        fn the_longest_messages_fit(
            gid: [u8; 16], qp_num: u32, life: u64, number: u32, long: u64
        ) {
            let id = ConnectionId { qp_num, life };
            let memory = LotAddress { lot: long, offset: long };
            let info = RegionInfo { rkey: number, access: number, addr: long, len: long, memory };
            let hello = Hello { from: id, psn: number, to_qp: number };
            let welcome = Welcome {
                to: id, queue: long, capacity: number, min_rnr_timer: 255, ring: memory, page: memory,
            };
            for message in [
                Message::Device { version: number, gid },
                Message::Hello(hello),
                Message::Welcome(welcome),
                Message::WantRegion { from: id, to_qp: number, rkey: number },
                Message::Region { to: id, info },
            ] {
                let mut buffer = [0; MAX_LEN];
                let len = message.encode(&mut buffer);
                prop_assert_eq!(Message::decode(&buffer[..len]), Some(message));
            }
        }
    }
}
