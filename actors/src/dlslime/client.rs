//! Calls DLSlime peers.
//!
//! ```text
//!   we                                               peer
//!    │  qp_ready { our queue pairs }                   │
//!    │ ──────────────────────────────────────────────▶ │  connects
//!    │                     qp_ready { its queue pairs } │
//!    │ ◀────────────────────────────────────────────── │
//!    │  connect; publish our mailbox                    │  publishes its own when it serves
//!    │  look for the peer's; then call                  │
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use slimerpc::channel::{ClientChannel, Dialer, QueuePairInfo, RingAddress, WaitPolicy};
use slimerpc::control::PeerRecord;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::pair::{Pair, mailbox_name, mailbox_record};
use super::{DlslimePeers, FIRST_LOOK};
use crate::AgentError;
use crate::dlslime::handshake::{self, Path, QpReady};

/// How long to wait for a fresh `qp_ready` before one is used that was in the mailbox already. The
/// old one may be of an earlier incarnation of the peer, but a peer that started at the same time
/// sends no other.
const GRACE: Duration = Duration::from_secs(1);
/// Pause between two checks for the peer's mailbox.
const LOOK: Duration = Duration::from_millis(50);

/// An attempt to connect with a DLSlime peer.
pub(crate) struct Attempt<'a> {
    pub(crate) peer: &'a PeerRecord,
    pub(crate) wait_policy: &'a WaitPolicy,
    pub(crate) started: Instant,
    pub(crate) limit: Duration,
}

impl Attempt<'_> {
    fn left(&self) -> Duration {
        self.limit.saturating_sub(self.started.elapsed())
    }

    fn timeout(&self, waiting_for: &'static str) -> AgentError {
        AgentError::DlslimeTimeout {
            peer: self.peer.alias.clone(),
            waiting_for: waiting_for.into(),
            waited: self.started.elapsed(),
        }
    }
}

/// Which task connects with a peer.
enum Claim {
    /// None: the peer is connected.
    Connected(Arc<ClientChannel>),
    /// This one; it receives the peer's `qp_ready`.
    Ours(mpsc::Receiver<QpReady>),
    /// The task of another proxy.
    Others,
}

impl DlslimePeers {
    /// Returns the channel to a DLSlime peer and makes it if there is none. `declare` tells the
    /// control plane that the peer is wanted; it is called once a path to the peer is known.
    pub(crate) async fn call(
        &self,
        attempt: Attempt<'_>,
        declare: impl AsyncFnOnce() -> Result<(), AgentError>,
    ) -> Result<Arc<ClientChannel>, AgentError> {
        let peer = &*attempt.peer.alias;
        let mail = loop {
            match self.claim(peer)? {
                Claim::Connected(channel) => return Ok(channel),
                Claim::Ours(mail) => break mail,
                Claim::Others => {}
            }
            if self.has_left.get() {
                return Err(AgentError::ShutDown);
            }
            if attempt.left().is_zero() {
                return Err(attempt.timeout("another proxy to be connected"));
            }
            sleep(FIRST_LOOK).await;
        };
        match self.connect(&attempt, declare, mail).await {
            Ok((channel, theirs)) => {
                let calling = Pair::Calling {
                    channel: channel.clone(),
                    theirs,
                };
                self.pairs.borrow_mut().insert(peer, calling);
                Ok(channel)
            }
            Err(error) => {
                self.pairs.borrow_mut().remove(peer);
                self.withdraw_mailbox(peer).await;
                Err(error)
            }
        }
    }

    /// Claims the task to connect with `peer`, unless the peer is connected or another task is
    /// connecting.
    fn claim(&self, peer: &str) -> Result<Claim, AgentError> {
        let mut pairs = self.pairs.borrow_mut();
        match pairs.get(peer) {
            Some(Pair::Serving(serving)) => Err(AgentError::BothDirections {
                peer: peer.to_owned(),
                service: serving.service.clone(),
            }),
            Some(Pair::Calling { channel, .. }) if channel.closed().is_none() => {
                Ok(Claim::Connected(channel.clone()))
            }
            Some(Pair::Connecting(_)) => Ok(Claim::Others),
            Some(Pair::Calling { .. }) | None => {
                let (tell, told) = mpsc::channel(16);
                pairs.insert(peer, Pair::Connecting(tell));
                Ok(Claim::Ours(told))
            }
        }
    }

    async fn connect(
        &self,
        attempt: &Attempt<'_>,
        declare: impl AsyncFnOnce() -> Result<(), AgentError>,
        mut mail: mpsc::Receiver<QpReady>,
    ) -> Result<(Arc<ClientChannel>, Vec<QueuePairInfo>), AgentError> {
        let peer = &*attempt.peer.alias;
        let device = self.devices.for_dlslime().device();
        let path = self.path_to(attempt.peer)?;
        let count = self.pairs.borrow().queue_pairs(peer);
        let (geometry, retry) = (self.geometry, self.retry);
        let mut dialer = Dialer::compatible(&**device, geometry, retry, count)?;
        declare().await?;
        let early = self.pairs.borrow_mut().unpark(peer);
        let ready = handshake::mail(&self.alias, peer, &dialer.queue_pairs(), &path);
        self.control.send_mail(peer, &ready).await?;
        let mut theirs = self.reach(&mut dialer, early, &mut mail, attempt).await?;

        let mailbox = mailbox_record(&self.alias, peer, &**device, &dialer.ring());
        let name = mailbox_name(&self.alias, peer);
        self.control.publish(&name, mailbox).await?;
        let ring = loop {
            if let Some(ring) = self.mailbox_of(peer).await? {
                break ring;
            }
            if attempt.left().is_zero() {
                return Err(attempt.timeout("its mailbox, which it publishes when it serves"));
            }
            // The connection may be with an earlier incarnation, whose successor answers now.
            if let Ok(Some(ready)) = timeout(LOOK, mail.recv()).await
                && ready.queue_pairs != theirs
            {
                dialer.reach(&ready.queue_pairs)?;
                theirs = ready.queue_pairs;
            }
        };
        let channel = dialer.connect_compatible(peer, &ring, attempt.wait_policy.clone())?;
        Ok((channel, theirs))
    }

    /// Connects to the queue pairs in the peer's answer.
    async fn reach(
        &self,
        dialer: &mut Dialer,
        early: Option<QpReady>,
        mail: &mut mpsc::Receiver<QpReady>,
        attempt: &Attempt<'_>,
    ) -> Result<Vec<QueuePairInfo>, AgentError> {
        let mut early = early;
        let mut refused = None;
        loop {
            let left = attempt.left();
            let wait = if early.is_some() {
                left.min(GRACE)
            } else {
                left
            };
            let ready = match timeout(wait, mail.recv()).await {
                Ok(Some(ready)) => ready,
                Ok(None) => return Err(AgentError::ShutDown),
                Err(_) => match early.take() {
                    Some(ready) => ready,
                    None => {
                        let silent = || attempt.timeout("its queue pairs (qp_ready)");
                        return Err(refused.unwrap_or_else(silent));
                    }
                },
            };
            match dialer.reach(&ready.queue_pairs) {
                Ok(()) => return Ok(ready.queue_pairs),
                Err(error) => {
                    // A good one may follow.
                    tracing::warn!(peer = ready.peer, %error, "a qp_ready cannot be used");
                    refused = Some(error.into());
                }
            }
        }
    }

    /// The path to a DLSlime peer, from this agent's device to the one that the peer would choose.
    pub(super) fn path_to(&self, record: &PeerRecord) -> Result<Path, AgentError> {
        let device = self.devices.for_dlslime().device();
        let port = device.port();
        let theirs = record.device_on(&port.link_type.to_string(), port.number.into());
        let Some(theirs) = theirs else {
            return Err(AgentError::NoCommonDevice {
                peer: record.alias.clone(),
                device: device.name().to_owned(),
                link: port.link_type,
                port: port.number,
            });
        };
        Ok(Path {
            ours: Some(device.name().to_owned()),
            theirs: Some(theirs),
            port: port.number.into(),
            link: Some(port.link_type),
        })
    }

    /// The mailbox that a DLSlime peer has published for this agent.
    pub(super) async fn mailbox_of(&self, peer: &str) -> Result<Option<RingAddress>, AgentError> {
        let name = mailbox_name(peer, &self.alias);
        let Some(record) = self.control.lookup(peer, &name).await? else {
            return Ok(None);
        };
        match serde_json::from_value(record) {
            Ok(ring) => Ok(Some(ring)),
            Err(error) => {
                tracing::warn!(%peer, %error, "a mailbox record is malformed; waiting for a better one");
                Ok(None)
            }
        }
    }

    pub(super) async fn withdraw_mailbox(&self, peer: &str) {
        if let Err(error) = self
            .control
            .withdraw(&mailbox_name(&self.alias, peer))
            .await
        {
            tracing::debug!(%peer, %error, "a mailbox record could not be withdrawn");
        }
    }
}
