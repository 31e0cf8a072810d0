//! The fabric's specification on RDMA devices, side by side:
//! `SLIME_TEST_DEVICE=shm0,rxe0 cargo test --features verbs --test verbs_conformance [CASE...]`.
//! Without the variable there is nothing to test.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use slimerpc::fabric::conformance::{CASES, Case};
use slimerpc::fabric::{self, Device, SoftRnrMonitor, verbs};

const DEVICES: &str = "SLIME_TEST_DEVICE";

fn main() -> ExitCode {
    let Ok(names) = std::env::var(DEVICES) else {
        println!(
            "skipped: {DEVICES} names no device; this host has {:?}",
            verbs::names()
        );
        return ExitCode::SUCCESS;
    };
    let names: Vec<&str> = names.split(',').collect();
    if std::env::args().any(|word| word == "--rnr") {
        return rnr(names[names.len() - 1]);
    }
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let is_chosen = |case: &Case| {
        filters.is_empty() || filters.iter().any(|filter| case.name().contains(&**filter))
    };
    let (mut passed, mut failed) = (0, 0);
    for (pairing, with_itself) in [("two devices", false), ("one with itself", true)] {
        println!("{pairing}:");
        println!(
            "{}",
            names
                .iter()
                .map(|name| format!("{name:>16}"))
                .collect::<String>()
        );
        for case in CASES.iter().filter(|case| is_chosen(case)) {
            for name in &names {
                let started = Instant::now();
                let outcome = catch_unwind(|| {
                    let a = open(name);
                    let b = if with_itself { a.clone() } else { open(name) };
                    case.run(&a, &b);
                });
                let (verdict, count) = match outcome {
                    Ok(()) => ("ok", &mut passed),
                    Err(_) => ("FAILED", &mut failed),
                };
                *count += 1;
                print!("{:>16}", format!("{verdict} {:.0?}", started.elapsed()));
            }
            println!("  {}", case.name());
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
    fabric::open(name, 1).unwrap_or_else(|error| panic!("{error}"))
}
