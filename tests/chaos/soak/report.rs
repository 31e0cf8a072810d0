//! What came of a soak.

use crate::account::Account;
use crate::clock::Timestamp;
use crate::host::ProcessUsage;
use crate::journal::Event;
use crate::measure::Times;
use crate::table;

/// What a process may come to hold over the time, in descriptors, threads and MiB. Each life of a
/// peer that leaked would leave several.
const SLACK: usize = 12;

/// A life of a worker that was ended, and when the next had registered.
struct Restart {
    worker: u64,
    killed: Timestamp,
    registered: Timestamp,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Report {
    restarts: Vec<Restart>,
    /// Numbers of drivers.
    killed: Vec<u64>,
    pub(crate) stops: usize,
    pub(crate) outages: usize,
    leaked: Vec<(&'static str, String, bool)>,
}

impl Report {
    pub(crate) fn worker_restarted(
        &mut self,
        which: usize,
        killed: Timestamp,
        registered: Timestamp,
    ) {
        self.restarts.push(Restart {
            worker: which as u64,
            killed,
            registered,
        });
    }

    pub(crate) fn driver_killed(&mut self, number: u64) {
        self.killed.push(number);
    }

    /// Compares what the survivors, a worker and a driver, held, and looks at what nobody may have
    /// left.
    pub(crate) fn leaks(
        &mut self,
        before: &[ProcessUsage; 2],
        after: &[ProcessUsage; 2],
        keys: &[String],
    ) {
        let pairs = [("worker", 0), ("driver", 1)];
        for (name, at) in pairs {
            let (before, after) = (before[at], after[at]);
            let figures = format!(
                "{} -> {} descriptors, {} -> {} threads, {} -> {} MiB",
                before.descriptors,
                after.descriptors,
                before.threads,
                after.threads,
                before.kib / 1024,
                after.kib / 1024
            );
            let is_good = after.is_within(&before, SLACK);
            let what = if name == "worker" {
                "held by the worker that lived"
            } else {
                "held by the driver that lived"
            };
            self.leaked.push((what, figures, is_good));
        }
        let left = format!("{} {}", keys.len(), keys.join(" "));
        self.leaked
            .push(("keys left in Redis", left, keys.is_empty()));
    }

    /// True if nothing is wrong.
    pub(crate) fn print(&self, account: &Account) -> bool {
        let faults = account.faults(&self.killed);
        let mut rows = Vec::new();
        let mut row = |name: &str, figure: String| rows.push(vec![name.to_owned(), figure]);
        row("calls made", account.made().to_string());
        for (ending, count) in account.endings() {
            row(&format!("  {}", ending.word()), count.to_string());
        }
        row(
            "  died with their driver",
            account.unended(&self.killed).to_string(),
        );
        row("run", account.run().to_string());
        row("lost, or run twice", faults.len().to_string());
        row("workers restarted", self.restarts.len().to_string());
        row("drivers restarted", self.killed.len().to_string());
        row("workers stopped", self.stops.to_string());
        row("outages of the control plane", self.outages.to_string());
        let (detection, reconnection) = self.times(account);
        row("detection, p50 / max", detection.to_string());
        row("reconnection, p50 / max", reconnection.to_string());
        for (what, figures, is_good) in &self.leaked {
            let verdict = if *is_good { "" } else { "  LEAK" };
            row(what, format!("{}{verdict}", figures.trim_end()));
        }
        table::print(rows);
        for fault in faults.iter().take(20) {
            println!("{fault}");
        }
        faults.is_empty() && self.leaked.iter().all(|(.., is_good)| *is_good)
    }

    /// As the drivers were told of each restart.
    fn times(&self, account: &Account) -> (Times, Times) {
        let (mut detection, mut reconnection) = (Times::default(), Times::default());
        for (at, restart) in self.restarts.iter().enumerate() {
            let later = self.restarts[at + 1..].iter();
            let next = later
                .filter(|later| later.worker == restart.worker)
                .map(|next| next.killed)
                .next();
            let is_of_it = |moment: &Timestamp| next.is_none_or(|next| *moment < next);
            let lost = account.told(Event::Lost, restart.worker);
            for lost in lost.filter(|at| *at >= restart.killed && *at < restart.registered) {
                detection.add(lost.since(restart.killed));
            }
            let back = account.told(Event::Reached, restart.worker);
            for back in back.filter(|at| *at >= restart.registered).filter(is_of_it) {
                reconnection.add(back.since(restart.registered));
            }
        }
        (detection, reconnection)
    }
}
