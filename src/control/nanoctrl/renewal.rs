//! Staying registered: heartbeats, and coming back when the control plane was away or has forgotten us.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join;
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, sleep},
};

use super::{
    http::{Http, Registered},
    leases::Renewed,
    session::{NameOwner, Session},
};
use crate::backoff::Backoff;
use crate::control::{ControlError, Registration, life::Life, names::check_alias};

/// Between attempts to be back after an outage. Thousands of agents are not to come back at the same moment.
const BACKOFF: Backoff =
    Backoff::doubling(Duration::from_millis(100), Duration::from_secs(2)).with_jitter(0.25);

/// Keeps one agent registered. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Renewal {
    pub(super) http: Http,
    pub(super) life: Arc<Life<Session>>,
    pub(super) state: Arc<RenewalState>,
}

/// What renewals of one agent have to know of each other.
#[derive(Debug, Default)]
pub(super) struct RenewalState {
    /// One renewal at a time: two would find each other's half-done registration.
    turn: Mutex<()>,
    /// We have asked to be registered again and not yet claimed the answer.
    is_rejoining: AtomicBool,
    /// Another has our name.
    is_displaced: AtomicBool,
    /// Something went wrong that may be over soon.
    is_wanted: Notify,
}

impl Renewal {
    /// Has [`recover`](Self::recover) look at once whether we are still registered.
    pub(super) fn look_soon(&self) {
        self.state.is_wanted.notify_one();
    }

    /// Renews until that works, whenever there is reason to believe that it does not: a renewal failed, or Redis was away.
    /// So we are back a few seconds after the control plane is, and not with the next heartbeat.
    pub(super) async fn recover(self, session: Arc<Session>) {
        loop {
            tokio::select! {
                () = self.state.is_wanted.notified() => {}
                () = self.life.ended() => return,
            }
            let (start, mut pauses) = (Instant::now(), BACKOFF.pauses());
            while let Err(error) = self.renew_all(&session).await {
                if !is_passing(&error) || self.life.current().is_err() {
                    tracing::warn!(alias = session.alias, %error, "not registered");
                    break;
                }
                sleep(pauses.take()).await;
            }
            tracing::debug!(alias = session.alias, took = ?start.elapsed(), "looked after the registration");
        }
    }

    /// Keeps registration and entities alive, and brings back those that are gone.
    pub(super) async fn renew_all(&self, session: &Session) -> Result<(), ControlError> {
        let _turn = self.state.turn.lock().await;
        match self.renew(session).await {
            Ok(()) => self.renew_entities(session).await,
            Err(
                error @ (ControlError::AliasTaken { .. }
                | ControlError::RedisUnreachable { .. }
                | ControlError::RedisLogin { .. }
                | ControlError::RedisRefused { .. }),
            ) => Err(error),
            // NanoCtrl is away, or in trouble. Redis is enough to keep entities alive.
            Err(error) => self.renew_entities(session).await.and(Err(error)),
        }
    }

    /// Keeps the registration alive, in Redis and by NanoCtrl: either may have lost it.
    async fn renew(&self, session: &Session) -> Result<(), ControlError> {
        let heartbeat = async {
            // The server renews whatever has our name. What is another's is not for us to keep alive.
            match self.is_displaced() {
                true => Ok(true),
                false => self.http.heartbeat(&session.alias).await,
            }
        };
        let (renewed, known) = join(session.renew(), heartbeat).await;
        let owner = match &renewed {
            Ok(renewed) => Ok(renewed.owner),
            Err(_) => Err(()),
        };
        match (owner, known) {
            // Redis has moved, maybe: the server looks at another than we.
            (Ok(NameOwner::Us) | Err(_), Ok(false)) => self.rejoin(session).await,
            (Ok(NameOwner::Us | NameOwner::Unclaimed), _)
                if self.state.is_rejoining.load(Ordering::SeqCst) =>
            {
                self.restore(session).await
            }
            (Ok(NameOwner::Us), Ok(true)) => self.bring_back(session, renewed?).await,
            (Ok(NameOwner::Us), Err(error)) => {
                session.publish_lost(&renewed?.lost).await?;
                Err(error)
            }
            (Ok(NameOwner::Nobody), _) => self.rejoin(session).await,
            (Ok(NameOwner::Other | NameOwner::Unclaimed), _) => Err(self.displaced(session)),
            (Err(()), Ok(true)) => {
                self.ask_for_redis(session).await;
                renewed.map(drop)
            }
            (Err(()), Err(_)) => renewed.map(drop),
        }
    }

    /// Publishes what the control plane has lost of us, or removed for want of memory, although we are registered.
    async fn bring_back(&self, session: &Session, renewed: Renewed) -> Result<(), ControlError> {
        session.publish_lost(&renewed.lost).await?;
        match session.topology() {
            Some(peers) if renewed.is_topology_lost => {
                tracing::warn!(
                    alias = session.alias,
                    "Redis has lost our topology; declaring it again"
                );
                self.http.set_topology(&session.alias, &peers).await
            }
            _ => Ok(()),
        }
    }

    /// The server reaches Redis and we do not: Redis may have moved, with all that was in it.
    async fn ask_for_redis(&self, session: &Session) {
        match self.http.redis_address().await {
            Ok(address) => session.store.try_instead(&address),
            Err(error) => tracing::debug!(%error, "NanoCtrl does not say where Redis is"),
        }
    }

    /// Registers again under our name after the control plane forgot us, and publishes everything anew.
    async fn rejoin(&self, session: &Session) -> Result<(), ControlError> {
        tracing::warn!(
            alias = session.alias,
            "NanoCtrl has forgotten us; registering again"
        );
        self.state.is_rejoining.store(true, Ordering::SeqCst);
        let registration = session.registration();
        let (life, limit) = (&session.incarnation, self.http.timeout);
        let answer = match self.http.register(&registration, life, limit).await {
            Ok(answer) => checked(answer, &registration)?,
            Err(ControlError::AliasTaken { .. }) => {
                self.state.is_rejoining.store(false, Ordering::SeqCst);
                return Err(self.displaced(session));
            }
            // A timeout leaves open whether we are registered now; the next renewal will tell.
            Err(error) => return Err(error),
        };
        if self.life.current().is_err() {
            // We have left meanwhile, and nobody would give the name back.
            let cleaned = self.http.clean_up(&session.alias, Some(life)).await;
            return cleaned.map(drop);
        }
        session.store.retarget(&answer.redis_address)?;
        self.restore(session).await
    }

    /// Claims our new registration and publishes records and topology again.
    async fn restore(&self, session: &Session) -> Result<(), ControlError> {
        session.claim().await?;
        self.state.is_rejoining.store(false, Ordering::SeqCst);
        self.state.is_displaced.store(false, Ordering::SeqCst);
        session.publish_all().await?;
        match session.topology() {
            Some(peers) => self.http.set_topology(&session.alias, &peers).await,
            None => Ok(()),
        }
    }

    /// Whether the name is somebody else's, as far as Redis knows now. A registration that says nothing about its owner is
    /// ours only while we register again.
    pub(super) fn is_others(&self, owner: NameOwner) -> bool {
        match owner {
            NameOwner::Us | NameOwner::Nobody => false,
            NameOwner::Other => true,
            NameOwner::Unclaimed => !self.state.is_rejoining.load(Ordering::SeqCst),
        }
    }

    /// Whether the name was somebody else's when we last looked.
    pub(super) fn is_displaced(&self) -> bool {
        self.state.is_displaced.load(Ordering::SeqCst)
    }

    /// Refuses to act under a name that is somebody else's now.
    pub(super) async fn check_owner(&self, session: &Session) -> Result<(), ControlError> {
        self.check(session, session.keep().await?)
    }

    /// Refuses if the name has turned out to be somebody else's, and has a lost one looked after soon.
    pub(super) fn check(&self, session: &Session, owner: NameOwner) -> Result<(), ControlError> {
        if self.is_others(owner) {
            return Err(self.displaced(session));
        }
        if owner == NameOwner::Nobody {
            self.look_soon();
        }
        Ok(())
    }

    /// Another has our name (FENCE-1): we are nobody until it is free again.
    fn displaced(&self, session: &Session) -> ControlError {
        if !self.state.is_displaced.swap(true, Ordering::SeqCst) {
            tracing::error!(
                alias = session.alias,
                "another agent has taken our name while we were away; peers do not find us"
            );
        }
        taken(session)
    }
}

/// The error of those whose name is another's.
pub(super) fn taken(session: &Session) -> ControlError {
    ControlError::AliasTaken {
        alias: session.alias.clone(),
        scope: session.keys.scope().to_owned(),
        holder: String::new(),
    }
}

/// The name answered must be the one asked for, or one that can be used.
pub(super) fn checked(
    answer: Registered,
    registration: &Registration,
) -> Result<Registered, ControlError> {
    let is_wanted = registration
        .alias
        .as_ref()
        .is_none_or(|alias| *alias == answer.name);
    if !is_wanted || check_alias(&answer.name).is_err() {
        return Err(ControlError::Malformed {
            what: "NanoCtrl's answer to /start_peer_agent".to_owned(),
            reason: "it gives us a name that we cannot use".to_owned(),
        });
    }
    Ok(answer)
}

/// Whether the same request may succeed a moment later.
pub(super) fn is_passing(error: &ControlError) -> bool {
    match error {
        ControlError::NanoCtrlUnreachable { .. }
        | ControlError::RedisUnreachable { .. }
        | ControlError::Timeout { .. } => true,
        ControlError::Refused { status, .. } => *status >= 500,
        // While it loads what it has stored, or its users, for instance.
        ControlError::RedisRefused { .. } | ControlError::RedisLogin { .. } => true,
        _ => false,
    }
}
