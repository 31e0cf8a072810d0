//! What is shown and written down: the table, the file, and how far the suite is.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

use crate::row::{self, Row};
use crate::support::Result;
use crate::support::record::{self, Record};

pub(crate) struct Report {
    csv: Option<PathBuf>,
    /// On standard error; hidden if that is no terminal.
    bar: ProgressBar,
    subset: RefCell<String>,
    has_title: Cell<bool>,
    records: RefCell<Vec<Record>>,
    met: Cell<u32>,
    missed: Cell<u32>,
    skipped: Cell<u32>,
}

impl Report {
    /// Fails now rather than after minutes if the file cannot be written.
    pub(crate) fn new(csv: Option<PathBuf>) -> Result<Self> {
        if let Some(path) = &csv {
            record::write(path, &[])?;
        }
        let style = ProgressStyle::with_template("{prefix:10} {wide_bar} {pos}/{len} {msg}")?;
        Ok(Self {
            csv,
            bar: ProgressBar::new(0).with_style(style),
            subset: RefCell::default(),
            has_title: Cell::new(false),
            records: RefCell::default(),
            met: Cell::new(0),
            missed: Cell::new(0),
            skipped: Cell::new(0),
        })
    }

    pub(crate) fn begin(&self, subset: &str) {
        self.bar.set_length(0);
        self.bar.set_position(0);
        self.bar.set_prefix(subset.to_owned());
        subset.clone_into(&mut self.subset.borrow_mut());
        self.has_title.set(false);
    }

    /// So many steps more.
    pub(crate) fn expect(&self, steps: u64) {
        self.bar.inc_length(steps);
    }

    /// What is done now.
    pub(crate) fn step(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.inc(1);
    }

    pub(crate) fn row(&self, row: &Row) {
        let count = match row.is_met() {
            Some(true) => Some(&self.met),
            Some(false) => Some(&self.missed),
            None => None,
        };
        if let Some(count) = count {
            count.set(count.get() + 1);
        }
        self.titled(&row.line());
        self.keep(row.record(&self.subset.borrow()));
    }

    pub(crate) fn skip(&self, what: &str, why: &str) {
        self.skipped.set(self.skipped.get() + 1);
        self.titled(&format!("  {what:<52} skipped: {why}"));
        self.keep(Record {
            subset: self.subset.borrow().clone(),
            what: what.to_owned(),
            met: format!("skipped: {why}"),
            ..Record::default()
        });
    }

    pub(crate) fn failed(&self, why: &str) {
        self.titled(&format!("  failed: {why}"));
    }

    /// A figure for the file alone.
    pub(crate) fn record(&self, figure: Record) {
        self.keep(Record {
            subset: self.subset.borrow().clone(),
            ..figure
        });
    }

    /// A line beside the table.
    pub(crate) fn say(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }

    fn titled(&self, line: &str) {
        if !self.has_title.replace(true) {
            self.say(&row::title(&self.subset.borrow()));
        }
        self.say(line);
    }

    fn keep(&self, record: Record) {
        self.records.borrow_mut().push(record);
    }

    /// Writes down what there is up to now.
    pub(crate) fn save(&self) -> Result<()> {
        match &self.csv {
            Some(path) => record::write(path, &self.records.borrow()),
            None => Ok(()),
        }
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
        let count = |count: &Cell<u32>| count.get();
        println!(
            "\ntargets: {} met, {} missed; rows skipped: {}",
            count(&self.met),
            count(&self.missed),
            count(&self.skipped)
        );
        if let Some(path) = &self.csv {
            println!("figures are in {}", path.display());
        }
    }
}
