//! Looks up peers at the control plane, and waits for them to appear.
//!
//! The control plane reports services that come and go, so a wait for a restarted peer ends
//! milliseconds after it serves. A service for one peer only is not reported, nor are services of
//! other control planes; a poll with growing pauses finds them.
//!
//! A connection does not always show whether a silent peer is merely stalled, or dead: processes
//! that were forked from a killed peer keep its sockets and its device open. The peer's record
//! shows it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slimerpc::backoff::{Backoff, Pauses};
use slimerpc::channel::{Descriptor, Mismatch};
use slimerpc::control::{ControlError, PeerRecord, ServiceRecord};
use tokio::time::{sleep, timeout};

use super::discovery::{Following, Registered};
use super::{AgentState, LOOKS};
use crate::AgentError;

/// Pauses between looks for another incarnation of a peer that has not been lost: it costs nothing
/// before an answer is late. Where a thousand wait for theirs, most of them would otherwise look
/// again and again while the others are answered.
pub(super) const LATE_ANSWER: Backoff =
    Backoff::doubling(Duration::from_secs(1), Duration::from_secs(2));

/// The result of looking up a peer.
pub(super) enum PeerLookup {
    Unknown,
    /// The peer is native, but has not published its descriptor yet.
    Silent,
    Found(Descriptor),
    Dlslime(PeerRecord),
}

/// A peer that can be connected with.
pub(super) enum Found<T> {
    /// A native peer that passed the check, with the outcome.
    Native(Descriptor, T),
    /// A DLSlime peer, about which little can be checked.
    Dlslime(PeerRecord),
}

/// News of one peer, for one wait. It costs nothing before the first pause is over.
pub(super) struct PeerNews {
    state: Rc<AgentState>,
    peer: String,
    pauses: Pauses,
    following: Option<Following>,
    /// The peer's services, as of the last report.
    told: Option<Vec<Arc<ServiceRecord>>>,
}

impl PeerNews {
    pub(super) fn new(state: &Rc<AgentState>, peer: &str) -> Self {
        Self {
            state: state.clone(),
            peer: peer.to_owned(),
            pauses: LOOKS.pauses(),
            following: None,
            told: None,
        }
    }

    /// Waits for news, for a pause that grows each time and is at most `limit`.
    pub(super) async fn wait(&mut self, limit: Duration) {
        let pause = self.pauses.take().min(limit);
        if self.following.is_none() {
            sleep(pause).await;
            self.following = Some(self.state.follow());
        } else {
            let _ = timeout(pause, self.told()).await;
        }
    }

    /// Waits until the control plane reports something new about the peer.
    pub(super) async fn told(&mut self) {
        loop {
            let following = self.following.get_or_insert_with(|| self.state.follow());
            if following.changed().await.is_err() {
                // The agent leaves.
                return std::future::pending().await;
            }
            let registered = following.borrow_and_update().clone();
            let Some(registered) = registered else {
                continue;
            };
            let services = services_of(&registered, &self.peer);
            if self.told.as_ref() != Some(&services) {
                self.told = Some(services);
                return;
            }
        }
    }
}

fn services_of(registered: &Registered, peer: &str) -> Vec<Arc<ServiceRecord>> {
    let services = registered.values();
    services
        .filter(|service| service.alias == peer)
        .cloned()
        .collect()
}

impl AgentState {
    /// Waits until `peer` is registered and its descriptor passes `check`. A missing service may
    /// still be about to be served, so this waits for it, too; any other mismatch is final.
    pub(super) async fn find<T>(
        self: &Rc<Self>,
        peer: &str,
        started: Instant,
        limit: Duration,
        check: impl Fn(&Descriptor) -> Result<T, Mismatch>,
    ) -> Result<Found<T>, AgentError> {
        let mut news = PeerNews::new(self, peer);
        loop {
            self.check_open()?;
            let missing = match self.look(peer).await? {
                PeerLookup::Unknown => AgentError::PeerUnknown {
                    peer: peer.to_owned(),
                    waited: started.elapsed(),
                    control: self.control().describe(),
                },
                PeerLookup::Silent => AgentError::NotNative {
                    peer: peer.to_owned(),
                    waited: started.elapsed(),
                },
                PeerLookup::Dlslime(record) => return Ok(Found::Dlslime(record)),
                PeerLookup::Found(descriptor) => match check(&descriptor) {
                    Ok(checked) => return Ok(Found::Native(descriptor, checked)),
                    Err(mismatch) => {
                        let is_final = !matches!(mismatch, Mismatch::NoSuchService { .. });
                        let refused = AgentError::Refused {
                            peer: peer.to_owned(),
                            mismatch,
                        };
                        if is_final {
                            return Err(refused);
                        }
                        refused
                    }
                },
            };
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(missing);
            }
            news.wait(left).await;
        }
    }

    pub(super) async fn look(&self, peer: &str) -> Result<PeerLookup, AgentError> {
        let Some(known) = self.control().peer(peer).await? else {
            return Ok(PeerLookup::Unknown);
        };
        let Some(record) = self.control().lookup(peer, Descriptor::RECORD).await? else {
            return Ok(if known.is_native() {
                PeerLookup::Silent
            } else {
                PeerLookup::Dlslime(known)
            });
        };
        match serde_json::from_value(record) {
            Ok(descriptor) => Ok(PeerLookup::Found(descriptor)),
            Err(error) => {
                tracing::warn!(%peer, %error, "a peer's descriptor is malformed");
                Ok(PeerLookup::Silent)
            }
        }
    }

    /// The descriptor that `peer` has published, if it can be read.
    pub(super) async fn read_descriptor(
        &self,
        peer: &str,
    ) -> Result<Option<Descriptor>, ControlError> {
        let record = self.control().lookup(peer, Descriptor::RECORD).await?;
        Ok(record.and_then(|record| serde_json::from_value(record).ok()))
    }

    /// Waits until an incarnation of `peer` other than this one has published its descriptor, for
    /// which it looks after these pauses.
    pub(super) async fn superseded(self: &Rc<Self>, peer: &str, life: u64, pauses: Backoff) {
        let mut news = PeerNews {
            pauses: pauses.pauses(),
            ..PeerNews::new(self, peer)
        };
        loop {
            news.wait(Duration::MAX).await;
            // Wait through an outage of the control plane.
            if let Ok(Some(theirs)) = self.read_descriptor(peer).await
                && theirs.incarnation != life
            {
                return;
            }
        }
    }

    /// Returns whether this incarnation of `peer` is proved to be over: another one is registered
    /// under its alias, or its process has ended. False if the control plane cannot tell.
    pub(super) async fn is_life_over(&self, peer: &str, life: u64) -> bool {
        let Ok(Some(record)) = self.control().lookup(peer, Descriptor::RECORD).await else {
            return self.is_process_gone(peer).await;
        };
        match serde_json::from_value::<Descriptor>(record) {
            Ok(found) if found.incarnation != life => {
                let now = found.incarnation;
                tracing::info!(%peer, life, now, "a stalled peer has been replaced by another incarnation");
                true
            }
            _ => self.is_process_gone(peer).await,
        }
    }

    /// Returns whether the process that has registered as `peer` is proved to have ended.
    async fn is_process_gone(&self, peer: &str) -> bool {
        let registered = self.control().peer(peer).await;
        let has_ended = matches!(registered, Ok(Some(registered)) if registered.is_gone());
        if has_ended {
            tracing::info!(%peer, "the process of a stalled peer has ended");
        }
        has_ended
    }
}
