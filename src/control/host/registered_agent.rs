//! An agent that is registered on its host.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::stream::{self, Stream};
use serde_json::Value;
use tokio::{
    net::UnixDatagram,
    select,
    sync::{oneshot, watch},
    time::{sleep, timeout},
};

use super::directory::failed;
use super::scope::{LockedScope, MAIL_CAME, Scope, SocketId};
use super::threads::blocking;
use crate::control::{
    ControlError, Entity, EntityEvent, PeerRecord, Registration, life::Life, mail_log::MailLog,
};

/// Longest time until somebody who watches entities notices that their owner has crashed.
const WATCH_POLL: Duration = Duration::from_secs(5);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Most messages that are answered by one look.
const MESSAGES: usize = 64;
/// Messages that a socket has room for, whatever the system's limit.
const FEW: usize = 4;

/// One registered agent. Its methods block while another process has the scope locked.
#[derive(Debug)]
pub(super) struct RegisteredAgent {
    pub(super) alias: String,
    pub(super) scope: Scope,
    life: Arc<Life<Self>>,
    pub(super) mail: Arc<MailLog>,
    /// Changes when something in the scope may have changed.
    news: watch::Sender<()>,
    published: Mutex<Published>,
}

/// What an agent publishes. It is written again if its files vanish or are changed by others.
#[derive(Debug)]
pub(super) struct Published {
    record: PeerRecord,
    pub(super) topology: Vec<String>,
    pub(super) records: BTreeMap<String, Value>,
    pub(super) entities: BTreeMap<String, Entity>,
    socket: Option<BoundSocket>,
    /// Whether all of it is in files, as far as this process knows.
    is_written: bool,
    has_left: bool,
}

#[derive(Debug)]
struct BoundSocket {
    id: SocketId,
    /// Its end ends the task that has the socket.
    _owner: oneshot::Sender<()>,
}

impl RegisteredAgent {
    /// Registers an agent, which lives no longer than `life`.
    pub(super) fn register(
        scope: Scope,
        registration: Registration,
        life: Arc<Life<Self>>,
    ) -> Result<Arc<Self>, ControlError> {
        let mut record = PeerRecord::from(registration);
        // It may take the space that this agent needs.
        scope.sweep_all(&record.alias);
        let locking = scope.clone();
        let locked = LockedScope::lock(&locking)?;
        if record.alias.is_empty() {
            record.alias = locked.generate_name()?;
        }
        let agent = Arc::new(Self {
            alias: record.alias.clone(),
            scope,
            life,
            mail: Arc::default(),
            news: watch::Sender::new(()),
            published: Mutex::new(Published {
                record,
                topology: Vec::new(),
                records: BTreeMap::new(),
                entities: BTreeMap::new(),
                socket: None,
                is_written: false,
                has_left: false,
            }),
        });
        agent.settle(&mut agent.published(), &locked)?;
        Ok(agent)
    }

    /// Changes what this agent publishes, and writes what is published then. If that is not
    /// possible, a later operation writes it.
    pub(super) fn change(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Published),
        write: impl FnOnce(&Published, &LockedScope<'_>) -> Result<(), ControlError>,
    ) -> Result<(), ControlError> {
        change(&mut self.published());
        let written = self.settled(|published, scope| write(published, scope));
        if written.is_err() {
            self.published().is_written = false;
        }
        written
    }

    /// Writes again what others have removed or changed since, and removes what crashed agents have
    /// left.
    pub(super) fn refresh(self: &Arc<Self>) -> Result<(), ControlError> {
        self.published().is_written = false;
        self.with(|scope| scope.sweep(None))
    }

    /// Does something while this agent is registered.
    pub(super) fn with<T>(
        self: &Arc<Self>,
        act: impl FnOnce(&LockedScope<'_>) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        self.settled(|_, scope| act(scope))
    }

    /// Does something once this agent is registered and everything is written. The scope is locked
    /// first, so that several who wait for it do so at the same time.
    fn settled<T>(
        self: &Arc<Self>,
        act: impl FnOnce(&Published, &LockedScope<'_>) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let scope = LockedScope::lock(&self.scope)?;
        let mut published = self.published();
        if published.has_left {
            // Locking may have made it again.
            scope.remove_if_unused()?;
            return Err(ControlError::NotRegistered);
        }
        self.settle(&mut published, &scope)?;
        act(&published, &scope)
    }

    /// Leaves; later operations fail.
    pub(super) fn leave(&self) -> Result<(), ControlError> {
        self.published().has_left = true;
        let scope = LockedScope::lock(&self.scope)?;
        match self.published().socket.take() {
            Some(socket) if scope.holds(&self.alias, socket.id) => scope.leave(&self.alias),
            _ => Ok(()),
        }
    }

    /// Registers, also again if somebody has removed this agent's files, and writes what is
    /// missing.
    fn settle(
        self: &Arc<Self>,
        published: &mut Published,
        scope: &LockedScope<'_>,
    ) -> Result<(), ControlError> {
        let alias = &self.alias;
        let is_there = |socket: &BoundSocket| scope.holds(alias, socket.id);
        let is_registered = published.socket.as_ref().is_some_and(is_there);
        if is_registered && published.is_written {
            return Ok(());
        }
        published.is_written = false;
        if is_registered {
            scope.introduce(&published.record)?;
        } else {
            let (socket, id) = scope.enter(&published.record)?;
            published.socket = Some(self.listen(socket, id)?);
            // There may be mail.
            scope.ring(alias);
        }
        scope.declare(alias, &published.topology)?;
        scope.enter_in_indexes(alias, published.topology.iter())?;
        for (name, record) in &published.records {
            scope.publish(alias, name, Some(record))?;
        }
        for (id, entity) in &published.entities {
            scope.advertise(alias, id, Some(entity))?;
        }
        scope.remove_others(alias, published.records.keys(), published.entities.keys())?;
        published.is_written = true;
        Ok(())
    }

    /// Looks into the files whenever the socket says so.
    fn listen(
        self: &Arc<Self>,
        socket: std::os::unix::net::UnixDatagram,
        id: SocketId,
    ) -> Result<BoundSocket, ControlError> {
        let socket = UnixDatagram::from_std(socket).map_err(failed(&self.scope.path))?;
        let (owner, ended) = oneshot::channel();
        let (agent, life) = (Arc::clone(self), Arc::clone(&self.life));
        tokio::spawn(async move {
            let looking = async {
                loop {
                    // Anybody of this user can send anything: it means no more than a look.
                    let mut message = [0];
                    let heard = socket.recv(&mut message).await;
                    let mut is_mail = heard.as_ref().is_ok_and(|len| message[..*len] == MAIL_CAME);
                    let mut more = 0;
                    while more < MESSAGES
                        && let Ok(len) = socket.try_recv(&mut message)
                    {
                        is_mail &= message[..len] == MAIL_CAME;
                        more += 1;
                    }
                    // Behind many, others may have found no room.
                    is_mail &= more < FEW;
                    if heard.is_err() {
                        sleep(RETRY).await;
                    }
                    // What was told is told once, so this is looked into until it succeeds.
                    while !agent.look(is_mail).await {
                        sleep(RETRY).await;
                        // More may have come meanwhile.
                        is_mail = false;
                    }
                }
            };
            select! {
                _ = ended => {}
                () = life.ended() => {}
                () = looking => {}
            }
        });
        Ok(BoundSocket { id, _owner: owner })
    }

    /// Fetches new mail, and tells watchers to look, unless mail is all that came. Returns whether
    /// that was possible.
    async fn look(self: &Arc<Self>, is_mail: bool) -> bool {
        if !is_mail {
            self.news.send_replace(());
        }
        if !self.scope.has_mail(&self.alias) {
            return true;
        }
        let agent = Arc::clone(self);
        let take = move || agent.with(|scope| scope.take_mail(&agent.alias));
        let fetched = self.scope.in_turn(take).await;
        match fetched {
            Ok(events) => {
                events.into_iter().for_each(|event| self.mail.push(event));
                true
            }
            Err(ControlError::NotRegistered) => true,
            Err(error) => {
                tracing::warn!(alias = self.alias, %error, "cannot fetch mail; trying again");
                false
            }
        }
    }

    /// A stream of the entities of a kind: now, and after each change.
    pub(super) fn watch(
        self: Arc<Self>,
        kind: String,
    ) -> impl Stream<Item = EntityEvent> + Send + use<> {
        let mut news = self.news.subscribe();
        news.mark_changed();
        let following = (self, news, kind, None);
        stream::unfold(following, |(agent, mut news, kind, known)| async move {
            loop {
                let _ = timeout(WATCH_POLL, news.changed()).await;
                let (asked, of) = (Arc::clone(&agent), kind.clone());
                let listed = blocking(move || asked.scope.entities(&of)).await;
                match listed {
                    Ok(all) if known.as_ref() == Some(&all) => {}
                    Ok(all) => {
                        let known = Some(all.clone());
                        return Some((EntityEvent::All(all), (agent, news, kind, known)));
                    }
                    Err(ControlError::NotRegistered) => return None,
                    Err(error) => {
                        tracing::warn!(%error, "cannot list entities; trying again");
                        sleep(RETRY).await;
                    }
                }
            }
        })
    }

    /// Every change is complete before anything can panic, so a poisoned lock is still good.
    fn published(&self) -> MutexGuard<'_, Published> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;
    use tempfile::TempDir;

    use super::super::Host;
    use super::*;
    use crate::control::{Control, Mail, MailEvent};
    use futures_util::StreamExt;

    const LONG: Duration = Duration::from_secs(30);

    async fn registered(directory: &TempDir, alias: &str) -> Host {
        let host = Host::at(directory.path().join("agents"), "");
        let registration = Registration {
            alias: Some(alias.to_owned()),
            ..Registration::default()
        };
        host.register(registration).await.unwrap();
        host
    }

    /// The scope is locked for longer than an agent waits for it.
    #[tokio::test(flavor = "multi_thread")]
    async fn mail_that_could_not_be_fetched_is_fetched_later() {
        let directory = TempDir::new().unwrap();
        let a = registered(&directory, "a").await;
        let mut received = a.mail();
        let scope = a.life.current().unwrap().scope.clone();
        let locked = LockedScope::lock(&scope).unwrap();
        let mail = MailEvent::Mail(Mail::new("test"));
        locked.post("a", &mail).unwrap();
        let early = timeout(Duration::from_secs(6), received.next()).await;
        assert!(early.is_err(), "{early:?}");
        drop(locked);
        let event = timeout(LONG, received.next()).await.unwrap();
        assert!(matches!(event, Some(MailEvent::Mail(_))), "{event:?}");
    }

    #[tokio::test]
    async fn mail_has_nobody_list_the_entities_of_all_agents() {
        let directory = TempDir::new().unwrap();
        let a = registered(&directory, "a").await;
        let b = registered(&directory, "b").await;
        let mut received = a.mail();
        let mut news = a.life.current().unwrap().news.subscribe();
        // What registering has told it comes first.
        while timeout(Duration::from_millis(300), news.changed())
            .await
            .is_ok()
        {}
        for number in 0..10 {
            let mail = Mail::new("test").with("number", number.to_string());
            b.send_mail("a", &mail).await.unwrap();
            let event = timeout(LONG, received.next()).await.unwrap();
            assert!(matches!(event, Some(MailEvent::Mail(_))), "{event:?}");
        }
        assert!(!news.has_changed().unwrap());
        let entity = Entity {
            kind: "test".to_owned(),
            id: "it".to_owned(),
            metadata: json!({}),
        };
        b.advertise(entity).await.unwrap();
        timeout(LONG, news.changed()).await.unwrap().unwrap();
    }
}
