//! The driver's side of the workers: an actor that starts them, notices when they die, and starts
//! them again.
//!
//! A worker is *starting* until it serves, *up* until its process ends or it is given notice that a
//! call to it failed, then *down*, and after a pause starting again: another process under the same
//! alias.

mod fleet;
mod messages;
mod worker;

use std::rc::Rc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, ResponseFuture};
use slimerpc_actors::Proxy;
use tokio::sync::oneshot;

use crate::processes::{Output, Process, end_of, given_up};
use crate::train_worker::TrainWorker;

pub(crate) use fleet::{Fleet, alias};
pub(crate) use messages::{Assemble, Crew, CrewError, Dismiss, Kill, Member, Missed, Stepped};
use worker::Worker;

/// How long workers may take to end when they are told to.
const DISMISS: Duration = Duration::from_secs(5);

/// The driver of a training.
pub(crate) struct Driver {
    fleet: Rc<Fleet>,
    workers: Vec<Worker>,
    restarts: u64,
    /// Wait until every worker is up.
    assembling: Vec<oneshot::Sender<Result<Crew, CrewError>>>,
    /// Nothing is started any more.
    is_dismissing: bool,
    /// Wait until every process has ended.
    dismissing: Vec<oneshot::Sender<()>>,
}

impl Driver {
    pub(crate) fn new(fleet: Fleet, workers: usize) -> Self {
        Self {
            fleet: Rc::new(fleet),
            workers: (0..workers).map(|_| Worker::default()).collect(),
            restarts: 0,
            assembling: Vec::new(),
            is_dismissing: false,
            dismissing: Vec::new(),
        }
    }

    /// Starts an incarnation of a worker.
    fn start_worker(&mut self, rank: usize, ctx: &mut Context<Self>) {
        if self.is_dismissing {
            return self.check_dismissed();
        }
        match self.fleet.start(rank) {
            Ok((process, output)) => {
                self.workers[rank].begin(process);
                let up = self.fleet.clone().bring_up(rank, output);
                ctx.spawn(wrap_future(up).map(
                    move |(output, up), driver: &mut Self, ctx| match up {
                        Ok(proxy) => driver.up(rank, proxy, output, ctx),
                        Err(reason) => driver.down(rank, Some(reason), ctx),
                    },
                ));
            }
            Err(error) => self.down(rank, Some(error.to_string()), ctx),
        }
    }

    /// A worker serves.
    fn up(
        &mut self,
        rank: usize,
        proxy: Proxy<TrainWorker>,
        mut output: Output,
        ctx: &mut Context<Self>,
    ) {
        self.restarts += u64::from(self.workers[rank].up(proxy));
        let ended = async move { output.end().await };
        ctx.spawn(wrap_future(ended).map(move |(), driver: &mut Self, ctx| {
            driver.down(rank, None, ctx);
        }));
        self.check_assembled();
    }

    /// Handles the end of a worker's incarnation, or its failure to start.
    fn down(&mut self, rank: usize, reason: Option<String>, ctx: &mut Context<Self>) {
        let worker = &mut self.workers[rank];
        let reason = end_of(worker.process.take(), reason);
        if self.is_dismissing {
            return self.check_dismissed();
        }
        match worker.down() {
            Some(pause) => {
                ctx.run_later(pause, move |driver, ctx| driver.start_worker(rank, ctx));
            }
            None => worker.give_up(given_up(rank, &reason)),
        }
        self.check_assembled();
    }

    fn check_assembled(&mut self) {
        let assembled = match self.crew() {
            Ok(Some(crew)) => Ok(crew),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        for waiter in self.assembling.drain(..) {
            let _ = waiter.send(assembled.clone());
        }
    }

    /// All workers, if all are up. An error if one never will be.
    fn crew(&self) -> Result<Option<Crew>, CrewError> {
        if let Some(reason) = self.workers.iter().find_map(Worker::given_up) {
            return Err(CrewError::GivenUp(reason.to_owned()));
        }
        let members = self.workers.iter().map(Worker::member);
        Ok(members.collect::<Option<_>>().map(|members| Crew {
            members,
            restarts: self.restarts,
        }))
    }

    fn check_dismissed(&mut self) {
        if self.workers.iter().all(|worker| worker.process.is_none()) {
            for waiter in self.dismissing.drain(..) {
                let _ = waiter.send(());
            }
        }
    }
}

impl Actor for Driver {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        for rank in 0..self.workers.len() {
            self.start_worker(rank, ctx);
        }
    }
}

impl Handler<Assemble> for Driver {
    type Result = ResponseFuture<Result<Crew, CrewError>>;

    fn handle(&mut self, _: Assemble, _: &mut Context<Self>) -> Self::Result {
        let (tell, told) = oneshot::channel();
        self.assembling.push(tell);
        self.check_assembled();
        Box::pin(async { told.await.unwrap_or(Err(CrewError::Dismissed)) })
    }
}

impl Handler<Stepped> for Driver {
    type Result = ();

    fn handle(&mut self, _: Stepped, _: &mut Context<Self>) {
        self.workers.iter_mut().for_each(Worker::stepped);
    }
}

impl Handler<Missed> for Driver {
    type Result = ();

    fn handle(&mut self, missed: Missed, _: &mut Context<Self>) {
        if let Some(worker) = self.workers.get_mut(missed.rank) {
            worker.abandon(missed.life);
        }
    }
}

impl Handler<Kill> for Driver {
    type Result = ();

    fn handle(&mut self, Kill { rank }: Kill, _: &mut Context<Self>) {
        let worker = self.workers.get_mut(rank);
        if let Some(process) = worker.and_then(|worker| worker.process.as_mut()) {
            process.kill();
        }
    }
}

impl Handler<Dismiss> for Driver {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Dismiss, ctx: &mut Context<Self>) -> Self::Result {
        let (tell, told) = oneshot::channel();
        self.is_dismissing = true;
        self.dismissing.push(tell);
        let processes = self.workers.iter_mut();
        processes
            .filter_map(|worker| worker.process.as_mut())
            .for_each(Process::release);
        ctx.run_later(DISMISS, |driver, _| {
            let processes = driver.workers.iter_mut();
            processes
                .filter_map(|worker| worker.process.as_mut())
                .for_each(Process::kill);
        });
        self.check_dismissed();
        Box::pin(async { told.await.unwrap_or_default() })
    }
}
