//! One run.

use std::cell::Cell;

use clap::ValueEnum;
use tokio::runtime::Runtime;

use crate::args::Args;
use crate::missing::Missing;
use crate::report::Report;
use crate::subset::Subset;
use crate::support::Result;
use crate::support::footprint::allow_many_files;

pub(crate) struct Suite {
    pub(crate) args: Args,
    pub(crate) report: Report,
    /// In which agents are started; they live on threads of their own.
    pub(crate) runtime: Runtime,
    numbers: Cell<u32>,
}

impl Suite {
    pub(crate) fn new(args: Args) -> Result<Self> {
        allow_many_files()?;
        Ok(Self {
            report: Report::new(args.csv.clone())?,
            args,
            runtime: Runtime::new()?,
            numbers: Cell::new(0),
        })
    }

    /// A number that nothing else has in this run.
    pub(crate) fn number(&self) -> u32 {
        self.numbers.replace(self.numbers.get() + 1)
    }

    /// Seconds for one figure in one round.
    pub(crate) fn slice(&self) -> f64 {
        self.args.seconds / f64::from(self.args.rounds)
    }

    pub(crate) fn run(self) -> Result<()> {
        let chosen = match self.args.subsets.as_slice() {
            [] => Subset::value_variants(),
            some => some,
        };
        let mut failed = Vec::new();
        for subset in chosen {
            self.report.begin(&subset.name());
            match subset.run(&self) {
                Ok(()) => {}
                Err(error) if error.is::<Missing>() => {
                    self.report.skip("all of it", &error.to_string());
                }
                Err(error) => {
                    self.report.failed(&error.to_string());
                    failed.push(subset.name());
                }
            }
            self.report.save()?;
        }
        self.report.end();
        if failed.is_empty() {
            return Ok(());
        }
        Err(format!("not measured, see above: {}", failed.join(", ")).into())
    }
}
