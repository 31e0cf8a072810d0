//! Processes that are not our children.

use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::DaemonError;

/// Returns whether the process runs. One that has ended but was not waited for does not.
pub(super) fn is_alive(pid: Pid) -> bool {
    let exists = !matches!(test_kill_process(pid), Err(Errno::SRCH));
    exists && state(pid) != Some('Z')
}

/// Its state letter in `/proc`.
fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.trim_start().chars().next()
}

/// Returns whether the process has this command line, so that a reused process id is not taken for
/// the server. A process that hides its command line, as those of other users may, was certainly
/// not started by this user.
pub(super) fn has_command(pid: Pid, command: &[String]) -> bool {
    match fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())) {
        Ok(found) => found
            .strip_suffix(b"\0")
            .unwrap_or(&found)
            .split(|&byte| byte == 0)
            .eq(command.iter().map(String::as_bytes)),
        // Where no process is visible, not even this one, that proves nothing.
        Err(_) => fs::read("/proc/self/cmdline").is_err(),
    }
}

/// Signals the process; one that is gone needs no signal.
pub(super) fn signal(pid: Pid, signal: Signal) -> Result<(), DaemonError> {
    match kill_process(pid, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(DaemonError::Signal {
            pid: pid.as_raw_nonzero().get(),
            source: error.into(),
        }),
    }
}
