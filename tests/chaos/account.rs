//! The account of all calls: each is answered exactly once or ended with a typed error that says
//! truthfully whether it was run, and none is run twice.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use slimerpc_actors::Ran;

use crate::clock::Timestamp;
use crate::journal::{Event, Record};
use crate::outcome::{Ending, Outcome};

/// Drivers number their calls from multiples of this on.
pub(crate) const CALLS_OF_DRIVER: u64 = 1 << 32;

/// What is known of one call.
#[derive(Debug, Default, Clone, Copy)]
struct Call {
    made: Option<Timestamp>,
    ended: Option<(Timestamp, Outcome)>,
    endings: u32,
    runs: u32,
}

/// See the [module](self).
pub(crate) struct Account {
    calls: HashMap<u64, Call>,
    records: Vec<Record>,
}

impl Account {
    pub(crate) fn of(records: Vec<Record>) -> Self {
        let mut calls = HashMap::<u64, Call>::new();
        for record in &records {
            let is_of_call = matches!(record.what, Event::Made | Event::Ran | Event::Ended(_));
            if !is_of_call {
                continue;
            }
            let call = calls.entry(record.id).or_default();
            match record.what {
                Event::Made => call.made = Some(record.at),
                Event::Ran => call.runs += 1,
                Event::Ended(outcome) => {
                    call.ended = Some((record.at, outcome));
                    call.endings += 1;
                }
                Event::Lost | Event::Reached => {}
            }
        }
        Self { calls, records }
    }

    /// What is wrong with it. Calls of `killed` drivers need not have ended.
    pub(crate) fn faults(&self, killed: &[u64]) -> Vec<String> {
        let mut faults = Vec::new();
        for (id, call) in &self.calls {
            let is_excused = killed.contains(&(id / CALLS_OF_DRIVER));
            if let Some(fault) = call.fault(is_excused) {
                faults.push(format!("call {id:#x}: {fault}"));
            }
        }
        faults.sort();
        faults
    }

    /// Nothing is wrong with it.
    #[track_caller]
    pub(crate) fn check(&self, killed: &[u64]) {
        let faults = self.faults(killed);
        let few = faults.iter().take(10).cloned().collect::<Vec<_>>();
        assert!(faults.is_empty(), "{} faults, {few:#?}", faults.len());
    }

    pub(crate) fn made(&self) -> usize {
        let made = self.calls.values().filter(|call| call.made.is_some());
        made.count()
    }

    /// How many calls ended how.
    pub(crate) fn endings(&self) -> BTreeMap<Ending, usize> {
        let mut endings = BTreeMap::new();
        for call in self.calls.values() {
            if let Some((_, outcome)) = call.ended {
                *endings.entry(outcome.ending).or_default() += 1;
            }
        }
        endings
    }

    /// How many calls of these drivers have not ended.
    pub(crate) fn unended(&self, drivers: &[u64]) -> usize {
        let of_them = self.calls.iter().filter(|(id, call)| {
            call.ended.is_none() && drivers.contains(&(*id / CALLS_OF_DRIVER))
        });
        of_them.count()
    }

    /// How many calls have been run.
    pub(crate) fn run(&self) -> usize {
        self.calls.values().filter(|call| call.runs > 0).count()
    }

    /// Calls that were made before `moment` and ended with an error after it: for how long that
    /// took, at most.
    pub(crate) fn failing(&self, moment: Timestamp) -> Option<Duration> {
        let ended = self.calls.values().filter_map(|call| {
            let ((at, outcome), made) = (call.ended?, call.made?);
            let is_meant = made < moment && at >= moment && outcome.ending.is_error();
            is_meant.then(|| at.since(moment))
        });
        ended.max()
    }

    /// From `moment` until a call was answered that was made later.
    pub(crate) fn first_answer(&self, moment: Timestamp) -> Option<Duration> {
        let answered = self.calls.values().filter_map(|call| {
            let ((at, outcome), made) = (call.ended?, call.made?);
            (outcome.ending == Ending::Answered && made >= moment).then(|| at.since(moment))
        });
        answered.min()
    }

    /// When drivers were told `what` of a peer.
    pub(crate) fn told(&self, what: Event, peer: u64) -> impl Iterator<Item = Timestamp> {
        let told = self.records.iter();
        told.filter(move |record| record.what == what && record.id == peer)
            .map(|record| record.at)
    }
}

impl Call {
    fn fault(&self, is_excused: bool) -> Option<String> {
        if self.runs > 1 {
            return Some(format!("was run {} times", self.runs));
        }
        if self.made.is_none() {
            return Some("was run and never made".to_owned());
        }
        let Some((_, outcome)) = self.ended else {
            return (!is_excused).then(|| "was made and has not ended".to_owned());
        };
        if self.endings > 1 {
            return Some(format!("ended {} times", self.endings));
        }
        if outcome.ending.is_a_bug() {
            return Some(outcome.ending.word().to_owned());
        }
        let said = outcome.ran;
        match (said, self.runs) {
            (Ran::Yes, 0) | (Ran::No, 1) => Some(format!(
                "ended with {}, which says run: {said:?}, and was run {} times",
                outcome.ending.word(),
                self.runs
            )),
            _ => None,
        }
    }
}
