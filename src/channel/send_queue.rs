//! Accounting of a send queue, which no provider does.

/// Counts the work requests in a send queue and decides which ones are signalled.
///
/// A place in the queue is free again only after a completion, and an unsignalled request has none:
/// the next signalled one retires it. At least every half queue is signalled. Each place comes with
/// the number of requests that its completion retires; 0 if it is not signalled.
#[derive(Debug)]
pub(crate) struct SendQueue {
    depth: u32,
    outstanding: u32,
    unsignalled: u32,
}

impl SendQueue {
    pub(crate) fn new(depth: u32) -> Self {
        Self {
            depth,
            outstanding: 0,
            unsignalled: 0,
        }
    }

    /// How many places are free.
    pub(crate) fn room(&self) -> u32 {
        self.depth - self.outstanding
    }

    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.outstanding < self.depth
    }

    /// Takes a place; `None` if there is none until completions are polled.
    #[inline]
    pub(crate) fn admit(&mut self) -> Option<u32> {
        if !self.has_room() {
            return None;
        }
        self.outstanding += 1;
        self.unsignalled += 1;
        if self.unsignalled * 2 < self.depth {
            return Some(0);
        }
        Some(std::mem::take(&mut self.unsignalled))
    }

    /// Takes a place for a request whose completion retires everything before it. `None` if that is
    /// not needed, because everything under way is signalled, or if there is no place.
    pub(crate) fn admit_last(&mut self) -> Option<u32> {
        if self.unsignalled == 0 {
            return None;
        }
        self.admit_signalled()
    }

    /// Takes a place for a request whose completion retires everything before it, if nothing is
    /// under way.
    pub(crate) fn admit_probe(&mut self) -> Option<u32> {
        if self.outstanding > self.unsignalled {
            return None; // What is signalled will tell.
        }
        self.admit_signalled()
    }

    /// Takes a place for a request whose completion retires everything before it; `None` if there
    /// is none until completions are polled.
    pub(crate) fn admit_signalled(&mut self) -> Option<u32> {
        if !self.has_room() {
            return None;
        }
        self.outstanding += 1;
        Some(std::mem::take(&mut self.unsignalled) + 1)
    }

    /// Returns whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.outstanding == 0
    }

    /// Frees the places that a completion retires.
    #[inline]
    pub(crate) fn retire(&mut self, requests: u32) {
        self.outstanding = self.outstanding.saturating_sub(requests);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_queue_never_passes_without_a_signal_and_every_place_comes_back() {
        for depth in 1..40 {
            let mut queue = SendQueue::new(depth);
            let mut retired = 0;
            for posted in 1..=1000_u32 {
                let retires = queue.admit().expect("a signal came in time");
                retired += retires;
                queue.retire(retires);
                assert!((posted - retired) * 2 < depth.max(2));
            }
            assert_eq!(queue.outstanding, 1000 - retired);
        }
    }

    #[test]
    fn a_full_queue_admits_nothing() {
        let mut queue = SendQueue::new(4);
        let retires: Vec<_> = std::iter::from_fn(|| queue.admit()).collect();
        assert_eq!(retires, [0, 2, 0, 2]);
        queue.retire(retires[1]);
        assert!(queue.has_room());
    }
}
