//! The entities of one scope.

use std::collections::BTreeMap;

use futures_util::stream::{self, Stream};
use tokio::sync::watch;

use crate::control::{Entity, EntityEvent};

/// What the residents of a town have advertised, by id.
#[derive(Debug, Default)]
pub(super) struct Notices(watch::Sender<BTreeMap<String, Notice>>);

#[derive(Debug)]
struct Notice {
    /// Alias of the resident.
    owner: String,
    entity: Entity,
}

impl Notices {
    /// Puts up an entity of a resident, in place of the one of its id.
    pub(super) fn put_up(&self, owner: &str, entity: Entity) {
        let owner = owner.to_owned();
        self.0.send_modify(|notices| {
            notices.insert(entity.id.clone(), Notice { owner, entity });
        });
    }

    /// Takes down an entity.
    pub(super) fn take_down(&self, id: &str) {
        self.0
            .send_if_modified(|notices| notices.remove(id).is_some());
    }

    /// Takes down all entities of a resident who is gone.
    pub(super) fn take_down_all(&self, owner: &str) {
        self.0.send_if_modified(|notices| {
            let before = notices.len();
            notices.retain(|_, notice| notice.owner != owner);
            notices.len() < before
        });
    }

    /// The entities of a kind.
    pub(super) fn read(&self, kind: &str) -> Vec<Entity> {
        of_kind(&self.0.borrow(), kind)
    }

    /// The entities of a kind, now and after each change. Changes that follow each other at once are seen as one.
    pub(super) fn watch(&self, kind: String) -> impl Stream<Item = EntityEvent> + Send + use<> {
        let mut notices = self.0.subscribe();
        notices.mark_changed();
        stream::unfold((notices, kind), |(mut notices, kind)| async move {
            notices.changed().await.ok()?;
            let all = of_kind(&notices.borrow_and_update(), &kind);
            Some((EntityEvent::All(all), (notices, kind)))
        })
    }
}

fn of_kind(notices: &BTreeMap<String, Notice>, kind: &str) -> Vec<Entity> {
    let entities = notices.values().map(|notice| &notice.entity);
    entities
        .filter(|entity| entity.kind == kind)
        .cloned()
        .collect()
}
