//! Connects a proxy with a service, of a peer or of this agent. An agent that calls itself lets
//! itself in, without mail; everything else about the channel is as with a peer. It neither
//! declares itself as wanted, nor watches itself, nor sends itself heartbeats.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Context, Handler, Message, ResponseFuture};
use slimerpc::channel::{
    ClientChannel, ConnectError, Descriptor, Dialer, Endpoint, Mismatch, ServiceTable, WaitPolicy,
};
use slimerpc::fabric::{FabricError, LinkType};
use slimerpc::wire::WIRE_VERSION;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::peer_lookup::{Found, LATE_ANSWER, PeerNews};
use super::{AgentState, FIRST_LOOK, LOOKS, Supervisor};
use crate::AgentError;
use crate::agent::builder::Settings;
use crate::agent::handshake::{Answer, Open};
use crate::client::connection::ConnectedService;
use crate::dlslime::client::Attempt;

/// Between two looks at a handshake of TLS.
const HANDSHAKE_LOOK: Duration = Duration::from_millis(1);

/// Opens a channel to a service of a peer.
#[derive(Message)]
#[rtype(result = "Result<ConnectedService, AgentError>")]
pub(crate) struct ConnectService {
    pub(crate) peer: String,
    pub(crate) wanted: ServiceTable,
    pub(crate) wait_policy: WaitPolicy,
    pub(crate) timeout: Duration,
    /// Set for an existing proxy, which connects even if no method can be called any more, so that
    /// its calls fail with the reason.
    pub(crate) again: bool,
}

impl Handler<ConnectService> for Supervisor {
    type Result = ResponseFuture<Result<ConnectedService, AgentError>>;

    fn handle(&mut self, request: ConnectService, _: &mut Context<Self>) -> Self::Result {
        let state = self.state.clone();
        Box::pin(async move { state.connect_service(request).await })
    }
}

impl AgentState {
    pub(super) async fn connect_service(
        self: &Rc<Self>,
        request: ConnectService,
    ) -> Result<ConnectedService, AgentError> {
        let started = Instant::now();
        let left = || request.timeout.saturating_sub(started.elapsed());
        let mut news = PeerNews::new(self, &request.peer);
        let mut broken = None;
        let pauses = match request.again {
            true => LOOKS,
            false => LATE_ANSWER,
        };
        loop {
            let (theirs, table, link) = match self.find_service(&request, started).await? {
                Found::Native(theirs, (table, link)) => (theirs, table, link),
                Found::Dlslime(record) => {
                    let attempt = Attempt {
                        peer: &record,
                        wait_policy: &request.wait_policy,
                        started,
                        limit: request.timeout,
                    };
                    let declare = async || self.declare(&request.peer, left()).await;
                    let channel = self.dlslime.call(attempt, declare).await?;
                    return Ok(ConnectedService {
                        serial: channel,
                        parallel: None,
                        table: request.wanted,
                        incarnation: None,
                    });
                }
            };
            self.declare(&request.peer, left()).await?;
            let opened = tokio::select! {
                opened = self.open_all(&request, &theirs, &table, link, started) => opened,
                // Another incarnation has taken over: the one that was asked no longer answers, or
                // its answer is useless.
                () = self.superseded(&request.peer, theirs.incarnation, pauses) => {
                    tracing::debug!(peer = request.peer, "a peer came back as another incarnation during a request");
                    continue;
                }
            };
            let error = match opened {
                Ok((serial, parallel)) => {
                    self.note("connected", link);
                    let service = &request.wanted.name;
                    tracing::info!(peer = request.peer, service, fabric = %link, "connected");
                    self.note_agreement(&request.peer, &request.wanted, &table);
                    if request.peer != self.alias {
                        self.want_monitor(&request.peer);
                    }
                    return Ok(ConnectedService {
                        serial,
                        parallel,
                        table,
                        incarnation: Some(theirs.incarnation),
                    });
                }
                Err(error) => error,
            };
            self.connecting_failed(&request.peer);
            let may_pass = match &error {
                // Another incarnation of the peer has read this, or the service is not served yet,
                // or no longer.
                AgentError::Refused { mismatch, .. } => matches!(
                    mismatch,
                    Mismatch::Incarnation { .. }
                        | Mismatch::NoSuchService { .. }
                        | Mismatch::ServiceChanged { .. }
                ),
                // The other's certificate will be no better.
                AgentError::Connect(ConnectError::Fabric(FabricError::Tls { .. })) => false,
                // The peer may have died after its answer, so try once more. If it lives, its
                // second answer is no better.
                AgentError::Connect(_) => {
                    broken.replace(theirs.incarnation) != Some(theirs.incarnation)
                }
                _ => false,
            };
            let left = left();
            if !may_pass || left.is_zero() {
                return Err(error);
            }
            news.wait(left).await;
        }
    }

    /// Waits until the requested service is served and its peer can be reached.
    async fn find_service(
        self: &Rc<Self>,
        request: &ConnectService,
        started: Instant,
    ) -> Result<Found<(ServiceTable, LinkType)>, AgentError> {
        let check = |theirs: &Descriptor| {
            let table = theirs.check_service(self.settings.geometry, &request.wanted)?;
            if !request.again {
                table.check_methods(&request.wanted)?;
            }
            let table = table.clone();
            Ok((table, self.choose_link(&request.peer, theirs)?))
        };
        self.find(&request.peer, started, request.timeout, check)
            .await
    }

    /// Opens the channels to a service: one, or two if its parallel methods are needed.
    async fn open_all(
        &self,
        request: &ConnectService,
        theirs: &Descriptor,
        table: &ServiceTable,
        link: LinkType,
        started: Instant,
    ) -> Result<(Arc<ClientChannel>, Option<Arc<ClientChannel>>), AgentError> {
        let is_wanted = |method| request.wanted.methods.contains(method);
        let channel = self
            .open(request, theirs, table, link, false, started)
            .await?;
        let parallel = if table.parallel.iter().any(is_wanted) {
            Some(
                self.open(request, theirs, table, link, true, started)
                    .await?,
            )
        } else {
            None
        };
        Ok((channel, parallel))
    }

    /// Opens a channel to a service, or to its parallel methods.
    async fn open(
        &self,
        request: &ConnectService,
        theirs: &Descriptor,
        table: &ServiceTable,
        link: LinkType,
        parallel: bool,
        started: Instant,
    ) -> Result<Arc<ClientChannel>, AgentError> {
        let Settings {
            devices,
            geometry,
            retry,
            ..
        } = &self.settings;
        let memory = devices.on(link).unwrap_or(devices.first());
        let dialer = Dialer::new(memory, *geometry, *retry)?;
        let id = self.next.replace(self.next.get().wrapping_add(1));
        let remaining = request
            .timeout
            .saturating_sub(started.elapsed())
            .max(FIRST_LOOK);
        let open = Open {
            id,
            service: request.wanted.name.clone(),
            parallel,
            wire_version: WIRE_VERSION,
            from: self.descriptor.borrow().incarnation,
            to: theirs.incarnation,
            table: Some(table.fingerprint()),
            link,
            endpoint: dialer.endpoint(),
            patience: u64::try_from(remaining.as_millis()).ok(),
        };
        let answered = timeout(remaining, self.ask(&request.peer, open)).await;
        self.dialing.borrow_mut().remove(&id);
        let Ok(answered) = answered else {
            return Err(AgentError::timed_out(&request.peer, started));
        };
        let endpoint = answered?.map_err(|mismatch| AgentError::Refused {
            peer: request.peer.clone(),
            mismatch,
        })?;
        let channel = dialer.connect(&request.peer, &endpoint, request.wait_policy.clone())?;
        let left = request.timeout.saturating_sub(started.elapsed());
        self.meet(&request.peer, link, left, || channel.has_met_peer())
            .await?;
        self.note_channel(Some(theirs.incarnation), &channel);
        Ok(channel)
    }

    /// Waits until a peer is met over TCP: its refusals, and whether it can be reached at all, are
    /// known only then.
    pub(super) async fn meet(
        &self,
        peer: &str,
        link: LinkType,
        limit: Duration,
        has_met: impl Fn() -> Result<bool, FabricError>,
    ) -> Result<(), AgentError> {
        if link != LinkType::Tcp {
            return Ok(());
        }
        let started = Instant::now();
        while !has_met().map_err(ConnectError::from)? {
            if started.elapsed() >= limit {
                return Err(AgentError::timed_out(peer, started));
            }
            sleep(HANDSHAKE_LOOK).await;
        }
        Ok(())
    }

    /// Asks `peer` to let a caller in.
    async fn ask(&self, peer: &str, open: Open) -> Result<Result<Endpoint, Mismatch>, AgentError> {
        if peer == self.alias {
            return Ok(self.let_in(peer, open).await);
        }
        let (tell, told) = oneshot::channel();
        {
            let mut dialing = self.dialing.borrow_mut();
            // Removes the opens that were given up.
            dialing.retain(|_, tell| !tell.is_closed());
            dialing.insert(open.id, tell);
        }
        let mail = open.to_mail(&self.alias);
        self.control().send_mail(peer, &mail).await?;
        told.await.map_err(|_| AgentError::ShutDown)
    }

    pub(super) fn note_channel(&self, life: Option<u64>, channel: &Arc<ClientChannel>) {
        let mut channels = self.channels.borrow_mut();
        channels.retain(|(_, channel)| channel.strong_count() > 0);
        channels.push((life, Arc::downgrade(channel)));
    }

    pub(super) fn take_answer(&self, answer: Answer) {
        match self.dialing.borrow_mut().remove(&answer.id) {
            Some(waiter) => drop(waiter.send(answer.result)),
            // FENCE-1: the answer is to an open that has timed out, or to an earlier incarnation of
            // this agent.
            None => tracing::debug!(id = answer.id, "answer to an unknown open skipped"),
        }
    }
}
