//! Decides what is to be done when an instance of an agent's services ends: a state machine that is
//! told the time.
//!
//! - Between a retirement and the next start of a service lies the pause of its [`Restart`].
//! - Services that are tied together start one at a time, in the order of serving, after all of
//!   them have ended.
//! - Reports about an earlier instance of a service change nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use slimerpc::clock::later;

use crate::supervision::restart::{RestartDecision, Restarts};
use crate::{EndCause, Restart, Strategy};

/// Identifies a supervised service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChildId(u64);

impl ChildId {
    /// Returns an id that no other service of this process has.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The supervised services, in the order of serving. `T` is the address of each.
#[derive(Debug)]
pub(crate) struct SupervisedServices<T> {
    strategy: Strategy,
    supervised: Vec<SupervisedService<T>>,
}

#[derive(Debug)]
struct SupervisedService<T> {
    id: ChildId,
    service: String,
    reached: T,
    restarts: Restarts,
    status: Status,
    /// Whether its instance has been told to end, and has not yet reported its end.
    is_ending: bool,
    /// Number of its last start.
    life: u64,
    /// Why the last instance ended.
    cause: Option<EndCause>,
    /// Why the instance ended, if that report overtook the one that its start had succeeded.
    ended_early: Option<EndCause>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    StartedService,
    Down { until: Instant },
    Starting,
    GivenUp,
}

/// What can be said of a supervised service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObservedService {
    /// How often it was restarted, failed starts included.
    pub(crate) restarts: u64,
    pub(crate) is_up: bool,
    pub(crate) is_given_up: bool,
}

/// A step that the supervisor is to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step<T> {
    /// End the instance; another will take its place.
    Retire(EndingService<T>),
    /// End the instance, and start no other.
    GiveUp(EndingService<T>),
    /// Look again at this time: another start may be due.
    LookAt(Instant),
}

/// A service whose instance is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndingService<T> {
    pub(crate) id: ChildId,
    pub(crate) service: String,
    pub(crate) reached: T,
    pub(crate) cause: EndCause,
}

/// A start that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due<T> {
    pub(crate) id: ChildId,
    pub(crate) service: String,
    pub(crate) reached: T,
    /// Number of the start, from 1: how often the service has been restarted.
    pub(crate) life: u64,
    pub(crate) cause: EndCause,
}

/// A service whose start has succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartedService {
    /// Why the instance has ended meanwhile, if it has. The caller passes it to
    /// [`SupervisedServices::ended`] now.
    pub(crate) ended: Option<EndCause>,
}

impl<T: Clone> SupervisedServices<T> {
    pub(crate) fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            supervised: Vec::new(),
        }
    }

    /// Supervises a service that has just been started for the first time.
    pub(crate) fn add(&mut self, id: ChildId, service: &str, reached: T, policy: Restart) {
        self.supervised.push(SupervisedService {
            id,
            service: service.to_owned(),
            reached,
            restarts: Restarts::new(policy),
            status: Status::StartedService,
            is_ending: false,
            life: 0,
            cause: None,
            ended_early: None,
        });
    }

    /// Supervises a service no longer.
    pub(crate) fn remove(&mut self, id: ChildId) {
        self.supervised.retain(|child| child.id != id);
    }

    /// How often the service was restarted, and whether it has an instance or is given up.
    pub(crate) fn observed(&self, id: ChildId) -> Option<ObservedService> {
        let child = self.supervised.iter().find(|child| child.id == id)?;
        Some(ObservedService {
            restarts: child.life,
            is_up: child.status == Status::StartedService,
            is_given_up: child.status == Status::GivenUp,
        })
    }

    /// Handles the end of an instance that ended by itself. `chance` is from 0 to 1.
    pub(crate) fn ended(
        &mut self,
        id: ChildId,
        life: u64,
        cause: EndCause,
        now: Instant,
        chance: f64,
    ) -> Vec<Step<T>> {
        let Some(at) = self.find(id, life, Status::StartedService) else {
            if let Some(at) = self.find(id, life, Status::Starting) {
                self.supervised[at].ended_early = Some(cause);
            }
            return Vec::new();
        };
        match self.supervised[at].restarts.decide(&cause, now, chance) {
            RestartDecision::RestartAfter(wait) => {
                self.restart_with_others(at, cause, later(now, wait))
            }
            RestartDecision::TooMany => self.give_up_with_others(at, cause),
            RestartDecision::Over => self.give_up(at, cause).into_iter().collect(),
        }
    }

    /// Handles the report that an instance which was told to retire has ended.
    pub(crate) fn has_ended(&mut self, id: ChildId) {
        if let Some(child) = self.supervised.iter_mut().find(|child| child.id == id) {
            child.is_ending = false;
        }
    }

    /// Begins the starts that are due now, and returns them.
    pub(crate) fn begin_due(&mut self, now: Instant) -> Vec<Due<T>> {
        let is_due = |child: &SupervisedService<T>| {
            !child.is_ending && matches!(child.status, Status::Down { until } if until <= now)
        };
        let is_settled = |child: &SupervisedService<T>| {
            matches!(child.status, Status::StartedService | Status::GivenUp)
        };
        let due: Vec<usize> = match self.strategy {
            Strategy::OneForOne => {
                let all = 0..self.supervised.len();
                all.filter(|at| is_due(&self.supervised[*at])).collect()
            }
            // A service that is still ending may share state with those to be started: wait for all
            // ends first.
            _ if self.supervised.iter().any(|child| child.is_ending) => Vec::new(),
            Strategy::OneForAll | Strategy::RestForOne => {
                let first = self.supervised.iter().position(|child| !is_settled(child));
                first
                    .filter(|at| is_due(&self.supervised[*at]))
                    .into_iter()
                    .collect()
            }
        };
        due.into_iter()
            .filter_map(|at| self.begin(at, now))
            .collect()
    }

    fn begin(&mut self, at: usize, now: Instant) -> Option<Due<T>> {
        let child = &mut self.supervised[at];
        let cause = child.cause.clone()?;
        if !matches!(cause, EndCause::Sibling { .. }) {
            child.restarts.begin(now);
        }
        child.status = Status::Starting;
        child.ended_early = None;
        child.life += 1;
        Some(Due {
            id: child.id,
            service: child.service.clone(),
            reached: child.reached.clone(),
            life: child.life,
            cause,
        })
    }

    /// Handles a start that has succeeded. Returns `None` if the service has been removed or
    /// restarted since.
    pub(crate) fn is_up(&mut self, id: ChildId, life: u64) -> Option<StartedService> {
        let at = self.find(id, life, Status::Starting)?;
        let child = &mut self.supervised[at];
        child.status = Status::StartedService;
        let ended = child.ended_early.take();
        Some(StartedService { ended })
    }

    /// Handles a failed start, which is tried again without the other services. `chance` is from 0
    /// to 1.
    pub(crate) fn has_not_started(
        &mut self,
        id: ChildId,
        life: u64,
        cause: EndCause,
        now: Instant,
        chance: f64,
    ) -> Vec<Step<T>> {
        let Some(at) = self.find(id, life, Status::Starting) else {
            return Vec::new();
        };
        match self.supervised[at].restarts.decide(&cause, now, chance) {
            RestartDecision::RestartAfter(wait) => {
                let until = later(now, wait);
                self.supervised[at].status = Status::Down { until };
                self.supervised[at].cause = Some(cause);
                vec![Step::LookAt(until)]
            }
            RestartDecision::TooMany | RestartDecision::Over => self.give_up_with_others(at, cause),
        }
    }

    fn find(&self, id: ChildId, life: u64, status: Status) -> Option<usize> {
        let is_meant = |child: &SupervisedService<T>| {
            (child.id, child.life, child.status) == (id, life, status)
        };
        self.supervised.iter().position(is_meant)
    }

    /// The services that are restarted with another one, last served first.
    fn others(&self, at: usize) -> Vec<usize> {
        let all = (0..self.supervised.len()).rev();
        match self.strategy {
            Strategy::OneForOne => Vec::new(),
            Strategy::OneForAll => all.filter(|other| *other != at).collect(),
            Strategy::RestForOne => all.filter(|other| *other > at).collect(),
        }
    }

    fn restart_with_others(&mut self, at: usize, cause: EndCause, until: Instant) -> Vec<Step<T>> {
        let mut steps: Vec<_> = self.retire(at, cause, until).into_iter().collect();
        let tied = self.tied_to(at);
        for other in self.others(at) {
            if self.supervised[other].restarts.is_temporary() {
                steps.extend(self.give_up(other, tied.clone()));
            } else {
                steps.extend(self.retire(other, tied.clone(), until));
            }
        }
        steps.push(Step::LookAt(until));
        steps
    }

    fn give_up_with_others(&mut self, at: usize, cause: EndCause) -> Vec<Step<T>> {
        let mut steps: Vec<_> = self.give_up(at, cause).into_iter().collect();
        let tied = self.tied_to(at);
        for other in self.others(at) {
            steps.extend(self.give_up(other, tied.clone()));
        }
        steps
    }

    fn tied_to(&self, at: usize) -> EndCause {
        let service = self.supervised[at].service.clone();
        EndCause::Sibling { service }
    }

    /// Retires a service. One that is already down stays down, for its own cause and at least as
    /// long as before.
    fn retire(&mut self, at: usize, cause: EndCause, until: Instant) -> Option<Step<T>> {
        let child = &mut self.supervised[at];
        match &mut child.status {
            Status::GivenUp => None,
            Status::Down { until: before } => {
                *before = until.max(*before);
                None
            }
            Status::StartedService | Status::Starting => {
                child.status = Status::Down { until };
                child.cause = Some(cause.clone());
                child.is_ending = true;
                Some(Step::Retire(child.ending(cause)))
            }
        }
    }

    fn give_up(&mut self, at: usize, cause: EndCause) -> Option<Step<T>> {
        let child = &mut self.supervised[at];
        let before = std::mem::replace(&mut child.status, Status::GivenUp);
        (before != Status::GivenUp).then(|| Step::GiveUp(child.ending(cause)))
    }
}

impl<T: Clone> SupervisedService<T> {
    fn ending(&self, cause: EndCause) -> EndingService<T> {
        EndingService {
            id: self.id,
            service: self.service.clone(),
            reached: self.reached.clone(),
            cause,
        }
    }
}

#[cfg(test)]
mod tests;
