//! Messages that two devices exchange on a control socket.

use serde::{Deserialize, Serialize};

/// Version of the layout of shared memory and of these messages.
pub(super) const VERSION: u32 = 0x51_4d_00_01;

/// Longest message in bytes.
pub(super) const MAX_LEN: usize = 128;

/// A message. Each variant names the file descriptors that go with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// The first message of the dialling side.
    Hello(Hello),
    /// The dialled side is ready to receive. With: receive queue, doorbell of its completion queue,
    /// eventfd.
    Welcome(Welcome),
    /// Asks for the region of an rkey.
    WantRegion { rkey: u32 },
    /// A region. With: its memory.
    Region(RegionInfo),
    /// No region has this rkey.
    NoRegion { rkey: u32 },
}

/// Names both queue pairs. The answer follows once they name each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) from_gid: [u8; 16],
    pub(super) from_qp: u32,
    pub(super) psn: u32,
    pub(super) to_qp: u32,
}

/// What a sender needs to know of the receive queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Welcome {
    /// Entries; a power of two.
    pub(super) capacity: u32,
    /// Code of the wait that a sender without a receive must keep.
    pub(super) min_rnr_timer: u8,
}

/// A memory region in its owner's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RegionInfo {
    pub(super) rkey: u32,
    pub(super) access: u32,
    /// Address of the first byte in the owner's address space.
    pub(super) addr: u64,
    pub(super) len: u64,
}

impl Message {
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
            from_gid: [u8; 16], from_qp: u32, psn: u32, to_qp: u32, rkey: u32, access: u32, addr: u64, len: u64
        ) {
            let hello = Hello { version: VERSION, from_gid, from_qp, psn, to_qp };
            let region = RegionInfo { rkey, access, addr, len };
            for message in [Message::Hello(hello), Message::Region(region)] {
                let mut buffer = [0; MAX_LEN];
                let len = message.encode(&mut buffer);
                prop_assert_eq!(Message::decode(&buffer[..len]), Some(message));
            }
        }
    }
}
