//! The fabric's specification on an RDMA device: `SLIME_TEST_DEVICE=rxe0 cargo test --features verbs --test
//! verbs_conformance [CASE...]`. Without the variable there is nothing to test.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use slimerpc::fabric::conformance::CASES;
use slimerpc::fabric::{Device, SoftRnrMonitor, verbs};

const DEVICE: &str = "SLIME_TEST_DEVICE";

fn main() -> ExitCode {
    let Ok(name) = std::env::var(DEVICE) else {
        println!(
            "skipped: {DEVICE} names no RDMA device; this host has {:?}",
            verbs::names()
        );
        return ExitCode::SUCCESS;
    };
    if std::env::args().any(|word| word == "--rnr") {
        return rnr(&name);
    }
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let is_chosen =
        |case: &str| filters.is_empty() || filters.iter().any(|filter| case.contains(&**filter));
    let (mut passed, mut failed) = (0, 0);
    for (pairing, with_itself) in [("two", false), ("one", true)] {
        for case in CASES.iter().filter(|case| is_chosen(case.name())) {
            let started = Instant::now();
            let outcome = catch_unwind(|| {
                let a = open(&name);
                let b = if with_itself { a.clone() } else { open(&name) };
                case.run(&a, &b);
            });
            let (verdict, count) = match outcome {
                Ok(()) => ("ok", &mut passed),
                Err(_) => ("FAILED", &mut failed),
            };
            *count += 1;
            println!(
                "{verdict} {pairing} x {name}: {} ({:.1?})",
                case.name(),
                started.elapsed()
            );
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Makes "receiver not ready" happen and has the monitor count it.
fn rnr(name: &str) -> ExitCode {
    let mut monitor = SoftRnrMonitor::of(&[name], None).unwrap_or_else(|error| panic!("{error}"));
    let case = |wanted: &str| CASES.iter().find(|case| case.name().ends_with(wanted));
    let (a, b) = (open(name), open(name));
    for (wanted, happens) in [
        ("zero_length_operations_need_no_memory", false),
        ("without_a_receive_a_message_waits", true),
    ] {
        let case = case(wanted).unwrap_or_else(|| panic!("there is no case {wanted}"));
        monitor.snapshot().unwrap_or_else(|error| panic!("{error}"));
        case.run(&a, &b);
        let count = monitor
            .total_delta()
            .unwrap_or_else(|error| panic!("{error}"));
        println!(
            "{wanted}: {} rose by {count}",
            monitor.counter(name).unwrap_or("?")
        );
        if (count > 0) != happens {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn open(name: &str) -> Arc<dyn Device> {
    verbs::open(name, 1).unwrap_or_else(|error| panic!("{error}"))
}
