//! Looking after the instances of services.

use std::rc::Rc;
use std::time::Instant;

use actix::{Context, Handler, Message};
use tokio::time::sleep_until;

use super::{State, Supervisor, random};
use crate::serve::Running;
use crate::wards::{Due, Ending, Step, WardId};
use crate::{AgentEvent, EndCause, Restart};

/// An instance has ended by itself.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Ended {
    pub(crate) ward: WardId,
    /// Of the start that it came from.
    pub(crate) number: u64,
    pub(crate) cause: EndCause,
}

impl Handler<Ended> for Supervisor {
    type Result = ();

    fn handle(&mut self, ended: Ended, _: &mut Context<Self>) {
        let Ended {
            ward,
            number,
            cause,
        } = ended;
        let (now, chance) = (Instant::now(), chance());
        let steps = {
            let mut wards = self.state.wards.borrow_mut();
            wards.ended(ward, number, cause, now, chance)
        };
        self.state.take(steps);
    }
}

impl State {
    /// Looks after a service that has been started, if it is to be.
    pub(super) fn look_after(&self, name: &str, running: &Running, restart: Option<Restart>) {
        if let (Some(ward), Some(restart)) = (running.ward, restart) {
            let mut wards = self.wards.borrow_mut();
            wards.add(ward, name, running.clone(), restart);
        }
    }

    /// Looks after it no more.
    pub(super) fn look_away(self: &Rc<Self>, running: &Running) {
        if let Some(ward) = running.ward {
            self.wards.borrow_mut().remove(ward);
            // Others may have waited for it to start.
            self.start_due();
        }
    }

    fn take(self: &Rc<Self>, steps: Vec<Step<Running>>) {
        for step in steps {
            match step {
                Step::Retire(ending) => drop(actix::spawn(self.clone().retire(ending))),
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

    async fn retire(self: Rc<Self>, ending: Ending<Running>) {
        ending.reached.retire(ending.cause).await;
        self.wards.borrow_mut().has_ended(ending.id);
        self.start_due();
    }

    fn start_due(self: &Rc<Self>) {
        if self.left.get() {
            return;
        }
        let due = self.wards.borrow_mut().begin_due(Instant::now());
        for due in due {
            actix::spawn(self.clone().start(due));
        }
    }

    async fn start(self: Rc<Self>, due: Due<Running>) {
        let Due {
            id,
            service,
            reached,
            life,
            cause,
        } = due;
        // Without an answer the service has ended, and somebody has seen to that.
        match reached.serial.start(life, cause.clone()).await {
            Some(Ok(())) if self.wards.borrow_mut().is_up(id, life) => {
                tracing::warn!(service, %cause, restarts = life, "a service was restarted");
                self.tell(AgentEvent::Restarted {
                    service,
                    cause,
                    restarts: life,
                });
                self.start_due();
            }
            Some(Err(cause)) => {
                tracing::warn!(service, %cause, "a service could not be restarted");
                let (now, chance) = (Instant::now(), chance());
                let steps = {
                    let mut wards = self.wards.borrow_mut();
                    wards.has_not_started(id, life, cause, now, chance)
                };
                self.take(steps);
            }
            Some(Ok(())) | None => {}
        }
    }

    /// Lists the service as down, so that no new proxies are made.
    fn give_up(self: &Rc<Self>, ending: Ending<Running>) {
        let Ending {
            id,
            service,
            reached,
            cause,
        } = ending;
        tracing::error!(service, %cause, "a service is given up");
        reached.give_up();
        // One that is being stopped is not listed any more.
        let found = self.services.borrow().get(&service).cloned();
        if found.is_some_and(|running| running.ward == Some(id)) {
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

    fn tell(&self, event: AgentEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }
}

/// A number from 0 to 1, by chance.
fn chance() -> f64 {
    random() as f64 / u64::MAX as f64
}
