//! The contents of a `wr_id`, by which a completion finds its owner.

/// receive (1 bit), owner (36 bits), queue pair (6 bits), work requests retired (21 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkId {
    /// Whether the work request is a receive.
    pub(super) receive: bool,
    /// Owner of the queue pair, among those that share a completion queue.
    pub(super) owner: u64,
    /// Index of the queue pair in the owner's group.
    pub(super) queue_pair: usize,
    /// Number of sends that this completion retires.
    pub(super) retires: u32,
}

const RETIRES_BITS: u32 = 21;
const LANE_BITS: u32 = 6;
const RECEIVE: u64 = 1 << 63;
const OWNER_AT: u32 = RETIRES_BITS + LANE_BITS;

impl WorkId {
    /// Most queue pairs that can be distinguished.
    pub(super) const MAX_QUEUE_PAIRS: usize = 1 << LANE_BITS;
    /// The index of a native channel's [`Bulk`](super::bulk::Bulk) queue pair; its messages use
    /// queue pair 0 only.
    pub(super) const BULK: usize = Self::MAX_QUEUE_PAIRS - 1;
    /// Number of bits of an owner.
    pub(super) const OWNER_BITS: u32 = 63 - OWNER_AT;

    #[inline]
    pub(super) fn to_bits(self) -> u64 {
        let receive = if self.receive { RECEIVE } else { 0 };
        receive
            | self.owner << OWNER_AT
            | (self.queue_pair as u64) << RETIRES_BITS
            | u64::from(self.retires)
    }

    #[inline]
    pub(super) fn from_bits(bits: u64) -> Self {
        Self {
            receive: bits & RECEIVE != 0,
            owner: bits >> OWNER_AT & ((1 << Self::OWNER_BITS) - 1),
            queue_pair: (bits >> RETIRES_BITS) as usize & (Self::MAX_QUEUE_PAIRS - 1),
            retires: bits as u32 & ((1 << RETIRES_BITS) - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_survives_the_work_request() {
        for (receive, owner, queue_pair, retires) in [
            (false, 0, 0, 0),
            (
                true,
                (1 << WorkId::OWNER_BITS) - 1,
                WorkId::MAX_QUEUE_PAIRS - 1,
                (1 << RETIRES_BITS) - 1,
            ),
            (false, 0x5_5555_5555, 1, 2),
        ] {
            let id = WorkId {
                receive,
                owner,
                queue_pair,
                retires,
            };
            assert_eq!(WorkId::from_bits(id.to_bits()), id);
        }
    }
}
