//! The example `trainer` as a user runs it: whoever sums and whoever dies, the weights are in the
//! end the same to the bit.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;

use rustix::process::{Signal, kill_process};
use support::job::{Driver, Ended};

/// So little work that it is soon done without optimisation, too: 90 steps.
const SMALL: [&str; 6] = ["--hidden", "64", "--batch", "24", "--epochs", "3"];
/// So many steps, each as small, that workers are at it for some seconds.
const LONG: [&str; 8] = [
    "--hidden", "64", "--batch", "24", "--epochs", "100", "--mode", "ring",
];

fn start(words: &[&str]) -> Driver {
    Driver::start("trainer", "trainer", words)
}

/// Trains with the small network.
fn train(words: &[&str]) -> Ended {
    start(&[&SMALL[..], words].concat()).end()
}

/// The rows of an account: the name, and a value for each training.
fn account(ended: &Ended) -> HashMap<&str, Vec<&str>> {
    let row = |line| {
        // Cells are at least two blanks apart.
        let cells = str::split(line, "  ").map(str::trim);
        let mut cells = cells.filter(|cell| !cell.is_empty());
        Some((cells.next()?, cells.collect()))
    };
    ended.out.lines().filter_map(row).collect()
}

/// The hash of the weights, which all trainings came to.
fn hash(ended: &Ended) -> &str {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let account = account(ended);
    let [alone, together] = account["hash of the weights"][..] else {
        panic!("{ended:?}");
    };
    assert_eq!(alone, together, "{ended:?}");
    let accuracy: f64 = account["accuracy"][1].parse().unwrap();
    assert!(accuracy > 0.8, "{accuracy}");
    together
}

#[test]
fn a_killed_worker_changes_nothing_when_the_driver_sums() {
    let undisturbed = train(&[]);
    let disturbed = train(&["--kill-worker-at", "40"]);
    assert_eq!(hash(&undisturbed), hash(&disturbed));
    for (ended, restarts) in [(&undisturbed, "0"), (&disturbed, "1")] {
        assert_eq!(account(ended)["workers restarted"][1], restarts);
        assert_eq!(account(ended)["steps repeated"][1], restarts, "{ended:?}");
    }
}

#[test]
fn a_killed_worker_changes_nothing_in_a_ring() {
    let undisturbed = train(&["--mode", "ring"]);
    let disturbed = train(&["--mode", "ring", "--kill-worker-at", "40"]);
    assert_eq!(hash(&undisturbed), hash(&disturbed));
    assert_eq!(account(&disturbed)["workers restarted"][1], "1");
    // It goes back to the end of the first epoch.
    let repeated: u32 = account(&disturbed)["steps repeated"][1].parse().unwrap();
    assert!(repeated >= 10, "{disturbed:?}");
}

#[test]
fn three_workers_in_a_ring_come_to_what_one_process_does() {
    hash(&train(&["--mode", "ring", "--workers", "3"]));
}

#[test]
fn a_single_worker_comes_to_the_same_in_either_mode() {
    let (here, around) = (
        train(&["--workers", "1"]),
        train(&["--workers", "1", "--mode", "ring"]),
    );
    assert_eq!(hash(&here), hash(&around));
}

#[test]
fn a_loss_curve_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("loss.svg");
    let words = ["--plot", path.to_str().unwrap(), "--kill-worker-at", "7"];
    hash(&train(&words));
    let svg = fs::read_to_string(&path).unwrap();
    for part in ["<svg", "polyline", "a worker was killed"] {
        assert!(svg.contains(part), "{svg}");
    }
}

#[test]
fn ctrl_c_ends_the_workers() {
    let mut driver = start(&LONG);
    driver.wait_for_progress("in a ring");
    driver.signal(Signal::INT);
    let ended = driver.end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(130), ""));
}

#[test]
fn a_driver_that_is_killed_takes_its_workers_with_it() {
    let mut driver = start(&LONG);
    driver.wait_for_progress("in a ring");
    // One of them can do nothing about it by itself.
    kill_process(driver.workers()[0], Signal::STOP).unwrap();
    driver.signal(Signal::KILL);
    driver.wait();
    driver.wait_for_others();
}

#[test]
fn what_makes_no_sense_is_refused_at_once() {
    let refused = [
        (["--workers", "0"], "0 is not in"),
        (["--workers", "1438"], "1437 images"),
        (["--epochs", "0"], "--epochs"),
        (["--batch", "0"], "--batch"),
        (["--hidden", "100001"], "--hidden"),
        (["--rate", "NaN"], "above 0"),
        (["--mode", "circle"], "circle"),
        (["--kill-worker-at", "0"], "--kill-worker-at"),
        (["--kill-worker-at", "91"], "90 steps"),
    ];
    for (words, part) in refused {
        let ended = train(&words);
        assert_eq!(ended.code, Some(2), "{words:?}: {ended:?}");
        assert!(ended.err.contains(part), "{}", ended.err);
    }
}

#[test]
fn what_cannot_be_used_is_named() {
    let refused = [
        (["--device", "nope0"], "`nope0`"),
        (["--plot", "/nowhere/loss.svg"], "/nowhere/loss.svg"),
    ];
    for (words, part) in refused {
        let ended = train(&words);
        assert_eq!(ended.code, Some(1), "{words:?}: {ended:?}");
        assert!(ended.err.contains(part), "{}", ended.err);
    }
}
