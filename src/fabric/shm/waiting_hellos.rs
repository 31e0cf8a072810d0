//! Hellos that came before their queue pair was ready.

use std::collections::HashMap;

use super::message::{ConnectionId, Hello};

/// Most that wait. They are as many as an honest host has queue pairs on their way to be connected.
const MAX: usize = 1 << 16;
/// Most of one link, so that one process does not take the places of all.
const MAX_OF_LINK: usize = MAX / 4;

/// The token of a link, and the queue pair that asks over it.
type Asker = (u64, u32);

/// Hellos that wait, by the queue pair that they are for and by who asks. To add or forget one
/// costs the same however many wait.
#[derive(Debug, Default)]
pub(super) struct WaitingHellos {
    by_target: HashMap<u32, HashMap<Asker, Hello>>,
    /// The targets of those of each link, by the queue pair that asks.
    by_link: HashMap<u64, HashMap<u32, u32>>,
    count: usize,
}

impl WaitingHellos {
    /// Has a hello wait. An earlier one of the same queue pair is forgotten. Returns whether there
    /// was room for it.
    pub(super) fn add(&mut self, token: u64, hello: Hello) -> bool {
        self.remove((token, hello.from.qp_num), |_| true);
        let of_link = self.by_link.get(&token).map_or(0, HashMap::len);
        if self.count >= MAX || of_link >= MAX_OF_LINK {
            return false;
        }
        self.count += 1;
        let of_link = self.by_link.entry(token).or_default();
        of_link.insert(hello.from.qp_num, hello.to_qp);
        let for_target = self.by_target.entry(hello.to_qp).or_default();
        for_target.insert((token, hello.from.qp_num), hello);
        true
    }

    /// Takes those that are for the queue pair with this number.
    pub(super) fn take(&mut self, to_qp: u32) -> Vec<(u64, Hello)> {
        let taken = self.by_target.remove(&to_qp).unwrap_or_default();
        for asker in taken.keys() {
            self.forget_asker(*asker);
        }
        let with_token = |((token, _), hello)| (token, hello);
        taken.into_iter().map(with_token).collect()
    }

    /// Forgets the one of a connection that is over. Returns it if it has waited.
    pub(super) fn withdraw(&mut self, token: u64, from: ConnectionId) -> Option<Hello> {
        self.remove((token, from.qp_num), |hello| hello.from == from)
    }

    /// Forgets those of a link that has ended.
    pub(super) fn forget_link(&mut self, token: u64) {
        let askers = self.by_link.get(&token);
        let askers: Vec<_> = askers
            .into_iter()
            .flat_map(HashMap::keys)
            .copied()
            .collect();
        for qp_num in askers {
            self.remove((token, qp_num), |_| true);
        }
    }

    /// Returns whether any of a link waits.
    pub(super) fn has_any_of(&self, token: u64) -> bool {
        self.by_link.contains_key(&token)
    }

    fn remove(&mut self, asker: Asker, is_it: impl Fn(&Hello) -> bool) -> Option<Hello> {
        let (token, qp_num) = asker;
        let target = *self.by_link.get(&token)?.get(&qp_num)?;
        let for_target = self.by_target.get_mut(&target)?;
        if !for_target.get(&asker).is_some_and(is_it) {
            return None;
        }
        let removed = for_target.remove(&asker);
        if for_target.is_empty() {
            self.by_target.remove(&target);
        }
        self.forget_asker(asker);
        removed
    }

    fn forget_asker(&mut self, (token, qp_num): Asker) {
        self.count -= 1;
        if let Some(of_link) = self.by_link.get_mut(&token) {
            of_link.remove(&qp_num);
            if of_link.is_empty() {
                self.by_link.remove(&token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    fn hello(qp_num: u32, life: u64, to_qp: u32) -> Hello {
        let from = ConnectionId { qp_num, life };
        let psn = 0;
        Hello { from, psn, to_qp }
    }

    fn is_empty(waiting: &WaitingHellos) -> bool {
        waiting.count == 0 && waiting.by_target.is_empty() && waiting.by_link.is_empty()
    }

    #[test]
    fn a_queue_pair_waits_once_and_is_found_by_its_target() {
        let mut waiting = WaitingHellos::default();
        assert!(waiting.add(1, hello(20, 0, 30)) && waiting.add(2, hello(20, 5, 30)));
        // Reset meanwhile, and for another peer now.
        assert!(waiting.add(1, hello(20, 1, 31)));
        assert_eq!(waiting.take(30), [(2, hello(20, 5, 30))]);
        assert!(waiting.take(30).is_empty());
        assert_eq!(waiting.take(31), [(1, hello(20, 1, 31))]);
        assert!(is_empty(&waiting));
    }

    #[test]
    fn who_is_over_does_not_wait() {
        let mut waiting = WaitingHellos::default();
        assert!((20..30).all(|qp_num| waiting.add(1, hello(qp_num, 7, 40))));
        assert!(waiting.add(2, hello(20, 7, 40)));
        assert_eq!(waiting.withdraw(1, hello(20, 6, 40).from), None);
        assert_eq!(waiting.count, 11, "an earlier life withdraws nothing");
        let withdrawn = hello(21, 7, 40);
        assert_eq!(waiting.withdraw(1, withdrawn.from), Some(withdrawn));
        assert_eq!(waiting.count, 10);
        waiting.forget_link(1);
        assert!(!waiting.has_any_of(1) && waiting.has_any_of(2));
        assert_eq!(waiting.take(40), [(2, hello(20, 7, 40))]);
        assert!(is_empty(&waiting));
    }

    /// INPUT-1: one that floods takes its own places only.
    #[test]
    fn input_1_one_link_does_not_take_the_places_of_all() {
        let mut waiting = WaitingHellos::default();
        let flood = |qp_num: &u32| waiting.add(1, hello(*qp_num, 0, 7));
        let admitted = (0..MAX as u32).filter(flood).count();
        assert_eq!(admitted, MAX_OF_LINK);
        assert!(waiting.add(2, hello(1, 0, 8)));
        waiting.forget_link(1);
        assert_eq!(waiting.count, 1);
    }

    /// INPUT-1: a flood of hellos to one queue pair takes the port's thread no time to speak of.
    /// Were each looked for among all, it would take seconds.
    #[test]
    fn input_1_those_of_a_full_table_are_forgotten_at_once() {
        let mut waiting = WaitingHellos::default();
        // Of a processor: the machine may have other things to do.
        let used = || clock_gettime(ClockId::ThreadCPUTime);
        let begun = used();
        for token in 0..4 {
            assert!((0..MAX_OF_LINK as u32).all(|qp_num| waiting.add(token, hello(qp_num, 0, 7))));
        }
        // Each says it once more, the last first.
        for qp_num in (0..MAX_OF_LINK as u32).rev() {
            assert!(waiting.add(0, hello(qp_num, 1, 7)));
        }
        (0..4).for_each(|token| waiting.forget_link(token));
        assert!(is_empty(&waiting));
        let taken = Duration::try_from(used() - begun).expect("it does not go back");
        assert!(taken < Duration::from_secs(2), "{taken:?}");
    }
}
