//! Supervises the instances of services.

use std::rc::Rc;
use std::time::Instant;

use actix::{Context, Handler, Message};
use tokio::time::sleep_until;

use super::{AgentState, Supervisor};
use crate::service::running::RunningService;
use crate::supervision::supervised::{ChildId, Due, EndingService, StartedService, Step};
use crate::{AgentEvent, EndCause, Restart};

/// An instance has ended by itself.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Ended {
    pub(crate) child: ChildId,
    /// Number of the start that it came from.
    pub(crate) number: u64,
    pub(crate) cause: EndCause,
}

impl Handler<Ended> for Supervisor {
    type Result = ();

    fn handle(&mut self, ended: Ended, _: &mut Context<Self>) {
        let Ended {
            child,
            number,
            cause,
        } = ended;
        self.state.has_ended(child, number, cause);
    }
}

impl AgentState {
    /// Supervises a service that has been started, if it has a policy.
    pub(super) fn supervise(&self, name: &str, running: &RunningService, restart: Option<Restart>) {
        if let (Some(child), Some(restart)) = (running.child, restart) {
            let mut supervised = self.supervised.borrow_mut();
            supervised.add(child, name, running.clone(), restart);
        }
    }

    /// Supervises a service no longer.
    pub(super) fn unsupervise(self: &Rc<Self>, running: &RunningService) {
        if let Some(child) = running.child {
            self.supervised.borrow_mut().remove(child);
            // Other services may have waited for it to start.
            self.start_due();
        }
    }

    fn has_ended(self: &Rc<Self>, child: ChildId, life: u64, cause: EndCause) {
        let (now, chance) = (Instant::now(), fastrand::f64());
        let steps = {
            let mut supervised = self.supervised.borrow_mut();
            supervised.ended(child, life, cause, now, chance)
        };
        self.take(steps);
    }

    fn take(self: &Rc<Self>, steps: Vec<Step<RunningService>>) {
        for step in steps {
            match step {
                Step::Retire(ending) => self.retire(ending),
                Step::GiveUp(ending) => self.give_up(ending),
                Step::LookAt(at) => {
                    let state = self.clone();
                    actix::spawn(async move {
                        sleep_until(at.into()).await;
                        state.start_due();
                    });
                }
            }
        }
        self.start_due();
    }

    fn retire(self: &Rc<Self>, ending: EndingService<RunningService>) {
        // Commands are sent at once, so that they arrive in the order in which they were decided.
        let retired = ending.reached.serial.retire(ending.cause);
        let state = self.clone();
        actix::spawn(async move {
            let _ = retired.await;
            state.supervised.borrow_mut().has_ended(ending.id);
            state.start_due();
        });
    }

    fn start_due(self: &Rc<Self>) {
        if self.left.get() {
            return;
        }
        let due = self.supervised.borrow_mut().begin_due(Instant::now());
        for due in due {
            let started = due.reached.serial.start(due.life, due.cause.clone());
            let state = self.clone();
            actix::spawn(async move {
                match started.await {
                    Ok(Ok(())) => state.is_up(due),
                    Ok(Err(cause)) => state.has_not_started(&due, cause),
                    // The service has ended, and another path has handled that.
                    Err(_) => {}
                }
            });
        }
    }

    fn is_up(self: &Rc<Self>, due: Due<RunningService>) {
        let Due {
            id,
            service,
            life,
            cause,
            ..
        } = due;
        let up = self.supervised.borrow_mut().is_up(id, life);
        let Some(StartedService { ended }) = up else {
            return;
        };
        tracing::warn!(service, %cause, restarts = life, "a service was restarted");
        self.tell(AgentEvent::Restarted {
            service,
            cause,
            restarts: life,
        });
        match ended {
            Some(cause) => self.has_ended(id, life, cause),
            None => self.start_due(),
        }
    }

    fn has_not_started(self: &Rc<Self>, due: &Due<RunningService>, cause: EndCause) {
        tracing::warn!(due.service, %cause, "a service could not be restarted");
        let (now, chance) = (Instant::now(), fastrand::f64());
        let steps = {
            let mut supervised = self.supervised.borrow_mut();
            supervised.has_not_started(due.id, due.life, cause, now, chance)
        };
        self.take(steps);
    }

    /// Lists the service as down, so that no new proxies are made.
    fn give_up(self: &Rc<Self>, ending: EndingService<RunningService>) {
        let EndingService {
            id,
            service,
            reached,
            cause,
        } = ending;
        tracing::error!(service, %cause, "a service is given up");
        reached.give_up();
        // A service that is being stopped is not listed any more.
        let found = self.services.borrow().get(&service).cloned();
        if found.is_some_and(|running| running.child == Some(id)) {
            self.descriptor.borrow_mut().down.push(service.clone());
            let state = self.clone();
            actix::spawn(async move {
                if let Err(error) = state.publish().await {
                    tracing::warn!(%error, "peers could not be told that a service is down");
                }
            });
        }
        self.tell(AgentEvent::GivenUp { service, cause });
    }

    pub(super) fn tell(&self, event: AgentEvent) {
        match &event {
            AgentEvent::Restarted { service, .. } => self.note("restarted", service),
            AgentEvent::GivenUp { service, .. } => self.note("given_up", service),
            AgentEvent::FabricChanged { to, .. } => self.note("fabric_changed", to),
            AgentEvent::TellFailed { .. } => {}
        }
        // The listeners may have gone.
        let _ = self.events.send(event);
    }
}
