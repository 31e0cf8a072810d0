//! What is measured: said by the process of a case, one line each, and read by the runner.

use std::fmt;
use std::time::Duration;

/// How a line with a measurement begins.
const MEASURED: &str = "measured ";

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    /// From the end of a process until who watches it is told.
    Detection,
    /// From its stop.
    Stalled,
    /// From the end of a process until the last of the calls that it had has ended.
    Failing,
    /// From the registration of the next life of a process until a call is answered that was made
    /// since.
    Reconnection,
    /// Until a process holds no more than before it had to do with one that died.
    Cleaning,
    /// From the return of an empty control plane until a new agent can call.
    Recovery,
}

impl Metric {
    pub(crate) const ALL: [Self; 6] = [
        Self::Detection,
        Self::Stalled,
        Self::Failing,
        Self::Reconnection,
        Self::Cleaning,
        Self::Recovery,
    ];

    /// Heads a column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Detection => "detection",
            Self::Stalled => "stalled",
            Self::Failing => "calls failed",
            Self::Reconnection => "reconnection",
            Self::Cleaning => "cleaning",
            Self::Recovery => "recovery",
        }
    }
}

/// Tells the runner.
pub(crate) fn say(what: Metric, took: Duration) {
    println!("{MEASURED}{} {}", what as usize, took.as_micros());
}

/// What a line says, if it is one of those.
pub(crate) fn heard(line: &str) -> Option<(Metric, Duration)> {
    let (what, micros) = line.strip_prefix(MEASURED)?.split_once(' ')?;
    let what = *Metric::ALL.get(what.parse::<usize>().ok()?)?;
    Some((what, Duration::from_micros(micros.parse().ok()?)))
}

/// Several of one kind: the one in the middle, and the longest.
#[derive(Debug, Default, Clone)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took);
        self.0.sort();
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0.as_slice() {
            [] => "-".to_owned(),
            [only] => short(*only),
            all => format!(
                "{} / {}",
                short(all[all.len() / 2]),
                short(all[all.len() - 1])
            ),
        };
        f.pad(&text)
    }
}

fn short(took: Duration) -> String {
    let millis = took.as_secs_f64() * 1e3;
    match millis {
        0.0..10.0 => format!("{millis:.2} ms"),
        10.0..1_000.0 => format!("{millis:.0} ms"),
        _ => format!("{:.2} s", millis / 1e3),
    }
}
