//! Links: what all queue pairs of two ports share, a control socket that one of the ports has
//! dialled.
//!
//! Each end asks over it for its queue pairs, and answers for them. The link ends when neither has
//! a need of it: a queue pair that is connected, or memory of the other port that is mapped. The
//! end that has dialled says that it has none any more, and dials another link when it has one
//! again.
//!
//! Two ports may dial each other at the same time. The link of the one with the greater GID is
//! used then; the other is refused, and whoever asked over it asks again.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::io::Errno;

use super::arena::Lot;
use super::bell::{Bell, Bells};
use super::connection::Connection;
use super::control_socket::ControlSocket;
use super::message::{Message, VERSION};
use crate::fabric::Gid;

/// Most messages that wait until the peer reads. Each queue pair of an honest one has a few under
/// way at most, and two processes may have thousands between them.
const MAX_WAITING: usize = 1 << 16;

/// One link, at either end.
#[derive(Debug)]
pub(super) struct Link {
    socket: ControlSocket,
    /// The port at the other end.
    peer: Gid,
    is_dialled: bool,
    /// Whether the peer has said something on it: it has been accepted then, and is no link that
    /// crosses a later one.
    was_heard: AtomicBool,
    /// The links of the port.
    links: Weak<Links>,
    /// `None` once it has ended.
    users: Mutex<Option<Users>>,
    /// How to wake the peer.
    bells: Mutex<Bells>,
    /// Messages that could not be sent yet.
    waiting: Mutex<VecDeque<WaitingMessage>>,
}

/// What a link is needed for.
#[derive(Debug, Default)]
struct Users {
    /// The connections that end with it, by number.
    connections: HashMap<u32, Weak<Connection>>,
    /// How often lots of the peer are mapped.
    borrowed: usize,
    /// The lots that the peer has mapped, by number, and how often. None is freed meanwhile: the
    /// peer would see its bytes change.
    lent: HashMap<u64, (Arc<Lot>, usize)>,
    /// Whether the end that has dialled has said that it has no need any more.
    is_done: bool,
}

/// A message, and owners of the descriptors that go with it.
#[derive(Debug)]
struct WaitingMessage {
    message: Message,
    fds: Vec<Arc<dyn Descriptor>>,
}

/// An owner of a descriptor that is sent to a peer.
trait Descriptor: AsFd + fmt::Debug + Send + Sync {}

impl<T: AsFd + fmt::Debug + Send + Sync> Descriptor for T {}

/// The links of a port over which new connections ask, by peer.
#[derive(Debug)]
pub(super) struct Links {
    gid: Gid,
    by_peer: Mutex<HashMap<Gid, Arc<Link>>>,
    /// Whether messages wait until fewer descriptors are on their way, which nothing reports.
    wait_for_descriptors: AtomicBool,
}

impl Links {
    /// Makes the links of the port with this GID.
    pub(super) fn new(gid: Gid) -> Self {
        Self {
            gid,
            by_peer: Mutex::default(),
            wait_for_descriptors: AtomicBool::new(false),
        }
    }

    /// Returns whether a message has begun to wait since the last call because too many descriptors
    /// were on their way. Its link has to be flushed after a while.
    pub(super) fn wait_for_descriptors(&self) -> bool {
        self.wait_for_descriptors.swap(false, Ordering::Relaxed)
    }

    /// Finds the link to a peer, or dials it, and has it end `connection` when it ends. Returns
    /// whether it is new, too.
    pub(super) fn join(
        self: &Arc<Self>,
        peer: Gid,
        connection: &Arc<Connection>,
    ) -> io::Result<(Arc<Link>, bool)> {
        let mut links = lock(&self.by_peer);
        if let Some(link) = links.get(&peer)
            && link.join(connection)
        {
            return Ok((link.clone(), false));
        }
        let socket = ControlSocket::dial(peer)?;
        let link = Arc::new(Link::new(socket, peer, true, self));
        link.send(&Message::Device {
            version: VERSION,
            gid: self.gid.0,
        })?;
        link.join(connection);
        links.insert(peer, link.clone());
        Ok((link, true))
    }

    /// Makes this end of a link that somebody has dialled who says to be `peer`. Returns `None` if
    /// this port has dialled that peer as well, and its own link is used.
    pub(super) fn accept(self: &Arc<Self>, socket: ControlSocket, peer: Gid) -> Option<Arc<Link>> {
        let link = Arc::new(Link::new(socket, peer, false, self));
        // The other end of a link to oneself would ask over its own.
        if peer != self.gid && link.is_of_its_peer() {
            match lock(&self.by_peer).entry(peer) {
                Entry::Vacant(entry) => drop(entry.insert(link.clone())),
                Entry::Occupied(entry) if entry.get().crosses() && self.gid.0 > peer.0 => {
                    return None;
                }
                // The peer refuses that one, or has left it.
                Entry::Occupied(mut entry) => drop(entry.insert(link.clone())),
            }
        }
        Some(link)
    }

    /// Returns whether there is a link to a peer.
    pub(super) fn has(&self, peer: Gid) -> bool {
        lock(&self.by_peer).contains_key(&peer)
    }
}

impl Link {
    fn new(socket: ControlSocket, peer: Gid, is_dialled: bool, links: &Arc<Links>) -> Self {
        Self {
            socket,
            peer,
            is_dialled,
            was_heard: AtomicBool::new(false),
            links: Arc::downgrade(links),
            users: Mutex::new(Some(Users::default())),
            bells: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// Returns whether the process that has dialled is the one that has the port. Another one
    /// could keep this port from its peer by that peer's name.
    fn is_of_its_peer(&self) -> bool {
        let process = |socket: &ControlSocket| socket.peer_process().ok().flatten();
        let theirs = ControlSocket::dial(self.peer).ok();
        let theirs = theirs.as_ref().and_then(process);
        theirs.is_some() && theirs == process(&self.socket)
    }

    /// The port at the other end.
    pub(super) fn peer(&self) -> Gid {
        self.peer
    }

    /// Whether this end has dialled.
    pub(super) fn is_dialled(&self) -> bool {
        self.is_dialled
    }

    /// Notes that the peer has said something on it.
    pub(super) fn heard(&self) {
        self.was_heard.store(true, Ordering::Relaxed);
    }

    /// Whether this end has dialled, and the peer, as far as is known, has yet to accept that.
    fn crosses(&self) -> bool {
        self.is_dialled && !self.was_heard.load(Ordering::Relaxed)
    }

    /// The socket, for the port's thread.
    pub(super) fn socket(&self) -> &ControlSocket {
        &self.socket
    }

    /// Returns whether either end has yet to read what the other has said.
    pub(super) fn is_behind(&self) -> bool {
        let waits = !lock(&self.waiting).is_empty();
        waits || self.socket.is_unread_there() || self.socket.peek().is_some()
    }

    /// Has the end of the link end a connection. Returns whether it has not ended yet.
    pub(super) fn join(&self, connection: &Arc<Connection>) -> bool {
        let joined = lock(&self.users).as_mut().map(|users| {
            let weak = Arc::downgrade(connection);
            users.connections.insert(connection.number(), weak);
        });
        joined.is_some()
    }

    /// Forgets a connection that is over.
    pub(super) fn leave(&self, connection: &Connection) {
        self.forget(|users| {
            // The next life of the queue pair may have taken its place.
            if let Entry::Occupied(entry) = users.connections.entry(connection.number())
                && ptr::eq(entry.get().as_ptr(), connection)
            {
                entry.remove();
            }
        });
    }

    /// Notes that a lot of the peer is mapped, perhaps once more.
    pub(super) fn borrow(&self) {
        if let Some(users) = &mut *lock(&self.users) {
            users.borrowed += 1;
        }
    }

    /// Tells the peer that its lot is not mapped any more, or once less.
    pub(super) fn give_back(&self, lot: u64) {
        // The end of the link tells it, too.
        let _ = self.send(&Message::Unmapped { lot });
        self.forget(|users| users.borrowed -= 1);
    }

    /// Notes that the other end has no need any more. Returns whether it may say so, as the one
    /// that has dialled.
    pub(super) fn done(&self) -> bool {
        if !self.is_dialled {
            self.forget(|users| users.is_done = true);
        }
        !self.is_dialled
    }

    /// Drops a need. Without any, this end says so, or ends the link.
    fn forget(&self, need: impl FnOnce(&mut Users)) {
        let links = self.links.upgrade();
        // Locked before the users, so that nobody joins a link that ends here.
        let mut links = links.as_ref().map(|links| lock(&links.by_peer));
        let mut users = lock(&self.users);
        let Some(left) = users.as_mut() else {
            return;
        };
        need(left);
        let is_needed = !left.connections.is_empty() || left.borrowed > 0;
        if let Some(links) = &mut links
            && (left.is_done || self.is_dialled && !is_needed)
        {
            self.leave_to_others(links);
        }
        if is_needed {
            return;
        }
        if !self.is_dialled {
            if left.is_done {
                *users = None;
                self.socket.end();
            }
        } else if !std::mem::replace(&mut left.is_done, true) {
            drop((users, links));
            // An end of the link says it, too.
            let _ = self.send(&Message::Done);
        }
    }

    /// Sends a message that tells the peer of lots, and keeps those while the peer has them mapped.
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    pub(super) fn tell(
        &self,
        message: &Message,
        lots: &[&Arc<Lot>],
        event: Option<&Arc<OwnedFd>>,
    ) -> io::Result<()> {
        if let Some(users) = &mut *lock(&self.users) {
            for lot in lots {
                let lent = users.lent.entry(lot.number());
                lent.or_insert_with(|| ((*lot).clone(), 0)).1 += 1;
            }
        }
        let descriptor = |lot: &&Arc<Lot>| -> Arc<dyn Descriptor> { (*lot).clone() };
        let mut fds: Vec<_> = lots.iter().map(descriptor).collect();
        if let Some(event) = event {
            fds.push(event.clone());
        }
        let told = self.post(message, &fds);
        if told.is_err() {
            lots.iter().for_each(|lot| self.returned(lot.number()));
        }
        told
    }

    /// Notes that the peer has unmapped a lot, as often as it was lent.
    pub(super) fn returned(&self, lot: u64) {
        if let Some(users) = &mut *lock(&self.users)
            && let Entry::Occupied(mut lent) = users.lent.entry(lot)
        {
            lent.get_mut().1 -= 1;
            if lent.get().1 == 0 {
                lent.remove();
            }
        }
    }

    /// Returns whether either end has, as far as this one knows, a need of the link.
    pub(super) fn is_used(&self) -> bool {
        let users = lock(&self.users);
        users.as_ref().is_some_and(|users| {
            !users.connections.is_empty() || users.borrowed > 0 || !users.lent.is_empty()
        })
    }

    /// Has new connections ask over another link.
    fn leave_to_others(&self, links: &mut HashMap<Gid, Arc<Self>>) {
        if let Entry::Occupied(link) = links.entry(self.peer)
            && ptr::eq(&**link.get(), self)
        {
            link.remove();
        }
    }

    /// Ends the link. Returns its connections, which are lost with it.
    pub(super) fn end(&self) -> Vec<Arc<Connection>> {
        let connections = self.vacate();
        self.socket.end();
        lock(&self.waiting).clear();
        connections
    }

    /// Has nobody join the link any more. Returns its connections.
    pub(super) fn vacate(&self) -> Vec<Arc<Connection>> {
        if let Some(links) = self.links.upgrade() {
            self.leave_to_others(&mut lock(&links.by_peer));
        }
        let users = lock(&self.users).take();
        let connections = users.into_iter().flat_map(|users| users.connections);
        let alive = connections.filter_map(|(_, connection)| connection.upgrade());
        alive.collect()
    }

    /// Finds the bell of a completion queue of the peer, or makes it.
    pub(super) fn bell(
        &self,
        queue: u64,
        make: impl FnOnce() -> io::Result<Bell>,
    ) -> io::Result<Arc<Bell>> {
        lock(&self.bells).find(queue, make)
    }

    /// Sends a message, as soon as the peer has read enough others.
    ///
    /// # Errors
    /// The link has ended, or ends with this.
    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        self.post(message, &[])
    }

    fn post(&self, message: &Message, fds: &[Arc<dyn Descriptor>]) -> io::Result<()> {
        let mut waiting = lock(&self.waiting);
        if waiting.is_empty() {
            match self.socket.send(message, &borrowed(fds)) {
                Err(error) if self.may_wait(&error) => {}
                sent => return sent,
            }
        }
        if waiting.len() >= MAX_WAITING {
            self.socket.end();
            return Err(io::Error::other("the peer does not read"));
        }
        let (message, fds) = (message.clone(), fds.to_vec());
        waiting.push_back(WaitingMessage { message, fds });
        Ok(())
    }

    /// Returns whether a message that was not sent for this reason can be sent later. A user who is
    /// not root may have as many descriptors in messages that nobody has read as a process may
    /// have open.
    fn may_wait(&self, error: &io::Error) -> bool {
        let has_too_many = error.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error());
        if has_too_many && let Some(links) = self.links.upgrade() {
            links.wait_for_descriptors.store(true, Ordering::Relaxed);
        }
        has_too_many || error.kind() == io::ErrorKind::WouldBlock
    }

    /// Sends messages that wait, as far as the socket has room now. The port's thread calls this
    /// whenever there may be more.
    pub(super) fn flush(&self) {
        let mut waiting = lock(&self.waiting);
        while let Some(WaitingMessage { message, fds }) = waiting.front() {
            match self.socket.send(message, &borrowed(fds)) {
                Ok(()) => drop(waiting.pop_front()),
                Err(error) if self.may_wait(&error) => return,
                // The thread reads the end next.
                Err(_) => return self.socket.end(),
            }
        }
    }
}

fn borrowed(fds: &[Arc<dyn Descriptor>]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(|fd| fd.as_fd()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
