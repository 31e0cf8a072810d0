//! Completion queues of the tcp fabric.
//!
//! The descriptor that sleepers await is an epoll of two things: an eventfd, which whoever adds a
//! completion raises unless it is about to poll, and, while the queue is armed, the epoll of its
//! sockets. So it is the wire that wakes a sleeper. Who sleeps again and again leaves all of that
//! as it is: a sleep is no system call beside the wait.

use std::collections::{HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::event::{Timespec, epoll};

use super::connection::Connection;
use super::unsettled::Unsettled;
use crate::fabric::{Completion, CompletionQueue, FabricError, Gid, eventfd};

/// Nothing is asked for; an event at what a peer wants noticed, or a failure; at anything.
const DISARMED: u8 = 0;
const ARMED_SOLICITED: u8 = 1;
const ARMED: u8 = 2;
/// Sockets that one poll looks at.
const READY: usize = 64;
/// Polls in a row that look only at the connection that spoke last, and find nothing.
const RECENT: u32 = 8;
/// Polls since the queue was armed after which nobody sleeps who would do so soon again.
const BUSY: u64 = 1000;
/// The number of no queue pair.
const NOBODY: u32 = 0;
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
    /// `polls` when it was armed last.
    armed_at: AtomicU64,
    /// Those who move what has come, and look at the completions afterwards.
    collectors: AtomicU32,
    entries: Mutex<VecDeque<Entry>>,
    has_entries: AtomicBool,
    connections: Mutex<Arc<HashMap<u32, Arc<Connection>>>>,
    /// The connection that spoke last, and the polls since all were looked at.
    recent: AtomicU32,
    recent_polls: AtomicU32,
    /// Connections that wait with an acknowledgement for a frame to carry it.
    owing: Unsettled,
    /// Connections of the device whose frames wait for a poll. Whoever waits for one peer sends
    /// what it has for others, too.
    gathered: Arc<Unsettled>,
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
    pub(super) fn create(device: Gid, gathered: Arc<Unsettled>) -> Result<Self, FabricError> {
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
            armed_at: AtomicU64::new(0),
            collectors: AtomicU32::new(0),
            entries: Mutex::default(),
            has_entries: AtomicBool::new(false),
            connections: Mutex::default(),
            recent: AtomicU32::new(NOBODY),
            recent_polls: AtomicU32::new(0),
            owing: Unsettled::default(),
            gathered,
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

    /// Adds a completion. It raises an event if one was asked for of this kind, unless somebody is
    /// about to look.
    pub(super) fn push(&self, entry: Entry, is_wanted: bool) {
        lock(&self.entries).push_back(entry);
        self.has_entries.store(true, Ordering::SeqCst);
        let least = if is_wanted { ARMED_SOLICITED } else { ARMED };
        if self.collectors.load(Ordering::SeqCst) == 0 {
            self.raise_for(least);
        }
    }

    /// Raises an event if one was asked for of at least this kind.
    fn raise_for(&self, least: u8) {
        if self.armed.load(Ordering::SeqCst) >= least
            && self.armed.swap(DISARMED, Ordering::SeqCst) != DISARMED
        {
            eventfd::raise(&self.event);
            // Afterwards, so that whoever takes note of it takes the event, too.
            self.is_raised.store(true, Ordering::SeqCst);
        }
    }

    /// Takes what is there, and looks at the sockets if there is nothing.
    pub(super) fn poll(&self, out: &mut [Completion]) -> usize {
        let polls = self.note_poll();
        let count = self.take(out);
        if count > 0 {
            return count;
        }
        self.collectors.fetch_add(1, Ordering::SeqCst);
        self.progress();
        self.collectors.fetch_sub(1, Ordering::SeqCst);
        let count = self.take(out);
        if self.armed.load(Ordering::SeqCst) != DISARMED {
            if self.has_entries.load(Ordering::SeqCst) {
                // Somebody else may sleep, and nobody was told of these.
                self.raise_for(ARMED_SOLICITED);
            } else if polls.wrapping_sub(self.armed_at.load(Ordering::Relaxed)) > BUSY {
                self.calm();
            }
        }
        count
    }

    /// Whoever was woken polls on, or the sleeper is not the one who polls. That one is woken, to
    /// ask anew, so that what comes over the sockets wakes nobody any more.
    #[cold]
    fn calm(&self) {
        self.raise_for(ARMED_SOLICITED);
        self.stop_watching();
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

    /// Somebody polls. Returns how many polls that makes.
    fn note_poll(&self) -> u64 {
        // A count that is lost to another thread is no loss: it only has to change.
        let polls = self.polls.load(Ordering::Relaxed).wrapping_add(1);
        self.polls.store(polls, Ordering::Relaxed);
        polls
    }

    /// How many polls there have been, modulo 2^64.
    pub(super) fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    /// Whether somebody has armed it and polled once since, as who goes to sleep does.
    pub(super) fn is_slept_on(&self) -> bool {
        self.armed.load(Ordering::SeqCst) != DISARMED
            && self
                .polls()
                .wrapping_sub(self.armed_at.load(Ordering::SeqCst))
                <= 1
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
    fn progress(&self) {
        self.settle();
        let connections = lock(&self.connections).clone();
        match connections.len() {
            0 => {}
            1 => {
                for one in connections.values() {
                    one.progress(self);
                }
            }
            _ => self.progress_ready(&connections),
        }
    }

    fn progress_ready(&self, connections: &HashMap<u32, Arc<Connection>>) {
        let recent_polls = self.recent_polls.load(Ordering::Relaxed);
        if recent_polls < RECENT
            && let Some(recent) = connections.get(&self.recent.load(Ordering::Relaxed))
        {
            // What has come may take long to handle, and others wait meanwhile.
            let next = match recent.progress(self) {
                true => RECENT,
                false => recent_polls + 1,
            };
            // Unless somebody has armed the queue meanwhile: then the next poll looks at all.
            let _ = self.recent_polls.compare_exchange(
                recent_polls,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            return;
        }
        self.recent_polls.store(0, Ordering::Relaxed);
        let mut room = [const { MaybeUninit::uninit() }; READY];
        let waited = epoll::wait(&self.sockets, &mut room, Some(&Timespec::default()));
        // Without it the device's thread goes on alone.
        let Ok((events, _)) = waited else {
            return;
        };
        for event in events {
            let number = event.data.u64() as u32;
            if let Some(connection) = connections.get(&number)
                && connection.progress(self)
            {
                self.recent.store(number, Ordering::Relaxed);
            }
        }
    }

    /// This connection has executed what its peer waits for.
    pub(super) fn owe(&self, connection: &Weak<Connection>) {
        self.owing.add(connection);
    }

    /// Acknowledges what no frame has carried meanwhile, and sends what has gathered.
    fn settle(&self) {
        self.owing.settle();
        self.gathered.settle();
    }

    fn arm_for(&self, what: u8) -> Result<(), FabricError> {
        let mut is_watching = lock(&self.is_watching);
        // The poll that comes next looks at all connections: edges tell only of what comes later.
        self.recent_polls.store(RECENT, Ordering::Relaxed);
        self.armed_at.store(self.polls(), Ordering::SeqCst);
        self.armed.fetch_max(what, Ordering::SeqCst);
        if !*is_watching {
            self.set_watching(epoll::EventFlags::IN)
                .map_err(FabricError::os("arming a completion queue"))?;
            *is_watching = true;
        }
        drop(is_watching);
        // Afterwards: who has something to say now says it without waiting for a poll.
        self.settle();
        Ok(())
    }

    /// Has nobody woken by the sockets, unless the queue has been armed meanwhile.
    fn stop_watching(&self) {
        let mut is_watching = lock(&self.is_watching);
        if *is_watching && self.armed.load(Ordering::SeqCst) == DISARMED {
            // It is a descriptor of ours, so this cannot fail.
            *is_watching = self.set_watching(epoll::EventFlags::empty()).is_err();
        }
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
        // Of what has come over a socket the poll tells that follows; the event is that it can be
        // read.
        if self.is_raised.swap(false, Ordering::SeqCst) {
            eventfd::lower(&self.event);
        }
        self.stop_watching();
    }
}
