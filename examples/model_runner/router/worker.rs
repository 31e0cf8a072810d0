//! What the router knows of one worker.

use std::time::{Duration, Instant};

use slimerpc_actors::Proxy;

use crate::processes::{Process, Restarts};
use crate::runner::ModelRunner;

#[derive(Default)]
pub(super) struct Worker {
    state: WorkerState,
    /// Number of its life; what belongs to an earlier one is told apart by it.
    pub(super) life: u64,
    /// The process, as long as it has not been seen to end.
    pub(super) process: Option<Process>,
    /// Requests that it has not answered.
    pub(super) outstanding: usize,
    /// Requests that it answered in this life.
    pub(super) answered: u64,
    restarts: Restarts,
    /// Whether it has been killed for practice in this life, which takes a moment to be noticed.
    struck: bool,
    /// Since when it is missed; not before it was up for the first time.
    missed: Option<Instant>,
}

#[derive(Default)]
enum WorkerState {
    /// Its process is not there, or is not ready, or is about to end.
    #[default]
    Down,
    Up(Proxy<ModelRunner>),
    /// And why.
    GivenUp(String),
}

impl Worker {
    /// It has a process again.
    pub(super) fn begin(&mut self, process: Process) {
        self.life += 1;
        self.answered = 0;
        self.struck = false;
        self.process = Some(process);
    }

    /// It serves. Gives how long it was missed, if it was.
    pub(super) fn up(&mut self, proxy: Proxy<ModelRunner>) -> Option<Duration> {
        self.state = WorkerState::Up(proxy);
        self.missed.take().map(|since| since.elapsed())
    }

    /// Its process has ended. Gives how long to wait before the next one, or that there has been
    /// enough of them.
    pub(super) fn down(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if matches!(self.state, WorkerState::Up(_)) {
            self.missed.get_or_insert(now);
        }
        self.state = WorkerState::Down;
        self.restarts.after(self.answered > 0, now)
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
        self.missed.get_or_insert_with(Instant::now);
        self.state = WorkerState::Down;
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Whether nothing is about to change: it serves, or is given up.
    pub(super) fn is_settled(&self) -> bool {
        (self.proxy().is_some() && !self.struck) || self.given_up().is_some()
    }

    /// Whether killing it would interrupt something.
    pub(super) fn is_at_work(&self) -> bool {
        self.proxy().is_some() && self.answered > 0 && !self.struck
    }

    /// Kills its process and leaves it to the router to find out.
    pub(super) fn strike(&mut self) {
        self.struck = true;
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Lets its process end.
    pub(super) fn release(&mut self) {
        if let Some(process) = &mut self.process {
            process.release();
        }
    }

    /// Its address, while it serves.
    pub(super) fn proxy(&self) -> Option<&Proxy<ModelRunner>> {
        match &self.state {
            WorkerState::Up(proxy) => Some(proxy),
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
