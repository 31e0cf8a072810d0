//! Answers callers that want to be connected with a service.
//!
//! Both sides must declare the same service (TYPE-1). The server publishes a table with the types
//! of each method. The caller compares it with its own declaration whenever it connects a proxy: at
//! first and again after a loss, of a peer or of its own agent. It calls only methods that both
//! declare with the same types, however a call is made: by a group, as a message that nobody waits
//! for, as a stream. Method numbers are those of the table that was read, so the caller's open says
//! which table that was.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use slimerpc::backoff::Backoff;
use slimerpc::channel::{Endpoint, Mailbox, Mismatch, ServiceTable};
use slimerpc::control::{ControlError, Mail};
use slimerpc::wire::WIRE_VERSION;
use tokio::time::sleep;

use super::AgentState;
use crate::agent::handshake::{Answer, Open};

/// How long an answer is tried to be sent to a caller that does not say how long it waits.
pub(super) const ANSWERING: Duration = Duration::from_secs(10);
/// For how long at most, whatever a caller says.
const LONGEST: Duration = Duration::from_secs(600);
/// Pauses between two attempts.
const ANSWER_PAUSES: Backoff =
    Backoff::doubling(Duration::from_millis(10), Duration::from_millis(250));

/// Most peers for which the log line is remembered; others choose their names.
const MOST: usize = 1024;

/// Peers of earlier releases, whose types cannot be compared, with the service. Each is logged
/// once.
#[derive(Default)]
pub(super) struct Untyped(RefCell<HashSet<(String, String)>>);

impl Untyped {
    fn is_new(&self, peer: &str, service: &str) -> bool {
        let mut known = self.0.borrow_mut();
        known.len() < MOST && known.insert((peer.to_owned(), service.to_owned()))
    }
}

impl AgentState {
    pub(super) async fn answer(self: Rc<Self>, peer: String, open: Open) {
        let (asked, patience) = (Instant::now(), open.patience);
        let answer = Answer {
            id: open.id,
            result: self.let_in(&peer, open).await,
        };
        if let Err(mismatch) = &answer.result {
            tracing::info!(%peer, %mismatch, "caller refused");
        }
        let patience = patience.map_or(ANSWERING, Duration::from_millis);
        let patience = patience.min(LONGEST);
        let left = patience.saturating_sub(asked.elapsed());
        self.send_answer(&peer, &answer.to_mail(&self.alias), left)
            .await;
    }

    /// Sends an answer to a caller, who waits for it so long.
    pub(super) async fn send_answer(&self, peer: &str, mail: &Mail, limit: Duration) {
        let sent = persist(limit, async || self.control().send_mail(peer, mail).await).await;
        if let Err(error) = sent {
            tracing::warn!(%peer, %error, "a caller could not be answered");
        }
    }

    pub(super) async fn let_in(&self, peer: &str, open: Open) -> Result<Endpoint, Mismatch> {
        let found = self.descriptor.borrow().incarnation;
        check_life(open.to, found, open.wire_version)?;
        if open.endpoint.geometry != self.settings.geometry {
            return Err(Mismatch::Geometry {
                ours: self.settings.geometry,
                theirs: open.endpoint.geometry,
            });
        }
        let service = self.services.borrow().get(&open.service).cloned();
        let Some(service) = service else {
            let served = self.services.borrow().keys().cloned().collect();
            return Err(Mismatch::NoSuchService {
                wanted: open.service,
                served,
            });
        };
        if service.only.as_deref().is_some_and(|only| only != peer) {
            return Err(Mismatch::NotServed {
                service: open.service,
                peer: peer.to_owned(),
            });
        }
        if self.descriptor.borrow().down.contains(&open.service) {
            return Err(Mismatch::ServiceDown {
                service: open.service,
            });
        }
        self.check_table(peer, &open.service, open.table)?;
        let devices = &self.settings.devices;
        let Some(memory) = devices.on(open.link) else {
            return Err(Mismatch::Link {
                ours: devices.links(),
                theirs: vec![open.link],
                same_host: true,
            });
        };
        let (who, endpoint) = (peer.to_owned(), open.endpoint);
        let patience = open.patience.map(Duration::from_millis);
        let until = patience.and_then(|patience| Instant::now().checked_add(patience));
        let accept = move |mailbox: &mut Mailbox| {
            // An instance that was busy has those to accept that have given up and asked again.
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(None);
            }
            mailbox.accept(&who, open.from, &endpoint).map(Some)
        };
        let part = if open.parallel {
            service.front()
        } else {
            &service.serial
        };
        match part.mailbox(memory, accept).await {
            Some(Ok(Some(endpoint))) => Ok(endpoint),
            Some(Ok(None)) => Err(Mismatch::Connect(
                "the caller has stopped waiting, as the service was busy".to_owned(),
            )),
            Some(Err(error)) => Err(Mismatch::Connect(error.to_string())),
            None => Err(Mismatch::Connect(format!(
                "service `{}` is down",
                open.service
            ))),
        }
    }

    /// Logs which methods of a service of `peer` cannot be called.
    pub(super) fn note_agreement(&self, peer: &str, ours: &ServiceTable, theirs: &ServiceTable) {
        for mismatch in theirs.differences(ours) {
            tracing::warn!(
                peer,
                service = theirs.name,
                %mismatch,
                "a method has other types at the peer and cannot be called"
            );
        }
        if !theirs.is_typed() && ours.is_typed() && self.untyped.is_new(peer, &theirs.name) {
            tracing::warn!(
                peer,
                service = theirs.name,
                "a peer of an earlier release does not say which types its methods have; they cannot be compared with ours"
            );
        }
    }

    /// Checks that `table` is that of the service as it is served now.
    pub(super) fn check_table(
        &self,
        peer: &str,
        service: &str,
        table: Option<u64>,
    ) -> Result<(), Mismatch> {
        let Some(table) = table else {
            if self.untyped.is_new(peer, service) {
                tracing::warn!(
                    peer,
                    service,
                    "a caller of an earlier release does not compare the types of methods"
                );
            }
            return Ok(());
        };
        let descriptor = self.descriptor.borrow();
        let mut services = descriptor.services.iter();
        match services.find(|ours| ours.name == service) {
            Some(ours) if ours.fingerprint() == table => Ok(()),
            _ => Err(Mismatch::ServiceChanged {
                service: service.to_owned(),
            }),
        }
    }
}

/// Checks that a caller means this incarnation (FENCE-1), and uses the same wire version.
pub(super) fn check_life(meant: u64, found: u64, wire_version: u32) -> Result<(), Mismatch> {
    if meant != found {
        return Err(Mismatch::Incarnation { meant, found });
    }
    if wire_version != WIRE_VERSION {
        return Err(Mismatch::WireVersion {
            ours: WIRE_VERSION,
            theirs: wire_version,
        });
    }
    Ok(())
}

/// Sends until that succeeds, fails for good, or has been tried for so long. A limit of the system
/// passes when callers that were refused for it give back what they took, and a control plane that
/// is away or busy comes back: whoever is not answered waits out its time.
pub(super) async fn persist(
    limit: Duration,
    send: impl AsyncFn() -> Result<(), ControlError>,
) -> Result<(), ControlError> {
    let (started, mut pauses) = (Instant::now(), ANSWER_PAUSES.pauses());
    loop {
        match send().await {
            Err(error) if error.may_pass() && started.elapsed() < limit => {}
            sent => return sent,
        }
        sleep(pauses.take()).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn is_locked() -> ControlError {
        ControlError::HostDirectory {
            path: "/run/slimerpc/job".to_owned(),
            reason: "another process has kept its lock for 5s".to_owned(),
        }
    }

    #[actix::test]
    async fn an_answer_outlives_what_passes_and_nothing_else() {
        let tried = Cell::new(0);
        let next = || tried.replace(tried.get() + 1);
        let busy_at_first = async || match next() {
            0..3 => Err(is_locked()),
            _ => Ok(()),
        };
        persist(LONG, busy_at_first).await.unwrap();
        assert_eq!(tried.take(), 4);

        let refused = persist(LONG, async || {
            next();
            Err(ControlError::NotRegistered)
        });
        assert!(matches!(refused.await, Err(ControlError::NotRegistered)));
        assert_eq!(tried.take(), 1, "that does not pass");

        let always = persist(Duration::from_millis(50), async || Err(is_locked()));
        let error = always.await.unwrap_err();
        assert!(
            matches!(error, ControlError::HostDirectory { .. }),
            "{error}"
        );
    }
}
