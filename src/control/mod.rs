//! What an agent says to the control plane: registration, heartbeats, topology, mail between peers, the records of
//! memory regions, and the entities by which others find what it serves.
//!
//! One trait, [`Control`], and two implementations: [`NanoCtrl`] talks HTTP to a NanoCtrl (or `dlslime-ctrl`)
//! server and to the Redis beside it; [`Local`] needs neither and joins agents of one process.

pub(crate) mod abilities;
mod alive_socket;
mod entity;
mod error;
pub(crate) mod eviction;
pub(crate) mod failover;
pub mod keys;
pub(crate) mod lease;
mod life;
mod local;
mod mail;
mod names;
mod nanoctrl;
mod natural;
mod process;
mod record;
pub(crate) mod record_owner;
mod secret;
mod service_record;
pub mod topology;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde_json::Value;

pub use entity::{Entity, EntityEvent};
pub use error::ControlError;
pub use local::Local;
pub use mail::{Mail, MailEvent};
pub use nanoctrl::NanoCtrl;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use nanoctrl::read_mailbox;
pub use natural::natural_order;
pub use record::{PeerRecord, Registration};
pub use secret::Secret;
pub use service_record::ServiceRecord;

/// An agent's view of the control plane. One value serves one agent: it registers once, and after
/// [`clean_up`](Self::clean_up) it is used up. Before and after, every method that asks the control plane for
/// something fails with [`ControlError::NotRegistered`].
///
/// An agent whose registration expired while it was away, and whose name another took, is nobody from then on (FENCE-1): what it
/// does under that name fails with [`ControlError::AliasTaken`] and changes nothing. It registers again when the name is free.
///
/// Every method may be called while others are in progress. None panics or hangs: each ends within the
/// bounds that the implementation states.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// Registers under `registration.alias`, or under a generated name, and gives back the name. If the alias belongs
    /// to a process of this host that has ended without leaving, it is taken over: what that left is removed, its mail
    /// too, and its peers are told.
    /// Records and clean-up events that an earlier life of the name left behind are removed once the name
    /// is ours. Its mail is not: peers that came up before us have written to us already, and we cannot
    /// tell theirs from older mail.
    ///
    /// # Errors
    /// [`ControlError::AliasTaken`], also when this value is registered already;
    /// [`ControlError::BadName`]; [`ControlError::NotRegistered`] after [`clean_up`](Self::clean_up); or the
    /// control plane is out of reach.
    async fn register(&self, registration: Registration) -> Result<String, ControlError>;

    /// Keeps the registration and our entities alive; to be called every 15 s. When the control plane has forgotten us,
    /// this registers again under the same name and publishes topology, records and entities anew. After an outage
    /// [`NanoCtrl`] does so by itself, as soon as it can.
    ///
    /// # Errors
    /// The control plane is out of reach, or somebody else took the name.
    async fn heartbeat(&self) -> Result<(), ControlError>;

    /// Declares the peers that we want to be connected with, replacing the previous declaration. They are
    /// told when we leave, and we when they do. For each, `connect_peer` comes into our own mailbox.
    ///
    /// # Errors
    /// The control plane is out of reach.
    async fn set_topology(&self, peers: &[String]) -> Result<(), ControlError>;

    /// What is known of a registered peer; `None` if nobody has that name.
    ///
    /// # Errors
    /// The control plane is out of reach.
    async fn peer(&self, alias: &str) -> Result<Option<PeerRecord>, ControlError>;

    /// Puts `mail` into a peer's mailbox; it waits there if the peer is not up yet.
    ///
    /// # Errors
    /// The control plane is out of reach.
    async fn send_mail(&self, peer: &str, mail: &Mail) -> Result<(), ControlError>;

    /// Our own mailbox, from its beginning; may be asked for before registering. Ends only when
    /// [`clean_up`](Self::clean_up) was called; outages are waited out inside. To be read by one reader:
    /// each [`MailEvent::Left`] goes to one of several. Mail arrives at least once, in order per sender; a
    /// reader must expect `connect_peer` for peers that it is connected with.
    fn mailbox(&self) -> BoxStream<'static, MailEvent>;

    /// Publishes a JSON record under our name: `mr:<alias>:<name>`. Republished whenever we re-register.
    ///
    /// # Errors
    /// The control plane is out of reach. The record is remembered all the same, until it is withdrawn.
    async fn publish(&self, name: &str, record: Value) -> Result<(), ControlError>;

    /// Withdraws a record.
    ///
    /// # Errors
    /// The control plane is out of reach.
    async fn withdraw(&self, name: &str) -> Result<(), ControlError>;

    /// Looks up a record of a peer; `None` if there is none.
    ///
    /// # Errors
    /// The control plane is out of reach, or the record is not JSON.
    async fn lookup(&self, peer: &str, name: &str) -> Result<Option<Value>, ControlError>;

    /// Registers an entity, in place of the one of its id. [`heartbeat`](Self::heartbeat) keeps it alive, and registers
    /// it again when the control plane has forgotten it, until it is [retracted](Self::retract).
    ///
    /// # Errors
    /// The control plane is out of reach, or keeps no entities. The entity is remembered all the same.
    async fn advertise(&self, entity: Entity) -> Result<(), ControlError>;

    /// Removes an entity. Does nothing if there is none of that id.
    ///
    /// # Errors
    /// The control plane is out of reach; then the entity is removed when it expires.
    async fn retract(&self, id: &str) -> Result<(), ControlError>;

    /// The live entities of a kind, in any order. What is registered there but no entity is skipped with a warning.
    ///
    /// # Errors
    /// The control plane is out of reach, or keeps no entities.
    async fn entities(&self, kind: &str) -> Result<Vec<Entity>, ControlError>;

    /// The live entities of a kind, and what happens to them. Ends only when [`clean_up`](Self::clean_up) was called;
    /// outages are waited out inside, and end with an [`EntityEvent::All`]. An entity whose owner died is removed when it
    /// expires. To be read promptly: what was not read yet is kept.
    fn watch_entities(&self, kind: &str) -> BoxStream<'static, EntityEvent>;

    /// Leaves: removes everything of ours, tells the peers, ends [`mailbox`](Self::mailbox). Does nothing if we
    /// have left already.
    ///
    /// # Errors
    /// The control plane is out of reach; what could be removed has been.
    async fn clean_up(&self) -> Result<(), ControlError>;

    /// The control plane in words, for messages: a URL, or `this process`.
    fn describe(&self) -> String;
}
