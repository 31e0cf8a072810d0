//! The table of all figures, and the CSV, line by line as they come.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::measure::{Missing, Row};
use crate::peers::OURS;
use crate::support::{Result, pretty};

pub(crate) struct Table {
    bar: ProgressBar,
    csv: Option<File>,
    ours: Vec<Row>,
}

impl Table {
    /// Of so many `rows`.
    pub(crate) fn new(rows: usize, csv: Option<&Path>) -> Result<Self> {
        let create = |path: &Path| {
            let mut file = File::create(path)?;
            writeln!(file, "peer,size,inflight,p50_us,p99_us,calls_per_s")?;
            Ok::<_, std::io::Error>(file)
        };
        let csv = csv
            .map(|path| {
                create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))
            })
            .transpose()?;
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?;
        let bar = ProgressBar::new(rows as u64).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        println!(
            "{:<16} {:>8} {:>9} {:>11} {:>11} {:>12} {:>9}",
            "echo", "size", "in flight", "p50, us", "p99, us", "calls/s", "of ours"
        );
        Ok(Self {
            bar,
            csv,
            ours: Vec::new(),
        })
    }

    pub(crate) fn of(&mut self, peer: &'static str) -> Report<'_> {
        Report { table: self, peer }
    }

    pub(crate) fn advance_to(&self, rows: usize) {
        self.bar.set_position(rows as u64);
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
        println!(
            "of ours: times the p50 of {OURS} at the same size; with more than one call in flight, its calls/s by theirs"
        );
    }

    fn print(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }

    /// How many times as much as ours.
    fn ratio(&self, row: &Row) -> Option<f64> {
        let is_same = |ours: &&Row| (ours.size, ours.inflight) == (row.size, row.inflight);
        let ours = self.ours.iter().find(is_same)?;
        Some(match row.inflight {
            1 => row.p50 / ours.p50,
            _ => ours.calls_per_s / row.calls_per_s,
        })
    }
}

/// What one peer tells.
pub(crate) struct Report<'a> {
    table: &'a mut Table,
    peer: &'static str,
}

impl Report<'_> {
    /// What is being measured now.
    pub(crate) fn begin(&self, size: usize, inflight: usize) {
        let (peer, size) = (self.peer, pretty(size));
        let message = format!("{peer}: {size}, {inflight} in flight");
        self.table.bar.set_message(message);
    }

    /// # Errors
    /// The CSV cannot be written.
    pub(crate) fn row(&mut self, row: Row) -> Result<()> {
        let Row {
            size,
            inflight,
            p50,
            p99,
            calls_per_s,
        } = row;
        let peer = self.peer;
        if let Some(csv) = &mut self.table.csv {
            writeln!(
                csv,
                "{peer},{size},{inflight},{p50:.3},{p99:.3},{calls_per_s:.1}"
            )?;
        }
        if peer == OURS {
            self.table.ours.push(row);
        }
        let ratio = match self.table.ratio(&row) {
            Some(ratio) => format!("{ratio:.2}"),
            None => "-".to_owned(),
        };
        let size = pretty(size);
        self.table.print(&format!(
            "{peer:<16} {size:>8} {inflight:>9} {p50:>11.2} {p99:>11.2} {calls_per_s:>12.0} {ratio:>9}"
        ));
        self.table.bar.inc(1);
        Ok(())
    }

    pub(crate) fn skip(&self, size: usize, inflight: usize, why: &Missing) {
        let (peer, size) = (self.peer, pretty(size));
        let line = format!("{peer:<16} {size:>8} {inflight:>9} skipped: {why}");
        self.table.print(&line);
        self.table.bar.inc(1);
    }

    /// No row is left of this peer.
    pub(crate) fn skip_all(&self, why: &str) {
        self.table
            .print(&format!("{:<16} skipped: {why}", self.peer));
    }

    pub(crate) fn failed(&self, why: &str) {
        self.table
            .print(&format!("{:<16} FAILED: {why}", self.peer));
    }
}
