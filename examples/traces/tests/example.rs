//! The example, run as a user runs it.
#![allow(clippy::unwrap_used)]

use std::process::Command;

fn run(words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_traces"));
    let output = command.args(words).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}\n{output:?}");
    told
}

/// How often `what` stands in `text`.
fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

#[test]
fn each_step_is_one_tree_over_three_processes() {
    let told = run(&["--steps", "2", "--workers", "2"]);
    let trees = told.split_once("\n\n").unwrap().1;
    let roots = trees.lines().filter(|line| line.starts_with("step "));
    assert_eq!(roots.count(), 2, "{told}");
    for number in 0..2 {
        for (line, times) in [
            (
                format!("├─ driver calls Trainer/step of worker:{number}"),
                0,
            ),
            (format!("worker:{number} runs Trainer/step"), 2),
            (
                format!("   ├─ worker:{number} calls Loader/batch of driver"),
                2,
            ),
            (format!("worker:{number}: compute"), 6),
            (format!("worker:{number} calls Reducer/add of driver"), 2),
            (format!("worker:{number} calls Reducer/note of driver"), 2),
        ] {
            let is_right = times == 0 || count(&told, &line) == times;
            assert!(is_right, "{line}: {times} times in\n{told}");
        }
    }
    for line in ["driver runs Loader/batch", "driver runs Reducer/add"] {
        assert_eq!(count(&told, line), 4, "{line} in\n{told}");
    }
    assert_eq!(count(&told, "driver runs Reducer/note"), 4, "{told}");
}

#[test]
fn part_of_the_steps_is_recorded_whole() {
    let told = run(&["--steps", "40", "--workers", "1", "--part", "0.5"]);
    let roots = |line: &&str| !line.starts_with([' ', '├', '└', '│']);
    let trees = told.split_once("\n\n").unwrap().1;
    let steps: Vec<_> = trees.lines().filter(roots).collect();
    assert!(steps.iter().all(|line| line.starts_with("step ")), "{told}");
    // All or none come once in 2^39 runs.
    assert!((1..40).contains(&steps.len()), "{told}");
    assert_eq!(
        count(trees, "worker:0 runs Trainer/step"),
        steps.len(),
        "{told}"
    );
    assert_eq!(
        count(trees, "driver runs Reducer/note"),
        steps.len(),
        "{told}"
    );
}

#[test]
fn a_collector_that_is_not_there_is_an_error() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_traces"));
    let output = command.args(["--steps", "1", "--otlp", "http://127.0.0.1:1"]);
    assert!(!output.output().unwrap().status.success());
}

#[test]
fn steps_that_are_not_sampled_leave_no_trace() {
    let told = run(&["--steps", "2", "--workers", "1", "--part", "0"]);
    assert_eq!(count(&told, "step 1: gradients"), 1, "{told}");
    assert_eq!(count(&told, "Trainer/step"), 0, "{told}");
}
