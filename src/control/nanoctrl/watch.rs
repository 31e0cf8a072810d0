//! Follows the entities of a kind: a list, then events, and a regular check for missed ones.
//!
//! Redis publishes events on a channel and keeps none: events during a disconnection are lost, and
//! an entity that expires causes none. Three cheap commands per interval therefore check that the
//! subscription is alive, that all known entities still exist, and that the counter of changes is
//! where the events have left it. If not, or after an outage, everything is listed again. No task
//! is spawned.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, Stream, StreamExt, stream};
use redis::{
    aio::{PubSubSink, PubSubStream},
    pipe,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::outage::Outage;
use super::{http::Http, parse, session::Session, store::Epoch};
use crate::control::{ControlError, Entity, EntityEvent};

/// Most entities that are followed; further ones appear when others are gone.
const MOST_ENTITIES: usize = 16_384;

/// All events about entities of `kind`, without end. Each `interval` costs Redis three commands.
pub(super) fn events(
    http: Http,
    session: Arc<Session>,
    kind: String,
    interval: Duration,
) -> impl Stream<Item = EntityEvent> + Send {
    let follower = Follower {
        http,
        session,
        kind,
        interval: interval.max(Duration::from_secs(1)),
        line: None,
        known: BTreeSet::new(),
        revision: 0,
        ready: VecDeque::new(),
        outage: Outage::default(),
    };
    stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await;
        Some((event, follower))
    })
}

/// Follows entities, through outages.
struct Follower {
    http: Http,
    session: Arc<Session>,
    kind: String,
    interval: Duration,
    line: Option<Subscription>,
    /// Ids of the entities that were reported and are not known to have ended.
    known: BTreeSet<String>,
    /// The counter of changes, as of the last list or event.
    revision: i64,
    ready: VecDeque<EntityEvent>,
    outage: Outage,
}

/// A subscription.
struct Subscription {
    sink: PubSubSink,
    messages: PubSubStream,
    epoch: Epoch,
    next_look: Instant,
}

/// Why the entities cannot be followed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the subscription has ended")]
    Ended,
    #[error("the subscription is dead: {0}")]
    Dead(String),
}

impl Follower {
    async fn next(&mut self) -> EntityEvent {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            match self.follow().await {
                Ok(()) => self.outage_is_over(),
                Err(failure) => self.sit_out(&failure).await,
            }
        }
    }

    /// Takes one step; the results are in `ready` afterwards.
    async fn follow(&mut self) -> Result<(), Failure> {
        let epoch = self.session.store.epoch();
        let Some(line) = &mut self.line else {
            return self.begin().await;
        };
        if line.epoch != epoch {
            return self.begin().await;
        }
        match timeout_at(line.next_look, line.messages.next()).await {
            Ok(Some(message)) => {
                self.take(message.get_payload_bytes());
                Ok(())
            }
            Ok(None) => Err(Failure::Ended),
            Err(_) => self.look().await,
        }
    }

    /// Subscribes first, so that no event is missed between the list and the subscription.
    async fn begin(&mut self) -> Result<(), Failure> {
        let channel = self.session.keys.entity_events(Entity::TYPE);
        let (line, epoch) = self.session.store.subscribe(&channel).await?;
        let (sink, messages) = line.split();
        let (revision, _) = self.ask().await?;
        self.list(revision).await?;
        self.line = Some(Subscription {
            sink,
            messages,
            epoch,
            next_look: Instant::now() + self.interval,
        });
        Ok(())
    }

    async fn list(&mut self, revision: i64) -> Result<(), Failure> {
        let mut all = self.http.entities(&self.kind).await?;
        if all.len() > MOST_ENTITIES {
            tracing::warn!(kind = self.kind, entities = all.len(), "too many entities");
            all.truncate(MOST_ENTITIES);
        }
        self.known = all.iter().map(|entity| entity.id.clone()).collect();
        self.revision = revision;
        self.ready.push_back(EntityEvent::All(all));
        Ok(())
    }

    /// Reads the counter of changes, and how many of the known entities exist.
    async fn ask(&self) -> Result<(i64, usize), Failure> {
        let keys = &self.session.keys;
        let mut commands = pipe();
        commands.cmd("GET").arg(keys.entity_revision(Entity::TYPE));
        if !self.known.is_empty() {
            let known = self.known.iter().map(|id| keys.entity(Entity::TYPE, id));
            commands.cmd("EXISTS").arg(known.collect::<Vec<_>>());
        }
        let mut answers: Vec<redis::Value> = self.session.store.query(&commands).await?;
        let count = answers.get(1).map_or(0, |count| match count {
            redis::Value::Int(count) => usize::try_from(*count).unwrap_or_default(),
            _ => 0,
        });
        let revision = match answers.swap_remove(0) {
            redis::Value::BulkString(digits) => std::str::from_utf8(&digits)
                .ok()
                .and_then(|digits| digits.parse().ok())
                .unwrap_or_default(),
            _ => 0,
        };
        Ok((revision, count))
    }

    /// Checks whether an event was missed.
    async fn look(&mut self) -> Result<(), Failure> {
        let known = self.known.len();
        let (revision, count) = self.ask().await?;
        let patience = self.interval;
        let Some(line) = &mut self.line else {
            return Ok(());
        };
        let pong = timeout(patience, line.sink.ping::<redis::Value>()).await;
        match pong {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(Failure::Dead(error.to_string())),
            Err(_) => return Err(Failure::Dead(format!("no answer within {patience:?}"))),
        }
        line.next_look = Instant::now() + self.interval;
        // What was published before the counter was read has arrived before the answer to the ping.
        let before = self.revision;
        while let Some(message) = self.arrived() {
            self.take(message?.get_payload_bytes());
        }
        if count < known || revision < before || revision > self.revision {
            tracing::debug!(
                kind = self.kind,
                count,
                known,
                revision,
                "changes were missed"
            );
            self.list(revision).await?;
        }
        Ok(())
    }

    /// The next message that has arrived already.
    fn arrived(&mut self) -> Option<Result<redis::Msg, Failure>> {
        let message = self.line.as_mut()?.messages.next().now_or_never()?;
        Some(message.ok_or(Failure::Ended))
    }

    fn take(&mut self, message: &[u8]) {
        let (revision, event) = match parse::entity_event(message) {
            Ok(read) => read,
            Err(reason) => {
                tracing::warn!(reason, "skipped a malformed event");
                return;
            }
        };
        self.revision = revision;
        match event {
            EntityEvent::Added(entity) if entity.kind == self.kind => {
                if self.known.len() >= MOST_ENTITIES && !self.known.contains(&entity.id) {
                    tracing::warn!(kind = self.kind, id = entity.id, "too many entities");
                    return;
                }
                self.known.insert(entity.id.clone());
                self.ready.push_back(EntityEvent::Added(entity));
            }
            // An entity that changes to another kind is gone for watchers of this one.
            EntityEvent::Added(Entity { id, .. }) | EntityEvent::Removed { id } => {
                if self.known.remove(&id) {
                    self.ready.push_back(EntityEvent::Removed { id });
                }
            }
            EntityEvent::All(_) => {}
        }
    }

    /// Warns once per outage, drops the subscription and pauses, each time for longer.
    async fn sit_out(&mut self, failure: &Failure) {
        self.line = None;
        let kind = &self.kind;
        let begin = || tracing::warn!(kind, %failure, "entities cannot be followed; waiting");
        self.outage.sit_out(begin).await;
    }

    fn outage_is_over(&mut self) {
        if self.outage.end() {
            tracing::info!(kind = self.kind, "entities can be followed again");
        }
    }
}
