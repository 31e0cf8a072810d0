//! Bells: how this process wakes the owner of a peer's completion queue.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use rustix::fs::OFlags;

use super::link::Link;
use super::message::Message;
use super::queue_page::QueuePage;
use super::segment::View;
use crate::fabric::eventfd;

/// The page of a peer's completion queue, and what wakes its owner.
#[derive(Debug)]
pub(super) struct Bell {
    page: View<QueuePage>,
    wire: BellWire,
}

/// What wakes the owner of a queue.
#[derive(Debug)]
enum BellWire {
    Event(OwnedFd),
    /// A message on the link, about the quiet queue with this number.
    Message(Weak<Link>, u64),
}

impl Bell {
    pub(super) fn new(page: View<QueuePage>, event: OwnedFd) -> io::Result<Self> {
        // Raising the eventfd cannot block this process then, unless the peer, which is of the same
        // user, undoes that.
        rustix::fs::fcntl_setfl(&event, OFlags::NONBLOCK)?;
        let wire = BellWire::Event(event);
        Ok(Self { page, wire })
    }

    /// The bell of a quiet queue.
    pub(super) fn quiet(page: View<QueuePage>, link: &Arc<Link>, queue: u64) -> Self {
        let wire = BellWire::Message(Arc::downgrade(link), queue);
        Self { page, wire }
    }

    /// Tells whether the owner is to be woken.
    pub(super) fn page(&self) -> &View<QueuePage> {
        &self.page
    }

    /// Wakes the owner.
    pub(super) fn ring(&self) {
        match &self.wire {
            BellWire::Event(event) => eventfd::raise(event),
            BellWire::Message(link, queue) => {
                if let Some(link) = link.upgrade() {
                    // The end of the link wakes the owner, too.
                    let _ = link.send(&Message::Ring { queue: *queue });
                }
            }
        }
    }
}

/// The bells of a peer that are in use, by the numbers that it gives its completion queues.
#[derive(Debug, Default)]
pub(super) struct Bells(HashMap<u64, Weak<Bell>>);

impl Bells {
    /// Finds the bell of a queue, or makes it.
    pub(super) fn find(
        &mut self,
        queue: u64,
        make: impl FnOnce() -> io::Result<Bell>,
    ) -> io::Result<Arc<Bell>> {
        if let Some(bell) = self.0.get(&queue).and_then(Weak::upgrade) {
            return Ok(bell);
        }
        self.0.retain(|_, bell| bell.strong_count() > 0);
        let bell = Arc::new(make()?);
        self.0.insert(queue, Arc::downgrade(&bell));
        Ok(bell)
    }
}
