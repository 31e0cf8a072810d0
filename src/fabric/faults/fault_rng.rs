//! Decides which rules strike.

use std::collections::HashMap;

use fastrand::Rng;

use super::FaultStats;
use super::plan::{Fault, Plan, Point, When};
use crate::fabric::Opcode;

/// The progress of a plan.
#[derive(Debug)]
pub(super) struct FaultRng {
    plan: Plan,
    /// How often each rule was asked.
    asked: Box<[u64]>,
    /// How often each rule was asked for each queue pair, so that chance does not depend on how
    /// threads interleave.
    asked_of: HashMap<(usize, u64), u64>,
    stats: FaultStats,
    is_calm: bool,
}

impl FaultRng {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            asked: vec![0; plan.rules.len()].into(),
            asked_of: HashMap::new(),
            stats: FaultStats::default(),
            is_calm: false,
            plan,
        }
    }

    /// The fault that strikes here, if any. The caller carries it out.
    pub(super) fn throw(
        &mut self,
        point: Point,
        queue_pair: u64,
        opcode: Option<Opcode>,
    ) -> Option<Fault> {
        if self.is_calm {
            return None;
        }
        let mut struck = None;
        for (at, rule) in self.plan.rules.iter().enumerate() {
            if !rule.is_about(point, queue_pair, opcode) {
                continue;
            }
            self.asked[at] += 1;
            let strikes = match rule.when {
                When::Nth(nth) => self.asked[at] - 1 == nth,
                When::Every(every) => every > 0 && self.asked[at].is_multiple_of(every),
                When::Chance(chance) => {
                    let asked = self.asked_of.entry((at, queue_pair)).or_default();
                    *asked += 1;
                    chance > fraction([self.plan.seed, at as u64, queue_pair, *asked])
                }
            };
            if strikes {
                struck = struck.or(Some(rule.fault));
            }
        }
        struck.inspect(|fault| self.stats.count(*fault))
    }

    pub(super) fn stats(&self) -> FaultStats {
        self.stats
    }

    /// Counts a fault that the test caused by hand.
    pub(super) fn count(&mut self, fault: Fault) {
        self.stats.count(fault);
    }

    pub(super) fn calm(&mut self) {
        self.is_calm = true;
    }
}

/// A pseudo-random number from 0 to below 1 that depends on all of `words`.
fn fraction(words: [u64; 4]) -> f64 {
    let mix = |state: u64, word: u64| Rng::with_seed(state ^ word).u64(..);
    Rng::with_seed(words.into_iter().fold(0, mix)).f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_fair_and_the_same_for_a_seed_whatever_other_queue_pairs_do() {
        let plan = || Plan::seeded(7).with(Fault::Overtaken.chance(0.25));
        let alone = |rng: &mut FaultRng| -> Vec<bool> {
            let throw = |_| rng.throw(Point::Completion, 3, None).is_some();
            (0..4000).map(throw).collect()
        };
        let first = alone(&mut FaultRng::new(plan()));
        let struck = first.iter().filter(|struck| **struck).count();
        assert!((850..1150).contains(&struck), "{struck} of 4000");

        let mut crowded = FaultRng::new(plan());
        let among_others: Vec<bool> = (0..4000)
            .map(|turn| {
                for _ in 0..turn % 3 {
                    crowded.throw(Point::Completion, 4, None);
                }
                crowded.throw(Point::Completion, 3, None).is_some()
            })
            .collect();
        assert_eq!(first, among_others);
        let other = Plan { seed: 8, ..plan() };
        assert_ne!(first, alone(&mut FaultRng::new(other)));
    }

    #[test]
    fn a_script_strikes_where_it_says_and_nowhere_else() {
        let plan = Plan::new()
            .with(Fault::PeerLost.nth(2).on(5))
            .with(Fault::PostRefused.every(4).of(Opcode::Read));
        let mut rng = FaultRng::new(plan);
        let mut struck = Vec::new();
        for turn in 0..8 {
            for (pair, opcode) in [(4, Opcode::Write), (5, Opcode::Read)] {
                let fault = rng.throw(Point::Send, pair, Some(opcode));
                struck.extend(fault.map(|fault| (turn, pair, fault)));
            }
            assert_eq!(rng.throw(Point::Receive, 5, None), None);
        }
        let expected = [
            (2, 5, Fault::PeerLost),
            (3, 5, Fault::PostRefused),
            (7, 5, Fault::PostRefused),
        ];
        assert_eq!(struck, expected);
        assert_eq!((rng.stats().lost_peers, rng.stats().refused_posts), (1, 2));
        rng.calm();
        assert_eq!(
            (0..8).find_map(|_| rng.throw(Point::Send, 5, Some(Opcode::Read))),
            None
        );
    }
}
