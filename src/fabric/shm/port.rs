//! The port that the devices of a process share, and its thread. That answers peers and continues
//! sends that have to wait; sends that do not wait never involve it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::process::{Pid, getpid};

use super::borrowed_lot::BorrowedLot;
use super::connection::Connection;
use super::control_socket::{self, ControlSocket, Incoming};
use super::link::{Link, Links};
use super::message::{ConnectionId, Hello, Message, VERSION, Welcome};
use super::peer_process::{PeerProcess, PeerProcesses};
use super::quiet_queues::QuietQueues;
use super::spare::Spare;
use super::waiting_hellos::WaitingHellos;
use crate::complaints::Complaints;
use crate::fabric::{FabricError, Gid, eventfd, software};

const LISTENER: u64 = 0;
const COMMANDS: u64 = 1;
const FIRST_LINK: u64 = 2;
/// The events of links. Edges, so that a socket that merely has room raises none.
const LINK_EVENTS: epoll::EventFlags = epoll::EventFlags::IN
    .union(epoll::EventFlags::OUT)
    .union(epoll::EventFlags::ET);
/// Most messages read from one link in a row.
const MAX_HEARD: usize = 256;
/// Most control sockets that have not said yet which port they belong to.
const MAX_STRANGERS: usize = 4096;
/// Most dials accepted in a row before sockets are read.
const MAX_ACCEPTED: usize = 64;
/// How long dials wait when they cannot be accepted, hellos whose answer cannot be received, and
/// messages for which too many descriptors are on their way.
const PAUSE: Duration = Duration::from_millis(100);
/// Queue pair numbers have 24 bits; the first ones are special in InfiniBand.
const FIRST_QUEUE_PAIR: u32 = 17;
const MAX_QUEUE_PAIR: u32 = (1 << 24) - 1;

/// The state that the handles of a port's devices and its thread share.
#[derive(Debug)]
pub(super) struct PortState {
    gid: Gid,
    control: OwnedFd,
    commands: Mutex<Vec<Command>>,
    connections: Mutex<Connections>,
    links: Arc<Links>,
    quiet: QuietQueues,
}

#[derive(Debug)]
struct Connections {
    by_number: HashMap<u32, Weak<Connection>>,
    next: u32,
}

/// A command for the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Watch a link that was dialled.
    Watch(Arc<Link>),
    /// Look at the hellos for this queue pair: it has become ready, or is gone.
    Greet(u32),
    /// Continue the pending sends of a connection.
    Look(Weak<Connection>),
    /// End the thread.
    Stop,
}

impl PortState {
    pub(super) fn gid(&self) -> Gid {
        self.gid
    }

    /// The completion queues whose owners this thread wakes.
    pub(super) fn quiet_queues(&self) -> &QuietQueues {
        &self.quiet
    }

    /// Finds or dials the link to a peer, for `connection`.
    pub(super) fn link(&self, peer: Gid, connection: &Arc<Connection>) -> io::Result<Arc<Link>> {
        let (link, is_new) = self.links.join(peer, connection)?;
        if is_new {
            self.command(Command::Watch(link.clone()));
        }
        Ok(link)
    }

    pub(super) fn command(&self, command: Command) {
        lock(&self.commands).push(command);
        eventfd::raise(&self.control);
    }

    /// Makes a connection with a number that no other one has.
    pub(super) fn connection(
        &self,
        make: impl FnOnce(u32) -> Result<Connection, FabricError>,
    ) -> Result<Arc<Connection>, FabricError> {
        let mut connections = lock(&self.connections);
        if connections.by_number.len() as u32 > MAX_QUEUE_PAIR - FIRST_QUEUE_PAIR {
            return Err(FabricError::Limit {
                what: "the number of queue pairs",
                given: connections.by_number.len() as u64 + 1,
                allowed: format!("at most {}", connections.by_number.len()),
                device: crate::fabric::SHM.to_owned(),
            });
        }
        while connections.by_number.contains_key(&connections.next) {
            connections.next = following(connections.next);
        }
        let number = connections.next;
        connections.next = following(number);
        let connection = Arc::new(make(number)?);
        connections
            .by_number
            .insert(number, Arc::downgrade(&connection));
        Ok(connection)
    }

    /// Replaces the connection that had the same number.
    pub(super) fn replace(&self, connection: &Arc<Connection>) {
        let by_number = &mut lock(&self.connections).by_number;
        by_number.insert(connection.number(), Arc::downgrade(connection));
    }

    /// Frees the number of a connection and refuses peers that still wait for it.
    pub(super) fn forget(&self, number: u32) {
        lock(&self.connections).by_number.remove(&number);
        self.command(Command::Greet(number));
    }

    fn find(&self, number: u32) -> Option<Arc<Connection>> {
        lock(&self.connections).by_number.get(&number)?.upgrade()
    }
}

fn following(number: u32) -> u32 {
    if number < MAX_QUEUE_PAIR {
        number + 1
    } else {
        FIRST_QUEUE_PAIR
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port: it has a GID, links with the ports of other processes, and a thread, which ends with the
/// last handle of any object of its devices.
#[derive(Debug)]
pub(super) struct Port {
    state: Arc<PortState>,
    thread: Option<JoinHandle<()>>,
}

impl Port {
    /// The port that the devices of this process share.
    pub(super) fn of_process() -> Result<Arc<Self>, FabricError> {
        static SHARED: Mutex<Option<(Pid, Weak<Port>)>> = Mutex::new(None);
        let mut shared = lock(&SHARED);
        // The thread is not in a fork of the process that has started it.
        let here = shared.as_ref().filter(|(of, _)| *of == getpid());
        if let Some(port) = here.and_then(|(_, port)| port.upgrade()) {
            return Ok(port);
        }
        let port = Arc::new(Self::open()?);
        *shared = Some((getpid(), Arc::downgrade(&port)));
        Ok(port)
    }

    /// Opens a port with a GID that no other one has.
    pub(super) fn open() -> Result<Self, FabricError> {
        let gid = Gid(software::random()?);
        let listener =
            control_socket::listen(gid).map_err(FabricError::os("binding the socket of shm0"))?;
        let state = Arc::new(PortState {
            gid,
            control: eventfd::create().map_err(FabricError::os("creating an eventfd"))?,
            commands: Mutex::default(),
            connections: Mutex::new(Connections {
                by_number: HashMap::new(),
                next: FIRST_QUEUE_PAIR,
            }),
            links: Arc::new(Links::new(gid)),
            quiet: QuietQueues::default(),
        });
        let routine =
            Routine::new(state.clone(), listener).map_err(FabricError::os("creating an epoll"))?;
        let thread = std::thread::Builder::new()
            .name("slimerpc-shm".to_owned())
            .spawn(move || routine.run())
            .map_err(FabricError::thread("starting the thread of shm0"))?;
        Ok(Self {
            state,
            thread: Some(thread),
        })
    }

    pub(super) fn state(&self) -> &PortState {
        &self.state
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.state.command(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // The join fails only after a panic, which was printed already.
            let _ = thread.join();
        }
    }
}

/// The state of the thread.
struct Routine {
    port: Arc<PortState>,
    listener: OwnedFd,
    epoll: OwnedFd,
    links: HashMap<u64, (ControlSocket, Role)>,
    next_token: u64,
    /// Hellos whose queue pair is not ready.
    waiting: WaitingHellos,
    /// Number of sockets in role `Stranger`.
    silent: usize,
    /// Those sockets, and some that have spoken or ended since.
    strangers: Strangers,
    spare: Arc<Spare>,
    /// When dials are accepted again, if they are not now.
    pausing: Option<Instant>,
    /// When messages are sent that wait for descriptors of others to arrive.
    flushing: Option<Instant>,
    refused: Complaints,
    unaccepted: Complaints,
    cut_off: Complaints,
    /// Connections with waiting sends, and when to look at them.
    stalled: Vec<(Instant, Weak<Connection>)>,
    /// Connections that have to say hello again, and when.
    unwelcomed: Vec<(Instant, Weak<Connection>)>,
    /// Connections whose link is not used, and when they look for the one that is.
    crossed: Vec<(Instant, Weak<Connection>)>,
    processes: PeerProcesses,
}

/// The purpose of a socket.
#[derive(Clone)]
enum Role {
    /// Accepted; it has not said anything yet.
    Stranger,
    /// One end of a link.
    Peer(Arc<Link>),
    /// Accepted from a peer that this port had dialled: nothing is read on it but its end.
    Unused,
}

impl Routine {
    fn new(port: Arc<PortState>, listener: OwnedFd) -> rustix::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let routine = Self {
            port,
            listener,
            epoll,
            links: HashMap::new(),
            next_token: FIRST_LINK,
            waiting: WaitingHellos::default(),
            silent: 0,
            strangers: Strangers::default(),
            spare: Spare::shared(),
            pausing: None,
            flushing: None,
            refused: Complaints::default(),
            unaccepted: Complaints::default(),
            cut_off: Complaints::default(),
            stalled: Vec::new(),
            unwelcomed: Vec::new(),
            crossed: Vec::new(),
            processes: PeerProcesses::default(),
        };
        let listener = routine.listener.as_fd();
        routine.watch(listener, LISTENER, epoll::EventFlags::IN)?;
        let commands = routine.port.control.as_fd();
        routine.watch(commands, COMMANDS, epoll::EventFlags::IN)?;
        Ok(routine)
    }

    fn watch(
        &self,
        fd: BorrowedFd<'_>,
        token: u64,
        flags: epoll::EventFlags,
    ) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags)
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            let timeout = self.until_next_look();
            events.clear();
            let buffer = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, buffer, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the thread of shm0 cannot wait for events; it ends");
                    return;
                }
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(Instant::now()),
                    COMMANDS => {
                        if self.apply() {
                            return;
                        }
                    }
                    token => match PeerProcesses::of_token(token) {
                        Some(process) => self.process_ended(process),
                        None => self.look_at(token, event.flags),
                    },
                }
            }
            let now = Instant::now();
            // Before those who try again and again take what is free for a moment.
            self.spare.refill();
            self.end_strangers(now, false);
            self.say_hello_again(now);
            self.ask_elsewhere(now);
            self.look_after_stalled(now);
            if self.pausing.take_if(|until| *until <= now).is_some() {
                self.resume();
            }
            self.flush_links(now);
        }
    }

    /// Sends messages that wait for descriptors of others to arrive, a while after they began to.
    fn flush_links(&mut self, now: Instant) {
        if self.flushing.take_if(|at| *at <= now).is_some() {
            let links = self.links.values().filter_map(|(_, role)| match role {
                Role::Peer(link) => Some(link),
                Role::Stranger | Role::Unused => None,
            });
            links.for_each(|link| link.flush());
        }
        if self.port.links.wait_for_descriptors() {
            self.flushing.get_or_insert(now + PAUSE);
        }
    }

    fn until_next_look(&self) -> Option<Timespec> {
        let stalled = self.stalled.iter().chain(&self.unwelcomed);
        let stalled = stalled.chain(&self.crossed).map(|(at, _)| *at);
        let others = [self.strangers.next(), self.pausing, self.flushing];
        let next = stalled.chain(others.into_iter().flatten()).min()?;
        let wait = next.saturating_duration_since(Instant::now());
        // An hour is as good as any longer time and always representable.
        Timespec::try_from(wait.min(Duration::from_secs(3600))).ok()
    }

    fn look_after_stalled(&mut self, now: Instant) {
        self.stalled.retain_mut(|(at, connection)| {
            if *at > now {
                return true;
            }
            let next = connection
                .upgrade()
                .and_then(|connection| connection.progress(now));
            next.map(|next| *at = next).is_some()
        });
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..MAX_ACCEPTED {
            match control_socket::accept(&self.listener) {
                Ok(None) => return,
                Ok(Some(link)) => {
                    let token = self.next_token;
                    self.admit(link, now);
                    // Who dials says at once who it is: it is known before anything is heard on a
                    // link that this one crosses.
                    self.hear(token);
                }
                // The dialling peer has given up.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if !self.accept_in_need(error, now) {
                        return self.pause(now);
                    }
                }
            }
        }
    }

    /// Handles a dial that could not be accepted, most likely for want of a descriptor. Returns
    /// whether to go on.
    fn accept_in_need(&mut self, error: io::Error, now: Instant) -> bool {
        let error = FabricError::os("accepting a peer")(error);
        self.unaccepted.warn(now, error);
        if self.end_strangers(now, true) {
            return true;
        }
        // Dials of another user must not keep this user's waiting.
        let spare = self.spare.clone();
        let accept = || {
            if let Ok(Some(link)) = control_socket::accept(&self.listener) {
                self.admit(link, now);
            }
        };
        let ((), is_left) = spare.lend(1, accept);
        is_left
    }

    /// Accepts no dials for a while.
    fn pause(&mut self, now: Instant) {
        // The listener is registered until then, so this cannot fail.
        let _ = epoll::delete(&self.epoll, &self.listener);
        self.pausing = Some(now + PAUSE);
    }

    fn resume(&mut self) {
        if let Err(error) = self.watch(self.listener.as_fd(), LISTENER, epoll::EventFlags::IN) {
            let now = Instant::now();
            let error = FabricError::os("waiting for peers")(error);
            self.unaccepted.warn(now, error);
            self.pausing = Some(now + PAUSE);
        }
    }

    /// Closes sockets that have been silent for too long; `in_need` of their descriptors, earlier.
    /// Returns whether there were any.
    fn end_strangers(&mut self, now: Instant, in_need: bool) -> bool {
        let mut any = false;
        while let Some(token) = self.strangers.pop_overdue(now, in_need) {
            let is_of_use = match self.links.get(&token) {
                None => true,
                Some((_, Role::Stranger | Role::Unused)) => false,
                Some((_, Role::Peer(link))) => link.is_used() || self.waiting.has_any_of(token),
            };
            if !is_of_use {
                let what = "links that connect nothing were closed";
                self.refused.warn(now, what);
                self.remove(token);
                any = true;
            }
        }
        any
    }

    fn admit(&mut self, link: ControlSocket, now: Instant) {
        if let Err(error) = link.check_user() {
            self.refused
                .warn(now, format_args!("a dial was refused: {error}"));
        } else if self.silent >= MAX_STRANGERS {
            self.refused.warn(
                now,
                format_args!("a dial was refused: {MAX_STRANGERS} others have not been answered"),
            );
        } else {
            self.silent += 1;
            self.strangers.add(now, self.next_token);
            self.add(link, Role::Stranger);
        }
    }

    fn add(&mut self, link: ControlSocket, role: Role) {
        let token = self.next_token;
        self.next_token += 1;
        match self.watch(link.as_fd(), token, LINK_EVENTS) {
            Ok(()) => {
                let is_dialled = matches!(role, Role::Peer(_));
                self.links.insert(token, (link.clone(), role));
                if is_dialled {
                    self.watch_process(token, &link);
                }
            }
            Err(error) => {
                let error = FabricError::os("watching a link")(error);
                self.cut_off.warn(Instant::now(), error);
                self.ended(role);
            }
        }
    }

    /// Handles the end of a peer's process. Its forks may keep its sockets open.
    fn process_ended(&mut self, process: Pid) {
        for token in self.processes.links_to(process) {
            self.remove(token);
        }
    }

    /// Carries out commands. Returns whether to end.
    fn apply(&mut self) -> bool {
        eventfd::lower(&self.port.control);
        let commands = std::mem::take(&mut *lock(&self.port.commands));
        for command in commands {
            match command {
                Command::Watch(link) => self.add(link.socket().clone(), Role::Peer(link)),
                Command::Greet(number) => self.greet_waiting(number),
                // A time in the past: it is looked at in this turn.
                Command::Look(connection) => self.stalled.push((Instant::now(), connection)),
                Command::Stop => return true,
            }
        }
        false
    }

    fn greet_waiting(&mut self, number: u32) {
        for (token, hello) in self.waiting.take(number) {
            if let Some((_, Role::Peer(link))) = self.links.get(&token).cloned()
                && !self.greet(token, &link, hello)
            {
                self.remove(token);
            }
        }
    }

    /// Answers a hello, if its queue pair is ready. Returns `false` if the link is useless.
    fn greet(&mut self, token: u64, link: &Arc<Link>, hello: Hello) -> bool {
        let connection = self.port.find(hello.to_qp);
        let greeted = connection.map_or(Some(false), |connection| connection.greet(&hello, link));
        match greeted {
            None if self.waiting.add(token, hello) => true,
            Some(true) => true,
            None | Some(false) => link.send(&Message::Refusal { to: hello.from }).is_ok(),
        }
    }

    /// Closes the socket when the process at its other end ends, if that comes first.
    fn watch_process(&mut self, token: u64, link: &ControlSocket) {
        if self.processes.watch(&self.epoll, link, token) == PeerProcess::Ended {
            self.remove(token);
        }
    }

    /// Sends what a socket has room for, and handles what has arrived on it.
    fn look_at(&mut self, token: u64, flags: epoll::EventFlags) {
        if let Some((_, Role::Peer(link))) = self.links.get(&token) {
            link.flush();
        }
        if flags != epoll::EventFlags::OUT {
            self.hear(token);
        }
    }

    /// Handles what has arrived on a socket.
    fn hear(&mut self, token: u64) {
        for _ in 0..MAX_HEARD {
            // The socket may have been removed in this turn.
            let Some((socket, role)) = self.links.get(&token).cloned() else {
                return;
            };
            let (peeked, spare) = (socket.peek(), self.spare.clone());
            let receive = || self.receive(token, socket, role);
            let understood = if peeked.is_some_and(|next| next.has_descriptors()) {
                spare.lend(control_socket::MAX_FDS, receive).0
            } else {
                receive()
            };
            let Some(understood) = understood else {
                return;
            };
            if !understood {
                return self.remove(token);
            }
        }
        // Others get their turn; this raises another event.
        if let Some((socket, _)) = self.links.get(&token) {
            let data = epoll::EventData::new_u64(token);
            if epoll::modify(&self.epoll, socket, data, LINK_EVENTS).is_err() {
                self.remove(token);
            }
        }
    }

    /// Handles the next message; `None` if there is none.
    fn receive(&mut self, token: u64, socket: ControlSocket, role: Role) -> Option<bool> {
        match socket.receive() {
            Incoming::Nothing => None,
            Incoming::End => Some(false),
            Incoming::Unreceived(answer, error) => {
                let error = FabricError::os("receiving descriptors of a peer")(error);
                self.cut_off.warn(Instant::now(), error);
                if let Role::Peer(link) = &role
                    && answer.has_descriptors()
                {
                    self.not_received(&answer, link);
                    return Some(true);
                }
                // Without them, it makes no sense.
                Some(self.understand(token, socket, role, answer, Vec::new()))
            }
            Incoming::Message(message, fds) => {
                Some(self.understand(token, socket, role, message, fds))
            }
        }
    }

    /// Handles a message. Returns `false` if it is not for this socket, or the socket is useless.
    fn understand(
        &mut self,
        token: u64,
        socket: ControlSocket,
        role: Role,
        message: Message,
        fds: Vec<OwnedFd>,
    ) -> bool {
        let link = match role {
            Role::Peer(link) => link,
            Role::Stranger => return self.introduced(token, &socket, &message),
            Role::Unused => return true,
        };
        link.heard();
        match message {
            Message::Welcome(Welcome { to, .. })
            | Message::Region { to, .. }
            | Message::NoRegion { to, .. }
            | Message::Refusal { to } => self.answered(to, &link, message, fds),
            Message::Hello(hello) => return self.greet(token, &link, hello),
            Message::WantRegion { from, to_qp, rkey } => {
                let connection = self.welcomed(from, to_qp, &link);
                if !connection.is_some_and(|alive| alive.tell_region(from, rkey, &link)) {
                    return link.send(&Message::Refusal { to: from }).is_ok();
                }
            }
            Message::Goodbye { from, to_qp } => {
                let over = match self.waiting.withdraw(token, from) {
                    // This end may have asked meanwhile, and been welcomed, before it has welcomed
                    // the peer: nobody will say it once more.
                    Some(hello) => self
                        .port
                        .find(hello.to_qp)
                        .filter(|connection| connection.is_of_peer(&hello, &link)),
                    None => self.welcomed(from, to_qp, &link),
                };
                if let Some(connection) = over {
                    connection.lost();
                }
            }
            Message::Unmapped { lot } => link.returned(lot),
            Message::Done => return link.done(),
            Message::Ring { queue } => self.port.quiet.ring(queue),
            Message::Crossed if link.is_dialled() => {
                self.crossed(&link);
                return false;
            }
            Message::Crossed | Message::Device { .. } => return false,
        }
        true
    }

    /// Handles the first message on a socket that was accepted.
    fn introduced(&mut self, token: u64, socket: &ControlSocket, message: &Message) -> bool {
        let &Message::Device {
            version: VERSION,
            gid,
        } = message
        else {
            if let Message::Device { version, .. } = message {
                self.refused.warn(
                    Instant::now(),
                    format_args!(
                        "a process of this host speaks version {version} of the protocol over shared memory, and this one {VERSION}: \
                         build both with the same release, or forbid shared memory between them (SLIME_RPC_FABRICS)"
                    ),
                );
            }
            return false;
        };
        self.silent -= 1;
        let Some(link) = self.port.links.accept(socket.clone(), Gid(gid)) else {
            self.links.insert(token, (socket.clone(), Role::Unused));
            // The peer ends it. Were it ended here, what it has said already would keep it from
            // reading why.
            return socket.send(&Message::Crossed, &[]).is_ok();
        };
        self.links.insert(token, (socket.clone(), Role::Peer(link)));
        self.watch_process(token, socket);
        // It may be the one that they look for.
        let now = Instant::now();
        self.crossed.iter_mut().for_each(|(at, _)| *at = now);
        true
    }

    /// Vacates a link that the peer does not use, because both ends have dialled. Its connections
    /// ask over the other, which this end may have yet to accept.
    fn crossed(&mut self, link: &Arc<Link>) {
        let asking = link.vacate();
        let now = Instant::now();
        let at = if self.port.links.has(link.peer()) {
            now
        } else {
            now + PAUSE
        };
        for connection in asking {
            if connection.crossed(link) {
                self.crossed.push((at, Arc::downgrade(&connection)));
            } else {
                connection.lost();
            }
        }
    }

    fn ask_elsewhere(&mut self, now: Instant) {
        let port = &self.port;
        self.crossed.retain_mut(|(at, connection)| {
            if *at > now {
                return true;
            }
            let Some(connection) = connection.upgrade() else {
                return false;
            };
            match connection.ask_elsewhere(port) {
                Ok(is_too_early) => {
                    *at = now + PAUSE;
                    is_too_early
                }
                Err(_) => {
                    connection.lost();
                    false
                }
            }
        });
    }

    /// The connection that has welcomed that end of it on `link`.
    fn welcomed(
        &self,
        peer: ConnectionId,
        number: u32,
        link: &Arc<Link>,
    ) -> Option<Arc<Connection>> {
        let connection = self.port.find(number);
        connection.filter(|connection| connection.has_welcomed(peer, link))
    }

    /// Handles an answer whose descriptors this process has no room for: it is asked for again.
    fn not_received(&mut self, answer: &Message, link: &Arc<Link>) {
        drop(BorrowedLot::all_of(answer, link));
        let (Message::Welcome(Welcome { to, .. }) | Message::Region { to, .. }) = answer else {
            return;
        };
        let connection = self.port.find(to.qp_num);
        let Some(connection) = connection.filter(|connection| connection.is_asking(*to, link))
        else {
            return; // It is over.
        };
        connection.not_received();
        // A region is asked for as long as a send waits for it.
        if let Message::Welcome(_) = answer {
            let again = Instant::now() + PAUSE;
            let connection = Arc::downgrade(&connection);
            self.unwelcomed
                .retain(|(_, other)| !other.ptr_eq(&connection));
            self.unwelcomed.push((again, connection));
        }
    }

    fn say_hello_again(&mut self, now: Instant) {
        let due = self.unwelcomed.extract_if(.., |(at, _)| *at <= now);
        for connection in due.filter_map(|(_, connection)| connection.upgrade()) {
            // The only failure is that the connection is over.
            let _ = connection.say_hello();
        }
    }

    /// Hands an answer to the connection that has asked, if that goes on. An answer that makes no
    /// sense ends it.
    fn answered(&mut self, to: ConnectionId, link: &Arc<Link>, answer: Message, fds: Vec<OwnedFd>) {
        let lots = BorrowedLot::all_of(&answer, link);
        let connection = self.port.find(to.qp_num);
        let Some(alive) = connection.filter(|connection| connection.is_asking(to, link)) else {
            return; // It is over.
        };
        if !alive.answered(answer, fds, lots, link) {
            return alive.lost();
        }
        // Whatever its sends wait for now is looked at from this turn on, once for each connection.
        let connection = Arc::downgrade(&alive);
        self.stalled.retain(|(_, other)| !other.ptr_eq(&connection));
        self.stalled.push((Instant::now(), connection));
    }

    fn remove(&mut self, token: u64) {
        let Some((link, role)) = self.links.remove(&token) else {
            return;
        };
        // The socket is open until the last clone is gone, so this cannot fail.
        let _ = epoll::delete(&self.epoll, &link);
        self.processes.forget(&self.epoll, token);
        self.waiting.forget_link(token);
        link.end();
        self.ended(role);
    }

    /// Carries out what follows from the end of a socket.
    fn ended(&mut self, role: Role) {
        match role {
            Role::Stranger => self.silent -= 1,
            Role::Unused => {}
            Role::Peer(link) => {
                for connection in link.end() {
                    connection.lost();
                }
            }
        }
    }
}

/// How long a socket may connect nothing. A dialling peer says hello at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a socket may connect nothing when the process is out of descriptors.
const PATIENCE_IN_NEED: Duration = Duration::from_millis(500);

/// Accepted sockets that were not looked at yet, in the order in which they came. Some may have
/// ended since.
#[derive(Debug, Default)]
struct Strangers(VecDeque<(Instant, u64)>);

impl Strangers {
    /// Notes that a socket was accepted.
    fn add(&mut self, now: Instant, token: u64) {
        self.0.push_back((now, token));
    }

    /// Removes a socket that has been silent for too long; `in_need` of its descriptor, earlier.
    fn pop_overdue(&mut self, now: Instant, in_need: bool) -> Option<u64> {
        let patience = if in_need { PATIENCE_IN_NEED } else { PATIENCE };
        let (since, _) = self.0.front()?;
        if now < *since + patience {
            return None;
        }
        self.0.pop_front().map(|(_, token)| token)
    }

    /// When the next socket will have been silent for too long.
    fn next(&self) -> Option<Instant> {
        self.0.front().map(|(since, _)| *since + PATIENCE)
    }
}
