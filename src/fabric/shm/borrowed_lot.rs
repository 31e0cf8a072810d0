//! Memory of a peer that this process has mapped.

use std::sync::Arc;

use super::link::Link;
use super::message::{LotAddress, Message};

/// A peer's lot that a message on a link has told this process about. The peer keeps its memory
/// until it is told back, or the link ends.
#[derive(Debug)]
pub(super) struct BorrowedLot {
    lot: u64,
    link: Arc<Link>,
}

impl BorrowedLot {
    /// The lots that an answer tells about.
    pub(super) fn all_of(answer: &Message, link: &Arc<Link>) -> Vec<Self> {
        let told: &[LotAddress] = match answer {
            Message::Welcome(welcome) => &[welcome.ring, welcome.page],
            Message::Region { info, .. } => &[info.memory],
            _ => &[],
        };
        told.iter().map(|told| Self::new(told.lot, link)).collect()
    }

    fn new(lot: u64, link: &Arc<Link>) -> Self {
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
