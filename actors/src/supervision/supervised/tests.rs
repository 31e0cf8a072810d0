#![allow(clippy::unwrap_used)]

use proptest::prelude::{Just, any, prop_assert, prop_oneof, proptest};

use std::time::Duration;

use super::*;
use crate::Backoff;

const WAIT: Duration = Duration::from_millis(100);

fn policy() -> Restart {
    let backoff = Backoff {
        first: WAIT,
        factor: 1.0,
        longest: WAIT,
        jitter: 0.0,
    };
    let window = Duration::from_secs(10);
    Restart::permanent().limit(3, window).backoff(backoff)
}

fn panicked() -> EndCause {
    let message = "ouch".to_owned();
    EndCause::Panicked { message }
}

/// Services "0", "1", ...
fn supervised(
    strategy: Strategy,
    policies: impl IntoIterator<Item = Restart>,
) -> SupervisedServices<usize> {
    let mut supervised = SupervisedServices::new(strategy);
    for (at, policy) in policies.into_iter().enumerate() {
        supervised.add(ChildId(at as u64), &at.to_string(), at, policy);
    }
    supervised
}

impl SupervisedServices<usize> {
    /// The service ends at this time: who retires, and who is given up.
    fn end(&mut self, at: usize, now: Instant) -> (Vec<usize>, Vec<usize>) {
        let child = &self.supervised[at];
        let (retired, given_up) = split(self.ended(child.id, child.life, panicked(), now, 0.0));
        for at in &retired {
            self.has_ended(ChildId(*at as u64));
        }
        (retired, given_up)
    }

    /// Who starts at this time, one after the other, each with success.
    fn start_all(&mut self, now: Instant) -> Vec<usize> {
        let mut started = Vec::new();
        loop {
            let due = self.begin_due(now);
            if due.is_empty() {
                return started;
            }
            for due in due {
                assert!(self.is_up(due.id, due.life).is_some());
                started.push(due.reached);
            }
        }
    }
}

fn split(steps: Vec<Step<usize>>) -> (Vec<usize>, Vec<usize>) {
    let (mut retired, mut given_up) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Retire(ending) => retired.push(ending.reached),
            Step::GiveUp(ending) => given_up.push(ending.reached),
            Step::LookAt(_) => {}
        }
    }
    (retired, given_up)
}

fn three(strategy: Strategy) -> SupervisedServices<usize> {
    supervised(strategy, [policy(), policy(), policy()])
}

#[test]
fn the_strategy_says_who_is_restarted_and_in_which_order() {
    for (strategy, retired, started) in [
        (Strategy::OneForOne, vec![1], vec![1]),
        (Strategy::OneForAll, vec![1, 2, 0], vec![0, 1, 2]),
        (Strategy::RestForOne, vec![1, 2], vec![1, 2]),
    ] {
        let mut supervised = three(strategy);
        let now = Instant::now();
        assert_eq!(supervised.end(1, now), (retired, vec![]), "{strategy:?}");
        assert_eq!(supervised.start_all(now + WAIT / 2), [0; 0], "too early");
        assert_eq!(supervised.start_all(now + WAIT), started, "{strategy:?}");
    }
}

#[test]
fn nothing_starts_before_all_have_ended_that_are_to() {
    let mut supervised = three(Strategy::RestForOne);
    let now = Instant::now();
    supervised.ended(ChildId(1), 0, panicked(), now, 0.0);
    supervised.has_ended(ChildId(1));
    assert_eq!(supervised.start_all(now + WAIT), [0; 0]);
    supervised.has_ended(ChildId(2));
    assert_eq!(supervised.start_all(now + WAIT), [1, 2]);
}

#[test]
fn who_is_restarted_with_another_has_its_own_limit_untouched() {
    let mut supervised = three(Strategy::OneForAll);
    let mut now = Instant::now();
    for _ in 0..3 {
        supervised.end(0, now);
        now += WAIT;
        assert_eq!(supervised.start_all(now), [0, 1, 2]);
    }
    assert_eq!(supervised.end(1, now).1, [0; 0]);
    supervised.start_all(now + WAIT);
    // The first has used up its own, and takes the others with it.
    assert_eq!(supervised.end(0, now + WAIT), (vec![], vec![0, 2, 1]));
    assert_eq!(supervised.start_all(now + WAIT * 9), [0; 0]);
}

#[test]
fn a_start_that_fails_is_tried_again_by_itself_and_the_later_ones_wait() {
    let mut supervised = three(Strategy::RestForOne);
    let now = Instant::now();
    supervised.end(0, now);
    let now = now + WAIT;
    let due = supervised.begin_due(now);
    assert_eq!(supervised.begin_due(now), [], "one at a time");
    let steps = supervised.has_not_started(due[0].id, due[0].life, panicked(), now, 0.0);
    assert_eq!(steps, [Step::LookAt(now + WAIT)]);
    assert_eq!(supervised.start_all(now), [0; 0]);
    assert_eq!(supervised.start_all(now + WAIT), [0, 1, 2]);
}

#[test]
fn what_is_said_of_an_earlier_life_changes_nothing() {
    let mut supervised = three(Strategy::OneForAll);
    let now = Instant::now();
    supervised.end(2, now);
    let due = supervised.begin_due(now + WAIT);
    assert_eq!(due[0].reached, 0);
    // While the first starts, nobody is up who could fail; what was said before comes late.
    assert_eq!(supervised.ended(ChildId(1), 0, panicked(), now, 0.0), []);
    assert_eq!(supervised.is_up(ChildId(0), 0), None);
    assert_eq!(
        supervised.is_up(ChildId(0), 1),
        Some(StartedService { ended: None })
    );
    assert_eq!(supervised.ended(ChildId(0), 0, panicked(), now, 0.0), []);
}

#[test]
fn an_end_that_is_heard_before_the_start_is_not_forgotten() {
    let mut supervised = three(Strategy::OneForOne);
    let now = Instant::now();
    supervised.end(1, now);
    let due = supervised.begin_due(now + WAIT);
    assert_eq!(supervised.ended(ChildId(1), 1, panicked(), now, 0.0), []);
    let ended = Some(panicked());
    assert_eq!(
        supervised.is_up(due[0].id, due[0].life),
        Some(StartedService { ended })
    );
    assert_eq!(supervised.end(1, now + WAIT).0, [1]);
}

#[test]
fn temporary_ones_end_with_those_that_they_are_tied_to_but_end_alone() {
    let policies = [policy(), Restart::temporary(), Restart::transient()];
    let mut supervised = supervised(Strategy::OneForAll, policies);
    let now = Instant::now();
    let why = String::new();
    let retired = EndCause::Retired { why };
    let over = supervised.ended(ChildId(2), 0, retired, now, 0.0);
    assert_eq!(split(over), (vec![], vec![2]));
    assert_eq!(supervised.end(0, now), (vec![0], vec![1]));
    assert_eq!(supervised.start_all(now + WAIT), [0]);
}

fn any_strategy() -> impl proptest::prelude::Strategy<Value = Strategy> {
    prop_oneof![
        Just(Strategy::OneForOne),
        Just(Strategy::OneForAll),
        Just(Strategy::RestForOne)
    ]
}

proptest! {
    /// Whatever ends and fails, in the end each service is up or given up.
    #[test]
    fn everything_settles(
        strategy in any_strategy(),
        what in proptest::collection::vec((0_usize..4, 0_u64..150, any::<bool>()), 1..60),
    ) {
        let mut supervised = supervised(strategy, vec![policy(); 4]);
        let mut now = Instant::now();
        let mut starting: Vec<Due<usize>> = Vec::new();
        for (at, millis, succeeds) in what {
            now += Duration::from_millis(millis);
            supervised.end(at, now);
            starting.extend(supervised.begin_due(now));
            if succeeds {
                for due in starting.drain(..) {
                    supervised.is_up(due.id, due.life);
                }
            } else if let Some(due) = starting.pop() {
                supervised.has_not_started(due.id, due.life, panicked(), now, 0.0);
            }
            let tied = strategy != Strategy::OneForOne;
            let beginning = supervised.supervised.iter().filter(|child| child.status == Status::Starting);
            prop_assert!(!tied || beginning.count() <= 1);
        }
        for due in starting {
            supervised.is_up(due.id, due.life);
        }
        supervised.start_all(now + Duration::from_secs(60));
        let is_settled = |child: &SupervisedService<usize>| matches!(child.status, Status::StartedService | Status::GivenUp);
        prop_assert!(supervised.supervised.iter().all(is_settled), "{supervised:?}");
    }
}
