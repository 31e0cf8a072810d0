//! The supervisor: an actor that hands requests to workers, and keeps some running.
//!
//! Everything that happens comes to it in turn, so it needs no lock: requests, answers, the end of
//! processes, the clock.
//!
//! A worker is *starting* until it has its weights, *up* until its process ends or its connection
//! is lost, then *down*, and after a pause starting again: another process under the same alias,
//! which the control plane lets it have because the process that had it is gone.

mod fleet;
mod messages;
mod worker;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, MessageResult, ResponseFuture};
use fastrand::Rng;
use slimerpc_actors::{Proxy, RpcError};
use tokio::sync::oneshot;

use crate::processes::{Output, Process, end_of, given_up};
use crate::resend::{self, Repeat};
use crate::runner::{Condition, ModelRunner, Scores};

pub(crate) use fleet::Fleet;
pub(crate) use messages::{Drain, Infer, Report, RouteError, Settle, Strike, Tally};
use worker::Worker;

/// Requests that a worker has at a time. The others wait here, where they do not die with it.
const OUTSTANDING: usize = 4;
/// How often a request is sent, the first time included.
const ATTEMPTS: u32 = 5;
/// How long a worker may take to answer; one that is stopped would take for ever.
const PATIENCE: Duration = Duration::from_secs(10);
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// A worker that does not say how it is within this is stuck, and is killed.
const CHECK_PATIENCE: Duration = Duration::from_secs(3);
/// How long workers may take to end when they are told to.
const DRAIN: Duration = Duration::from_secs(5);

/// An actor that hands requests to workers, and keeps some running.
pub(crate) struct Router {
    fleet: Rc<Fleet>,
    workers: Vec<Worker>,
    waiting: VecDeque<Job>,
    /// Chooses whom to kill.
    random: Rng,
    tally: Tally,
    /// Wait until no worker is starting.
    settling: Vec<oneshot::Sender<Result<(), RouteError>>>,
    /// Nothing is started any more.
    is_draining: bool,
    /// Wait until every process has ended.
    draining: Vec<oneshot::Sender<()>>,
}

/// A request on its way.
struct Job {
    pixels: Arc<[u8]>,
    repeat: Repeat,
    attempts: u32,
    answer: oneshot::Sender<Result<Scores, RouteError>>,
}

impl Router {
    pub(crate) fn new(fleet: Fleet, workers: u32, seed: u64) -> Self {
        Self {
            fleet: Rc::new(fleet),
            workers: (0..workers).map(|_| Worker::default()).collect(),
            waiting: VecDeque::new(),
            random: Rng::with_seed(seed),
            tally: Tally::default(),
            settling: Vec::new(),
            is_draining: false,
            draining: Vec::new(),
        }
    }

    /// Starts an incarnation of a worker.
    fn start_worker(&mut self, number: usize, ctx: &mut Context<Self>) {
        if self.is_draining {
            return self.check_drained();
        }
        let worker = &mut self.workers[number];
        match self.fleet.start(number) {
            Ok((process, output)) => {
                worker.begin(process);
                let up = self.fleet.clone().bring_up(number, output);
                ctx.spawn(wrap_future(up).map(
                    move |(output, up), router: &mut Self, ctx| match up {
                        Ok(proxy) => router.up(number, proxy, output, ctx),
                        Err(reason) => router.down(number, Some(reason), ctx),
                    },
                ));
            }
            Err(error) => self.down(number, Some(error.to_string()), ctx),
        }
    }

    /// A worker has its weights.
    fn up(
        &mut self,
        number: usize,
        proxy: Proxy<ModelRunner>,
        mut output: Output,
        ctx: &mut Context<Self>,
    ) {
        let worker = &mut self.workers[number];
        if let Some(away) = worker.up(proxy) {
            self.tally.restarts += 1;
            self.tally.away.push(away);
        }
        let ended = async move { output.end().await };
        ctx.spawn(wrap_future(ended).map(move |(), router: &mut Self, ctx| {
            router.down(number, None, ctx);
        }));
        self.check_settled();
        self.hand_out(ctx);
    }

    /// Handles the end of a worker's incarnation, or its failure to start.
    fn down(&mut self, number: usize, reason: Option<String>, ctx: &mut Context<Self>) {
        let worker = &mut self.workers[number];
        let reason = end_of(worker.process.take(), reason);
        if self.is_draining {
            return self.check_drained();
        }
        match worker.down() {
            Some(pause) => {
                ctx.run_later(pause, move |router, ctx| router.start_worker(number, ctx));
            }
            None => {
                let reason = given_up(number, &reason);
                worker.give_up(reason.clone());
                self.tally.given_up.push(reason);
            }
        }
        self.check_settled();
        self.hand_out(ctx);
    }

    /// Gives waiting requests to the workers that have the least to do.
    fn hand_out(&mut self, ctx: &mut Context<Self>) {
        if let Err(error) = self.check_any_left() {
            for job in self.waiting.drain(..) {
                let _ = job.answer.send(Err(error.clone()));
            }
        }
        while !self.waiting.is_empty() {
            let free = self.workers.iter().enumerate();
            let free = free.filter(|(_, worker)| worker.outstanding < OUTSTANDING);
            let free = free.filter_map(|(number, worker)| Some((number, worker, worker.proxy()?)));
            let least = free.min_by_key(|(_, worker, _)| worker.outstanding);
            let Some((number, _, proxy)) = least else {
                return;
            };
            let proxy = proxy.with_timeout(PATIENCE);
            if let Some(job) = self.waiting.pop_front() {
                self.send(number, &proxy, job, ctx);
            }
        }
    }

    fn send(
        &mut self,
        number: usize,
        proxy: &Proxy<ModelRunner>,
        mut job: Job,
        ctx: &mut Context<Self>,
    ) {
        let worker = &mut self.workers[number];
        worker.outstanding += 1;
        let life = worker.life;
        job.attempts += 1;
        let reply = proxy.infer(job.pixels.to_vec());
        ctx.spawn(
            wrap_future(reply).map(move |result, router: &mut Self, ctx| {
                router.answered(number, life, job, result, ctx);
            }),
        );
    }

    fn answered(
        &mut self,
        number: usize,
        life: u64,
        job: Job,
        result: Result<Scores, RpcError>,
        ctx: &mut Context<Self>,
    ) {
        let worker = &mut self.workers[number];
        worker.outstanding -= 1;
        match result {
            Ok(scores) => {
                worker.answered += u64::from(worker.life == life);
                // The caller may have gone.
                let _ = job.answer.send(Ok(scores));
            }
            Err(error) => {
                if matches!(error, RpcError::PeerLost { .. } | RpcError::Timeout { .. }) {
                    // Its process may live on and even work, but not for us.
                    worker.abandon(life);
                }
                self.send_again(job, error);
            }
        }
        self.hand_out(ctx);
    }

    /// Puts a request that failed in front of those that wait, if that is of use and allowed.
    fn send_again(&mut self, job: Job, error: RpcError) {
        let error = if !resend::is_worthwhile(&error, job.repeat) {
            RouteError::Failed(error)
        } else if job.attempts == ATTEMPTS {
            RouteError::Attempts(error)
        } else {
            self.tally.retried += 1;
            return self.waiting.push_front(job);
        };
        let _ = job.answer.send(Err(error));
    }

    /// An error if all workers have been given up.
    fn check_any_left(&self) -> Result<(), RouteError> {
        let reasons = self.workers.iter().map(Worker::given_up);
        match reasons.collect::<Option<Vec<_>>>() {
            Some(reasons) => Err(RouteError::NoWorkers {
                reasons: reasons.into_iter().map(str::to_owned).collect(),
            }),
            None => Ok(()),
        }
    }

    /// Asks each worker how it is; it can answer while it reads a batch.
    fn check_health(&mut self, ctx: &mut Context<Self>) {
        for number in 0..self.workers.len() {
            let worker = &self.workers[number];
            let Some(proxy) = worker.proxy() else {
                continue;
            };
            let (life, weights) = (worker.life, self.fleet.weight_count);
            let health = proxy.with_timeout(CHECK_PATIENCE).health();
            let told =
                move |condition: Result<Condition, RpcError>, router: &mut Self, _: &mut _| {
                    if condition.is_ok_and(|condition| condition.weights == weights) {
                        return;
                    }
                    router.workers[number].abandon(life);
                };
            ctx.spawn(wrap_future(health).map(told));
        }
    }

    fn check_settled(&mut self) {
        if self.workers.iter().all(Worker::is_settled) {
            let settled = self.check_any_left();
            for waiter in self.settling.drain(..) {
                let _ = waiter.send(settled.clone());
            }
        }
    }

    fn check_drained(&mut self) {
        let has_ended = |worker: &Worker| worker.process.is_none();
        if self.workers.iter().all(has_ended) {
            for waiter in self.draining.drain(..) {
                let _ = waiter.send(());
            }
        }
    }
}

impl Actor for Router {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        for number in 0..self.workers.len() {
            self.start_worker(number, ctx);
        }
        ctx.run_interval(CHECK_EVERY, Self::check_health);
    }
}

impl Handler<Infer> for Router {
    type Result = ResponseFuture<Result<Scores, RouteError>>;

    fn handle(&mut self, infer: Infer, ctx: &mut Context<Self>) -> Self::Result {
        let (answer, answered) = oneshot::channel();
        self.waiting.push_back(Job {
            pixels: infer.pixels,
            repeat: infer.repeat,
            attempts: 0,
            answer,
        });
        self.hand_out(ctx);
        Box::pin(async { answered.await.unwrap_or(Err(RouteError::Ended)) })
    }
}

impl Handler<Strike> for Router {
    type Result = ();

    fn handle(&mut self, _: Strike, _: &mut Context<Self>) {
        let mut at_work: Vec<_> = self.workers.iter_mut().collect();
        at_work.retain(|worker| worker.is_at_work());
        if at_work.is_empty() {
            return;
        }
        let victim = self.random.usize(..at_work.len());
        at_work[victim].strike();
        self.tally.killed += 1;
    }
}

impl Handler<Settle> for Router {
    type Result = ResponseFuture<Result<(), RouteError>>;

    fn handle(&mut self, _: Settle, _: &mut Context<Self>) -> Self::Result {
        let (tell, told) = oneshot::channel();
        self.settling.push(tell);
        self.check_settled();
        Box::pin(async { told.await.unwrap_or(Err(RouteError::Ended)) })
    }
}

impl Handler<Report> for Router {
    type Result = MessageResult<Report>;

    fn handle(&mut self, _: Report, _: &mut Context<Self>) -> Self::Result {
        MessageResult(std::mem::take(&mut self.tally))
    }
}

impl Handler<Drain> for Router {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, ctx: &mut Context<Self>) -> Self::Result {
        let (tell, told) = oneshot::channel();
        self.is_draining = true;
        self.draining.push(tell);
        self.workers.iter_mut().for_each(Worker::release);
        ctx.run_later(DRAIN, |router, _| {
            let processes = router.workers.iter_mut();
            let processes = processes.filter_map(|worker| worker.process.as_mut());
            processes.for_each(Process::kill);
        });
        self.check_drained();
        Box::pin(async { told.await.unwrap_or_default() })
    }
}
