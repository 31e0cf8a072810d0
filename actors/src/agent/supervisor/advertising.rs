//! Registers services with the control plane, for discovery by type.
//!
//! A service that accepts any caller is registered as an entity of the control plane. A service
//! that is limited to a peer, or served one request at a time, is not: a stranger could not rely on
//! it. Registration is optional: its failure never fails a service, and serving waits for it only
//! as long as the control plane answers quickly.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use slimerpc::backoff::Backoff;
use slimerpc::channel::ServiceTable;
use slimerpc::control::{ControlError, Entity, ServiceRecord};
use tokio::time::{sleep, timeout};

use super::AgentState;

/// How long serving, or ending a service, waits for the control plane. After that the registration
/// goes on in the background.
const PATIENCE: Duration = Duration::from_millis(250);
/// Pauses between attempts.
const BACKOFF: Backoff = Backoff::doubling(Duration::from_millis(500), Duration::from_secs(15));

/// Ids of the entities of advertised services, by service name. A service that is served again gets
/// another id.
#[derive(Default)]
pub(super) struct Advertised(RefCell<HashMap<String, String>>);

impl Advertised {
    fn has(&self, service: &str, id: &str) -> bool {
        self.0.borrow().get(service).is_some_and(|held| held == id)
    }
}

impl AgentState {
    /// Advertises a service after it was published.
    pub(super) async fn advertise(self: &Rc<Self>, table: &ServiceTable, type_name: &str) {
        let number = self.next.replace(self.next.get().wrapping_add(1));
        let incarnation = self.descriptor.borrow().incarnation;
        // An alias contains no slash, so no two services have the same id.
        let id = format!(
            "{}/{}/{incarnation:016x}-{number:x}",
            self.alias, table.name
        );
        let record = ServiceRecord {
            alias: self.alias.clone(),
            incarnation,
            name: table.name.clone(),
            type_name: type_name.to_owned(),
            methods: table.methods.clone(),
            signatures: table.signatures.clone(),
            codec: table.codec.clone(),
            wire_version: self.descriptor.borrow().wire_version,
            since: unix_millis(),
            process: ServiceRecord::this_process(),
        };
        let held = (table.name.clone(), id.clone());
        self.advertised.0.borrow_mut().insert(held.0, held.1);
        let trying = self
            .clone()
            .keep_advertising(table.name.clone(), record.entity(id));
        let _ = timeout(PATIENCE, actix::spawn(trying)).await;
    }

    /// Repeats until the registration succeeds, is no longer wanted, or is known to be useless.
    async fn keep_advertising(self: Rc<Self>, service: String, entity: Entity) {
        let mut pauses = BACKOFF.pauses();
        while !self.left.get() && self.advertised.has(&service, &entity.id) {
            let pause = pauses.take();
            match self.control().advertise(entity.clone()).await {
                Ok(()) => return,
                // The server may be an old one without entities. Heartbeats check whether that is
                // still so.
                Err(
                    error @ ControlError::Refused {
                        status: 400..=499, ..
                    },
                ) => {
                    tracing::warn!(service, %error, "the service is served, but can be found by alias only");
                    return;
                }
                Err(error) => {
                    tracing::warn!(service, %error, ?pause, "the service is served, but cannot be found yet");
                }
            }
            sleep(pause).await;
        }
    }

    /// Removes a service from discovery.
    pub(super) async fn retract(self: &Rc<Self>, service: &str) {
        let Some(id) = self.advertised.0.borrow_mut().remove(service) else {
            return;
        };
        let state = self.clone();
        let retracting = async move {
            if let Err(error) = state.control().retract(&id).await {
                tracing::warn!(id, %error, "a service that has ended is found until it expires");
            }
        };
        let _ = timeout(PATIENCE, actix::spawn(retracting)).await;
    }
}

fn unix_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
