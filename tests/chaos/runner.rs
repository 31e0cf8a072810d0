//! Runs cases, each in a process of its own, some side by side.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::args::Args;
use crate::cases::{CASES, Case, SKIPPED, many_callers};
use crate::limits::Limits;
use crate::measure::{self, Metric, Times};
use crate::table;
use support::DEVICE;

/// Lines of output of a case that failed.
const LAST_LINES: usize = 60;

/// How a case ended.
enum CaseResult {
    Passed,
    Skipped(String),
    Failed(String),
}

/// A case that has been run.
struct Done {
    case: &'static Case,
    result: CaseResult,
    took: Duration,
    measured: BTreeMap<Metric, Times>,
}

pub(crate) fn list() -> ExitCode {
    let rows = CASES.iter().map(|case| [case.name, case.about]);
    for [name, about] in rows {
        println!("{name:<20}  {about}");
    }
    ExitCode::SUCCESS
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let is_chosen = |case: &&Case| {
        args.names.is_empty() || args.names.iter().any(|name| case.name.contains(&**name))
    };
    let chosen: Vec<_> = CASES.iter().filter(is_chosen).collect();
    if chosen.is_empty() {
        // No failure: `cargo test NAME` says the name to every test.
        eprintln!("no case is called {}; see --list", args.names.join(" or "));
    }
    let limits = Limits::of(args.device().as_deref());
    let done = run_all(&chosen, args, limits);
    print_table(&done);
    let count =
        |is_it: fn(&CaseResult) -> bool| done.iter().filter(|done| is_it(&done.result)).count();
    let passed = count(|result| matches!(result, CaseResult::Passed));
    let failed = count(|result| matches!(result, CaseResult::Failed(_)));
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// In the order in which they end.
fn run_all(chosen: &[&'static Case], args: &Args, limits: Limits) -> Vec<Done> {
    let jobs = args.jobs.unwrap_or(limits.jobs);
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let device = args.device();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(case) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let one = run_one(
                case,
                device.as_deref(),
                home.path(),
                limits.case * many_callers::patience(),
            );
            one.print();
            done.lock().expect("no runner panics").push(one);
        }
    };
    // A process is tied to the thread that started it.
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    done.into_inner().expect("no runner panics")
}

fn run_one(case: &'static Case, device: Option<&str>, home: &Path, limit: Duration) -> Done {
    let began = Instant::now();
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command
        .args(["as:case", case.name, "--dir"])
        .arg(home.join(case.name));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // A failure is told in a few lines.
    command.env("RUST_BACKTRACE", "0");
    match device {
        Some(device) => command.env(DEVICE, device),
        None => command.env_remove(DEVICE),
    };
    let mut child = command.spawn().expect("this program starts again");
    // It leaves when this is closed.
    let leash = child.stdin.take();
    let pid = Pid::from_child(&child);
    let is_over = Mutex::new(false);
    let timer = std::sync::Condvar::new();
    let output = thread::scope(|scope| {
        scope.spawn(|| {
            let over = is_over.lock().expect("no thread panics");
            let waited = timer.wait_timeout_while(over, limit, |over| !*over);
            let (_over, timeout) = waited.expect("no thread panics");
            if timeout.timed_out() {
                // The only failure is that it ends just now.
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let output = child.wait_with_output().expect("it is ours to wait for");
        *is_over.lock().expect("no thread panics") = true;
        timer.notify_all();
        output
    });
    drop(leash);
    Done::of(case, began.elapsed(), &output, limit)
}

impl Done {
    fn of(case: &'static Case, took: Duration, output: &Output, limit: Duration) -> Self {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut measured = BTreeMap::<Metric, Times>::new();
        for (what, took) in said.lines().filter_map(measure::heard) {
            measured.entry(what).or_default().add(took);
        }
        let rest: Vec<_> = said
            .lines()
            .filter(|line| measure::heard(line).is_none())
            .collect();
        let rest = rest.join("\n");
        let result = match output.status.code() {
            Some(0) => CaseResult::Passed,
            Some(code) if code == i32::from(SKIPPED) => CaseResult::Skipped(rest),
            _ => {
                let complaint = String::from_utf8_lossy(&output.stderr);
                let text = format!("{rest}\n{complaint}\n{} after {took:.1?}", output.status);
                let lines: Vec<_> = text.lines().collect();
                let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
                let is_late = if took >= limit {
                    ", which is too long"
                } else {
                    ""
                };
                CaseResult::Failed(format!("{}{is_late}", last.join("\n")))
            }
        };
        Self {
            case,
            result,
            took,
            measured,
        }
    }

    fn print(&self) {
        let (name, took) = (self.case.name, self.took);
        match &self.result {
            CaseResult::Passed => println!("ok       {name}  {took:.1?}"),
            CaseResult::Skipped(why) => println!("skipped  {name}: {why}"),
            CaseResult::Failed(why) => println!("FAILED   {name}  {took:.1?}\n{why}\n"),
        }
    }
}

/// Of times of which there are several, the one in the middle and the longest.
fn print_table(done: &[Done]) {
    let heads = Metric::ALL.map(|what| what.title().to_owned());
    let mut rows = vec![
        ["p50 / max".to_owned()]
            .into_iter()
            .chain(heads)
            .collect::<Vec<_>>(),
    ];
    for case in CASES {
        let Some(done) = done.iter().find(|done| done.case.name == case.name) else {
            continue;
        };
        let none = Times::default();
        let cells = Metric::ALL.map(|what| done.measured.get(&what).unwrap_or(&none).to_string());
        if !done.measured.is_empty() {
            rows.push([case.name.to_owned()].into_iter().chain(cells).collect());
        }
    }
    if rows.len() > 1 {
        println!();
        table::print(rows);
        println!();
    }
}
