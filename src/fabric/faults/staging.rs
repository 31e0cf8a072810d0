//! Completions between the device and the program.

use std::collections::VecDeque;
use std::time::Instant;

use crate::fabric::Completion;

/// Completions that have been taken from the device, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Staging {
    held: VecDeque<HeldMessage>,
}

#[derive(Debug)]
struct HeldMessage {
    completion: Completion,
    due: Due,
}

/// When a completion may be seen, unless an earlier one of its queue pair may not.
#[derive(Debug, Clone, Copy)]
pub(super) enum Due {
    Now,
    NextLook,
    At(Instant),
}

impl Staging {
    /// Begins another poll: what was held back for it is due.
    pub(super) fn begin_look(&mut self) {
        for held in &mut self.held {
            if matches!(held.due, Due::NextLook) {
                held.due = Due::Now;
            }
        }
    }

    pub(super) fn push(&mut self, completion: Completion, due: Due) {
        self.held.push_back(HeldMessage { completion, due });
    }

    /// Moves due completions into `out`, oldest first, and returns their number. A queue pair waits
    /// for its first one (RC order).
    pub(super) fn give_out(&mut self, out: &mut [Completion], now: Instant) -> usize {
        let mut waiting: Vec<u32> = Vec::new();
        let (mut count, mut at) = (0, 0);
        while count < out.len() && at < self.held.len() {
            let held = &self.held[at];
            let number = held.completion.qp_num;
            if waiting.contains(&number) {
                at += 1;
            } else if !held.is_due(now) {
                waiting.push(number);
                at += 1;
            } else {
                out[count] = held.completion;
                count += 1;
                self.held.remove(at);
            }
        }
        count
    }

    /// The earliest time at which another poll can find something, including what has become due
    /// since the last one. Only the first completion of each queue pair counts.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let mut seen: Vec<u32> = Vec::new();
        let firsts = self.held.iter().filter(|held| {
            let number = held.completion.qp_num;
            let is_first = !seen.contains(&number);
            if is_first {
                seen.push(number);
            }
            is_first
        });
        let times = firsts.map(|held| match held.due {
            Due::At(at) => at,
            Due::Now | Due::NextLook => now,
        });
        times.min()
    }

    /// Drops the completions of this queue pair.
    pub(super) fn forget(&mut self, number: u32) {
        self.held.retain(|held| held.completion.qp_num != number);
    }
}

impl HeldMessage {
    fn is_due(&self, now: Instant) -> bool {
        match self.due {
            Due::Now => true,
            Due::NextLook => false,
            Due::At(at) => at <= now,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_became_due_after_the_last_look_is_looked_for() {
        let (look, late) = (Instant::now(), Duration::from_millis(1));
        let mut staging = Staging::default();
        staging.push(Completion::EMPTY, Due::At(look + late));
        let mut out = [Completion::EMPTY];
        assert_eq!(staging.give_out(&mut out, look), 0);
        // The time has come by now, and no poll follows unless something asks for it.
        assert!(staging.next_due(look + 2 * late).is_some());
        assert_eq!(staging.give_out(&mut out, look + 2 * late), 1);
        assert!(staging.next_due(look + 2 * late).is_none());
    }
}
