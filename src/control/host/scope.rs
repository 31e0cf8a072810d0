//! A scope: a directory that has one directory for each agent, and for each that others have
//! written to before it is up.
//!
//! | in the directory of an agent | |
//! | --- | --- |
//! | `socket` | bound while the agent lives; a datagram of any content tells it to look again |
//! | `agent` | its record |
//! | `topology` | the peers that it has declared |
//! | `record-…`, `entity-…` | what it publishes |
//! | `mail` | events that it has not fetched yet, a line each |
//!
//! What concerns few agents is found without a look at all of them: indexes (`index.rs`) name those
//! that have entities, and for each alias those that have declared it.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, ErrorKind, Write},
    ops::Deref,
    os::unix::{fs::MetadataExt, net::UnixDatagram},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Weak},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use dashmap::DashMap;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use serde_json::Value;

use super::directory::{failed, file_name, make_private, unfit, unusable};
use super::files::{self, LONGEST, make_way, read_named, write_named};
use super::index::{Index, make_directory};
use super::turns::Turns;
use crate::backoff::Backoff;
use crate::control::{ControlError, Entity, MailEvent, PeerRecord};

/// How long a process may keep the lock of a scope. It takes as long as writing a few small files.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses between attempts to lock a scope. The first are as short as what most do with the lock:
/// two processes that use it by turns would otherwise spend most of the time in pauses. The longest
/// leave the processor to whoever has the lock, where hundreds wait.
const LOCK_PAUSES: Backoff =
    Backoff::doubling(Duration::from_micros(10), Duration::from_millis(4)).with_jitter(0.5);

/// How long mail waits for an agent that is not up.
const UNCLAIMED_MAIL: Duration = Duration::from_secs(600);
/// Shortest time between two searches for agents that have crashed.
const SWEEP: Duration = Duration::from_secs(15);

const SOCKET: &str = "socket";
const AGENT: &str = "agent";
const TOPOLOGY: &str = "topology";
const RECORD: &str = "record-";
const ENTITY: &str = "entity-";
const MAIL: &str = "mail";
/// The message to a socket whose owner has mail. Any other has it look at everything: to list
/// entities takes a look into the directory of each agent.
pub(super) const MAIL_CAME: [u8; 1] = *b"m";

// Files of the scope itself: no agent's directory begins with a dot.
/// The directory that is being removed.
const GONE: &str = ".gone";
/// The number of names given.
const NAMES: &str = ".names";
/// A file as old as the last search for agents that have crashed.
const SWEPT: &str = ".swept";
/// The index of the agents that have entities.
const ADVERTISING: &str = ".advertising";
/// The indexes of the agents that have declared a peer, one for each peer.
const DECLARING: &str = ".declaring";

/// Identifies a socket among all files of this host.
pub(super) type SocketId = (u64, u64);

/// A scope, of which everything can be read while others change it.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Those of this process who change the scope take turns.
    turns: Arc<Turns>,
}

/// The turns at scopes, by process and path: a fork has none of the threads that serve them.
static TURNS: LazyLock<DashMap<(u32, PathBuf), Weak<Turns>>> = LazyLock::new(DashMap::new);

impl Scope {
    /// The scope `name` in the directory `root`.
    pub(super) fn new(root: &Path, name: &str) -> Self {
        TURNS.retain(|_, turns| turns.strong_count() > 0);
        let path = root.join(file_name(name));
        let here = (std::process::id(), path.clone());
        let mut known = TURNS.entry(here).or_default();
        let turns = known.upgrade().unwrap_or_default();
        *known = Arc::downgrade(&turns);
        Self {
            name: name.to_owned(),
            path,
            turns,
        }
    }

    /// Runs what locks the scope when it is its turn.
    pub(super) async fn in_turn<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, ControlError> {
        let done = self.turns.run(LOCK_TIMEOUT, act).await;
        done.unwrap_or_else(|| Err(is_locked(&self.path)))
    }

    /// Removes what crashed agents have left in this and any other scope that is not locked. What
    /// belongs to `alias` is left to its next owner, who tells the peers.
    pub(super) fn sweep_all(&self, alias: &str) {
        let root = self.path.parent().unwrap_or(&self.path);
        if make_private(root).is_err() {
            return;
        }
        let spared = self.agent_path(alias);
        for path in entries(root).unwrap_or_default() {
            let scope = Self {
                name: String::new(),
                path,
                turns: Arc::default(),
            };
            let locked = LockedScope::lock_within(Duration::ZERO, &scope);
            let swept = locked.and_then(|scope| {
                scope.sweep(Some(&spared))?;
                scope.remove_if_unused()
            });
            if let Err(error) = swept {
                tracing::debug!(%error, "a scope was not searched for crashed agents");
            }
        }
    }

    fn agent_path(&self, alias: &str) -> PathBuf {
        self.path.join(file_name(alias))
    }

    fn record_path(&self, alias: &str, name: &str) -> PathBuf {
        let file = RECORD.to_owned() + &file_name(name);
        self.agent_path(alias).join(file)
    }

    fn entity_path(&self, alias: &str, id: &str) -> PathBuf {
        let file = ENTITY.to_owned() + &file_name(id);
        self.agent_path(alias).join(file)
    }

    /// Whether an agent has mail that it has not fetched.
    pub(super) fn has_mail(&self, alias: &str) -> bool {
        let mail = fs::symlink_metadata(self.agent_path(alias).join(MAIL));
        // What stands in its place is removed by who fetches it.
        mail.is_ok_and(|mail| mail.len() > 0 || !mail.is_file())
    }

    /// The agents that live.
    pub(super) fn peers(&self) -> Result<Vec<PeerRecord>, ControlError> {
        let paths = self.agents()?.into_iter();
        let agents = paths.filter_map(|path| readable(self.agent(&path)));
        Ok(agents.map(|(_, record)| record).collect())
    }

    /// Looks up an agent that lives.
    pub(super) fn peer(&self, alias: &str) -> Result<Option<PeerRecord>, ControlError> {
        let record = self.agent(&self.agent_path(alias))?;
        Ok(record.filter(|(name, _)| name == alias).map(|(_, it)| it))
    }

    /// The name and the record of the agent at `path`, if it lives.
    fn agent(&self, path: &Path) -> Result<Option<(String, PeerRecord)>, ControlError> {
        match is_certainly_dead(&path.join(SOCKET)) {
            true => Ok(None),
            false => read_named(&path.join(AGENT)),
        }
    }

    /// Looks up a record of an agent that lives.
    pub(super) fn lookup(&self, alias: &str, name: &str) -> Result<Option<Value>, ControlError> {
        if is_certainly_dead(&self.agent_path(alias).join(SOCKET)) {
            return Ok(None);
        }
        let found = read_named(&self.record_path(alias, name))?;
        Ok(found.filter(|(it, _)| it == name).map(|(_, record)| record))
    }

    /// The agents that have entities.
    fn advertising(&self) -> Index {
        Index::at(self.path.join(ADVERTISING))
    }

    /// The agents that have declared `peer`.
    fn declaring(&self, peer: &str) -> Index {
        Index::at(self.path.join(DECLARING).join(file_name(peer)))
    }

    /// The entities of a kind whose owners live, by id.
    pub(super) fn entities(&self, kind: &str) -> Result<Vec<Entity>, ControlError> {
        let mut found = Vec::new();
        for name in self.advertising().names()? {
            let path = self.path.join(name);
            let files = entity_files(&path)?;
            if files.is_empty() || is_certainly_dead(&path.join(SOCKET)) {
                continue;
            }
            let read = files.iter().filter_map(|file| readable(read_named(file)));
            found.extend(read.map(|(_, entity): (_, Entity)| entity));
        }
        found.retain(|entity| entity.kind == kind);
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// The directories of agents.
    fn agents(&self) -> Result<Vec<PathBuf>, ControlError> {
        let mut listed = listed(&self.path)?;
        listed.retain(|entry| {
            let is_agent = !is_of_scope(&entry.file_name());
            is_agent && entry.file_type().is_ok_and(|it| it.is_dir())
        });
        Ok(listed.iter().map(fs::DirEntry::path).collect())
    }
}

/// A scope that no other process changes meanwhile.
pub(super) struct LockedScope<'a> {
    scope: &'a Scope,
    directory: File,
}

impl Deref for LockedScope<'_> {
    type Target = Scope;

    fn deref(&self) -> &Scope {
        self.scope
    }
}

impl<'a> LockedScope<'a> {
    /// Locks a scope. Its directory, and that in which it is, are made if they are missing.
    pub(super) fn lock(scope: &'a Scope) -> Result<Self, ControlError> {
        make_private(scope.path.parent().unwrap_or(&scope.path))?;
        Self::lock_within(LOCK_TIMEOUT, scope)
    }

    fn lock_within(limit: Duration, scope: &'a Scope) -> Result<Self, ControlError> {
        let path = &scope.path;
        let deadline = Instant::now() + limit;
        let check_time = || match Instant::now() <= deadline {
            true => Ok(()),
            false => Err(is_locked(path)),
        };
        loop {
            make_private(path)?;
            let directory = match File::open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => opened.map_err(failed(path))?,
            };
            let mut pauses = LOCK_PAUSES.pauses();
            while let Err(error) = flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                if error != Errno::WOULDBLOCK {
                    return Err(unusable(path, error));
                }
                check_time()?;
                sleep(pauses.take());
            }
            // The last agent of a scope removes its directory: then this is another one by now.
            if file_id(path) == directory.metadata().ok().map(id_of) {
                return Ok(Self { scope, directory });
            }
            check_time()?;
        }
    }

    /// Generates `agent-<n>` with a hexadecimal number, as a server does, and skips names in use.
    pub(super) fn generate_name(&self) -> Result<String, ControlError> {
        let path = self.path.join(NAMES);
        // Whatever else stands there makes way: names in use are skipped.
        let text = files::read(&path).ok().flatten().unwrap_or_default();
        let given = String::from_utf8_lossy(&text).parse::<u64>();
        let mut number = given.unwrap_or_default();
        loop {
            number = number.wrapping_add(1);
            let name = format!("agent-{number:x}");
            if !self.agent_path(&name).exists() {
                files::write(&path, number.to_string().as_bytes())?;
                return Ok(name);
            }
        }
    }

    /// Takes an alias: binds its socket, and writes its record. What a crashed owner left is
    /// removed, and its peers are told.
    pub(super) fn enter(
        &self,
        record: &PeerRecord,
    ) -> Result<(UnixDatagram, SocketId), ControlError> {
        let alias = &record.alias;
        let path = self.agent_path(alias);
        let socket = path.join(SOCKET);
        if is_there(&socket) {
            if !is_certainly_dead(&socket) {
                return Err(self.taken(alias));
            }
            tracing::warn!(
                alias,
                "the process that had this alias has ended without leaving; taking it over"
            );
            self.tell_peers(alias)?;
            self.remove(&path)?;
        }
        make_private(&path)?;
        let bound = UnixDatagram::bind(&socket).map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => unfit(&socket, "the path is too long for a socket"),
            _ => failed(&socket)(error),
        })?;
        let written = bound
            .set_nonblocking(true)
            .map_err(failed(&socket))
            .and_then(|()| self.introduce(record));
        match (written, file_id(&socket)) {
            (Ok(()), Some(id)) => Ok((bound, id)),
            (written, _) => {
                files::remove(&socket)?;
                written?;
                Err(unusable(&socket, "it has been removed"))
            }
        }
    }

    /// Writes the record of an agent that is registered.
    pub(super) fn introduce(&self, record: &PeerRecord) -> Result<(), ControlError> {
        let path = self.agent_path(&record.alias).join(AGENT);
        write_named(&path, &record.alias, record).map(drop)
    }

    fn taken(&self, alias: &str) -> ControlError {
        let holder = self.agent(&self.agent_path(alias)).ok().flatten();
        let resource = holder.and_then(|(_, holder)| holder.resource);
        let pid = resource.and_then(|resource| resource["slime"]["pid"].as_u64());
        ControlError::AliasTaken {
            alias: alias.to_owned(),
            scope: self.name.clone(),
            holder: pid.map_or_else(String::new, |pid| format!("process {pid}")),
        }
    }

    /// Returns whether this socket is bound to the alias.
    pub(super) fn holds(&self, alias: &str, socket: SocketId) -> bool {
        file_id(&self.agent_path(alias).join(SOCKET)) == Some(socket)
    }

    /// Removes an agent that leaves, and tells its peers. For want of a descriptor to tell them
    /// with, its files stay: it is one that has crashed, whose next owner tells them.
    pub(super) fn leave(&self, alias: &str) -> Result<(), ControlError> {
        let told = self.tell_peers(alias);
        if told.as_ref().is_err_and(ControlError::is_of_limit) {
            return told;
        }
        self.remove(&self.agent_path(alias))?;
        self.remove_if_unused()?;
        told
    }

    /// Removes the directory of the scope if there are no agents.
    pub(super) fn remove_if_unused(&self) -> Result<(), ControlError> {
        // The first agent ends the search.
        let is_agent = |entry: io::Result<fs::DirEntry>| {
            entry.map_or(true, |entry| !is_of_scope(&entry.file_name()))
        };
        let mut entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed(&self.path))?,
        };
        if !entries.any(is_agent) {
            for own in [NAMES, SWEPT, ADVERTISING, DECLARING] {
                files::remove(&self.path.join(own))?;
            }
            // If something else lies there, the directory stays.
            let _ = fs::remove_dir(&self.path);
        }
        Ok(())
    }

    /// Removes what crashed agents have left, and mail that nobody has claimed.
    pub(super) fn sweep(&self, spared: Option<&Path>) -> Result<(), ControlError> {
        let swept = self.path.join(SWEPT);
        if age(&swept).is_some_and(|age| age < SWEEP) {
            return Ok(());
        }
        for path in self.agents()? {
            if spared == Some(&*path) {
                continue;
            }
            let socket = path.join(SOCKET);
            let is_left = match is_there(&socket) {
                true => is_certainly_dead(&socket),
                false => age(&path.join(MAIL)).is_none_or(|age| age > UNCLAIMED_MAIL),
            };
            if is_left {
                tracing::debug!(path = %path.display(), "removing what an agent has left");
                if let Err(error) = self.remove(&path) {
                    tracing::warn!(%error, "what a crashed agent has left stays");
                }
            }
        }
        if let Err(error) = self.sweep_indexes() {
            tracing::warn!(%error, "names of agents that are gone stay in the indexes");
        }
        // Without it the next search comes earlier. There may be no space.
        let _ = files::write(&swept, &[]);
        Ok(())
    }

    /// Removes names of agents that have no directory any more: of a process that was killed while
    /// it removed one.
    fn sweep_indexes(&self) -> Result<(), ControlError> {
        // What stands in the place of that directory may be a link.
        let declaring = self.path.join(DECLARING);
        let peers = Index::at(declaring.clone()).names()?;
        let indexes = peers.iter().map(|peer| Index::at(declaring.join(peer)));
        for index in indexes.chain([self.advertising()]) {
            for name in index.names()? {
                if !is_there(&self.path.join(&name)) {
                    index.remove(&name)?;
                }
            }
        }
        Ok(())
    }

    /// Removes the directory of an agent, and tells everybody if it has entities. It is moved away
    /// first, so that no half of one stays if this process is killed.
    fn remove(&self, path: &Path) -> Result<(), ControlError> {
        let had_entities = !entity_files(path)?.is_empty();
        let declared = topology(path)?;
        let gone = self.path.join(GONE);
        files::remove(&gone)?;
        match fs::rename(path, &gone) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(path)(error)),
            Ok(()) => files::remove(&gone),
        }?;
        let mut removed = Ok(());
        if let Some(name) = path.file_name() {
            for peer in declared {
                removed = removed.and(self.declaring(&peer).remove(name));
            }
            removed = removed.and(self.advertising().remove(name));
        }
        // Others have to know of it whatever has become of the indexes.
        if had_entities {
            self.ring_all()?;
        }
        removed
    }

    /// Tells the agents that `alias` has declared, and those that have declared it, that it has
    /// left.
    fn tell_peers(&self, alias: &str) -> Result<(), ControlError> {
        let own_path = self.agent_path(alias);
        let own = topology(&own_path)?;
        let mut paths: HashSet<_> = own.iter().map(|peer| self.agent_path(peer)).collect();
        let declaring = self.declaring(alias);
        for name in declaring.names()? {
            let path = self.path.join(&name);
            match topology(&path)?.iter().any(|it| it == alias) {
                true => drop(paths.insert(path)),
                false => declaring.remove(&name)?,
            }
        }
        paths.remove(&own_path);
        let has_left = MailEvent::Left {
            peer: alias.to_owned(),
        };
        for path in paths {
            if let Some((peer, _)) = unless_limited(self.agent(&path))? {
                tracing::debug!(alias, peer, "told a peer that this agent leaves");
                self.post(&peer, &has_left)?;
            }
        }
        Ok(())
    }

    /// Removes the records and entities of an agent that are none of these.
    pub(super) fn remove_others<'n>(
        &self,
        alias: &str,
        records: impl Iterator<Item = &'n String>,
        entities: impl Iterator<Item = &'n String>,
    ) -> Result<(), ControlError> {
        let records = records.map(|name| self.record_path(alias, name));
        let entities = entities.map(|id| self.entity_path(alias, id));
        let kept: HashSet<_> = records.chain(entities).collect();
        for file in entries(&self.agent_path(alias))? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let is_published = name.starts_with(RECORD) || name.starts_with(ENTITY);
            if is_published && !kept.contains(&file) {
                files::remove(&file)?;
            }
        }
        Ok(())
    }

    /// Writes the peers that an agent has declared, and in the indexes of those that are new.
    pub(super) fn declare(&self, alias: &str, peers: &[String]) -> Result<(), ControlError> {
        let path = self.agent_path(alias);
        let before: HashSet<_> = topology(&path)?.into_iter().collect();
        let new = peers.iter().filter(|peer| !before.contains(*peer));
        // First, as an agent that is in no index is not told.
        self.enter_in_indexes(alias, new)?;
        match peers {
            [] => files::remove(&path.join(TOPOLOGY)),
            peers => write_named(&path.join(TOPOLOGY), alias, &peers).map(drop),
        }?;
        let now: HashSet<_> = peers.iter().collect();
        for peer in before.iter().filter(|peer| !now.contains(peer)) {
            self.declaring(peer).remove(file_name(alias).as_ref())?;
        }
        Ok(())
    }

    /// Enters an agent as one that has declared these peers.
    pub(super) fn enter_in_indexes<'p>(
        &self,
        alias: &str,
        mut peers: impl Iterator<Item = &'p String>,
    ) -> Result<(), ControlError> {
        peers.try_for_each(|peer| {
            let declaring = self.path.join(DECLARING);
            make_directory(&declaring)?;
            let file = self.agent_path(alias).join(AGENT);
            self.declaring(peer).enter(&file_name(alias), &file)
        })
    }

    /// Writes a record of an agent, or removes it.
    pub(super) fn publish(
        &self,
        alias: &str,
        name: &str,
        record: Option<&Value>,
    ) -> Result<(), ControlError> {
        let path = self.record_path(alias, name);
        match record {
            Some(record) => write_named(&path, name, record).map(drop),
            None => files::remove(&path),
        }
    }

    /// Writes an entity of an agent, or removes it, and tells everybody of the change.
    pub(super) fn advertise(
        &self,
        alias: &str,
        id: &str,
        entity: Option<&Entity>,
    ) -> Result<(), ControlError> {
        let path = self.entity_path(alias, id);
        let has_changed = match entity {
            Some(entity) => {
                let file = self.agent_path(alias).join(AGENT);
                self.advertising().enter(&file_name(alias), &file)?;
                write_named(&path, id, entity)?
            }
            None => files::remove(&path).map(|()| true)?,
        };
        match has_changed {
            true => self.ring_all(),
            false => Ok(()),
        }
    }

    /// Adds an event to the mail of an agent, or of a peer that is not up yet.
    pub(super) fn post(&self, alias: &str, event: &MailEvent) -> Result<(), ControlError> {
        let path = self.agent_path(alias);
        let socket = path.join(SOCKET);
        // Before anything is written: mail that nobody is told of waits for the next.
        let bell = bell().map_err(failed(&socket))?;
        // Mail is for the next owner of the alias, and the rest of a crashed one is not.
        if bell.connect(&socket).is_err_and(is_of_dead) && is_there(&socket) {
            self.remove(&path)?;
        }
        make_private(&path)?;
        let mail = path.join(MAIL);
        // The line break in front ends what a killed process may have left unfinished.
        let line = serde_json::to_string(event).map(|it| format!("\n{it}\n"));
        let line = line.map_err(|error| unusable(&mail, error))?;
        if line.len() > LONGEST / 2 {
            let reason = format!("mail of {} bytes is too long", line.len());
            return Err(unusable(&mail, reason));
        }
        append(&mail, line.as_bytes())?;
        let _ = bell.send(&MAIL_CAME);
        Ok(())
    }

    /// Takes the mail of an agent out of its file. Lines that are no mail are skipped.
    pub(super) fn take_mail(&self, alias: &str) -> Result<Vec<MailEvent>, ControlError> {
        let mail = self.agent_path(alias).join(MAIL);
        let text = match files::read(&mail) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(Vec::new()),
            // It can be read later.
            Err(error) if error.is_of_limit() => return Err(error),
            Err(error) => {
                tracing::warn!(alias, %error, "mail removed that cannot be read");
                Vec::new()
            }
        };
        // Some file systems take ever longer to make files where many were removed.
        match text.is_empty() {
            true => files::remove(&mail)?,
            false => files::clear(&mail)?,
        }
        let lines = text.split(|byte| *byte == b'\n');
        let events = lines.filter(|line| !line.is_empty()).filter_map(|line| {
            let event = serde_json::from_slice(line);
            event
                .inspect_err(|error| tracing::warn!(alias, %error, "malformed mail skipped"))
                .ok()
        });
        Ok(events.collect())
    }

    /// Tells an agent to look.
    pub(super) fn ring(&self, alias: &str) {
        ring(&self.agent_path(alias).join(SOCKET), &[]);
    }

    /// Tells all agents to look again.
    fn ring_all(&self) -> Result<(), ControlError> {
        let Ok(bell) = bell() else { return Ok(()) };
        for path in self.agents()? {
            let _ = bell.send_to(&[], path.join(SOCKET));
        }
        Ok(())
    }
}

impl Drop for LockedScope<'_> {
    fn drop(&mut self) {
        // A child that is just being started may have the same open directory for a while.
        let _ = flock(&self.directory, FlockOperation::Unlock);
    }
}

fn is_locked(path: &Path) -> ControlError {
    let reason = format!("another process has kept its lock for {LOCK_TIMEOUT:?}");
    unusable(path, reason)
}

/// The peers that the agent at `path` has declared, if they can be read.
///
/// # Errors
/// Only those of a limit.
fn topology(path: &Path) -> Result<Vec<String>, ControlError> {
    let read = unless_limited(read_named(&path.join(TOPOLOGY)))?;
    Ok(read.map(|(_, peers)| peers).unwrap_or_default())
}

/// The files of the entities of the agent at `path`.
fn entity_files(path: &Path) -> Result<Vec<PathBuf>, ControlError> {
    let mut files = entries(path)?;
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(ENTITY)
    });
    Ok(files)
}

/// What was read, without what cannot be.
fn readable<T>(read: Result<Option<T>, ControlError>) -> Option<T> {
    read.unwrap_or_else(|error| {
        tracing::warn!(%error, "skipped");
        None
    })
}

/// What was read, without what cannot be. What only a limit keeps from being read can be later.
fn unless_limited<T>(read: Result<Option<T>, ControlError>) -> Result<Option<T>, ControlError> {
    match read {
        Err(error) if error.is_of_limit() => Err(error),
        read => Ok(readable(read)),
    }
}

pub(super) fn is_of_scope(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// What lies in a directory, if there is one.
pub(super) fn listed(path: &Path) -> Result<Vec<fs::DirEntry>, ControlError> {
    match fs::read_dir(path).and_then(Iterator::collect) {
        Ok(listed) => Ok(listed),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(path)(error)),
    }
}

fn entries(path: &Path) -> Result<Vec<PathBuf>, ControlError> {
    Ok(listed(path)?.iter().map(fs::DirEntry::path).collect())
}

fn file_id(path: &Path) -> Option<SocketId> {
    fs::symlink_metadata(path).ok().map(id_of)
}

fn id_of(found: fs::Metadata) -> SocketId {
    (found.dev(), found.ino())
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// How long ago a file was written; `None` if there is none.
fn age(path: &Path) -> Option<Duration> {
    let written = fs::symlink_metadata(path).ok()?.modified().ok()?;
    // A file of the future, by a clock that was set back, is a new one.
    Some(
        SystemTime::now()
            .duration_since(written)
            .unwrap_or_default(),
    )
}

/// Returns whether no process has bound this socket. False if this process cannot tell.
fn is_certainly_dead(socket: &Path) -> bool {
    let connected = UnixDatagram::unbound().map(|it| it.connect(socket));
    connected.is_ok_and(|it| it.is_err_and(is_of_dead))
}

/// Whether connecting with a socket has failed because no process has bound it.
fn is_of_dead(error: io::Error) -> bool {
    use ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
    matches!(error.kind(), ConnectionRefused | NotFound | NotADirectory)
}

/// Tells the agent at `socket` to look again: at its mail, or at everything. If its socket is full,
/// it has not yet read earlier messages, and looks at everything.
fn ring(socket: &Path, message: &[u8]) {
    if let Ok(bell) = bell() {
        let _ = bell.send_to(message, socket);
    }
}

/// A socket to ring with. It never blocks.
fn bell() -> io::Result<UnixDatagram> {
    let bell = UnixDatagram::unbound()?;
    bell.set_nonblocking(true)?;
    Ok(bell)
}

/// Appends to the mail in a file, and drops the older half if it becomes too long.
fn append(mail: &Path, line: &[u8]) -> Result<(), ControlError> {
    let open = || files::open(mail, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE);
    let opened = open().or_else(|_| make_way(mail).and_then(|()| open()));
    let mut file = opened.map_err(failed(mail))?;
    let mut length = file.metadata().map_err(failed(mail))?.len();
    if length > (LONGEST - line.len()) as u64 {
        tracing::warn!(mail = %mail.display(), "nobody reads this mail: the older half is dropped");
        let text = files::read(mail).ok().flatten().unwrap_or_default();
        let newer = &text[text.len() / 2..];
        let begin = newer.iter().position(|byte| *byte == b'\n');
        files::write(mail, &newer[begin.unwrap_or(newer.len())..])?;
        file = open().map_err(failed(mail))?;
        length = file.metadata().map_err(failed(mail))?.len();
    }
    file.write_all(line).map_err(|error| {
        // Half of a line is of no use, and takes the place that is missing.
        let _ = file.set_len(length);
        failed(mail)(error)
    })
}
