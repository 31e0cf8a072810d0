//! Hellos that came before their queue pair was ready.

use std::collections::HashMap;

use super::message::{ConnectionId, Hello};

/// Most that wait. They are as many as an honest host has queue pairs on their way to be connected.
const MAX: usize = 1 << 16;
/// Most of one link, so that one process does not take the places of all.
const MAX_OF_LINK: usize = MAX / 4;

/// Hellos that wait, by the queue pair that they are for, each with the token of its link. All of
/// it costs the same however many wait.
#[derive(Debug, Default)]
pub(super) struct WaitingHellos {
    by_target: HashMap<u32, Vec<(u64, Hello)>>,
    /// The targets of those of each link, by the queue pair that asks.
    by_link: HashMap<u64, HashMap<u32, u32>>,
    count: usize,
}

impl WaitingHellos {
    /// Has a hello wait. An earlier one of the same queue pair is forgotten. Returns whether there
    /// was room for it.
    pub(super) fn add(&mut self, token: u64, hello: Hello) -> bool {
        self.remove(token, hello.from.qp_num, |_| true);
        let of_link = self.by_link.get(&token).map_or(0, HashMap::len);
        if self.count >= MAX || of_link >= MAX_OF_LINK {
            return false;
        }
        self.count += 1;
        let of_link = self.by_link.entry(token).or_default();
        of_link.insert(hello.from.qp_num, hello.to_qp);
        let for_target = self.by_target.entry(hello.to_qp).or_default();
        for_target.push((token, hello));
        true
    }

    /// Takes those that are for the queue pair with this number.
    pub(super) fn take(&mut self, to_qp: u32) -> Vec<(u64, Hello)> {
        let taken = self.by_target.remove(&to_qp).unwrap_or_default();
        for (token, hello) in &taken {
            self.forget_asker(*token, hello.from.qp_num);
        }
        taken
    }

    /// Forgets the one of a connection that is over.
    pub(super) fn withdraw(&mut self, token: u64, from: ConnectionId) {
        self.remove(token, from.qp_num, |hello| hello.from == from);
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
            self.remove(token, qp_num, |_| true);
        }
    }

    /// Returns whether any of a link waits.
    pub(super) fn has_any_of(&self, token: u64) -> bool {
        self.by_link.contains_key(&token)
    }

    fn remove(&mut self, token: u64, qp_num: u32, is_it: impl Fn(&Hello) -> bool) {
        let target = self.by_link.get(&token).and_then(|of| of.get(&qp_num));
        let Some(&target) = target else {
            return;
        };
        let Some(for_target) = self.by_target.get_mut(&target) else {
            return;
        };
        let is_asked = |(of, hello): &mut (u64, Hello)| {
            *of == token && hello.from.qp_num == qp_num && is_it(hello)
        };
        let removed = for_target.extract_if(.., is_asked).count();
        if for_target.is_empty() {
            self.by_target.remove(&target);
        }
        if removed > 0 {
            self.forget_asker(token, qp_num);
        }
    }

    fn forget_asker(&mut self, token: u64, qp_num: u32) {
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
        waiting.withdraw(1, hello(20, 6, 40).from);
        waiting.withdraw(1, hello(21, 7, 40).from);
        assert_eq!(waiting.count, 10, "an earlier life withdraws nothing");
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
}
