//! Tests of this program that run in a process of their own.

use std::process::Command;

/// Set in a process that exists for one test.
const ALONE: &str = "SLIME_TEST_ALONE";

/// A command that runs one test of this program, and no other. `module` is the caller's
/// `module_path!()`.
pub fn test_process(module: &str, test: &str) -> Command {
    let (_, module) = module.split_once("::").expect("a module of a test program");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(format!("{module}::{test}"));
    command.args([
        "--exact",
        "--include-ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command
}

/// Runs the calling test in a process of its own, whose descriptors, threads and memory are then
/// its alone. Returns whether this is that process; in the other one the test has passed and is
/// over.
///
/// # Panics
/// The test failed there.
pub fn is_alone(module: &str, test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = test_process(module, test).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    false
}
