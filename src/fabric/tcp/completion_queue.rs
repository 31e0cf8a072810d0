//! Completion queues of the tcp fabric.
//!
//! The descriptor that sleepers await is an epoll of two things: an eventfd, which whoever adds a
//! completion raises, and, while the queue is armed, the epoll of its sockets. So it is the wire
//! that wakes a sleeper.

use std::collections::{HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::event::{Timespec, epoll};

use super::connection::Connection;
use crate::fabric::{Completion, CompletionQueue, FabricError, Gid, eventfd};

/// Nothing is asked for; an event at what a peer wants noticed, or a failure; at anything.
const DISARMED: u8 = 0;
const ARMED_SOLICITED: u8 = 1;
const ARMED: u8 = 2;
/// Sockets that one poll looks at.
const READY: usize = 64;
/// A turn, or a count of polls, before the first.
const NEVER: u64 = u64::MAX;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct TcpCompletionQueue {
    device: Gid,
    /// What sleepers await.
    outer: OwnedFd,
    event: OwnedFd,
    is_raised: AtomicBool,
    sockets: OwnedFd,
    /// Whether `outer` watches `sockets`.
    is_watching: Mutex<bool>,
    armed: AtomicU8,
    entries: Mutex<VecDeque<Entry>>,
    has_entries: AtomicBool,
    connections: Mutex<Arc<HashMap<u32, Arc<Connection>>>>,
    /// Connections that wait with an acknowledgement for a frame to carry it.
    owing: Mutex<Vec<Weak<Connection>>>,
    has_owing: AtomicBool,
    polls: AtomicU64,
    seen: Seen,
}

/// What the device's thread knows of those who poll; nobody else uses it. It asks for each
/// connection, and gets one answer a turn for all of a queue.
#[derive(Debug)]
struct Seen {
    turn: AtomicU64,
    /// `polls` when this turn began, and whether there had been any since the one before.
    polls: AtomicU64,
    was_polled: AtomicBool,
    /// `polls` when something was last left to a sleeper, and the turn.
    graced: AtomicU64,
    graced_turn: AtomicU64,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            turn: AtomicU64::new(NEVER),
            polls: AtomicU64::new(0),
            was_polled: AtomicBool::new(false),
            graced: AtomicU64::new(NEVER),
            graced_turn: AtomicU64::new(NEVER),
        }
    }
}

/// A completion, and the places in the send queue that it frees when it is polled.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) completion: Completion,
    pub(super) retires: Option<(u32, Arc<AtomicU32>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TcpCompletionQueue {
    pub(super) fn create(device: Gid) -> Result<Self, FabricError> {
        let epoll = || {
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(FabricError::os("creating an epoll"))
        };
        let event = eventfd::create().map_err(FabricError::os("creating an eventfd"))?;
        let (outer, sockets) = (epoll()?, epoll()?);
        let add = |fd: &OwnedFd, flags| {
            epoll::add(&outer, fd, epoll::EventData::new_u64(0), flags)
                .map_err(FabricError::os("watching a completion queue"))
        };
        add(&event, epoll::EventFlags::IN)?;
        add(&sockets, epoll::EventFlags::empty())?;
        Ok(Self {
            device,
            outer,
            event,
            is_raised: AtomicBool::new(false),
            sockets,
            is_watching: Mutex::new(false),
            armed: AtomicU8::new(DISARMED),
            entries: Mutex::default(),
            has_entries: AtomicBool::new(false),
            connections: Mutex::default(),
            owing: Mutex::default(),
            has_owing: AtomicBool::new(false),
            polls: AtomicU64::new(0),
            seen: Seen::default(),
        })
    }

    /// The device that it was created on.
    pub(super) fn device(&self) -> Gid {
        self.device
    }

    /// Looks at this connection, too, from now on.
    pub(super) fn attach(&self, connection: &Arc<Connection>, socket: impl AsFd) {
        let number = connection.number();
        Arc::make_mut(&mut lock(&self.connections)).insert(number, connection.clone());
        self.watch(number, socket);
    }

    /// Forgets a connection, whose socket is still open.
    pub(super) fn detach(&self, connection: &Connection, socket: impl AsFd) {
        self.unwatch(socket);
        let mut connections = lock(&self.connections);
        Arc::make_mut(&mut connections).remove(&connection.number());
    }

    /// Has pollers and sleepers notice what comes over a socket.
    pub(super) fn watch(&self, number: u32, socket: impl AsFd) {
        let data = epoll::EventData::new_u64(number.into());
        if let Err(error) = epoll::add(&self.sockets, socket, data, epoll::EventFlags::IN) {
            // The device's thread still serves it.
            tracing::warn!(%error, "a completion queue cannot watch a connection; it will be slow");
        }
    }

    /// Has nobody notice what comes over a socket.
    pub(super) fn unwatch(&self, socket: impl AsFd) {
        // It is watched or could not be.
        let _ = epoll::delete(&self.sockets, socket);
    }

    /// Adds a completion. It raises an event if one was asked for of this kind.
    pub(super) fn push(&self, entry: Entry, is_wanted: bool) {
        lock(&self.entries).push_back(entry);
        self.has_entries.store(true, Ordering::SeqCst);
        let least = if is_wanted { ARMED_SOLICITED } else { ARMED };
        if self.armed.load(Ordering::SeqCst) >= least
            && self.armed.swap(DISARMED, Ordering::SeqCst) != DISARMED
        {
            eventfd::raise(&self.event);
            // Afterwards, so that whoever takes note of it takes the event, too.
            self.is_raised.store(true, Ordering::SeqCst);
        }
    }

    /// Moves completions into `out`. How many there were.
    pub(super) fn take(&self, out: &mut [Completion]) -> usize {
        if out.is_empty() || !self.has_entries.load(Ordering::SeqCst) {
            return 0;
        }
        let mut entries = lock(&self.entries);
        let count = out.len().min(entries.len());
        for (completion, entry) in out.iter_mut().zip(entries.drain(..count)) {
            if let Some((places, retired)) = entry.retires {
                retired.fetch_add(places, Ordering::Relaxed);
            }
            *completion = entry.completion;
        }
        if entries.is_empty() {
            self.has_entries.store(false, Ordering::SeqCst);
        }
        count
    }

    /// Somebody polls.
    pub(super) fn note_poll(&self) {
        // A count that is lost to another thread is no loss: it only has to change.
        let polls = self.polls.load(Ordering::Relaxed);
        self.polls.store(polls.wrapping_add(1), Ordering::Relaxed);
    }

    /// Whether somebody polled between the last turn in which this was asked and this one.
    pub(super) fn was_polled(&self, turn: u64) -> bool {
        let seen = &self.seen;
        if seen.turn.swap(turn, Ordering::Relaxed) != turn {
            let polls = self.polls.load(Ordering::Relaxed);
            let was_polled = seen.polls.swap(polls, Ordering::Relaxed) != polls;
            seen.was_polled.store(was_polled, Ordering::Relaxed);
        }
        seen.was_polled.load(Ordering::Relaxed)
    }

    /// Whether somebody sleeps who will look at what has come, and has not been left something
    /// before that is still there.
    pub(super) fn has_sleeper(&self, turn: u64) -> bool {
        if self.armed.load(Ordering::Relaxed) == DISARMED {
            return false;
        }
        let (seen, polls) = (&self.seen, self.polls.load(Ordering::Relaxed));
        if seen.graced.swap(polls, Ordering::Relaxed) != polls {
            seen.graced_turn.store(turn, Ordering::Relaxed);
        }
        seen.graced_turn.load(Ordering::Relaxed) == turn
    }

    /// Moves what has come over the sockets, and what waits to leave.
    pub(super) fn progress(&self) {
        self.settle();
        let connections = lock(&self.connections).clone();
        match connections.len() {
            0 => {}
            1 => connections.values().for_each(|one| one.progress(self)),
            _ => self.progress_ready(&connections),
        }
    }

    fn progress_ready(&self, connections: &HashMap<u32, Arc<Connection>>) {
        let mut room = [const { MaybeUninit::uninit() }; READY];
        let waited = epoll::wait(&self.sockets, &mut room, Some(&Timespec::default()));
        // Without it the device's thread goes on alone.
        let Ok((events, _)) = waited else {
            return;
        };
        for event in events {
            if let Some(connection) = connections.get(&(event.data.u64() as u32)) {
                connection.progress(self);
            }
        }
    }

    /// This connection has executed what its peer waits for.
    pub(super) fn owe(&self, connection: &Weak<Connection>) {
        lock(&self.owing).push(connection.clone());
        self.has_owing.store(true, Ordering::Release);
    }

    /// Acknowledges what no frame has carried meanwhile.
    pub(super) fn settle(&self) {
        if self.has_owing.load(Ordering::Relaxed) && self.has_owing.swap(false, Ordering::AcqRel) {
            let owing = std::mem::take(&mut *lock(&self.owing));
            let owing = owing.iter().filter_map(Weak::upgrade);
            owing.for_each(|connection| connection.acknowledge());
        }
    }

    fn arm_for(&self, what: u8) -> Result<(), FabricError> {
        self.settle();
        let mut is_watching = lock(&self.is_watching);
        self.armed.fetch_max(what, Ordering::SeqCst);
        if !*is_watching {
            self.set_watching(epoll::EventFlags::IN)
                .map_err(FabricError::os("arming a completion queue"))?;
            *is_watching = true;
        }
        Ok(())
    }

    fn set_watching(&self, flags: epoll::EventFlags) -> rustix::io::Result<()> {
        let data = epoll::EventData::new_u64(0);
        epoll::modify(&self.outer, &self.sockets, data, flags)
    }
}

impl CompletionQueue for TcpCompletionQueue {
    fn arm(&self) -> Result<(), FabricError> {
        self.arm_for(ARMED)
    }

    fn arm_solicited(&self) -> Result<(), FabricError> {
        self.arm_for(ARMED_SOLICITED)
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.outer.as_fd()
    }

    fn clear_events(&self) {
        if self.armed.load(Ordering::SeqCst) != DISARMED {
            // The event may be what has come over a socket. It is one once it is a completion.
            self.note_poll();
            self.progress();
        }
        if self.is_raised.swap(false, Ordering::SeqCst) {
            eventfd::lower(&self.event);
        }
        let mut is_watching = lock(&self.is_watching);
        if *is_watching && self.armed.load(Ordering::SeqCst) == DISARMED {
            // It is a descriptor of ours, so this cannot fail.
            *is_watching = self.set_watching(epoll::EventFlags::empty()).is_err();
        }
    }
}
