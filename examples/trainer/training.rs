//! The steps, done by workers: what each is told, what becomes of their answers, and what happens
//! if one gives none.

use std::time::{Duration, Instant};

use actix::Addr;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use slimerpc_actors::{BufferError, Gather, Group, GroupError, OwnBuffer, ReplyBytes, RpcError};

use crate::args::Mode;
use crate::driver::{Assemble, CrewError, Driver, Kill, Missed, Stepped, alias};
use crate::figures::{Diverges, Figures, StepFigures, Trained};
use crate::plan::{Plan, Step};
use crate::processes::{Interrupt, Progress};
use crate::report::Report;
use crate::train_worker::{Abort, Join, Order, Seat, TrainWorker};
use crate::vector::{self, NUMBER};

/// How long a worker may take for a step; one that is stopped would take for ever.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a step is tried.
const ATTEMPTS: u32 = 5;
/// Weights that are offered at a time, so that they stay in the cache meanwhile.
const BLOCK: usize = 16 * 1024;

/// A training, and how far it is.
pub(crate) struct Training<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) mode: Mode,
    pub(crate) rate: f32,
    /// Kill a worker in this step, the first being 0.
    pub(crate) kill_at: Option<usize>,
    pub(crate) driver: Addr<Driver>,
    /// Those of the last step, or, in a ring, of the last epoch.
    pub(crate) weights: Vec<f32>,
    /// The same for the workers to read.
    pub(crate) offered: OwnBuffer,
    pub(crate) interrupt: &'a Interrupt,
    /// After how many steps they were had.
    pub(crate) kept: usize,
    /// Of the ring.
    pub(crate) round: u64,
}

/// Training ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrainingError {
    #[error(transparent)]
    Crew(#[from] CrewError),
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Buffer(#[from] BufferError),
    #[error(transparent)]
    Diverges(#[from] Diverges),
    #[error("step {step} failed {ATTEMPTS} times, at last at {worker}: {error}")]
    Attempts {
        step: usize,
        worker: String,
        error: Box<RpcError>,
    },
    #[error("{worker} answered {found} bytes instead of {expected}")]
    Answer {
        worker: String,
        found: usize,
        expected: usize,
    },
    #[error("{worker} has other weights than {first}")]
    Unequal { worker: String, first: String },
}

/// A step was not done.
#[derive(Debug, thiserror::Error)]
enum StepError {
    /// By these ranks; it may be tried again.
    #[error("workers failed")]
    Workers(Vec<(usize, RpcError)>),
    #[error(transparent)]
    Training(#[from] TrainingError),
}

impl From<BufferError> for StepError {
    fn from(error: BufferError) -> Self {
        Self::Training(error.into())
    }
}

/// All workers, each of which knows its place.
struct Team {
    group: Group<TrainWorker>,
    /// Which life of each rank's it is.
    lives: Vec<u64>,
}

impl Training<'_> {
    /// Does all steps, or those until an interrupt. If a worker is lost, it begins again with the
    /// last weights that it has.
    pub(crate) async fn run(mut self, progress: &Progress) -> Result<Trained, TrainingError> {
        let mut figures = Figures::default();
        let (mut furthest, mut attempts) = (0, 0);
        let mut team = None;
        let mut began = None;
        self.offer()?;
        while figures.steps.len() < self.plan.steps().len() && !self.interrupt.is_asked() {
            let is_joined = team.is_some();
            let tried = match &team {
                Some(team) => self.step(team, figures.steps.len()).await.map(Some),
                None => match self.assemble(&mut figures.restarts).await? {
                    Some(assembled) => self.join(team.insert(assembled)).await.map(|()| None),
                    None => break,
                },
            };
            began.get_or_insert_with(Instant::now);
            match tried {
                Ok(Some(step)) => {
                    self.driver.do_send(Stepped);
                    figures.push(step)?;
                    if figures.steps.len() > furthest {
                        (furthest, attempts) = (figures.steps.len(), 0);
                    }
                }
                Ok(None) => {}
                Err(StepError::Training(error)) => return Err(error),
                Err(StepError::Workers(failures)) => {
                    attempts += 1;
                    self.check(attempts, figures.steps.len(), &failures)?;
                    self.give_notice(team.take(), &failures);
                    let undone = figures.steps.len() - self.kept;
                    figures.repeated += usize::from(is_joined) + undone;
                    figures.steps.truncate(self.kept);
                }
            }
            progress.at(figures.steps.len() as u64);
        }
        figures.took = began.map_or(Duration::ZERO, |began| began.elapsed());
        Ok(Trained {
            weights: self.weights,
            figures,
        })
    }

    /// Waits until all workers are there. `None` if there was an interrupt first.
    async fn assemble(&self, restarts: &mut u64) -> Result<Option<Team>, TrainingError> {
        let crew = tokio::select! {
            crew = self.driver.send(Assemble) => crew.unwrap_or(Err(CrewError::Dismissed))?,
            () = self.interrupt.asked() => return Ok(None),
        };
        *restarts = crew.restarts;
        let lives = crew.members.iter().map(|member| member.life).collect();
        let group = Group::new(crew.members.into_iter().map(|member| member.proxy))?;
        let group = group.with_timeout(PATIENCE);
        Ok(Some(Team { group, lives }))
    }

    /// Tells all workers their place.
    async fn join(&self, team: &Team) -> Result<(), StepError> {
        let ranks = self.plan.workers();
        let seat = |rank| Seat {
            rank,
            ranks,
            next: alias((rank + 1) % ranks),
        };
        let join = |rank| Join {
            weights: self.offered.handle(),
            seat: (self.mode == Mode::Ring).then(|| seat(rank)),
        };
        let joined = team.group.scatter((0..ranks).map(join));
        all(joined.map_err(TrainingError::from)?, || {}).await?;
        Ok(())
    }

    async fn step(&mut self, team: &Team, number: usize) -> Result<StepFigures, StepError> {
        let plan = self.plan;
        let (step, started) = (&plan.steps()[number], Instant::now());
        let (reports, compute) = match self.mode {
            Mode::Driver => self.step_here(team, number, step).await?,
            Mode::Ring => self.step_around(team, number, step).await?,
        };
        if self.mode == Mode::Driver {
            self.kept = number + 1;
        } else if plan.is_epoch(number + 1) {
            self.keep(team, number + 1).await?;
        }
        let losses = reports.iter().enumerate();
        let losses = losses.map(|(rank, report)| step.share(rank) * report.loss);
        Ok(StepFigures {
            loss: losses.fold(0.0, |sum, loss| sum + loss),
            images: step.images(),
            took: started.elapsed(),
            compute,
            moved: reports.iter().map(|report| report.moved).sum(),
        })
    }

    /// Has the workers compute gradients, and sums them here.
    async fn step_here(
        &mut self,
        team: &Team,
        number: usize,
        step: &Step,
    ) -> Result<(Vec<Report>, Duration), StepError> {
        let gradients = team.group.each(|rank, worker| {
            let images = step.shards()[rank].iter();
            let images: Vec<u8> = images.flat_map(|image| image.to_le_bytes()).collect();
            worker.gradient(&images).lent()
        });
        self.maybe_kill(number);
        let replies = all(gradients, || {}).await?;
        let (mut reports, mut gradients) = (Vec::new(), Vec::new());
        for (rank, reply) in replies.iter().enumerate() {
            let (report, gradient) = self.gradient(rank, reply)?;
            reports.push(report);
            gradients.push((step.share(rank), gradient));
        }
        let started = Instant::now();
        vector::descend(&mut self.weights, &gradients, self.rate);
        let compute = slowest(&reports) + started.elapsed();
        self.offer()?;
        Ok((reports, compute))
    }

    /// Has the workers do the step among themselves.
    async fn step_around(
        &mut self,
        team: &Team,
        number: usize,
        step: &Step,
    ) -> Result<(Vec<Report>, Duration), StepError> {
        self.round += 1;
        let round = self.round;
        let order = |(rank, images): (usize, &Vec<u16>)| crate::train_worker::Step {
            order: Order {
                round,
                images: images.clone(),
                share: step.share(rank),
                rate: self.rate,
            },
        };
        let orders = step.shards().iter().enumerate().map(order);
        let reports = team.group.scatter(orders).map_err(TrainingError::from)?;
        self.maybe_kill(number);
        let mut aborted = None;
        let abort = || aborted = Some(team.group.broadcast(Abort { round }));
        let reports = all(reports, abort).await;
        if let Some(aborted) = aborted {
            // Those that do not answer this did not answer before.
            aborted.settled().await;
        }
        let reports = reports?;
        let compute = slowest(&reports);
        Ok((reports, compute))
    }

    /// Has the first worker's weights kept here, after so many steps; after the last, all workers'.
    async fn keep(&mut self, team: &Team, steps: usize) -> Result<(), StepError> {
        let members = match steps == self.plan.steps().len() {
            true => team.group.members(),
            false => &team.group.members()[..1],
        };
        let first = Group::new(members.iter().cloned()).map_err(TrainingError::from)?;
        let replies = all(first.each(|_, worker| worker.weights(&[]).lent()), || {}).await?;
        for (rank, reply) in replies.iter().enumerate() {
            self.check_len(rank, reply)?;
            if reply[..] != replies[0][..] {
                let (worker, first) = (alias(rank), alias(0));
                return Err(TrainingError::Unequal { worker, first }.into());
            }
        }
        vector::read(&replies[0], &mut self.weights);
        self.offer()?;
        self.kept = steps;
        Ok(())
    }

    /// Lets the workers have the weights.
    fn offer(&self) -> Result<(), BufferError> {
        let mut bytes = [0; NUMBER * BLOCK];
        for (block, weights) in self.weights.chunks(BLOCK).enumerate() {
            let bytes = &mut bytes[..size_of_val(weights)];
            vector::write(weights, bytes);
            self.offered.write(NUMBER * BLOCK * block, bytes)?;
        }
        Ok(())
    }

    fn maybe_kill(&mut self, number: usize) {
        if self.kill_at.take_if(|at| *at == number).is_some() {
            let rank = number % self.plan.workers();
            self.driver.do_send(Kill { rank });
        }
    }

    /// An error if there have been enough attempts.
    fn check(
        &self,
        attempts: u32,
        steps: usize,
        failures: &[(usize, RpcError)],
    ) -> Result<(), TrainingError> {
        match failures.last() {
            Some((rank, error)) if attempts == ATTEMPTS => Err(TrainingError::Attempts {
                step: steps + 1,
                worker: alias(*rank),
                error: Box::new(error.clone()),
            }),
            _ => Ok(()),
        }
    }

    /// Tells the driver of those who did not answer. Whoever answered that it could not do a step
    /// lives.
    fn give_notice(&self, team: Option<Team>, failures: &[(usize, RpcError)]) {
        let lives = team.map(|team| team.lives).unwrap_or_default();
        for (rank, error) in failures {
            if matches!(error, RpcError::PeerLost { .. } | RpcError::Timeout { .. })
                && let Some(&life) = lives.get(*rank)
            {
                self.driver.do_send(Missed { rank: *rank, life });
            }
        }
    }

    fn gradient<'r>(
        &self,
        rank: usize,
        reply: &'r ReplyBytes,
    ) -> Result<(Report, &'r [u8]), TrainingError> {
        let split = Report::split(reply);
        let (report, gradient) = split.ok_or_else(|| TrainingError::Answer {
            worker: alias(rank),
            found: reply.len(),
            expected: Report::LEN + NUMBER * self.weights.len(),
        })?;
        self.check_len(rank, gradient)?;
        Ok((report, gradient))
    }

    fn check_len(&self, rank: usize, bytes: &[u8]) -> Result<(), TrainingError> {
        let (found, expected) = (bytes.len(), NUMBER * self.weights.len());
        if found != expected {
            return Err(TrainingError::Answer {
                worker: alias(rank),
                found,
                expected,
            });
        }
        Ok(())
    }
}

fn slowest(reports: &[Report]) -> Duration {
    let times = reports.iter().map(Report::compute);
    times.max().unwrap_or_default()
}

/// Waits for all answers, by rank; what to do at the first failure, `failed` says.
async fn all<T>(gather: Gather<T>, failed: impl FnOnce()) -> Result<Vec<T>, StepError> {
    let replies = gather.into_replies().into_iter().enumerate();
    let mut pending: FuturesUnordered<_> = replies
        .map(|(rank, reply)| async move { (rank, reply.await) })
        .collect();
    let (mut answers, mut failures) = (Vec::new(), Vec::new());
    let mut failed = Some(failed);
    while let Some((rank, result)) = pending.next().await {
        match result {
            Ok(answer) => answers.push((rank, answer)),
            Err(error) => {
                failures.push((rank, error));
                if let Some(failed) = failed.take() {
                    failed();
                }
            }
        }
    }
    if !failures.is_empty() {
        return Err(StepError::Workers(failures));
    }
    answers.sort_unstable_by_key(|(rank, _)| *rank);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}
