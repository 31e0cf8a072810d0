//! What happened in the last period, from totals that only grow.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use slimerpc::channel::{Distribution, MethodReading};

/// Who counted a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Caller,
    Service,
}

/// The totals of the last period, and since when it lasts.
#[derive(Debug)]
pub(super) struct Rates {
    known: HashMap<(Side, String, String), Known>,
    /// Totals of bytes, by what they are of.
    bytes: HashMap<Moved, u64>,
    since: Instant,
    lasted: Duration,
}

/// Which bytes of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Moved {
    /// By operations that it posted to its devices.
    Posted,
    /// Payloads that it has sent.
    Sent,
    /// Payloads that it has received.
    Received,
}

#[derive(Debug, Default)]
struct Known {
    ended: u64,
    took: Distribution,
    shown: MethodRates,
}

/// How a method was called lately.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct MethodRates {
    pub(super) per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
}

impl Rates {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            known: HashMap::new(),
            bytes: HashMap::new(),
            since: now,
            lasted: Duration::ZERO,
        }
    }

    /// Ends the period, of which each method is then asked [once](Self::of).
    pub(super) fn end_period(&mut self, now: Instant) {
        self.lasted = now.saturating_duration_since(self.since);
        self.since = now;
    }

    /// How many bytes a second a total has grown by in the period.
    pub(super) fn per_second(&mut self, of: Moved, total: u64) -> f64 {
        let before = self.bytes.insert(of, total).unwrap_or_default();
        self.rate(total.saturating_sub(before))
    }

    /// So many in the period, a second.
    fn rate(&self, more: u64) -> f64 {
        let lasted = self.lasted.max(Duration::from_millis(1));
        rounded(more as f64 / lasted.as_secs_f64())
    }

    /// How a method was called in the period. Quantiles are those of the last period that had
    /// calls.
    pub(super) fn of(&mut self, side: Side, service: &str, reading: &MethodReading) -> MethodRates {
        let ended: u64 = reading.ended.iter().sum();
        let key = (side, service.to_owned(), reading.method.clone());
        let before = self.known.get(&key).map_or(0, |known| known.ended);
        let per_second = self.rate(ended.saturating_sub(before));
        let known = self.known.entry(key).or_default();
        let took = reading.took.since(&known.took);
        known.shown.per_second = per_second;
        if took.count() > 0 {
            let micros = |q| rounded(took.quantile(q).as_secs_f64() * 1e6);
            known.shown.p50_us = micros(0.5);
            known.shown.p99_us = micros(0.99);
            known.shown.p999_us = micros(0.999);
        }
        known.ended = ended;
        known.took = reading.took.clone();
        known.shown
    }
}

/// Without digits that say nothing.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_each_kind_have_a_rate() {
        let start = Instant::now();
        let mut rates = Rates::new(start);
        rates.end_period(start + Duration::from_secs(2));
        assert_eq!(rates.per_second(Moved::Sent, 3_000), 1_500.0);
        assert_eq!(rates.per_second(Moved::Received, 100), 50.0);
        rates.end_period(start + Duration::from_secs(3));
        assert_eq!(rates.per_second(Moved::Sent, 3_500), 500.0);
        assert_eq!(rates.per_second(Moved::Received, 100), 0.0);
    }

    #[test]
    fn a_rate_is_of_the_last_period_and_quantiles_are_of_the_last_one_with_calls() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut rates = Rates::new(start);
        let mut reading = MethodReading::default();
        let mut at = |reading: &MethodReading, seconds| {
            rates.end_period(start + second * seconds);
            rates.of(Side::Service, "calc", reading)
        };
        assert_eq!(at(&reading, 1), MethodRates::default());
        // `Told` calls have no time.
        reading.ended[0] = 500;
        assert_eq!(at(&reading, 3).per_second, 250.0);
        assert_eq!(at(&reading, 4).per_second, 0.0);
        reading.ended[0] = 510;
        assert_eq!(
            at(&reading, 4).per_second,
            10_000.0,
            "no division by nothing"
        );
        // Totals that shrink are another life's.
        reading.ended[0] = 1;
        assert_eq!(at(&reading, 5).per_second, 0.0);
    }
}
