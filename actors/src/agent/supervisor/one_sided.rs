//! Connections for one-sided memory: this agent's to the memory of peers, and the peers' to this
//! agent's.
//!
//! They are made by mail, as channels are, and all buffers of one incarnation of an owner share
//! one. A refused access closes the connection; the next transfer makes another.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Instant;

use actix::{Context, Handler, ResponseFuture};
use slimerpc::channel::{
    Descriptor, Exposed, LossCause, Mismatch, OneSided, OneSidedDialer, QueuePairInfo,
};
use slimerpc::fabric::LinkType;
use slimerpc::wire::WIRE_VERSION;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::accept::{ANSWERING, check_life};
use super::peer_lookup::Found;
use super::{AgentState, FIRST_LOOK, LOOKS, Supervisor};
use crate::AgentError;
use crate::agent::builder::Settings;
use crate::agent::handshake::{OneSidedAnswer, OneSidedOpen};
use crate::memory::buffer::BufferError;
use crate::memory::remote_buffer::{BufferConnection, ConnectBuffer};

/// Most connections of peers to this agent's memory.
const MAX_EXPOSED: usize = 4096;

/// The one-sided connections of an agent.
#[derive(Default)]
pub(super) struct OneSidedConnections {
    /// This agent's connections, by the owner's incarnation and the kind of link.
    connections: HashMap<(String, u64, LinkType), Weak<OneSided>>,
    /// Connections that wait for the owner's answer.
    dialing: HashMap<u64, oneshot::Sender<Result<QueuePairInfo, Mismatch>>>,
    /// The peers' connections to this agent's memory.
    exposed: Vec<(String, Exposed)>,
}

impl OneSidedConnections {
    /// Returns an open connection.
    fn open(&mut self, key: &(String, u64, LinkType)) -> Option<Arc<OneSided>> {
        self.connections
            .retain(|_, connection| connection.strong_count() > 0);
        let connection = self.connections.get(key)?.upgrade()?;
        connection.closed().is_none().then_some(connection)
    }

    /// Waits for the owner's answer to this open.
    fn await_answer(&mut self, id: u64) -> oneshot::Receiver<Result<QueuePairInfo, Mismatch>> {
        let (tell, told) = oneshot::channel();
        // Removes the opens that were given up.
        self.dialing.retain(|_, tell| !tell.is_closed());
        self.dialing.insert(id, tell);
        told
    }

    pub(super) fn take_answer(&mut self, answer: OneSidedAnswer) {
        match self.dialing.remove(&answer.id) {
            Some(waiter) => drop(waiter.send(answer.result)),
            // FENCE-1: the answer is to an open that has timed out, or to an earlier incarnation of
            // this agent.
            None => tracing::debug!(id = answer.id, "answer to an unknown open skipped"),
        }
    }

    /// The peers with a connection to or from here.
    pub(super) fn peers(&mut self) -> impl Iterator<Item = String> {
        self.connections
            .retain(|_, connection| connection.strong_count() > 0);
        self.exposed.retain(|(_, end)| !end.is_over());
        let owners = self.connections.keys().map(|(owner, ..)| owner);
        let users = self.exposed.iter().map(|(user, _)| user);
        owners.chain(users).cloned()
    }

    /// Closes the connections to an incarnation of an owner that is lost.
    pub(super) fn life_lost(&mut self, peer: &str, incarnation: u64, cause: &LossCause) {
        self.exposed.retain(|(_, end)| !end.is_over());
        self.connections.retain(|(owner, life, _), connection| {
            let is_lost = owner == peer && *life == incarnation;
            if is_lost && let Some(connection) = connection.upgrade() {
                connection.close(cause.clone());
            }
            !is_lost
        });
    }

    /// Closes the connections of a peer that has left.
    pub(super) fn peer_left(&mut self, peer: &str) {
        self.exposed.retain(|(owner, _)| owner != peer);
        self.connections.retain(|(owner, ..), connection| {
            let is_of_peer = owner == peer;
            if is_of_peer && let Some(connection) = connection.upgrade() {
                connection.close(LossCause::Left);
            }
            !is_of_peer
        });
    }

    /// Closes all connections.
    pub(super) fn end(&mut self) {
        for connection in self.connections.values().filter_map(Weak::upgrade) {
            connection.close(LossCause::ShutDown);
        }
        *self = Self::default();
    }
}

impl Handler<ConnectBuffer> for Supervisor {
    type Result = ResponseFuture<Result<BufferConnection, BufferError>>;

    fn handle(&mut self, reach: ConnectBuffer, _: &mut Context<Self>) -> Self::Result {
        let state = self.state.clone();
        Box::pin(async move { state.reach_memory(reach).await })
    }
}

impl AgentState {
    async fn reach_memory(
        self: &Rc<Self>,
        reach: ConnectBuffer,
    ) -> Result<BufferConnection, BufferError> {
        let started = Instant::now();
        let owner = reach.buffer.owner();
        let check = |theirs: &Descriptor| self.choose_link(owner, theirs);
        let (theirs, link) = match self.find(owner, started, reach.timeout, check).await {
            Ok(Found::Native(theirs, link)) => (theirs, link),
            Ok(Found::Dlslime(_)) | Err(AgentError::PeerUnknown { .. }) => return Err(gone(owner)),
            Err(error) => return Err(error.into()),
        };
        if theirs.incarnation != reach.buffer.incarnation() {
            return Err(gone(owner));
        }
        let Some(place) = reach.buffer.place(link) else {
            return Err(BufferError::Revoked {
                owner: owner.to_owned(),
            });
        };
        let key = (owner.to_owned(), theirs.incarnation, link);
        if let Some(connection) = self.one_sided.borrow_mut().open(&key) {
            return Ok(BufferConnection { connection, place });
        }
        let connection = tokio::select! {
            connection = self.connect_buffer(&reach, link, started) => connection?,
            () = self.superseded(owner, theirs.incarnation, LOOKS) => return Err(gone(owner)),
        };
        let weak = Arc::downgrade(&connection);
        self.one_sided.borrow_mut().connections.insert(key, weak);
        Ok(BufferConnection { connection, place })
    }

    async fn connect_buffer(
        &self,
        reach: &ConnectBuffer,
        link: LinkType,
        started: Instant,
    ) -> Result<Arc<OneSided>, BufferError> {
        let Settings { devices, retry, .. } = &self.settings;
        let owner = reach.buffer.owner();
        let memory = devices.apart(link).map_err(AgentError::from)?;
        let dialer = OneSidedDialer::new(memory, *retry).map_err(AgentError::from)?;
        let id = self.next.replace(self.next.get().wrapping_add(1));
        let open = OneSidedOpen {
            id,
            wire_version: WIRE_VERSION,
            to: reach.buffer.incarnation(),
            link,
            qp: dialer.address(),
        };
        let told = self.one_sided.borrow_mut().await_answer(id);
        let mail = open.to_mail(&self.alias);
        let sent = self.control().send_mail(owner, &mail).await;
        let left = reach.timeout.saturating_sub(started.elapsed());
        let answered = match sent {
            Ok(()) => timeout(left.max(FIRST_LOOK), told).await,
            Err(error) => {
                self.one_sided.borrow_mut().dialing.remove(&id);
                return Err(AgentError::from(error).into());
            }
        };
        self.one_sided.borrow_mut().dialing.remove(&id);
        let theirs = match answered {
            Ok(Ok(Ok(theirs))) => theirs,
            Ok(Ok(Err(Mismatch::Incarnation { .. }))) => return Err(gone(owner)),
            Ok(Ok(Err(mismatch))) => {
                let peer = owner.to_owned();
                return Err(AgentError::Refused { peer, mismatch }.into());
            }
            Ok(Err(_)) => return Err(AgentError::ShutDown.into()),
            Err(_) => {
                return Err(AgentError::timed_out(owner, started).into());
            }
        };
        let connected = dialer.connect(owner, theirs, reach.wait_policy.clone());
        let connection = connected.map_err(AgentError::from)?;
        let left = reach.timeout.saturating_sub(started.elapsed());
        self.meet(owner, link, left, || connection.has_met_peer())
            .await?;
        Ok(connection)
    }

    /// Answers a peer that asks for a connection to this agent's memory.
    pub(super) async fn answer_one_sided(self: Rc<Self>, peer: String, open: OneSidedOpen) {
        let answer = OneSidedAnswer {
            id: open.id,
            result: self.expose(&peer, open),
        };
        let mail = answer.to_mail(&self.alias);
        self.send_answer(&peer, &mail, ANSWERING).await;
    }

    fn expose(&self, peer: &str, open: OneSidedOpen) -> Result<QueuePairInfo, Mismatch> {
        let found = self.descriptor.borrow().incarnation;
        check_life(open.to, found, open.wire_version)?;
        let devices = &self.settings.devices;
        if devices.on(open.link).is_none() {
            return Err(Mismatch::Link {
                ours: devices.links(),
                theirs: vec![open.link],
                same_host: true,
            });
        }
        let refuse = |error: &dyn std::fmt::Display| Mismatch::Connect(error.to_string());
        let memory = devices.apart(open.link).map_err(|error| refuse(&error))?;
        let exposed = &mut self.one_sided.borrow_mut().exposed;
        exposed.retain(|(_, end)| !end.is_over());
        if exposed.len() >= MAX_EXPOSED {
            return Err(refuse(&format!(
                "{MAX_EXPOSED} connections to memory of this agent are there already"
            )));
        }
        let accepted = Exposed::accept(&**memory.device(), peer, open.qp, self.settings.retry);
        let (end, ours) = accepted.map_err(|error| refuse(&error))?;
        exposed.push((peer.to_owned(), end));
        Ok(ours)
    }
}

fn gone(owner: &str) -> BufferError {
    BufferError::OwnerGone {
        owner: owner.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use slimerpc::channel::{BufferPool, MemoryLimits, WaitPolicy};
    use slimerpc::fabric::{RetryPolicy, shm::ShmDevice};

    use super::*;

    /// A connection of this agent, and the other end.
    fn connection() -> (Arc<OneSided>, Exposed) {
        let (device, retry) = (ShmDevice::open().unwrap(), RetryPolicy::default());
        let memory = BufferPool::private(device.clone(), MemoryLimits::default());
        let dialer = OneSidedDialer::new(&memory, retry).unwrap();
        let (exposed, theirs) = Exposed::accept(&*device, "a", dialer.address(), retry).unwrap();
        let wait_policy = WaitPolicy {
            busy_poll: Duration::ZERO,
            runtime: tokio::runtime::Handle::current(),
        };
        (dialer.connect("b", theirs, wait_policy).unwrap(), exposed)
    }

    #[test]
    fn dials_that_were_given_up_are_forgotten_and_others_are_answered() {
        let mut one_sided = OneSidedConnections::default();
        let waits = one_sided.await_answer(1);
        for id in 2..100 {
            drop(one_sided.await_answer(id));
        }
        let _last = one_sided.await_answer(100);
        assert_eq!(one_sided.dialing.len(), 2);
        let result = Err(Mismatch::Connect("no".to_owned()));
        one_sided.take_answer(OneSidedAnswer {
            id: 1,
            result: result.clone(),
        });
        assert_eq!(waits.blocking_recv(), Ok(result));
    }

    #[actix::test]
    async fn fence_1_the_end_of_an_earlier_life_of_an_owner_closes_no_connection_to_a_later_one() {
        let mut one_sided = OneSidedConnections::default();
        let owners = [("owner:0", 1), ("owner:0", 2), ("owner:1", 1)];
        let ends = owners.map(|(owner, life)| {
            let (connection, exposed) = connection();
            let key = (owner.to_owned(), life, LinkType::Shm);
            let ours = Arc::downgrade(&connection);
            one_sided.connections.insert(key, ours);
            (connection, exposed)
        });
        one_sided.life_lost("owner:0", 1, &LossCause::Gone);
        let closed = ends.each_ref().map(|(connection, _)| connection.closed());
        assert_eq!(closed, [Some(LossCause::Gone), None, None]);
    }
}
