//! The device's thread: makes connections, and serves those that nobody polls.
//!
//! While somebody polls a connection the thread does not wake for what comes over it: it looks
//! every few milliseconds whether that is still so. Otherwise it waits for the sockets as everybody
//! does, and leaves to a sleeper what the sleeper is woken for, too.

use std::collections::{BTreeMap, HashMap};
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
use super::hello::{HELLO, Hello, Opening};
use super::socket;
use super::stream::{Piece, Stream};
use super::timing::{UNREAD, patience};
use super::tls::{Handshake, TlsSession};
use crate::fabric::{FabricError, QueuePairState};
use crate::tls::TlsError;

/// Between two looks at a connection that somebody else sees to.
const TICK: Duration = Duration::from_millis(2);
/// Between two looks at those that have to make haste.
const REVIEW: Duration = Duration::from_millis(100);
/// How long an accepted connection may take to say hello. Who dials says it at once.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection that has ended is kept for the peer to read what was said last.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// Accepted connections of which nobody knows who they are.
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
            pending: BTreeMap::new(),
            next_token: FIRST_PENDING,
            strangers: 0,
            waiting: HashMap::new(),
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
    /// The oldest first.
    pending: BTreeMap<u64, PendingSocket>,
    next_token: u64,
    /// Pending sockets that were accepted, and have yet to show a key or to prove themselves.
    strangers: usize,
    /// The pending sockets that wait for a queue pair, by its number: one for each at most.
    waiting: HashMap<u32, u64>,
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
    /// Number of the queue pair whose peer has proved by TLS to be the other end.
    proved: Option<u32>,
    /// When it is closed. `None`: when its end is seen.
    until: Option<Instant>,
}

enum Role {
    /// Accepted; it has not said hello.
    Stranger(Greeting),
    /// Waits until the queue pair that it named is ready.
    Waiting(Hello),
    /// In the handshake of TLS for this connection, which this end has dialled or not.
    Securing(Weak<Connection>, bool),
    /// Being dialled for a connection.
    Dialling(Weak<Connection>),
    /// Dialled; the peer has not answered.
    Dialled(Weak<Connection>, Greeting),
    /// Nothing more is said; the peer may have to read.
    Closing,
}

impl Role {
    /// Whether it was accepted from somebody who has yet to show a key or to prove itself.
    fn is_of_stranger(&self) -> bool {
        matches!(self, Self::Stranger(_) | Self::Securing(_, false))
    }
}

/// A hello of which some bytes have come.
struct Greeting {
    bytes: [u8; HELLO],
    len: usize,
}

/// Why a pending socket is closed.
#[derive(Debug)]
enum Wrong {
    /// It just ended.
    Ended,
    /// What it brings is wrong.
    Said(&'static str),
    /// One end refuses the other.
    Refused(TlsError),
}

impl From<&'static str> for Wrong {
    fn from(said: &'static str) -> Self {
        Self::Said(said)
    }
}

impl Greeting {
    fn new() -> Self {
        Self {
            bytes: [0; HELLO],
            len: 0,
        }
    }

    /// Receives no byte more than belongs to it.
    fn fill(&mut self, stream: &mut Stream, opening: Opening) -> Result<Option<Hello>, Wrong> {
        let rest = &mut self.bytes[self.len..];
        let room = rest.len();
        let mut piece = [Piece::new(NonNull::from(rest).cast(), room)];
        // SAFETY: the piece is the rest of `bytes`, to which this has the only reference.
        match unsafe { stream.receive(&mut piece, true) } {
            Ok(0) if self.len == 0 => return Err(Wrong::Ended),
            Ok(0) => return Err("it ended within its hello".into()),
            Ok(received) => self.len += received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                let refusal = TlsError::of_stream(&error);
                return Err(refusal.map_or(Wrong::Ended, Wrong::Refused));
            }
        }
        Hello::check_beginning(&self.bytes[..self.len], opening)?;
        if self.len < HELLO {
            return Ok(None);
        }
        Ok(Hello::decode(&self.bytes, opening).map(Some)?)
    }
}

/// What is said over this stream before its bytes are frames.
fn opening(state: &DeviceState, stream: &Stream) -> Opening {
    match state.tls() {
        Some(_) if stream.is_plain() => Opening::Preamble,
        _ => Opening::Hello,
    }
}

impl PendingSocket {
    /// Says what belongs here to the peer of a connection. Returns whether it did.
    fn say(&mut self, connection: &Connection, opening: Opening) -> bool {
        let Some(hello) = connection.hello(opening) else {
            return false;
        };
        let bytes = hello.encode(opening);
        // SAFETY: the piece is `bytes`, which are only read.
        let sent = unsafe { self.stream.send(&[Piece::of(&bytes)]) };
        // The buffer of a new socket has room for it.
        sent.is_ok_and(|sent| sent == HELLO)
    }

    /// Says it as the end that dialled, and waits for the answer.
    fn greet(&mut self, connection: &Arc<Connection>, opening: Opening) -> bool {
        let said = self.say(connection, opening);
        self.role = Role::Dialled(Arc::downgrade(connection), Greeting::new());
        said
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
                Role::Stranger(_) => "it did not say hello in time".into(),
                Role::Securing(..) => "its TLS handshake did not end in time".into(),
                _ => Wrong::Ended,
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
                Ok(Some((_, peer))) if !self.has_room_for_stranger() => {
                    let what = "it came when too many others had not been answered";
                    self.state.violation(what, peer);
                }
                Ok(Some((socket, peer))) => {
                    let role = Role::Stranger(Greeting::new());
                    let until = Some(now + HELLO_PATIENCE);
                    let flags = epoll::EventFlags::IN;
                    let token = self.next_token;
                    self.strangers += 1;
                    self.add(Stream::plain(socket), peer, role, until, flags);
                    // A peer has said its hello by now, and does not wait among those who say none.
                    self.receive_from(token);
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

    /// Makes room by closing the one that has said nothing for the longest time. There is none if
    /// all are in their handshake, or have had it.
    fn has_room_for_stranger(&mut self) -> bool {
        if self.strangers < MAX_STRANGERS {
            return true;
        }
        // One that has proved itself by TLS will say hello.
        let says_nothing =
            |link: &PendingSocket| matches!(link.role, Role::Stranger(_)) && link.proved.is_none();
        let mut pending = self.pending.iter();
        let Some(token) = pending.find_map(|(token, link)| says_nothing(link).then_some(*token))
        else {
            return false;
        };
        self.remove(token, "it said no hello, and others came".into());
        true
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
            proved: None,
            until,
        };
        self.pending.insert(token, link);
        if let Err(error) = watched {
            self.state
                .complain(format_args!("a peer cannot be waited for: {error}"));
            self.remove(token, Wrong::Ended);
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
                    self.add(Stream::plain(socket), None, role, until, flags);
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

    /// Gives a pending socket another role.
    fn set_role(&mut self, token: u64, role: Role) {
        let Some(link) = self.pending.get_mut(&token) else {
            return;
        };
        let old = std::mem::replace(&mut link.role, role);
        self.strangers += usize::from(link.role.is_of_stranger());
        self.over(token, &old);
    }

    /// A pending socket has this role no more.
    fn over(&mut self, token: u64, role: &Role) {
        self.strangers -= usize::from(role.is_of_stranger());
        if let Role::Waiting(hello) = role
            && self.waiting.get(&hello.to_qp) == Some(&token)
        {
            self.waiting.remove(&hello.to_qp);
        }
    }

    fn greet_waiting(&mut self, number: u32) {
        let Some(token) = self.waiting.get(&number).copied() else {
            return;
        };
        let Some(&Role::Waiting(hello)) = self.pending.get(&token).map(|link| &link.role) else {
            return;
        };
        match self.state.find(number) {
            Some(_) => self.greet(token, &hello),
            None => self.remove(token, Wrong::Ended),
        }
    }

    /// Takes in what a pending socket brings.
    fn receive_from(&mut self, token: u64) {
        // It may have been removed in this turn.
        let Some(link) = self.pending.get_mut(&token) else {
            return;
        };
        let opening = opening(&self.state, &link.stream);
        match &mut link.role {
            Role::Stranger(greeting) => match greeting.fill(&mut link.stream, opening) {
                Ok(None) => {}
                Ok(Some(hello)) => self.greet(token, &hello),
                Err(wrong) => self.remove(token, wrong),
            },
            // It may say nothing before it is answered, and most likely has closed.
            Role::Waiting(_) => self.remove(token, Wrong::Ended),
            Role::Securing(..) => self.secure(token),
            Role::Dialling(connection) => {
                let alive = connection.upgrade();
                let is_dialled = socket::dialled(&link.stream).is_ok();
                if !is_dialled || !alive.is_some_and(|it| link.greet(&it, opening)) {
                    return self.remove(token, Wrong::Ended);
                }
                self.expect(token, epoll::EventFlags::IN);
            }
            Role::Dialled(connection, greeting) => match greeting.fill(&mut link.stream, opening) {
                Ok(None) => {}
                Ok(Some(hello)) => {
                    let connection = connection.clone();
                    self.answered(token, &connection, &hello, opening);
                }
                Err(wrong) => self.remove(token, wrong),
            },
            Role::Closing => {
                let mut pieces = [Piece::new(
                    NonNull::from(&mut *self.discarded).cast(),
                    DISCARDED,
                )];
                // SAFETY: the piece is the buffer, to which this has the only reference.
                let received = unsafe { link.stream.receive(&mut pieces, true) };
                let is_open = match received {
                    Ok(received) => received > 0,
                    Err(error) => error.kind() == io::ErrorKind::WouldBlock,
                };
                if !is_open {
                    self.remove(token, Wrong::Ended);
                }
            }
        }
    }

    /// Watches a pending socket for this.
    fn expect(&self, token: u64, flags: epoll::EventFlags) {
        if let Some(link) = self.pending.get(&token) {
            let data = epoll::EventData::new_u64(token);
            // It is watched, so this cannot fail.
            let _ = epoll::modify(self.state.epoll(), &link.stream, data, flags);
        }
    }

    /// Answers a hello, if its queue pair is ready.
    fn greet(&mut self, token: u64, hello: &Hello) {
        let Some(link) = self.pending.get(&token) else {
            return;
        };
        let opening = opening(&self.state, &link.stream);
        if link.proved.is_some_and(|number| number != hello.to_qp) {
            let what = "it named another queue pair than before its handshake";
            return self.remove(token, what.into());
        }
        let found = self.state.find(hello.to_qp);
        // A queue pair that is not there and a key that is wrong look the same from outside.
        let found = found.filter(|found| hello.key == found.key(opening));
        let Some(connection) = found else {
            let what = "it showed a wrong key, or named no queue pair of ours";
            return self.remove(token, what.into());
        };
        match connection.state() {
            QueuePairState::Reset | QueuePairState::Init => {
                self.set_role(token, Role::Waiting(*hello));
                let others = self.waiting.insert(hello.to_qp, token);
                if let Some(other) = others.filter(|other| *other != token) {
                    self.remove(other, "another came for the same queue pair".into());
                }
                if let Some(link) = self.pending.get_mut(&token) {
                    link.until = None;
                }
            }
            QueuePairState::Error => self.remove(token, Wrong::Ended),
            QueuePairState::Rtr | QueuePairState::Rts => {
                if !connection.is_from_peer(hello, opening) {
                    return self.remove(token, "it is not the peer of its queue pair".into());
                }
                // Before it costs a handshake.
                if opening == Opening::Preamble && connection.is_made() {
                    return self.remove(token, "its queue pair is connected already".into());
                }
                let link = self.pending.get_mut(&token);
                match (opening, link.is_some_and(|it| it.say(&connection, opening))) {
                    (Opening::Hello, true) => self.hand_over(token, &connection, hello),
                    (Opening::Preamble, true) => self.begin(token, &connection, false),
                    (_, false) => self.remove(token, Wrong::Ended),
                }
            }
        }
    }

    /// The one that was dialled has answered.
    fn answered(
        &mut self,
        token: u64,
        connection: &Weak<Connection>,
        hello: &Hello,
        opening: Opening,
    ) {
        match connection.upgrade() {
            Some(connection) if connection.is_from_peer(hello, opening) => match opening {
                Opening::Hello => self.hand_over(token, &connection, hello),
                Opening::Preamble => self.begin(token, &connection, true),
            },
            Some(_) => self.remove(token, "it is not the one that was dialled".into()),
            None => self.remove(token, Wrong::Ended),
        }
    }

    /// Begins the handshake of TLS. The other end has shown to know the key.
    fn begin(&mut self, token: u64, connection: &Arc<Connection>, is_dialler: bool) {
        let Some((link, tls)) = self.pending.get_mut(&token).zip(self.state.tls()) else {
            return;
        };
        let peer = connection.peer();
        match TlsSession::begin(tls, peer.as_deref(), is_dialler) {
            Ok(session) => link.stream.encrypt(session),
            Err(error) => return self.remove(token, Wrong::Refused(error)),
        }
        if !is_dialler {
            link.until = Some(Instant::now() + HELLO_PATIENCE);
        }
        let role = Role::Securing(Arc::downgrade(connection), is_dialler);
        self.set_role(token, role);
        self.secure(token);
    }

    /// Goes on with the handshake of TLS, and says or expects the hello when it is over.
    fn secure(&mut self, token: u64) {
        let Some(link) = self.pending.get_mut(&token) else {
            return;
        };
        let Role::Securing(connection, is_dialler) = &link.role else {
            return;
        };
        let (connection, is_dialler) = (connection.upgrade(), *is_dialler);
        let Some(connection) = connection else {
            return self.remove(token, Wrong::Ended);
        };
        match link.stream.handshake() {
            Ok(Handshake::Reads) => return self.expect(token, epoll::EventFlags::IN),
            Ok(Handshake::Writes) => return self.expect(token, epoll::EventFlags::OUT),
            Ok(Handshake::Done) => {}
            Err(Some(error)) => return self.remove(token, Wrong::Refused(error)),
            Err(None) => return self.remove(token, Wrong::Ended),
        }
        link.proved = Some(connection.number());
        if !is_dialler {
            link.role = Role::Stranger(Greeting::new());
        } else if !link.greet(&connection, Opening::Hello) {
            return self.remove(token, Wrong::Ended);
        }
        self.expect(token, epoll::EventFlags::IN);
        // It may have come with the end of the handshake.
        self.receive_from(token);
    }

    /// A pending socket is the one of a connection from now on.
    fn hand_over(&mut self, token: u64, connection: &Arc<Connection>, hello: &Hello) {
        let Some(link) = self.forget(token) else {
            return;
        };
        let patience = patience(connection.identity().retry).max(UNREAD);
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
        self.over(token, &link.role);
        // It is watched or could not be.
        let _ = epoll::delete(self.state.epoll(), &link.stream);
        Some(link)
    }

    /// Closes a pending socket, and says why unless it just ended.
    fn remove(&mut self, token: u64, wrong: Wrong) {
        let Some(link) = self.forget(token) else {
            return;
        };
        let mine = match link.role {
            Role::Dialling(connection)
            | Role::Dialled(connection, _)
            | Role::Securing(connection, _) => connection.upgrade(),
            Role::Stranger(_) => link.proved.and_then(|number| self.state.find(number)),
            Role::Waiting(_) | Role::Closing => None,
        };
        let mut refusal = None;
        match wrong {
            Wrong::Ended => {}
            Wrong::Said(what) => self.state.violation(what, link.peer),
            Wrong::Refused(error) => {
                self.state.violation(&error.to_string(), link.peer);
                // The other end reads why.
                link.stream.finish();
                let until = Some(Instant::now() + CLOSE_PATIENCE);
                let flags = epoll::EventFlags::IN;
                self.add(link.stream.strip(), None, Role::Closing, until, flags);
                refusal = Some(error);
            }
        }
        if let Some(connection) = mine {
            connection.fail_to_meet(refusal);
        }
    }
}
