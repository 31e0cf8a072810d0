//! The bytes of the tcp fabric, made by hand: an attacker keeps to none of its rules.

/// Kinds of frames.
pub(super) const WRITE: u8 = 0;
pub(super) const WRITE_WITH_IMM: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const READ_DATA: u8 = 3;
pub(super) const ACK: u8 = 4;
pub(super) const REFUSAL: u8 = 5;

/// The sender waits for the acknowledgement.
pub(super) const ACKNOWLEDGE: u8 = 2;

pub(super) const HEADER: usize = 32;
pub(super) const HELLO: usize = 72;

/// A frame's header.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) addr: u64,
    pub(super) rkey: u32,
    pub(super) length: u32,
    pub(super) imm: u32,
    pub(super) executed: u32,
}

impl Frame {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = self.kind;
        bytes[1] = self.flags;
        bytes[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.addr.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.rkey.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.imm.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.executed.to_le_bytes());
        bytes
    }
}

/// What either end says first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hello {
    pub(super) rnr_retry: u8,
    pub(super) gid: [u8; 16],
    pub(super) from: u32,
    pub(super) psn: u32,
    pub(super) to: u32,
    pub(super) key: [u8; 16],
    pub(super) max_send_wr: u32,
}

impl Hello {
    pub(super) fn encode(&self) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        bytes[..8].copy_from_slice(b"SlimeTCP");
        bytes[8] = 1;
        bytes[10] = self.rnr_retry;
        bytes[12..28].copy_from_slice(&self.gid);
        bytes[28..32].copy_from_slice(&self.from.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.psn.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.to.to_le_bytes());
        bytes[40..56].copy_from_slice(&self.key);
        bytes[56..60].copy_from_slice(&self.max_send_wr.to_le_bytes());
        bytes
    }
}
