//! Starting a service instance on its own arbiter.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter, Recipient};
use slimerpc::channel::{ConnectError, Geometry, Mailbox};
use slimerpc::fabric::{Device, RetryPolicy};

use crate::agent::table;
use crate::answer::panic_message;
use crate::instance::{Factory, Instance, Stop, WithMailboxes};
use crate::mailboxes::Mailboxes;
use crate::ring_context::{RingContext, Rings};
use crate::supervisor::{Publish, Supervisor, Withdraw};
use crate::{AgentError, ServedBy};

/// What an instance needs of its agent.
pub(crate) struct Launch {
    pub(crate) geometry: Geometry,
    pub(crate) retry: RetryPolicy,
    pub(crate) busy_poll: Duration,
}

/// The ways to reach an instance, without its types.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) mailboxes: Recipient<WithMailboxes>,
    pub(crate) stop: Recipient<Stop>,
    pub(crate) arbiter: actix::ArbiterHandle,
}

impl Running {
    /// Does something with the mailbox on `device`, on the instance's arbiter. `None` if the instance has ended.
    pub(crate) async fn mailbox<T: Send + 'static>(
        &self,
        device: &Arc<dyn Device>,
        work: impl FnOnce(&mut Mailbox) -> Result<T, ConnectError> + Send + 'static,
    ) -> Option<Result<T, ConnectError>> {
        let device = device.clone();
        let (tell, told) = tokio::sync::oneshot::channel();
        let work = move |mailboxes: &mut Mailboxes| {
            let _ = tell.send(mailboxes.on(&device).and_then(work));
        };
        self.mailboxes
            .send(WithMailboxes(Box::new(work)))
            .await
            .ok()?;
        told.await.ok()
    }

    /// Closes the channels of a peer that has left.
    pub(crate) fn dismiss(&self, peer: &str) {
        let peer = peer.to_owned();
        let work = move |mailboxes: &mut Mailboxes| mailboxes.dismiss(&peer);
        self.mailboxes.do_send(WithMailboxes(Box::new(work)));
    }

    /// Ends the instance and its arbiter.
    pub(crate) async fn end(self) {
        let _ = self.stop.send(Stop).await;
        self.arbiter.stop();
    }
}

/// A service that is being served. Dropping the handle does not end it.
#[derive(Clone)]
pub struct ServiceHandle {
    name: &'static str,
    supervisor: Addr<Supervisor>,
}

impl ServiceHandle {
    /// Name of the service.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Ends the service: its callers lose their connection, and the agent no longer offers it.
    ///
    /// # Errors
    /// The control plane could not be told; the service has ended all the same.
    pub async fn stop(&self) -> Result<(), AgentError> {
        let withdraw = Withdraw {
            service: self.name.to_owned(),
        };
        self.supervisor
            .send(withdraw)
            .await
            .unwrap_or(Err(AgentError::ShutDown))
    }
}

impl std::fmt::Debug for ServiceHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceHandle")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Starts an instance on an arbiter of its own and has the agent publish it.
pub(crate) async fn launch<S, A>(
    launch: Launch,
    supervisor: &Addr<Supervisor>,
    build: impl FnOnce() -> (A, Option<Factory<A>>) + Send + 'static,
) -> Result<ServiceHandle, AgentError>
where
    S: ServedBy<A> + ?Sized,
    A: 'static,
{
    let arbiter = crate::arbiter::start().map_err(AgentError::Thread)?;
    let (tell, told) = tokio::sync::oneshot::channel();
    arbiter.spawn_fn(move || {
        let _ = tell.send(start::<S, A>(launch, build));
    });
    let published = match told.await {
        Ok(Ok(running)) => {
            let publish = Publish {
                table: table::<S>(),
                running,
            };
            supervisor
                .send(publish)
                .await
                .unwrap_or(Err(AgentError::ShutDown))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(AgentError::ShutDown),
    };
    match published {
        Ok(()) => Ok(ServiceHandle {
            name: S::NAME,
            supervisor: supervisor.clone(),
        }),
        Err(error) => {
            arbiter.stop();
            Err(error)
        }
    }
}

/// On the instance's arbiter.
fn start<S, A>(
    launch: Launch,
    build: impl FnOnce() -> (A, Option<Factory<A>>),
) -> Result<Running, AgentError>
where
    S: ServedBy<A> + ?Sized,
    A: 'static,
{
    let built = catch_unwind(AssertUnwindSafe(build));
    let (state, factory) = built.map_err(|panic| AgentError::FactoryPanicked {
        service: S::NAME.to_owned(),
        message: panic_message(&*panic),
    })?;
    let mailboxes = Mailboxes::new(S::NAME, launch.geometry, launch.retry);
    let mailboxes = Rc::new(RefCell::new(mailboxes));
    let rings = Rings::new(mailboxes.clone(), launch.busy_poll);
    let instance = Instance::<S, A>::new(state, factory, mailboxes);
    let address = RingContext::start(instance, rings);
    Ok(Running {
        mailboxes: address.clone().recipient(),
        stop: address.recipient(),
        arbiter: Arbiter::current(),
    })
}
