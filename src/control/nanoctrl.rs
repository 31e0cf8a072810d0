//! The control plane of DLSlime: a NanoCtrl (or `dlslime-ctrl`) server and the Redis that it names.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    future::join,
    stream::{self, BoxStream, StreamExt},
};
use redis::pipe;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

mod access;
mod address;
mod client_tls;
mod diagnosis;
mod entities;
mod http;
mod http_client;
mod leases;
mod mail_stream;
#[cfg(feature = "server")]
mod obs_reader;
mod outage;
mod parse;
mod renewal;
mod session;
mod store;
mod watch;

#[cfg(fuzzing)]
pub use self::parse::read_mail;

#[cfg(feature = "server")]
pub use self::obs_reader::ObsReader;
use self::{
    access::Access,
    http::{Http, Registered},
    parse::{LONGEST_RECORD, peer_record, record},
    renewal::{Renewal, checked, taken},
    session::Session,
    store::Store,
};
pub use self::{client_tls::ClientTls, diagnosis::RedisDiagnosis};
use super::{
    Control, ControlError, Entity, EntityEvent, Mail, MailEvent, PeerRecord, Registration, Secret,
    keys::Keys,
    life::Life,
    names::{check_alias, check_scope},
    process,
    topology::address_towards,
};
use crate::backoff::Backoff;

/// Longest polling interval: with a longer one an agent would notice neither a lost connection nor
/// the end of an entity for hours.
const LONGEST_POLL: Duration = Duration::from_secs(3600);
/// Pauses between attempts to register.
const BACKOFF: Backoff = Backoff::doubling(Duration::from_millis(100), Duration::from_secs(2));

/// How long returning a name may take.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// Field beside the description of the process that holds the incarnation of the agent: a server of
/// DLSlime passes on no other.
const MARK: &str = "attempt";

/// A registration that the server has accepted.
struct Joined {
    answer: Registered,
    /// Whether it was taken over from a process that has ended.
    is_taken_over: bool,
}

/// The result of an attempt to free an alias.
enum Eviction {
    Done,
    /// Another agent has freed the alias meanwhile, and may have taken it.
    Overtaken,
    /// The alias may be in use; the text says by whom.
    Refused(String),
}

/// Marks a registration with this incarnation, if it describes the process.
fn mark(registration: &mut Registration, incarnation: &str) {
    let resource = registration.resource.as_mut();
    if let Some(Value::Object(process)) = resource.and_then(|it| it.get_mut("slime")) {
        process.insert(MARK.to_owned(), incarnation.into());
    }
}

/// A control plane that talks HTTP to a NanoCtrl server, and to the Redis that the server names.
///
/// Bounds: [`register`](Control::register) ends within the register timeout (10 s), plus at most a
/// second to return the name when Redis fails. Every other method ends within a few request
/// timeouts, one for each request that it makes. An idle agent that reads its mail costs Redis two
/// commands per polling interval (5 s), some 25 per heartbeat, and one per record or entity and
/// heartbeat; an agent that watches entities costs three more per polling interval. Unrelated keys
/// in that Redis cost nothing, because no key is searched for.
///
/// Everything that an agent has in Redis has a time to live of a minute, which heartbeats renew. An
/// agent that is killed therefore leaves nothing behind, and what Redis loses or evicts is restored
/// with the next heartbeat, mail excepted.
///
/// It must be used within a tokio runtime.
///
/// ```no_run
/// use slimerpc::control::{Control, NanoCtrl, Registration};
/// # async fn example() -> Result<(), slimerpc::control::ControlError> {
/// let agent = NanoCtrl::new("127.0.0.1:4479", "job-7")?;
/// let registration = Registration {
///     alias: Some("worker:0".to_owned()),
///     ..Registration::default()
/// };
/// agent.register(registration).await?;
/// agent.heartbeat().await?;
/// agent.clean_up().await
/// # }
/// ```
#[derive(Debug)]
pub struct NanoCtrl {
    http: Http,
    keys: Keys,
    access: Access,
    register_timeout: Duration,
    poll_interval: Duration,
    life: Arc<Life<Session>>,
    renewal: Arc<renewal::RenewalState>,
    /// The task that registers again after an outage; it ends with this value.
    recovery: Mutex<JoinSet<()>>,
}

impl NanoCtrl {
    /// Makes an agent, not registered yet, in `scope` (empty for none) of the server at `url`; a
    /// URL without scheme gets `http://`, or, with files for [`tls`](Self::tls), `https://`. With
    /// `https://` (cargo feature `tls`) the server must present a certificate for its host from an
    /// authority that this system trusts; see
    /// [`tls`](Self::tls) for others. Nothing is connected yet.
    ///
    /// # Errors
    /// [`ControlError::Malformed`] if the URL cannot be used.
    pub fn new(url: &str, scope: impl Into<String>) -> Result<Self, ControlError> {
        let scope = scope.into();
        Ok(Self {
            http: Http::new(url, scope.clone(), Duration::from_secs(5))?,
            keys: Keys::new(scope),
            access: Access::default(),
            register_timeout: Duration::from_secs(10),
            poll_interval: Duration::from_secs(5),
            life: Arc::new(Life::new()),
            renewal: Arc::default(),
            recovery: Mutex::default(),
        })
    }

    /// Sets how long registering may take, including attempts while the server is out of reach.
    /// Default 10 s.
    #[must_use]
    pub fn register_timeout(mut self, timeout: Duration) -> Self {
        self.register_timeout = timeout;
        self
    }

    /// Sets how long one HTTP request or Redis command may take, including the connection. Default
    /// 5 s.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.http.timeout = timeout;
        self
    }

    /// Sends this bearer token with every request. A server that was started without one ignores
    /// it.
    ///
    /// # Errors
    /// [`ControlError::BadSetting`] if a header cannot carry the token.
    pub fn token(mut self, token: impl Into<Secret>) -> Result<Self, ControlError> {
        let token = token.into();
        token
            .check_token()
            .map_err(|reason| ControlError::BadSetting {
                what: "token for NanoCtrl",
                reason: reason.to_owned(),
            })?;
        self.http.token = Some(token);
        Ok(self)
    }

    /// Sets which authorities a server at `https://` may be vouched for by, and this side's
    /// certificate. A server whose URL says `http://` is not concerned; one whose URL has no scheme
    /// is talked to over TLS if there is any file.
    ///
    /// # Errors
    /// [`ControlError::TlsFile`] if a file cannot be used.
    pub fn tls(mut self, tls: &ClientTls) -> Result<Self, ControlError> {
        self.http.set_tls(tls)?;
        Ok(self)
    }

    /// Sets how to log in to Redis, because the server does not pass on credentials:
    /// `redis://[[user]:password@][host[:port]][/database]`, or `rediss://` for TLS (cargo feature
    /// `tls`). A URL without a host uses the address that the server names; a URL with a host
    /// replaces it. Characters that have a meaning in a URL are percent-encoded.
    ///
    /// With TLS, Redis must present a certificate for that host from an authority that this system
    /// trusts, or, if `SSL_CERT_FILE` names a PEM file, from one in that file.
    ///
    /// ```
    /// # use slimerpc::control::{ControlError, NanoCtrl};
    /// # fn example() -> Result<NanoCtrl, ControlError> {
    /// NanoCtrl::new("127.0.0.1:4479", "")?.redis("redis://agents:pass%20word@/2")
    /// # }
    /// # assert!(example().is_ok());
    /// ```
    ///
    /// # Errors
    /// [`ControlError::BadSetting`] if the text is not such a URL.
    pub fn redis(mut self, url: impl Into<Secret>) -> Result<Self, ControlError> {
        self.access = Access::parse(&url.into())?;
        Ok(self)
    }

    /// Finds the address that this host uses towards the server; see [`address_towards`].
    pub async fn own_address(&self) -> Option<String> {
        let (host, port) = self.http.host();
        address_towards(&host, port).await
    }

    /// Asks the server where its Redis is: `redis://host:port`.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn redis_address(&self) -> Result<String, ControlError> {
        self.http.redis_address().await
    }

    /// Sets how long a blocking read of the mail waits, in whole seconds from 1 to 3600. It
    /// delays no mail, but each interval costs two Redis commands. Watchers of entities may notice
    /// an expired one that much later. Default 5 s.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval.clamp(Duration::from_secs(1), LONGEST_POLL);
        self
    }

    /// Registers, and repeats while the server is out of reach or in trouble. `failed` is why the
    /// last attempt failed.
    async fn join(
        &self,
        registration: &mut Registration,
        incarnation: &str,
        failed: &mut Option<ControlError>,
    ) -> Result<Joined, ControlError> {
        let deadline = Instant::now().checked_add(self.register_timeout);
        let left = || deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let is_address_wanted = registration.address.is_empty();
        mark(registration, incarnation);
        let (mut pauses, mut is_taken_over) = (BACKOFF.pauses(), false);
        loop {
            if is_address_wanted {
                registration.address = self.own_address().await.unwrap_or_default();
            }
            let limit = left().unwrap_or(self.http.timeout);
            let registered = self.http.register(registration, incarnation, limit);
            let error = match registered.await {
                Ok(answer) => {
                    let answer = checked(answer, registration)?;
                    return Ok(Joined {
                        answer,
                        is_taken_over,
                    });
                }
                Err(ControlError::AliasTaken { alias, scope, .. }) => {
                    match self.evict(&alias, incarnation).await {
                        Ok(Eviction::Done) => {
                            is_taken_over = true;
                            continue;
                        }
                        Ok(Eviction::Overtaken) => continue,
                        Ok(Eviction::Refused(holder)) => {
                            let holder = match &*holder {
                                "" => "another agent",
                                known => known,
                            };
                            let holder =
                                format!("{holder} (a crashed one keeps it for up to 60 s)");
                            return Err(ControlError::AliasTaken {
                                alias,
                                scope,
                                holder,
                            });
                        }
                        // The server may be busy; the next attempt finds out anew.
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            let pause = pauses.take();
            if !error.may_pass() || left().is_some_and(|left| left <= pause) {
                return Err(error);
            }
            if failed.is_none() {
                let (url, within) = (self.http.url(), self.register_timeout);
                tracing::warn!(url, ?within, %error, "cannot register yet; trying again");
            }
            tracing::debug!(%error, ?pause, "registering failed");
            *failed = Some(error);
            sleep(pause).await;
        }
    }

    /// Frees an alias if its owner is proved to have ended, or is an earlier attempt of this
    /// registration that was carried out but not answered in time.
    async fn evict(&self, alias: &str, incarnation: &str) -> Result<Eviction, ControlError> {
        let Some(holder) = self.http.holder(alias).await? else {
            return Ok(Eviction::Refused(String::new()));
        };
        let resource = holder.resource.unwrap_or_default();
        let (life, process) = (holder.incarnation, &resource["slime"]);
        let is_ours = [life.as_deref(), process[MARK].as_str()].contains(&Some(incarnation));
        if !is_ours && process.is_null() {
            return Ok(Eviction::Refused(String::new()));
        }
        if !is_ours && !process::is_gone(process) {
            return Ok(Eviction::Refused(process::explain(process)));
        }
        if !is_ours {
            tracing::warn!(
                alias,
                pid = %process["pid"],
                "the process that had this alias has ended without leaving; taking it over"
            );
        }
        // Others may wait for this name, too: a registration that one of them has made since the
        // check stays.
        match self.http.clean_up(alias, life.as_deref()).await? {
            true => Ok(Eviction::Done),
            false => Ok(Eviction::Overtaken),
        }
    }

    /// Joins, and makes a session of the registration. `name` is set to the alias meanwhile.
    async fn begin(
        &self,
        mut registration: Registration,
        incarnation: &str,
        name: &mut Option<String>,
        failed: &mut Option<ControlError>,
    ) -> Result<Arc<Session>, ControlError> {
        let joined = self.join(&mut registration, incarnation, failed).await?;
        *name = Some(joined.answer.name.clone());
        let life = incarnation.to_owned();
        let session = self.settle(joined.answer, life, registration).await?;
        if joined.is_taken_over {
            session.delete_mail().await?;
        }
        Ok(session)
    }

    /// Makes a session of the server's answer: Redis is reached, stale keys are deleted, and this
    /// agent's hash is written.
    async fn settle(
        &self,
        answer: Registered,
        incarnation: String,
        registration: Registration,
    ) -> Result<Arc<Session>, ControlError> {
        let access = self.access.clone();
        let timeout = self.http.timeout;
        let store = Store::new(self.http.url(), &answer.redis_address, access, timeout)?;
        let keys = self.keys.clone();
        let session = Session::new(answer.name, incarnation, registration, keys, store);
        let probe = session
            .keys
            .region(&session.alias, &session::new_incarnation());
        session.store.check_abilities(&probe).await?;
        session::purge(&session).await?;
        if !session.claim().await? {
            tracing::warn!(alias = session.alias, "the registration vanished at once");
        }
        session.store.warn_of_eviction().await;
        Ok(Arc::new(session))
    }

    /// Returns a name that turned out to be unusable.
    async fn give_back(&self, alias: &str, incarnation: &str) {
        match timeout(GIVE_BACK, self.http.clean_up(alias, Some(incarnation))).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(alias, %error, "the name stays taken until it expires")
            }
            Err(_) => tracing::debug!(alias, "the name stays taken until it expires"),
        }
    }

    fn renewal(&self) -> Renewal {
        Renewal {
            http: self.http.clone(),
            life: Arc::clone(&self.life),
            state: Arc::clone(&self.renewal),
        }
    }

    /// Removes this agent's keys. `reached` says whether Redis can be reached.
    async fn leave(
        &self,
        session: &Session,
        reached: Result<(), ControlError>,
    ) -> Result<(), ControlError> {
        // This agent's keys go first: once the server has freed the name, they may belong to the
        // next owner.
        let deleted = match reached {
            Ok(()) => session.vacate().await,
            Err(error) => Err(error),
        };
        let life = Some(session.incarnation.as_str());
        let cleaned = self.http.clean_up(&session.alias, life).await.map(drop);
        if cleaned.is_err() && deleted.is_ok() {
            let keys = &session.keys;
            let rest = vec![keys.agent(&session.alias), keys.topology(&session.alias)];
            session.delete(rest).await?;
        }
        deleted.and(cleaned)
    }
}

#[async_trait]
impl Control for NanoCtrl {
    async fn register(&self, registration: Registration) -> Result<String, ControlError> {
        check_scope(self.keys.scope())?;
        if let Some(alias) = &registration.alias {
            check_alias(alias)?;
        }
        if let Ok(session) = self.life.current() {
            return Err(taken(&session));
        }
        if !self.life.is_new() {
            return Err(ControlError::NotRegistered);
        }
        let (mut name, mut failed) = (None, None);
        let incarnation = session::new_incarnation();
        let begun = self.begin(registration, &incarnation, &mut name, &mut failed);
        let begun = match timeout(self.register_timeout, begun).await {
            Ok(begun) => begun,
            Err(_) => Err(failed.unwrap_or_else(|| ControlError::Timeout {
                what: format!("registering with NanoCtrl at {}", self.http.url()),
                after: self.register_timeout,
            })),
        };
        let session = match begun {
            Ok(session) => session,
            Err(error) => {
                if let Some(name) = name {
                    self.give_back(&name, &incarnation).await;
                }
                return Err(error);
            }
        };
        let name = session.alias.clone();
        if !self.life.begin(Arc::clone(&session)) {
            self.give_back(&name, &incarnation).await;
            return Err(ControlError::NotRegistered);
        }
        let mut recovery = self.recovery.lock().unwrap_or_else(PoisonError::into_inner);
        recovery.spawn(self.renewal().recover(session));
        Ok(name)
    }

    async fn heartbeat(&self) -> Result<(), ControlError> {
        let session = self.life.current()?;
        let renewal = self.renewal();
        let renewed = renewal.renew_all(&session).await;
        if renewed.as_ref().is_err_and(ControlError::may_pass) {
            renewal.look_soon();
        }
        renewed
    }

    async fn set_topology(&self, peers: &[String]) -> Result<(), ControlError> {
        let session = self.life.current()?;
        session.set_topology(peers);
        let renewal = self.renewal();
        renewal.check_owner(&session).await?;
        renewal.declare(&session).await
    }

    async fn peer(&self, alias: &str) -> Result<Option<PeerRecord>, ControlError> {
        let session = self.life.current()?;
        let mut get = pipe();
        let hmget = get.cmd("HMGET").arg(self.keys.agent(alias));
        hmget.arg(&[
            "addr",
            "device",
            "ib_port",
            "link_type",
            "resource",
            "topology",
        ]);
        let (fields,): ([Option<Vec<u8>>; 6],) = session.store.query(&get).await?;
        Ok(peer_record(alias, fields))
    }

    async fn send_mail(&self, peer: &str, mail: &Mail) -> Result<(), ControlError> {
        let session = self.life.current()?;
        let mut entry = vec!["type", mail.kind.as_str()];
        for (field, value) in mail.fields.iter().filter(|(field, _)| *field != "type") {
            entry.extend([field.as_str(), value]);
        }
        let owner = session.send(peer, &entry).await?;
        self.renewal().check(&session, owner)
    }

    fn mail(&self) -> BoxStream<'static, MailEvent> {
        let (life, end) = (Arc::clone(&self.life), Arc::clone(&self.life));
        let (renewal, interval) = (self.renewal(), self.poll_interval);
        stream::once(async move { life.begun().await })
            .filter_map(|session| async move { session })
            .flat_map(move |session| mail_stream::events(session, renewal.clone(), interval))
            .take_until(async move { end.ended().await })
            .boxed()
    }

    async fn publish(&self, name: &str, record: Value) -> Result<(), ControlError> {
        let session = self.life.current()?;
        let owner = session.publish(name, record).await?;
        self.renewal().check(&session, owner)
    }

    async fn withdraw(&self, name: &str) -> Result<(), ControlError> {
        self.life.current()?.withdraw(name).await
    }

    async fn lookup(&self, peer: &str, name: &str) -> Result<Option<Value>, ControlError> {
        let session = self.life.current()?;
        let key = self.keys.region(peer, name);
        let mut get = pipe();
        get.cmd("GETRANGE").arg(&key).arg(0).arg(LONGEST_RECORD);
        let (text,): (Vec<u8>,) = session.store.query(&get).await?;
        record(&key, &text)
    }

    async fn advertise(&self, entity: Entity) -> Result<(), ControlError> {
        self.add_entity(&*self.life.current()?, entity).await
    }

    async fn retract(&self, id: &str) -> Result<(), ControlError> {
        self.remove_entity(&*self.life.current()?, id).await
    }

    async fn entities(&self, kind: &str) -> Result<Vec<Entity>, ControlError> {
        self.life.current()?;
        self.list_entities(kind).await
    }

    fn watch_entities(&self, kind: &str) -> BoxStream<'static, EntityEvent> {
        let (life, end) = (Arc::clone(&self.life), Arc::clone(&self.life));
        let (http, kind, interval) = (self.http.clone(), kind.to_owned(), self.poll_interval);
        stream::once(async move { life.begun().await })
            .filter_map(|session| async move { session })
            .flat_map(move |session| watch::events(http.clone(), session, kind.clone(), interval))
            .take_until(async move { end.ended().await })
            .boxed()
    }

    async fn report(&self, record: &str, lease: Duration) -> Result<(), ControlError> {
        let session = self.life.current()?;
        let owner = session.report(record, lease).await?;
        self.renewal().check(&session, owner)
    }

    async fn clean_up(&self) -> Result<(), ControlError> {
        let Some(session) = self.life.end() else {
            return Ok(());
        };
        let renewal = self.renewal();
        let _paused = renewal.pause().await;
        let owner = session.keep().await;
        let is_others = match &owner {
            Ok(owner) => renewal.is_others(*owner),
            Err(_) => renewal.is_displaced(),
        };
        if is_others {
            return Ok(()); // Nothing under that name is ours any more.
        }
        let leave = self.leave(&session, owner.map(drop));
        let (left, removed) = join(leave, self.remove_entities(&session)).await;
        left.and(removed)
    }

    fn describe(&self) -> String {
        format!("NanoCtrl at {}", self.http.url())
    }
}
