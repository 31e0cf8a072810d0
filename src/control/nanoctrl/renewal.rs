//! Keeps an agent registered: sends heartbeats, and registers again after an outage or a loss of
//! the registration.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join;
use tokio::{
    sync::{Mutex, MutexGuard, Notify},
    time::{Instant, sleep, timeout},
};

use super::{
    http::{Http, Registered},
    leases::Renewed,
    session::{NameOwner, Session},
};
use crate::backoff::Backoff;
use crate::control::{ControlError, Registration, life::Life, names::check_alias};

/// Pauses between attempts after an outage, with jitter: thousands of agents must not return at the
/// same moment.
const BACKOFF: Backoff =
    Backoff::doubling(Duration::from_millis(100), Duration::from_secs(2)).with_jitter(0.25);

/// Keeps one agent registered. Clones share the state.
#[derive(Debug, Clone)]
pub(super) struct Renewal {
    pub(super) http: Http,
    pub(super) life: Arc<Life<Session>>,
    pub(super) state: Arc<RenewalState>,
}

/// State that the renewals of one agent share.
#[derive(Debug, Default)]
pub(super) struct RenewalState {
    /// Serializes renewals: two at once would find each other's half-done registration.
    turn: Mutex<()>,
    /// This agent has asked to be registered again and has not yet claimed the answer.
    is_rejoining: AtomicBool,
    /// Another agent has the name.
    is_displaced: AtomicBool,
    /// Notified when something failed that may recover soon.
    is_wanted: Notify,
}

impl Renewal {
    /// Has [`recover`](Self::recover) check at once whether this agent is still registered.
    pub(super) fn look_soon(&self) {
        self.state.is_wanted.notify_one();
    }

    /// Renews until it succeeds, whenever a renewal has failed or Redis was away. The agent is thus
    /// back a few seconds after the control plane, and not with the next heartbeat only.
    pub(super) async fn recover(self, session: Arc<Session>) {
        loop {
            tokio::select! {
                () = self.state.is_wanted.notified() => {}
                () = self.life.ended() => return,
            }
            let (start, mut pauses) = (Instant::now(), BACKOFF.pauses());
            while let Err(error) = self.renew_all(&session).await {
                if self.life.current().is_err() {
                    return;
                }
                if !error.may_pass() {
                    tracing::warn!(alias = session.alias, %error, "not registered");
                    break;
                }
                sleep(pauses.take()).await;
            }
            tracing::debug!(alias = session.alias, took = ?start.elapsed(), "renewed the registration");
        }
    }

    /// Waits, for two requests at most, until no renewal is under way, and keeps further ones from
    /// beginning. What a renewal has asked the server for is carried out even if nobody waits for
    /// the answer any more: an agent that leaves meanwhile would be registered again.
    pub(super) async fn pause(&self) -> Option<MutexGuard<'_, ()>> {
        timeout(2 * self.http.timeout, self.state.turn.lock())
            .await
            .ok()
    }

    /// Keeps registration and entities alive, and restores those that are lost.
    pub(super) async fn renew_all(&self, session: &Session) -> Result<(), ControlError> {
        let _turn = self.state.turn.lock().await;
        self.life.current()?; // The agent may have left while this waited.
        match self.renew(session).await {
            Ok(()) => self.renew_entities(session).await,
            Err(
                error @ (ControlError::AliasTaken { .. }
                | ControlError::RedisUnreachable { .. }
                | ControlError::RedisLogin { .. }
                | ControlError::RedisRefused { .. }),
            ) => Err(error),
            // NanoCtrl is away, or in trouble. Redis alone is enough to keep entities alive.
            Err(error) => self.renew_entities(session).await.and(Err(error)),
        }
    }

    /// Keeps the registration alive, in Redis and at NanoCtrl: either may have lost it.
    async fn renew(&self, session: &Session) -> Result<(), ControlError> {
        let heartbeat = async {
            // The server renews whatever has the name, so ask Redis first: the registration of
            // another agent must not be kept alive.
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
            // Redis may have moved: the server then reads another one than this agent.
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

    /// Publishes what the control plane has lost, or Redis has evicted, although the agent is
    /// registered.
    async fn bring_back(&self, session: &Session, renewed: Renewed) -> Result<(), ControlError> {
        session.publish_lost(&renewed.lost).await?;
        if renewed.is_topology_lost && session.topology().is_some() {
            tracing::warn!(
                alias = session.alias,
                "Redis has lost our topology; declaring it again"
            );
            self.declare(session).await?;
        }
        Ok(())
    }

    /// The server reaches Redis and this agent does not: Redis may have moved with its data.
    async fn ask_for_redis(&self, session: &Session) {
        match self.http.redis_address().await {
            Ok(address) => session.store.try_instead(&address),
            Err(error) => tracing::debug!(%error, "NanoCtrl does not say where Redis is"),
        }
    }

    /// Registers again under the same name after the control plane has lost the registration, and
    /// publishes everything anew.
    async fn rejoin(&self, session: &Session) -> Result<(), ControlError> {
        tracing::warn!(
            alias = session.alias,
            "NanoCtrl has lost the registration; registering again"
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
            // After a timeout it is unknown whether the registration succeeded; the next renewal
            // finds out.
            Err(error) => return Err(error),
        };
        if self.life.current().is_err() {
            // The agent has left meanwhile: return the name, for nobody else will.
            let cleaned = self.http.clean_up(&session.alias, Some(life)).await;
            return cleaned.map(drop);
        }
        session.store.retarget(&answer.redis_address)?;
        self.restore(session).await
    }

    /// Claims the new registration and publishes records and topology again.
    async fn restore(&self, session: &Session) -> Result<(), ControlError> {
        session.claim().await?;
        self.state.is_rejoining.store(false, Ordering::SeqCst);
        self.state.is_displaced.store(false, Ordering::SeqCst);
        session.publish_all().await?;
        self.declare(session).await
    }

    /// Declares the peers that this agent wants, if it has said which: once more if that has
    /// changed meanwhile, as a request that was repeated may have come behind a later one.
    pub(super) async fn declare(&self, session: &Session) -> Result<(), ControlError> {
        while let Some(peers) = session.topology() {
            self.http.set_topology(&session.alias, &peers).await?;
            if session.topology() == Some(peers) {
                break;
            }
        }
        Ok(())
    }

    /// Returns whether the name belongs to another, as far as Redis knows now. A registration
    /// without an incarnation is this agent's only while it registers again.
    pub(super) fn is_others(&self, owner: NameOwner) -> bool {
        match owner {
            NameOwner::Us | NameOwner::Nobody => false,
            NameOwner::Other => true,
            NameOwner::Unclaimed => !self.state.is_rejoining.load(Ordering::SeqCst),
        }
    }

    /// Returns whether the name belonged to another at the last check.
    pub(super) fn is_displaced(&self) -> bool {
        self.state.is_displaced.load(Ordering::SeqCst)
    }

    /// Refuses to act under a name that belongs to another now.
    pub(super) async fn check_owner(&self, session: &Session) -> Result<(), ControlError> {
        self.check(session, session.keep().await?)
    }

    /// Refuses if the name has turned out to belong to another; a lost registration is renewed
    /// soon.
    pub(super) fn check(&self, session: &Session, owner: NameOwner) -> Result<(), ControlError> {
        if self.is_others(owner) {
            return Err(self.displaced(session));
        }
        if owner == NameOwner::Nobody {
            self.look_soon();
        }
        Ok(())
    }

    /// Notes that another agent has the name (FENCE-1): this one may do nothing until it is free
    /// again.
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

/// The error for an agent whose name belongs to another.
pub(super) fn taken(session: &Session) -> ControlError {
    ControlError::AliasTaken {
        alias: session.alias.clone(),
        scope: session.keys.scope().to_owned(),
        holder: String::new(),
    }
}

/// Checks the name in the server's answer: it must be the one requested, or a valid one.
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
