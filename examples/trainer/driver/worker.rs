//! What the driver knows of one worker.

use std::time::{Duration, Instant};

use slimerpc_actors::Proxy;

use super::Member;
use crate::processes::{Process, Restarts};
use crate::train_worker::TrainWorker;

#[derive(Default)]
pub(super) struct Worker {
    state: WorkerState,
    /// Number of its life.
    life: u64,
    /// The process, as long as it has not been seen to end.
    pub(super) process: Option<Process>,
    /// Whether it has done a step in this life.
    has_stepped: bool,
    /// Whether it has been up before.
    was_up: bool,
    restarts: Restarts,
}

#[derive(Default)]
enum WorkerState {
    /// Its process is not there, or is not ready, or is about to end.
    #[default]
    Down,
    Up(Proxy<TrainWorker>),
    /// And why.
    GivenUp(String),
}

impl Worker {
    /// It has a process again.
    pub(super) fn begin(&mut self, process: Process) {
        self.life += 1;
        self.has_stepped = false;
        self.process = Some(process);
    }

    /// It serves. Says whether it has done so before.
    pub(super) fn up(&mut self, proxy: Proxy<TrainWorker>) -> bool {
        self.state = WorkerState::Up(proxy);
        std::mem::replace(&mut self.was_up, true)
    }

    pub(super) fn stepped(&mut self) {
        self.has_stepped = true;
    }

    /// Its process has ended. Gives how long to wait before the next one, or that there has been
    /// enough of them.
    pub(super) fn down(&mut self) -> Option<Duration> {
        self.state = WorkerState::Down;
        self.restarts.after(self.has_stepped, Instant::now())
    }

    /// It is not started again.
    pub(super) fn give_up(&mut self, reason: String) {
        self.state = WorkerState::GivenUp(reason);
    }

    /// It is of no use any more in this life: ends it, if it is still the current one.
    pub(super) fn abandon(&mut self, life: u64) {
        if self.life != life || !matches!(self.state, WorkerState::Up(_)) {
            return;
        }
        self.state = WorkerState::Down;
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Itself, while it serves.
    pub(super) fn member(&self) -> Option<Member> {
        match &self.state {
            WorkerState::Up(proxy) => Some(Member {
                proxy: proxy.clone(),
                life: self.life,
            }),
            WorkerState::Down | WorkerState::GivenUp(_) => None,
        }
    }

    /// Why it is given up, if it is.
    pub(super) fn given_up(&self) -> Option<&str> {
        match &self.state {
            WorkerState::GivenUp(reason) => Some(reason),
            WorkerState::Up(_) | WorkerState::Down => None,
        }
    }
}
