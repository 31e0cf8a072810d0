//! What happens to an agent beside its calls, counted by kind.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// How many different details of incidents are counted apart, as peers name some of them.
const DETAILS: usize = 256;
/// Where those beyond are counted.
const OTHERS: &str = "others";

/// Counts by kind and detail.
pub(crate) type Counts = BTreeMap<(&'static str, String), u64>;

/// The incidents of an agent.
#[derive(Debug, Default)]
pub(crate) struct Incidents(Mutex<Counts>);

impl Incidents {
    /// Has an incident counted from 0, so that the first one can be told from none.
    pub(crate) fn expect(&self, kind: &'static str, detail: &str) {
        self.add(kind, detail, 0);
    }

    /// Counts an incident. A `detail` is counted apart, so there should be few of them.
    pub(crate) fn note(&self, kind: &'static str, detail: &str) {
        self.add(kind, detail, 1);
    }

    fn add(&self, kind: &'static str, detail: &str, count: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counted = (kind, detail.to_owned());
        if counts.len() >= DETAILS && !counts.contains_key(&counted) {
            counted.1 = OTHERS.to_owned();
        }
        *counts.entry(counted).or_default() += count;
    }

    /// How often each kind of incident happened, by kind and detail.
    pub(crate) fn counts(&self) -> Counts {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_incident_is_counted_and_the_counters_are_bounded_whatever_peers_say() {
        let incidents = Incidents::default();
        incidents.expect("lost", "gone");
        for number in 0..1000 {
            incidents.note("lost", &format!("cause {number}"));
        }
        let counts = incidents.counts();
        assert_eq!(counts.values().sum::<u64>(), 1000);
        assert_eq!(counts[&("lost", "gone".to_owned())], 0);
        assert_eq!(counts.len(), DETAILS + 1);
    }
}
