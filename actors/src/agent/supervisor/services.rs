//! The services of an agent: offering and ending them.

use std::rc::Rc;
use std::time::Duration;

use actix::{Context, Handler, Message, ResponseFuture};
use slimerpc::channel::ServiceTable;

use super::{AgentState, LAST_ANSWERS, Supervisor};
use crate::agent::launch::Callers;
use crate::service::running::RunningService;
use crate::{AgentError, Restart};

/// Offers a running service.
#[derive(Message)]
#[rtype(result = "Result<(), AgentError>")]
pub(crate) struct Publish {
    pub(crate) table: ServiceTable,
    pub(crate) callers: Callers,
    /// The service type's own name, if discovery by type may find it.
    pub(crate) advertise: Option<&'static str>,
    pub(crate) running: RunningService,
    /// The restart policy, if the service is supervised.
    pub(crate) restart: Option<Restart>,
}

/// Ends a service.
#[derive(Message)]
#[rtype(result = "Result<(), AgentError>")]
pub(crate) struct Withdraw {
    pub(crate) service: String,
    /// How long running handlers may take.
    pub(crate) limit: Duration,
}

impl Handler<Publish> for Supervisor {
    type Result = ResponseFuture<Result<(), AgentError>>;

    fn handle(&mut self, publish: Publish, _: &mut Context<Self>) -> Self::Result {
        let state = self.state.clone();
        Box::pin(async move { state.add_service(publish).await })
    }
}

impl Handler<Withdraw> for Supervisor {
    type Result = ResponseFuture<Result<(), AgentError>>;

    fn handle(&mut self, withdraw: Withdraw, _: &mut Context<Self>) -> Self::Result {
        let state = self.state.clone();
        Box::pin(async move { state.remove_service(withdraw).await })
    }
}

impl AgentState {
    async fn add_service(self: &Rc<Self>, mut publish: Publish) -> Result<(), AgentError> {
        self.check_open()?;
        publish.running.only = match publish.callers {
            Callers::All => None,
            Callers::Peer(peer) => Some(peer),
            Callers::OnlyPeer => Some(self.only_peer()?),
        };
        let name = publish.table.name.clone();
        if self.services.borrow().contains_key(&name) {
            return Err(AgentError::AlreadyServed { service: name });
        }
        self.supervise(&name, &publish.running, publish.restart);
        self.services
            .borrow_mut()
            .insert(name.clone(), publish.running);
        self.descriptor
            .borrow_mut()
            .services
            .push(publish.table.clone());
        let published = self.publish().await;
        match &published {
            Ok(()) => self.dlslime.serve_parked(),
            Err(_) => {
                if let Some(running) = self.forget_service(&name) {
                    self.unsupervise(&running);
                }
            }
        }
        published?;
        if let Some(type_name) = publish.advertise {
            self.advertise(&publish.table, type_name).await;
        }
        Ok(())
    }

    /// Alias of the one peer that this agent wants to be connected with.
    fn only_peer(&self) -> Result<String, AgentError> {
        let wanted = self.wanted.borrow();
        match wanted.first() {
            Some(peer) if wanted.len() == 1 => Ok(peer.clone()),
            _ => Err(AgentError::WhichPeer {
                peers: wanted.iter().cloned().collect(),
            }),
        }
    }

    async fn remove_service(self: &Rc<Self>, withdraw: Withdraw) -> Result<(), AgentError> {
        let Withdraw {
            service: name,
            limit,
        } = withdraw;
        let Some(running) = self.forget_service(&name) else {
            return Ok(());
        };
        self.retract(&name).await;
        let published = self.publish().await;
        let drained = running.drain(limit).await;
        if !drained {
            // Not every device tells callers that a queue pair is gone, so tell them why (CALL-1).
            running.give_up();
            running.drain(LAST_ANSWERS).await;
        }
        self.unsupervise(&running);
        running.end();
        self.dlslime.service_ended(&name).await;
        if !drained {
            return Err(AgentError::StillRunning {
                service: name,
                waited: limit,
            });
        }
        published
    }

    fn forget_service(&self, name: &str) -> Option<RunningService> {
        let mut descriptor = self.descriptor.borrow_mut();
        descriptor.services.retain(|table| table.name != name);
        descriptor.down.retain(|down| down != name);
        self.services.borrow_mut().remove(name)
    }
}
