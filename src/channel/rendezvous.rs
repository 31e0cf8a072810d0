//! What one end of a native channel keeps outside of the rings for the other to read, and what it reads itself.

use std::collections::HashMap;

use super::bulk::{Bulk, Remote, Transfer};
use super::memory::Block;
use super::{ConnectError, QueuePairInfo};
use crate::fabric::FabricError;
use crate::wire::Outside;

/// See the [module](self). Each read is for the message in a slot, of which a `T` tells.
#[derive(Debug)]
pub(super) struct Rendezvous<T> {
    bulk: Bulk,
    /// By slot.
    kept: HashMap<u16, Block>,
    reading: HashMap<u16, T>,
}

impl<T> Rendezvous<T> {
    pub(super) fn new(bulk: Bulk) -> Self {
        Self {
            bulk,
            kept: HashMap::new(),
            reading: HashMap::new(),
        }
    }

    /// What the peer must be told.
    pub(super) fn address(&self) -> QueuePairInfo {
        self.bulk.address()
    }

    pub(super) fn connect(&mut self, theirs: QueuePairInfo) -> Result<(), ConnectError> {
        self.bulk.connect(theirs)
    }

    /// Keeps the payload of the message in `slot` until it is [released](Self::release).
    pub(super) fn keep(&mut self, slot: u16, block: Block) {
        self.kept.insert(slot, block);
    }

    /// The peer does not read the payload of the message in `slot` any more.
    #[inline]
    pub(super) fn release(&mut self, slot: u16) {
        // Not hashed for nothing.
        if !self.kept.is_empty() {
            self.kept.remove(&slot);
        }
    }

    /// Whether the peer has yet to read something.
    pub(super) fn keeps_any(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Reads the payload of the message in `slot` into `into`, which has its length.
    pub(super) fn read(
        &mut self,
        slot: u16,
        message: T,
        from: Outside,
        into: Block,
    ) -> Result<(), FabricError> {
        self.reading.insert(slot, message);
        let from = Remote {
            addr: from.addr,
            rkey: from.rkey,
            len: into.len(),
        };
        self.bulk.begin(Transfer::read(slot.into(), [from], into))
    }

    /// The message in `slot` whose payload is being read.
    pub(super) fn reading(&mut self, slot: u16) -> Option<&mut T> {
        self.reading.get_mut(&slot)
    }

    /// A piece has arrived. Gives back the message that is complete with it, and its payload.
    pub(super) fn complete(&mut self) -> Result<Option<(u16, T, Block)>, FabricError> {
        let Some((id, block)) = self.bulk.complete()? else {
            return Ok(None);
        };
        let slot = id as u16;
        let message = self.reading.remove(&slot);
        Ok(message.map(|message| (slot, message, block)))
    }

    /// The channel is closed: nothing is read any more, by either side.
    pub(super) fn fail(&mut self) {
        self.bulk.fail();
        self.kept.clear();
    }
}
