//! The entities of one scope.

use std::collections::BTreeMap;

use futures_util::stream::{self, Stream};
use tokio::sync::watch;

use crate::control::{Entity, EntityEvent};

/// The entities that the agents of a registry have advertised, by id.
#[derive(Debug, Default)]
pub(super) struct ServiceDirectory(watch::Sender<BTreeMap<String, AdvertisedService>>);

#[derive(Debug)]
struct AdvertisedService {
    /// Alias of the agent.
    owner: String,
    entity: Entity,
}

impl ServiceDirectory {
    /// Publishes an entity of an agent, in place of the one with its id.
    pub(super) fn publish(&self, owner: &str, entity: Entity) {
        let owner = owner.to_owned();
        self.0.send_modify(|services| {
            services.insert(entity.id.clone(), AdvertisedService { owner, entity });
        });
    }

    /// Removes an entity.
    pub(super) fn take_down(&self, id: &str) {
        self.0
            .send_if_modified(|services| services.remove(id).is_some());
    }

    /// Removes all entities of an agent that is gone.
    pub(super) fn take_down_all(&self, owner: &str) {
        self.0.send_if_modified(|services| {
            let before = services.len();
            services.retain(|_, service| service.owner != owner);
            services.len() < before
        });
    }

    /// The entities of a kind.
    pub(super) fn read(&self, kind: &str) -> Vec<Entity> {
        of_kind(&self.0.borrow(), kind)
    }

    /// A stream of the entities of a kind: now, and after each change. Changes in quick succession
    /// are merged.
    pub(super) fn watch(&self, kind: String) -> impl Stream<Item = EntityEvent> + Send + use<> {
        let mut services = self.0.subscribe();
        services.mark_changed();
        stream::unfold((services, kind), |(mut services, kind)| async move {
            services.changed().await.ok()?;
            let all = of_kind(&services.borrow_and_update(), &kind);
            Some((EntityEvent::All(all), (services, kind)))
        })
    }
}

fn of_kind(services: &BTreeMap<String, AdvertisedService>, kind: &str) -> Vec<Entity> {
    let entities = services.values().map(|service| &service.entity);
    entities
        .filter(|entity| entity.kind == kind)
        .cloned()
        .collect()
}
