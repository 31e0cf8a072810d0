//! An agent's access to the control plane: registration, heartbeats, topology, mail between peers,
//! the records of memory regions, and the entities through which others find its services.
//!
//! The trait [`Control`] has three implementations: [`NanoCtrl`] talks HTTP to a NanoCtrl (or
//! `dlslime-ctrl`) server and to the Redis beside it; [`Host`] needs neither and connects agents
//! of one user on one host; [`Local`] connects agents of one process.

pub(crate) mod abilities;
mod alive_socket;
mod entity;
mod error;
pub(crate) mod eviction;
pub(crate) mod failover;
mod host;
#[doc(hidden)]
pub mod keys;
pub(crate) mod lease;
mod life;
mod local;
mod mail;
mod mail_log;
mod names;
mod nanoctrl;
pub mod obs;
mod process;
pub(crate) mod record;
mod secret;
mod service_record;
#[doc(hidden)]
pub mod topology;

use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde_json::Value;

pub use error::ControlError;
pub use host::Host;
pub use local::Local;
#[cfg(feature = "server")]
pub use nanoctrl::ObsReader;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use nanoctrl::read_mail;
pub use nanoctrl::{ClientTls, NanoCtrl, RedisDiagnosis};
pub use record::PeerRecord;
pub use secret::Secret;
pub use service_record::ServiceRecord;

// What `slimerpc-actors` and implementations of `Control` are made of.
#[doc(hidden)]
pub use self::{
    entity::{Entity, EntityEvent},
    mail::{Mail, MailEvent},
    names::natural_order,
    record::Registration,
};

/// An agent's view of the control plane. One value serves one agent: it registers once, and ends
/// with [`clean_up`](Self::clean_up). Before the registration and after the end, every method that
/// asks the control plane for something fails with [`ControlError::NotRegistered`].
///
/// An agent whose registration expired while it was away, and whose name another agent took, has
/// lost its identity (FENCE-1): its operations fail with [`ControlError::AliasTaken`] and change
/// nothing. It registers again when the name is free.
///
/// Every method may be called while others are in progress. No method panics or hangs: each ends
/// within the bounds that the implementation states.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// Registers under `registration.alias`, or under a generated name, and returns the name. An
    /// alias of a process of this host that has ended without leaving is taken over: its records
    /// and mail are removed and its peers are told. Records and clean-up events that an earlier
    /// incarnation of the name left are removed once the name is registered. Its mail stays: peers
    /// that came up first have already written, and their mail cannot be told from older mail.
    ///
    /// # Errors
    /// [`ControlError::AliasTaken`], also when this value is registered already;
    /// [`ControlError::BadName`]; [`ControlError::NotRegistered`] after
    /// [`clean_up`](Self::clean_up); or an error if the control plane is out of reach.
    async fn register(&self, registration: Registration) -> Result<String, ControlError>;

    /// Keeps the registration and the entities alive; call it every 15 s. If the control plane has
    /// lost the registration, this registers again under the same name and publishes topology,
    /// records and entities anew. After an outage [`NanoCtrl`] does so itself, as soon as it can.
    ///
    /// # Errors
    /// The control plane is out of reach, or another agent took the name.
    async fn heartbeat(&self) -> Result<(), ControlError>;

    /// Declares the peers that this agent wants to be connected with, in place of the previous
    /// declaration. The peers are told when this agent leaves, and this agent when they do. For
    /// each peer, `connect_peer` arrives in this agent's own mail.
    ///
    /// # Errors
    /// The control plane is out of reach.
    async fn set_topology(&self, peers: &[String]) -> Result<(), ControlError>;

    /// Looks up a registered peer; `None` if no agent has that name.
    ///
    /// # Errors
    /// The control plane is out of reach.
    async fn peer(&self, alias: &str) -> Result<Option<PeerRecord>, ControlError>;

    /// Sends `mail` to a peer; it waits there if the peer is not up yet.
    ///
    /// # Errors
    /// The control plane is out of reach.
    async fn send_mail(&self, peer: &str, mail: &Mail) -> Result<(), ControlError>;

    /// Reads this agent's mail from its beginning; it may be opened before registering. The
    /// stream waits through outages and ends only after [`clean_up`](Self::clean_up). Use one
    /// reader: each [`MailEvent::Left`] goes to one of several. Mail arrives at least once, in
    /// order per sender; a reader must expect `connect_peer` for peers that it is connected with.
    fn mail(&self) -> BoxStream<'static, MailEvent>;

    /// Publishes a JSON record under this agent's name: `mr:<alias>:<name>`. It is published again
    /// with every new registration.
    ///
    /// # Errors
    /// The control plane is out of reach. The record is remembered nevertheless, until it is
    /// withdrawn.
    async fn publish(&self, name: &str, record: Value) -> Result<(), ControlError>;

    /// Withdraws a record of this agent.
    ///
    /// # Errors
    /// The control plane is out of reach.
    async fn withdraw(&self, name: &str) -> Result<(), ControlError>;

    /// Looks up a record of a peer; `None` if there is none.
    ///
    /// # Errors
    /// The control plane is out of reach, or the record is not JSON.
    async fn lookup(&self, peer: &str, name: &str) -> Result<Option<Value>, ControlError>;

    /// Registers an entity, in place of the one with its id. [`heartbeat`](Self::heartbeat) keeps
    /// it alive, and registers it again if the control plane has lost it, until it is
    /// [retracted](Self::retract).
    ///
    /// # Errors
    /// The control plane is out of reach, or keeps no entities. The entity is remembered
    /// nevertheless.
    async fn advertise(&self, entity: Entity) -> Result<(), ControlError>;

    /// Removes an entity. Does nothing if there is none with that id.
    ///
    /// # Errors
    /// The control plane is out of reach; then the entity is removed when it expires.
    async fn retract(&self, id: &str) -> Result<(), ControlError>;

    /// Lists the live entities of a kind, in any order. A malformed entry is skipped with a
    /// warning.
    ///
    /// # Errors
    /// The control plane is out of reach, or keeps no entities.
    async fn entities(&self, kind: &str) -> Result<Vec<Entity>, ControlError>;

    /// Follows the live entities of a kind: the list, and then changes. The stream waits through
    /// outages, reports an [`EntityEvent::All`] after each, and ends only after
    /// [`clean_up`](Self::clean_up). An entity whose owner died is removed when it expires. Read it
    /// promptly: unread events are kept.
    fn watch_entities(&self, kind: &str) -> BoxStream<'static, EntityEvent>;

    /// Publishes what this agent says of itself, in place of what it said before: the text of an
    /// [`ObsRecord`](obs::ObsRecord). Redis keeps it for `lease`, also after the agent has left.
    /// Where there is no Redis nobody reads it, and this does nothing.
    ///
    /// # Errors
    /// The control plane is out of reach, or another agent has taken the name.
    async fn report(&self, record: &str, lease: Duration) -> Result<(), ControlError> {
        let _ = (record, lease);
        Ok(())
    }

    /// Leaves: removes everything of this agent, tells its peers, and ends
    /// [`mail`](Self::mail). Does nothing if the agent has left already.
    ///
    /// # Errors
    /// The control plane is out of reach; whatever could be removed is removed.
    async fn clean_up(&self) -> Result<(), ControlError>;

    /// Describes the control plane, for messages: a URL, or `this process`.
    fn describe(&self) -> String;
}
