//! The example as a user runs it who has installed nothing: a worker and a driver in two processes
//! that find each other through their host.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use support::wait_until;
use tempfile::TempDir;

use crate::workers::{PRINTED, Role};

/// A directory in which the processes of a test meet.
struct Meeting(TempDir, String);

impl Meeting {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let variable = format!("XDG_RUNTIME_DIR={}", directory.path().display());
        Self(directory, variable)
    }

    fn worker(&self) -> Role {
        Role::worker_in(&["env", &self.1], "host", &[])
    }

    fn start(&self, role: &str) -> Role {
        Role::start_in(&["env", &self.1], "host", &["--role", role])
    }

    /// The agents that have a socket, in all scopes. There may be mail for others.
    fn left(&self) -> Vec<String> {
        let entries = |path: PathBuf| fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        let agents = entries(self.0.path().join("slimerpc")).flat_map(|it| entries(it.path()));
        let agents = agents.filter(|agent| agent.path().join("socket").exists());
        let names = agents.map(|agent| agent.file_name().into_string().unwrap());
        names.collect()
    }
}

#[test]
fn a_driver_calls_a_worker_with_nothing_installed() {
    let meeting = Meeting::new();
    let worker = meeting.worker();
    assert_eq!(meeting.left(), ["worker:0"]);
    for _ in 0..2 {
        let (code, out, err) = meeting.start("driver").end();
        assert_eq!((code, &*out), (Some(0), PRINTED), "{err}");
    }
    worker.signal(Signal::TERM);
    let (code, _, err) = worker.end();
    assert_eq!(code, Some(0), "{err}");
    assert!(meeting.left().is_empty(), "{:?}", meeting.left());
}

#[test]
fn an_alias_in_use_is_refused_and_that_of_a_killed_process_is_free_at_once() {
    let meeting = Meeting::new();
    let mut worker = meeting.worker();
    for round in 0..3 {
        let (code, _, err) = meeting.start("worker").end();
        let holder = format!("process {}", worker.id());
        assert!(code == Some(1) && err.contains(&holder), "{err}");
        // By its destructor, with SIGKILL.
        drop(worker);
        assert_eq!(meeting.left(), ["worker:0"], "in round {round}");
        worker = meeting.worker();
        let (code, out, err) = meeting.start("driver").end();
        assert_eq!((code, &*out), (Some(0), PRINTED), "in round {round}: {err}");
    }
}

#[test]
fn one_of_many_processes_that_race_for_an_alias_gets_it() {
    let meeting = Meeting::new();
    drop(meeting.worker());
    for round in 0..5 {
        let mut racing: Vec<_> = (0..8).map(|_| meeting.start("worker")).collect();
        wait_until("all but one are refused", || {
            let ended = racing.extract_if(.., |role| role.has_ended());
            for (code, _, err) in ended.map(Role::end) {
                assert!(code == Some(1) && err.contains("is taken"), "{err}");
            }
            racing.len() == 1
        });
        let (code, out, err) = meeting.start("driver").end();
        assert_eq!((code, &*out), (Some(0), PRINTED), "in round {round}: {err}");
    }
}

#[test]
fn the_environment_says_where_peers_are_found_and_the_program_overrides_it() {
    let meeting = Meeting::new();
    let _worker = meeting.worker();
    let within = ["env", &meeting.1, "SLIME_RPC_CONTROL=host"];
    // Both roles in one process, which would be on their own by default.
    let (code, _, err) = Role::alone(&within).end();
    assert!(
        code == Some(1) && err.contains("`worker:0` is taken"),
        "{err}"
    );
    let within = ["env", &meeting.1, "SLIME_RPC_CONTROL=local"];
    let (code, out, err) = Role::alone(&within).end();
    assert_eq!((code, &*out), (Some(0), PRINTED), "{err}");
    let within = ["env", &meeting.1, "SLIME_RPC_CONTROL=http://127.0.0.1:1"];
    let (code, out, err) = Role::start_in(&within, "host", &["--role", "driver"]).end();
    assert_eq!((code, &*out), (Some(0), PRINTED), "{err}");
}
