//! Memory of a peer that this process has mapped.

use std::sync::Arc;

use super::link::Link;

/// A peer's lot that a message on a link has told this process about. The peer keeps its memory
/// until it is told back, or the link ends.
#[derive(Debug)]
pub(super) struct BorrowedLot {
    lot: u64,
    link: Arc<Link>,
}

impl BorrowedLot {
    /// Notes that the peer has told about the lot with this number.
    pub(super) fn new(lot: u64, link: &Arc<Link>) -> Self {
        link.borrow();
        let link = link.clone();
        Self { lot, link }
    }
}

impl Drop for BorrowedLot {
    fn drop(&mut self) {
        self.link.give_back(self.lot);
    }
}
