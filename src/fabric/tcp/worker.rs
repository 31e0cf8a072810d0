//! The device's thread: makes connections, and serves those that nobody polls.
//!
//! While somebody polls a connection the thread does not wake for what comes over it: it looks
//! every few milliseconds whether that is still so. Otherwise it waits for the sockets as everybody
//! does, and leaves to a sleeper what the sleeper is woken for, too.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::connection::{Connection, Watch};
use super::device_state::{Command, DeviceState};
use super::hello::{HELLO, Hello};
use super::socket;
use super::stream::{Piece, Stream};
use super::timing::patience;
use crate::fabric::{FabricError, QueuePairState};

/// Between two looks at a connection that somebody else sees to.
const TICK: Duration = Duration::from_millis(2);
/// Between two looks at those that have to make haste.
const REVIEW: Duration = Duration::from_millis(100);
/// How long an accepted connection may take to say hello. Who dials says it at once.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection that has ended is kept for the peer to read what was said last.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// Accepted connections that have not been answered.
const MAX_STRANGERS: usize = 256;
/// Connections accepted in one turn.
const MAX_ACCEPTED: usize = 64;
/// Bytes thrown away in one turn of what comes over a connection that has ended.
const DISCARDED: usize = 64 * 1024;

/// Tokens: below this one are numbers of queue pairs.
const LISTENER: u64 = 1 << 32;
const COMMANDS: u64 = LISTENER + 1;
const FIRST_PENDING: u64 = LISTENER + 2;

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    state: Arc<DeviceState>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(state: Arc<DeviceState>, listener: OwnedFd) -> Result<Self, FabricError> {
        let mut routine = Routine {
            state: state.clone(),
            listener,
            pending: HashMap::new(),
            next_token: FIRST_PENDING,
            strangers: 0,
            looked_after: Vec::new(),
            is_paused: false,
            next_review: Instant::now(),
            began: Instant::now(),
            discarded: vec![0; DISCARDED].into(),
        };
        routine
            .watch(routine.listener.as_fd(), LISTENER, epoll::EventFlags::IN)
            .and_then(|()| {
                let control = state.control().as_fd();
                routine.watch(control, COMMANDS, epoll::EventFlags::IN)
            })
            .map_err(FabricError::os("waiting for peers"))?;
        let thread = std::thread::Builder::new()
            .name("slimerpc-tcp".to_owned())
            .spawn(move || routine.run())
            .map_err(FabricError::thread("starting the thread of tcp0"))?;
        Ok(Self {
            state,
            thread: Some(thread),
        })
    }

    pub(super) fn state(&self) -> &Arc<DeviceState> {
        &self.state
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.state.command(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // It has panicked if this fails; that was printed already.
            let _ = thread.join();
        }
    }
}

/// What the thread works with.
struct Routine {
    state: Arc<DeviceState>,
    listener: OwnedFd,
    pending: HashMap<u64, PendingSocket>,
    next_token: u64,
    /// Pending sockets that were accepted and not answered.
    strangers: usize,
    /// Connections to look at every [`TICK`].
    looked_after: Vec<Weak<Connection>>,
    /// Nothing is accepted until the next review.
    is_paused: bool,
    next_review: Instant,
    began: Instant,
    discarded: Box<[u8]>,
}

/// A socket that is not, or not any more, one of a connection.
struct PendingSocket {
    stream: Stream,
    peer: Option<SocketAddr>,
    role: Role,
    /// When it is closed. `None`: when its end is seen.
    until: Option<Instant>,
}

enum Role {
    /// Accepted; it has not said hello.
    Stranger(Greeting),
    /// Waits until the queue pair that it named is ready.
    Waiting(Hello),
    /// Being dialled for a connection.
    Dialling(Weak<Connection>),
    /// Dialled; the peer has not answered.
    Dialled(Weak<Connection>, Greeting),
    /// Nothing more is said; the peer may have to read.
    Closing,
}

/// A hello of which some bytes have come.
struct Greeting {
    bytes: [u8; HELLO],
    len: usize,
}

/// What is wrong with what a pending socket brings; empty if it just ended.
type Violation = &'static str;

impl Greeting {
    fn new() -> Self {
        Self {
            bytes: [0; HELLO],
            len: 0,
        }
    }

    /// Receives no byte more than belongs to it.
    fn fill(&mut self, stream: &Stream) -> Result<Option<Hello>, Violation> {
        let rest = &mut self.bytes[self.len..];
        let room = rest.len();
        let mut piece = [Piece::new(NonNull::from(rest).cast(), room)];
        // SAFETY: the piece is the rest of `bytes`, to which this has the only reference.
        match unsafe { stream.receive(&mut piece) } {
            Ok(0) if self.len == 0 => return Err(""),
            Ok(0) => return Err("it ended within its hello"),
            Ok(received) => self.len += received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(""),
        }
        Hello::check_beginning(&self.bytes[..self.len]).ok_or("no hello of the tcp fabric")?;
        if self.len < HELLO {
            return Ok(None);
        }
        Hello::decode(&self.bytes).map(Some)
    }
}

impl Routine {
    fn watch(
        &self,
        fd: BorrowedFd<'_>,
        token: u64,
        flags: epoll::EventFlags,
    ) -> rustix::io::Result<()> {
        let data = epoll::EventData::new_u64(token);
        epoll::add(self.state.epoll(), fd, data, flags)
    }

    fn run(&mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            let timeout = self.timeout();
            events.clear();
            match epoll::wait(
                self.state.epoll(),
                spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the thread of tcp0 cannot wait for events; it ends");
                    return;
                }
            }
            let now = Instant::now();
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(now),
                    COMMANDS => {
                        if self.apply_commands(now) {
                            return;
                        }
                    }
                    token if token < LISTENER => self.look(token as u32, now),
                    token => self.receive_from(token),
                }
            }
            self.tick(now);
            if now >= self.next_review {
                self.review(now);
            }
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let wait = if !self.looked_after.is_empty() {
            TICK
        } else if self.is_paused || self.pending.values().any(|link| link.until.is_some()) {
            REVIEW
        } else {
            return None;
        };
        Timespec::try_from(wait).ok()
    }

    /// The number of the tick that `now` belongs to.
    fn turn(&self, now: Instant) -> u64 {
        let ticks = now.saturating_duration_since(self.began).as_micros() / TICK.as_micros();
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Something has happened on the socket of a connection.
    fn look(&mut self, number: u32, now: Instant) {
        if let Some(connection) = self.state.find(number)
            && connection.look(now, self.turn(now), true) == Watch::Again
        {
            self.looked_after.push(Arc::downgrade(&connection));
        }
    }

    fn tick(&mut self, now: Instant) {
        let turn = self.turn(now);
        self.looked_after.retain(|connection| {
            let connection = connection.upgrade();
            connection.is_some_and(|connection| connection.look(now, turn, false) == Watch::Again)
        });
    }

    /// Closes the pending sockets whose time is over.
    fn review(&mut self, now: Instant) {
        self.next_review = now + REVIEW;
        let is_over = |link: &PendingSocket| link.until.is_some_and(|until| until <= now);
        let over: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, link)| is_over(link))
            .map(|(token, _)| *token)
            .collect();
        for token in over {
            let wrong = match self.pending[&token].role {
                Role::Stranger(_) => "it did not say hello in time",
                _ => "",
            };
            self.remove(token, wrong);
        }
        if std::mem::take(&mut self.is_paused)
            && let Err(error) = self.watch(self.listener.as_fd(), LISTENER, epoll::EventFlags::IN)
        {
            self.state
                .complain(format_args!("no peers can be waited for: {error}"));
            self.is_paused = true;
        }
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..MAX_ACCEPTED {
            match socket::accept(&self.listener) {
                Ok(None) => return,
                Ok(Some((_, peer))) if self.strangers >= MAX_STRANGERS => {
                    let what = "it came when too many others had not been answered";
                    self.state.violation(what, peer);
                }
                Ok(Some((socket, peer))) => {
                    let role = Role::Stranger(Greeting::new());
                    let until = Some(now + HELLO_PATIENCE);
                    let flags = epoll::EventFlags::IN;
                    self.strangers += 1;
                    self.add(Stream::Plain(socket), peer, role, until, flags);
                }
                // Who dialled has given up.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    let error = FabricError::os("accepting a peer")(error);
                    self.state.complain(format_args!("{error}"));
                    // It is watched until then, so this cannot fail.
                    let _ = epoll::delete(self.state.epoll(), &self.listener);
                    self.is_paused = true;
                    return;
                }
            }
        }
    }

    fn add(
        &mut self,
        stream: Stream,
        peer: Option<SocketAddr>,
        role: Role,
        until: Option<Instant>,
        flags: epoll::EventFlags,
    ) {
        let token = self.next_token;
        self.next_token += 1;
        let watched = self.watch(stream.as_fd(), token, flags);
        let link = PendingSocket {
            stream,
            peer,
            role,
            until,
        };
        self.pending.insert(token, link);
        if let Err(error) = watched {
            self.state
                .complain(format_args!("a peer cannot be waited for: {error}"));
            self.remove(token, "");
        }
    }

    /// Carries out commands. Says whether to end.
    fn apply_commands(&mut self, now: Instant) -> bool {
        for command in self.state.take_commands() {
            match command {
                Command::Dial(connection, socket) => {
                    let Some(alive) = connection.upgrade() else {
                        continue;
                    };
                    let until = Some(now + patience(alive.identity().retry));
                    let role = Role::Dialling(connection);
                    let flags = epoll::EventFlags::OUT;
                    self.add(Stream::Plain(socket), None, role, until, flags);
                }
                Command::Greet(number) => self.greet_waiting(number),
                Command::LookAfter(connection) => self.looked_after.push(connection),
                Command::Close(stream) => {
                    let until = Some(now + CLOSE_PATIENCE);
                    self.add(stream, None, Role::Closing, until, epoll::EventFlags::IN);
                }
                Command::Stop => return true,
            }
        }
        false
    }

    fn greet_waiting(&mut self, number: u32) {
        let is_for = |link: &PendingSocket| matches!(link.role, Role::Waiting(hello) if hello.to_qp == number);
        let tokens: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, link)| is_for(link))
            .map(|(token, _)| *token)
            .collect();
        for token in tokens {
            if let Some(Role::Waiting(hello)) = self.pending.get(&token).map(|link| &link.role) {
                let hello = *hello;
                self.greet(token, &hello);
            }
        }
    }

    /// Takes in what a pending socket brings.
    fn receive_from(&mut self, token: u64) {
        // It may have been removed in this turn.
        let Some(link) = self.pending.get_mut(&token) else {
            return;
        };
        match &mut link.role {
            Role::Stranger(greeting) => match greeting.fill(&link.stream) {
                Ok(None) => {}
                Ok(Some(hello)) => self.greet(token, &hello),
                Err(wrong) => self.remove(token, wrong),
            },
            // It may say nothing before it is answered, and most likely has closed.
            Role::Waiting(_) => self.remove(token, ""),
            Role::Dialling(connection) => {
                let hello = connection
                    .upgrade()
                    .and_then(|connection| connection.hello());
                let is_dialled = socket::dialled(&link.stream);
                let said = hello.filter(|_| is_dialled.is_ok()).is_some_and(|hello| {
                    let bytes = hello.encode();
                    // SAFETY: the piece is `bytes`, which are only read.
                    let sent = unsafe { link.stream.send(&[Piece::of(&bytes)]) };
                    // The buffer of a new socket has room for it.
                    sent.is_ok_and(|sent| sent == HELLO)
                });
                if !said {
                    return self.remove(token, "");
                }
                link.role = Role::Dialled(connection.clone(), Greeting::new());
                let data = epoll::EventData::new_u64(token);
                let flags = epoll::EventFlags::IN;
                let _ = epoll::modify(self.state.epoll(), &link.stream, data, flags);
            }
            Role::Dialled(connection, greeting) => match greeting.fill(&link.stream) {
                Ok(None) => {}
                Ok(Some(hello)) => {
                    let connection = connection.clone();
                    self.answered(token, &connection, &hello);
                }
                Err(wrong) => self.remove(token, wrong),
            },
            Role::Closing => {
                let mut pieces = [Piece::new(
                    NonNull::from(&mut *self.discarded).cast(),
                    DISCARDED,
                )];
                // SAFETY: the piece is the buffer, to which this has the only reference.
                let received = unsafe { link.stream.receive(&mut pieces) };
                let is_open = match received {
                    Ok(received) => received > 0,
                    Err(error) => error.kind() == io::ErrorKind::WouldBlock,
                };
                if !is_open {
                    self.remove(token, "");
                }
            }
        }
    }

    /// Answers a hello, if its queue pair is ready.
    fn greet(&mut self, token: u64, hello: &Hello) {
        let found = self.state.find(hello.to_qp);
        // A queue pair that is not there and a key that is wrong look the same from outside.
        let found = found.filter(|found| hello.key == found.identity().key);
        let Some(connection) = found else {
            return self.remove(
                token,
                "it showed a wrong key, or named no queue pair of ours",
            );
        };
        match connection.state() {
            QueuePairState::Reset | QueuePairState::Init => {
                if let Some(link) = self.pending.get_mut(&token) {
                    link.role = Role::Waiting(*hello);
                    link.until = None;
                }
            }
            QueuePairState::Error => self.remove(token, ""),
            QueuePairState::Rtr | QueuePairState::Rts => {
                let answer = connection
                    .hello()
                    .filter(|_| connection.is_from_peer(hello));
                let Some((link, answer)) = self.pending.get(&token).zip(answer) else {
                    return self.remove(token, "it is not the peer of its queue pair");
                };
                let bytes = answer.encode();
                // SAFETY: the piece is `bytes`, which are only read.
                let sent = unsafe { link.stream.send(&[Piece::of(&bytes)]) };
                if sent.is_ok_and(|sent| sent == HELLO) {
                    self.hand_over(token, &connection, hello);
                } else {
                    self.remove(token, "");
                }
            }
        }
    }

    /// The one that was dialled has answered.
    fn answered(&mut self, token: u64, connection: &Weak<Connection>, hello: &Hello) {
        match connection.upgrade() {
            Some(connection) if connection.is_from_peer(hello) => {
                self.hand_over(token, &connection, hello);
            }
            Some(_) => self.remove(token, "it is not the one that was dialled"),
            None => self.remove(token, ""),
        }
    }

    /// A pending socket is the one of a connection from now on.
    fn hand_over(&mut self, token: u64, connection: &Arc<Connection>, hello: &Hello) {
        let Some(link) = self.forget(token) else {
            return;
        };
        let patience = patience(connection.identity().retry);
        let configured = socket::configure(&link.stream, patience);
        if let Err(error) = configured {
            self.state
                .complain(format_args!("a connection cannot be configured: {error}"));
        }
        let is_dialled = matches!(link.role, Role::Dialled(..));
        if connection.establish(link.stream, hello.terms) {
            return;
        }
        if is_dialled {
            connection.lose();
        } else if connection.state() != QueuePairState::Error {
            let what = "its queue pair is connected already";
            self.state.violation(what, link.peer);
        }
    }

    fn forget(&mut self, token: u64) -> Option<PendingSocket> {
        let link = self.pending.remove(&token)?;
        if matches!(link.role, Role::Stranger(_) | Role::Waiting(_)) {
            self.strangers -= 1;
        }
        // It is watched or could not be.
        let _ = epoll::delete(self.state.epoll(), &link.stream);
        Some(link)
    }

    /// Closes a pending socket, and says why unless it just ended.
    fn remove(&mut self, token: u64, wrong: Violation) {
        let Some(link) = self.forget(token) else {
            return;
        };
        if !wrong.is_empty() {
            self.state.violation(wrong, link.peer);
        }
        if let Role::Dialling(connection) | Role::Dialled(connection, _) = link.role
            && let Some(connection) = connection.upgrade()
        {
            connection.lose();
        }
    }
}
