//! The part of a device that its objects and its thread share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use rustix::event::epoll;

use super::connection::Connection;
use super::region::KeyTable;
use super::stream::Stream;
use super::tls::TlsContext;
use super::unsettled::Unsettled;
use crate::complaints::Complaints;
use crate::fabric::{FabricError, Gid, eventfd};

/// The first number of a queue pair.
const FIRST_QUEUE_PAIR: u32 = 1;
/// Numbers of queue pairs have 24 bits, of which peers may know another meaning of the highest.
const NUMBERS: u32 = 1 << 22;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct DeviceState {
    gid: Gid,
    /// Where peers dial.
    advertised: SocketAddr,
    keys: Arc<KeyTable>,
    gathered: Arc<Unsettled>,
    tls: Option<Arc<TlsContext>>,
    /// Wakes the thread for `commands`.
    control: OwnedFd,
    commands: Mutex<Vec<Command>>,
    /// What the thread waits on.
    epoll: OwnedFd,
    connections: Mutex<Connections>,
    violations: AtomicU64,
    complaints: Mutex<Complaints>,
}

#[derive(Debug)]
struct Connections {
    by_number: HashMap<u32, Weak<Connection>>,
    next: u32,
}

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    /// This socket has begun to dial for this connection.
    Dial(Weak<Connection>, OwnedFd),
    /// The queue pair of this number is ready for its peer, or never will be.
    Greet(u32),
    /// Look at this connection soon, and as long as it has to be.
    LookAfter(Weak<Connection>),
    /// Nothing is read from this any more; closed once the peer has closed.
    Close(Stream),
    /// End.
    Stop,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DeviceState {
    pub(super) fn new(
        gid: Gid,
        keys: Arc<KeyTable>,
        gathered: Arc<Unsettled>,
        advertised: SocketAddr,
        tls: Option<Arc<TlsContext>>,
    ) -> Result<Self, FabricError> {
        Ok(Self {
            gid,
            advertised,
            keys,
            gathered,
            tls,
            control: eventfd::create().map_err(FabricError::os("creating an eventfd"))?,
            commands: Mutex::default(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)
                .map_err(FabricError::os("creating an epoll"))?,
            connections: Mutex::new(Connections {
                by_number: HashMap::new(),
                next: FIRST_QUEUE_PAIR,
            }),
            violations: AtomicU64::new(0),
            complaints: Mutex::default(),
        })
    }

    pub(super) fn gid(&self) -> Gid {
        self.gid
    }

    pub(super) fn advertised(&self) -> SocketAddr {
        self.advertised
    }

    pub(super) fn keys(&self) -> &Arc<KeyTable> {
        &self.keys
    }

    /// Connections whose frames wait for a poll.
    pub(super) fn gathered(&self) -> &Unsettled {
        &self.gathered
    }

    /// The certificates, if it speaks TLS.
    pub(super) fn tls(&self) -> Option<&TlsContext> {
        self.tls.as_deref()
    }

    pub(super) fn control(&self) -> &OwnedFd {
        &self.control
    }

    pub(super) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    pub(super) fn command(&self, command: Command) {
        lock(&self.commands).push(command);
        eventfd::raise(&self.control);
    }

    pub(super) fn take_commands(&self) -> Vec<Command> {
        eventfd::lower(&self.control);
        std::mem::take(&mut *lock(&self.commands))
    }

    /// Makes a connection with a number that no other has.
    pub(super) fn connection(
        &self,
        make: impl FnOnce(u32) -> Arc<Connection>,
    ) -> Result<Arc<Connection>, FabricError> {
        let mut connections = lock(&self.connections);
        if connections.by_number.len() as u32 >= NUMBERS - FIRST_QUEUE_PAIR {
            return Err(FabricError::Limit {
                what: "the number of queue pairs",
                given: u64::from(NUMBERS),
                allowed: format!("at most {}", NUMBERS - FIRST_QUEUE_PAIR),
                device: crate::fabric::TCP.to_owned(),
            });
        }
        while connections.by_number.contains_key(&connections.next) {
            connections.advance();
        }
        let connection = make(connections.next);
        connections
            .by_number
            .insert(connection.number(), Arc::downgrade(&connection));
        connections.advance();
        Ok(connection)
    }

    /// The queue pair of this number is another connection from now on.
    pub(super) fn replace(&self, connection: &Arc<Connection>) {
        let mut connections = lock(&self.connections);
        let weak = Arc::downgrade(connection);
        connections.by_number.insert(connection.number(), weak);
    }

    pub(super) fn forget(&self, number: u32) {
        lock(&self.connections).by_number.remove(&number);
    }

    pub(super) fn find(&self, number: u32) -> Option<Arc<Connection>> {
        lock(&self.connections).by_number.get(&number)?.upgrade()
    }

    /// Watches the socket of a connection that was watched for another reason, or not at all.
    pub(super) fn watch(&self, number: u32, socket: impl AsFd) {
        let socket = socket.as_fd();
        // It was watched while it was dialled.
        let _ = epoll::delete(&self.epoll, socket);
        let data = epoll::EventData::new_u64(number.into());
        let flags = epoll::EventFlags::ONESHOT;
        if let Err(error) = epoll::add(&self.epoll, socket, data, flags) {
            self.complain(format_args!("a connection cannot be watched: {error}"));
        }
    }

    /// Watches the socket of a connection until the next event.
    pub(super) fn rewatch(&self, number: u32, socket: impl AsFd, may_read: bool, must_write: bool) {
        let mut flags = epoll::EventFlags::ONESHOT;
        flags.set(epoll::EventFlags::IN, may_read);
        flags.set(epoll::EventFlags::OUT, must_write);
        let data = epoll::EventData::new_u64(number.into());
        if let Err(error) = epoll::modify(&self.epoll, socket, data, flags) {
            self.complain(format_args!("a connection cannot be watched: {error}"));
        }
    }

    pub(super) fn unwatch(&self, socket: impl AsFd) {
        // It is watched or could not be.
        let _ = epoll::delete(&self.epoll, socket);
    }

    /// Somebody at this address has broken the protocol.
    pub(super) fn violation(&self, what: &str, from: Option<SocketAddr>) {
        self.violations.fetch_add(1, Ordering::Relaxed);
        match from {
            Some(from) => {
                self.complain(format_args!(
                    "the connection with {from} was closed: {what}"
                ));
            }
            None => self.complain(format_args!("a connection was closed: {what}")),
        }
    }

    pub(super) fn violations(&self) -> u64 {
        self.violations.load(Ordering::Relaxed)
    }

    pub(super) fn complain(&self, what: std::fmt::Arguments<'_>) {
        lock(&self.complaints).warn(Instant::now(), what);
    }
}

impl Connections {
    fn advance(&mut self) {
        self.next = (self.next + 1) % NUMBERS;
        self.next = self.next.max(FIRST_QUEUE_PAIR);
    }
}
