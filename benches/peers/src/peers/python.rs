//! Peers of Python's: both processes are Python's own, and ours reads what they tell.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::child::Child;
use crate::measure::{Job, Missing, Row};
use crate::memory;
use crate::support::Result;
use crate::table::Report;

/// What their scripts share.
const COMMON: &str = include_str!("python_figures.py");

/// A script, and what it is told.
pub(super) struct Script<'a> {
    pub(super) text: &'static str,
    /// Of the job's own, beside sizes and so on.
    pub(super) told: Value,
    pub(super) job: &'a Job,
}

impl Script<'_> {
    pub(super) fn start(&self, limit: Duration) -> Result<Child> {
        let job = json!({
            "sizes": self.job.sizes,
            "inflight": self.job.inflight,
            "seconds": self.job.seconds,
            "told": self.told,
        });
        let text = format!("{COMMON}\n{}", self.text);
        let mut command = Command::new(&self.job.python);
        command.args(["-c", &text, &job.to_string()]);
        Child::start(&mut command, limit)
    }
}

/// # Errors
/// There is no such package, or no Python.
pub(super) fn check(job: &Job, package: &str) -> Result<()> {
    let tried = Command::new(&job.python)
        .args([
            "-c",
            &format!("import importlib.util as u, sys; sys.exit(u.find_spec('{package}') is None)"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let python = &job.python;
    match tried {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Missing(format!(
            "{python} has no package `{package}`: {python} -m pip install {package}, or --python"
        ))
        .into()),
        Err(error) => Err(Missing(format!("{python}: {error}")).into()),
    }
}

/// # Errors
/// There is not memory enough for all that a script will try.
pub(super) fn check_memory(job: &Job) -> Result<()> {
    let inflight = job.inflight.iter().copied().max().unwrap_or(1);
    memory::check(job.first_size(), inflight)?;
    Ok(memory::check(job.largest(), 1)?)
}

/// Reports all that it tells: a line with the row that begins, and one with its figures.
pub(super) fn rows(child: &mut Child, report: &mut Report) -> Result<()> {
    while let Some(line) = child.next_line()? {
        let numbers: std::result::Result<Vec<f64>, _> =
            line.split_whitespace().map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[size, inflight]) => report.begin(size as usize, inflight as usize),
            Ok(&[size, inflight, p50, p99, calls_per_s]) => report.row(Row {
                size: size as usize,
                inflight: inflight as usize,
                p50,
                p99,
                calls_per_s,
            })?,
            // Packages print what they like.
            _ => eprintln!("{line}"),
        }
    }
    Ok(())
}
