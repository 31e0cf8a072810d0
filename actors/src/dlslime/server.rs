//! Serves DLSlime peers.
//!
//! Either side begins with its `qp_ready`, and the other answers. This agent publishes its mailbox
//! only after it has found the peer's: the peer may write as soon as it sees the mailbox, and this
//! agent could not answer before.

use std::rc::Rc;
use std::time::{Duration, Instant};

use slimerpc::backoff::Backoff;
use slimerpc::channel::{ConnectError, LossCause, Mailbox, QueuePairInfo};
use slimerpc::control::{Mail, PeerRecord};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::pair::{Pair, Serving, mailbox_name, mailbox_record};
use super::{DlslimePeers, FIRST_LOOK};
use crate::AgentError;
use crate::dlslime::handshake::{self, QpReady};
use crate::service::running::RunningService;

/// Pauses between checks for a peer's mailbox, which it may publish at any later time.
const LOOKS: Backoff = Backoff::doubling(FIRST_LOOK, Duration::from_millis(500));

/// Why a peer could not be admitted.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("this agent has no device on {0}, which the peer asks for")]
    NoDevice(String),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("the service has ended")]
    Down,
}

impl DlslimePeers {
    /// Handles mail of DLSlime's handshake.
    pub(crate) fn take_mail(self: &Rc<Self>, mail: &Mail) {
        match QpReady::read(mail) {
            Ok(ready) => self.take_qp_ready(ready),
            Err(error) => {
                tracing::warn!(peer = mail.peer(), %error, "malformed qp_ready skipped");
            }
        }
    }

    /// Handles the `qp_ready` of a DLSlime peer.
    fn take_qp_ready(self: &Rc<Self>, ready: QpReady) {
        let mut pairs = self.pairs.borrow_mut();
        let begun = match pairs.get(&ready.peer) {
            Some(Pair::Connecting(waiter)) => {
                if waiter.try_send(ready).is_err() {
                    tracing::debug!("more qp_ready than a dialling proxy can take");
                }
                return;
            }
            Some(Pair::Calling { theirs, .. }) if *theirs == ready.queue_pairs => return,
            Some(Pair::Calling { channel, .. }) => {
                tracing::info!(
                    peer = ready.peer,
                    "the peer has come back with other queue pairs"
                );
                channel.close(LossCause::Gone);
                pairs.remove(&ready.peer);
                return pairs.park(ready);
            }
            Some(Pair::Serving(serving)) if serving.theirs == ready.queue_pairs => return,
            // This agent began and has sent its queue pairs already, unless this message is of a
            // later incarnation of the peer.
            Some(Pair::Serving(serving)) => serving.theirs.is_empty(),
            None => false,
        };
        let Some((service, running)) = self.service_for(&ready.peer) else {
            return pairs.park(ready);
        };
        let (peer, theirs) = (ready.peer.clone(), ready.queue_pairs.clone());
        let task = actix::spawn(self.clone().let_in(running, ready, begun));
        let reached = match pairs.get(&peer) {
            Some(Pair::Serving(serving)) => serving.reached.clone(),
            _ => watch::Sender::new(false),
        };
        let serving = Serving {
            service,
            theirs,
            reached,
            task: Some(task.abort_handle()),
        };
        pairs.insert(&peer, Pair::Serving(serving));
    }

    /// Admits peers that came before there was a service.
    pub(crate) fn serve_parked(self: &Rc<Self>) {
        let parked = self.pairs.borrow_mut().unpark_all();
        for ready in parked {
            self.take_qp_ready(ready);
        }
    }

    /// Finds the service that a DLSlime peer calls. The peer names none, so there must be only one,
    /// or one for this peer alone.
    fn service_for(&self, peer: &str) -> Option<(String, RunningService)> {
        let services = self.services.borrow();
        let serves = |only: &Option<String>| only.as_deref().is_none_or(|only| only == peer);
        let mut services: Vec<_> = services
            .iter()
            .filter(|(_, running)| serves(&running.only))
            .collect();
        if services.iter().any(|(_, running)| running.only.is_some()) {
            services.retain(|(_, running)| running.only.is_some());
        }
        if services.len() > 1 {
            let served: Vec<_> = services.iter().map(|(name, _)| name).collect();
            tracing::warn!(
                ?served,
                "a DLSlime peer wants to call and cannot say which service; serve each from an agent of its own, or with `.peer(alias)`"
            );
            return None;
        }
        let (name, running) = services.pop()?;
        Some((name.clone(), running.clone()))
    }

    async fn let_in(self: Rc<Self>, running: RunningService, ready: QpReady, begun: bool) {
        let peer = ready.peer.clone();
        match self.try_let_in(&running, ready, begun).await {
            Ok(()) => tracing::info!(%peer, "DLSlime peer connected"),
            Err(refusal) => {
                tracing::warn!(%peer, %refusal, "a DLSlime peer is refused");
                running.dismiss(&peer, None, &LossCause::Left);
                // This drops the present task, which has nothing left to do; a better `qp_ready`
                // may follow.
                self.pairs.borrow_mut().remove(&peer);
            }
        }
    }

    async fn try_let_in(
        &self,
        running: &RunningService,
        ready: QpReady,
        begun: bool,
    ) -> Result<(), Refusal> {
        let devices = &self.devices;
        let memory = match ready.path.link {
            None => devices.for_dlslime(),
            Some(link) => devices
                .on(link)
                .ok_or_else(|| Refusal::NoDevice(link.to_string()))?,
        };
        let device = memory.device();
        let peer = ready.peer.clone();
        let QpReady {
            queue_pairs: theirs,
            mut path,
            ..
        } = ready;
        // What was published for an earlier incarnation names memory that is about to be freed.
        self.withdraw_mailbox(&peer).await;
        let who = peer.clone();
        let connect = move |mailbox: &mut Mailbox| {
            let mut ours = mailbox.prepare(&who, theirs.len())?;
            if ours.len() != theirs.len() {
                mailbox.dismiss(&who, None, &LossCause::Gone);
                ours = mailbox.prepare(&who, theirs.len())?;
            }
            mailbox.reach(&who, &theirs)?;
            Ok(ours)
        };
        let ours = running
            .front()
            .mailbox(memory, connect)
            .await
            .ok_or(Refusal::Down)??;
        if !begun {
            path.ours.get_or_insert_with(|| device.name().to_owned());
            path.theirs.get_or_insert_with(|| device.name().to_owned());
            path.link.get_or_insert(device.port().link_type);
            let answer = handshake::mail(&self.alias, &peer, &ours, &path);
            self.control
                .send_mail(&peer, &answer)
                .await
                .map_err(AgentError::from)?;
        }
        if let Some(Pair::Serving(serving)) = self.pairs.borrow_mut().get(&peer) {
            serving.reached.send_replace(true);
        }
        let mut pauses = LOOKS.pauses();
        let ring = loop {
            match self.mailbox_of(&peer).await {
                Ok(Some(ring)) => break ring,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%peer, %error, "its mailbox cannot be looked up; trying again")
                }
            }
            sleep(pauses.take()).await;
        };
        let who = peer.clone();
        let admit = move |mailbox: &mut Mailbox| mailbox.admit(&who, &ring);
        let ring = running
            .front()
            .mailbox(memory, admit)
            .await
            .ok_or(Refusal::Down)??;
        let record = mailbox_record(&self.alias, &peer, &**device, &ring);
        let name = mailbox_name(&self.alias, &peer);
        Ok(self
            .control
            .publish(&name, record)
            .await
            .map_err(AgentError::from)?)
    }

    /// Begins to connect with a DLSlime peer that was declared as wanted. If this agent serves,
    /// this waits until the queue pairs are connected; otherwise the proxy that follows connects
    /// them.
    pub(crate) async fn begin(
        &self,
        record: &PeerRecord,
        limit: Duration,
    ) -> Result<(), AgentError> {
        let (peer, started) = (&*record.alias, Instant::now());
        let Some((service, running)) = self.service_for(peer) else {
            return Ok(());
        };
        let reached = match self.pairs.borrow_mut().get(peer) {
            Some(Pair::Serving(serving)) => Some(serving.reached.subscribe()),
            Some(_) => return Ok(()),
            None => None,
        };
        let mut reached = match reached {
            Some(reached) => reached,
            None => self.begin_serving(record, service, &running).await?,
        };
        let left = limit.saturating_sub(started.elapsed());
        match timeout(left, reached.wait_for(|reached| *reached)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(AgentError::ShutDown),
            Err(_) => Err(AgentError::DlslimeTimeout {
                peer: peer.to_owned(),
                waiting_for: "its queue pairs (qp_ready)".into(),
                waited: started.elapsed(),
            }),
        }
    }

    /// Sends this agent's queue pairs to a peer. The returned receiver tells when the peer's are
    /// known.
    async fn begin_serving(
        &self,
        record: &PeerRecord,
        service: String,
        running: &RunningService,
    ) -> Result<watch::Receiver<bool>, AgentError> {
        let (reached, seen) = watch::channel(false);
        let serving = Serving {
            service,
            theirs: Vec::new(),
            reached,
            task: None,
        };
        self.pairs
            .borrow_mut()
            .insert(&record.alias, Pair::Serving(serving));
        let told = self.tell_queue_pairs(record, running).await;
        if told.is_err() {
            self.pairs.borrow_mut().remove(&record.alias);
        }
        told.map(|()| seen)
    }

    async fn tell_queue_pairs(
        &self,
        record: &PeerRecord,
        running: &RunningService,
    ) -> Result<(), AgentError> {
        let path = self.path_to(record)?;
        let peer = record.alias.clone();
        let count = self.pairs.borrow().queue_pairs(&peer);
        let memory = self.devices.for_dlslime();
        let who = peer.clone();
        let prepare = move |mailbox: &mut Mailbox| mailbox.prepare(&who, count);
        let ours: Vec<QueuePairInfo> = running
            .front()
            .mailbox(memory, prepare)
            .await
            .ok_or(AgentError::ShutDown)??;
        let ready = handshake::mail(&self.alias, &peer, &ours, &path);
        Ok(self.control.send_mail(&peer, &ready).await?)
    }
}
