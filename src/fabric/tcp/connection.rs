//! One end of a connection: what its handle, pollers and the device's thread share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use super::address::TcpKey;
use super::completion_queue::{Entry, TcpCompletionQueue};
use super::device_state::{Command, DeviceState};
use super::frame::{Header, Kind};
use super::gathering::Gathering;
use super::hello::{Hello, Opening, Terms};
use super::input::{Filled, Input, Payload};
use super::output::{Output, Unsent};
use super::region::Target;
use super::socket;
use super::stream::Stream;
use super::timing::{patience, rnr_patience};
use super::tls::proof;
use crate::fabric::{
    self, Access, Completion, CompletionStatus, FabricError, Opcode, Operation, QueuePairAddress,
    QueuePairInit, QueuePairState, RecvRequest, RetryPolicy, SendRequest, software,
    software::MAX_MESSAGE,
};
use crate::tls::TlsError;

/// Looks at the socket before somebody else gets a turn.
const ROUNDS: u32 = 16;

/// What a queue pair is, whatever it is connected with.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) number: u32,
    pub(super) psn: u32,
    pub(super) key: TcpKey,
    pub(super) max_send_wr: u32,
    pub(super) max_recv_wr: u32,
    pub(super) retry: RetryPolicy,
    pub(super) send_cq: Arc<TcpCompletionQueue>,
    pub(super) recv_cq: Arc<TcpCompletionQueue>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Connection {
    /// This one, for those who keep it.
    this: Weak<Self>,
    identity: Identity,
    device: Arc<DeviceState>,
    state: AtomicU8,
    /// Sends that have been retired, of those posted, modulo 2^32.
    retired: Arc<AtomicU32>,
    /// Why this end or the other refused to connect.
    refusal: OnceLock<TlsError>,
    /// It was to be connected, and was not.
    is_not_met: AtomicBool,
    wire: Mutex<Wire>,
}

/// What is under way.
#[derive(Debug, Default)]
struct Wire {
    remote: Option<QueuePairAddress>,
    /// The alias that the peer must prove to have.
    peer: Option<String>,
    stream: Option<Stream>,
    /// The peer's, once it is met.
    terms: Option<Terms>,

    /// Requests that have not been acknowledged.
    unacknowledged: VecDeque<Request>,
    /// Requests so far, modulo 2^32.
    posted: u32,
    /// Requests over since the last completion that said so.
    unsignalled: u32,
    /// Requests of ours that the peer has executed, modulo 2^32.
    acknowledged: u32,
    /// READs of ours whose bytes have not all come.
    reads: VecDeque<Target>,
    /// READs of ours whose bytes have come, and that have not been acknowledged.
    reads_done: u32,
    /// A request failed before it was sent. None after it is sent.
    is_spoiled: bool,
    output: Output,
    /// Whether that waits for the next poll.
    gathering: Gathering,
    /// When whoever waits for the connection to be made gives up.
    give_up: Option<Instant>,

    input: Input,
    receives: VecDeque<Receives>,
    /// Receives posted.
    receive_count: u32,
    /// A message for which there is no receive.
    held: Option<Held>,
    /// No more is read, as long as a message is held.
    is_stalled: bool,
    /// Requests of the peer that have been executed, modulo 2^32.
    executed: u32,
    /// Whether the peer waits to be told of that, and was not.
    owes: bool,
    /// Whether the device's thread looks at this one now and then.
    is_looked_after: bool,
}

/// A request of ours.
#[derive(Debug)]
struct Request {
    wr_id: u64,
    opcode: Opcode,
    length: u32,
    is_signalled: bool,
    /// Why it was not sent.
    failure: Option<CompletionStatus>,
}

/// Receives of one `wr_id`.
#[derive(Debug)]
struct Receives {
    wr_id: u64,
    count: u32,
}

#[derive(Debug)]
struct Held {
    message: Message,
    /// When the sender gives up. `None`: never.
    until: Option<Instant>,
}

/// What a WRITE_WITH_IMM says.
#[derive(Debug, Clone, Copy)]
struct Message {
    imm: u32,
    byte_len: u32,
    is_solicited: bool,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Our side wants to.
    GivenUp,
    /// The peer is gone, in ERR, or was never met.
    Lost,
    /// Our oldest request fails here.
    Failed(CompletionStatus),
    /// The peer refuses our oldest request.
    Refused(CompletionStatus),
    /// We refuse a request of the peer.
    Refusing(CompletionStatus),
    /// The peer breaks the protocol.
    Violation(&'static str),
}

/// How an end that was looked at is to be watched.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Watch {
    /// Look again soon.
    Again,
    /// Not before something happens on the socket.
    Socket,
}

/// How a refusal travels.
const REFUSALS: [CompletionStatus; 2] = [
    CompletionStatus::RemoteAccess,
    CompletionStatus::RnrRetryExceeded,
];

impl Identity {
    pub(super) fn new(
        number: u32,
        psn: u32,
        key: TcpKey,
        init: &QueuePairInit,
        [send_cq, recv_cq]: [Arc<TcpCompletionQueue>; 2],
    ) -> Self {
        Self {
            number,
            psn,
            key,
            max_send_wr: init.max_send_wr,
            max_recv_wr: init.max_recv_wr,
            retry: init.retry,
            send_cq,
            recv_cq,
        }
    }
}

impl Connection {
    pub(super) fn new(identity: Identity, device: Arc<DeviceState>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            identity,
            device,
            state: AtomicU8::new(QueuePairState::Reset as u8),
            retired: Arc::default(),
            refusal: OnceLock::new(),
            is_not_met: AtomicBool::new(false),
            wire: Mutex::default(),
        })
    }

    /// The same queue pair in RESET. This one must have given up.
    pub(super) fn renewed(&self) -> Arc<Self> {
        Self::new(self.identity.clone(), self.device.clone())
    }

    pub(super) fn number(&self) -> u32 {
        self.identity.number
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn state(&self) -> QueuePairState {
        software::STATES[usize::from(self.state.load(Ordering::Acquire))]
    }

    /// Goes from one state to the next, unless another one was entered meanwhile.
    pub(super) fn advance_state(
        &self,
        verb: &'static str,
        from: QueuePairState,
        to: QueuePairState,
    ) -> Result<(), FabricError> {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(|state| self.invalid(verb, software::STATES[usize::from(state)]))
    }

    pub(super) fn invalid(&self, verb: &'static str, state: QueuePairState) -> FabricError {
        FabricError::InvalidState {
            qp_num: self.number(),
            verb,
            state,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Wire> {
        // Nothing panics while it is held.
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes who the peer is.
    pub(super) fn set_remote(&self, remote: QueuePairAddress, peer: Option<String>) {
        let mut wire = self.lock();
        wire.peer = peer;
        wire.output.sequence = self.identity.psn;
        wire.input.sequence = remote.psn;
        wire.remote = Some(remote);
    }

    /// Where the peer is, once that is known.
    pub(super) fn remote(&self) -> Option<QueuePairAddress> {
        self.lock().remote
    }

    /// The alias that the peer must prove to have.
    pub(super) fn peer(&self) -> Option<String> {
        self.lock().peer.clone()
    }

    /// What whoever dials this end has to show.
    pub(super) fn key(&self, opening: Opening) -> TcpKey {
        shown(self.identity.key, opening)
    }

    /// What this end says first to `remote`; `None` before that is known.
    pub(super) fn hello(&self, opening: Opening) -> Option<Hello> {
        let remote = self.lock().remote?;
        Some(Hello {
            from_gid: self.device.gid().0,
            from_qp: self.number(),
            psn: self.identity.psn,
            to_qp: remote.qp_num,
            key: shown(remote.tcp?.key, opening),
            terms: Terms {
                max_send_wr: self.identity.max_send_wr,
                rnr_retry: self.identity.retry.rnr_retry,
            },
        })
    }

    /// Whether this is what the peer has to say.
    pub(super) fn is_from_peer(&self, hello: &Hello, opening: Opening) -> bool {
        let remote = self.lock().remote;
        hello.key == self.key(opening)
            && remote.is_some_and(|remote| {
                remote.gid.0 == hello.from_gid
                    && remote.qp_num == hello.from_qp
                    && remote.psn == hello.psn
                    && hello.to_qp == self.number()
            })
    }

    /// The connection is made. Says whether it was wanted.
    pub(super) fn establish(&self, stream: Stream, terms: Terms) -> bool {
        let Some(this) = self.this.upgrade() else {
            return false;
        };
        let mut wire = self.lock();
        let is_wanted = matches!(self.state(), QueuePairState::Rtr | QueuePairState::Rts);
        if !is_wanted || wire.stream.is_some() {
            return false;
        }
        let Identity {
            send_cq, recv_cq, ..
        } = &self.identity;
        recv_cq.attach(&this, &stream);
        if !Arc::ptr_eq(send_cq, recv_cq) {
            send_cq.attach(&this, &stream);
        }
        self.device.watch(self.number(), &stream);
        wire.stream = Some(stream);
        wire.terms = Some(terms);
        wire.give_up = None;
        self.advance(&mut wire);
        self.look_after(&mut wire);
        true
    }

    /// Posts receives.
    pub(super) fn post_recvs(&self, request: RecvRequest, count: u32) -> Result<(), FabricError> {
        let mut wire = self.lock();
        let state = self.state();
        if state == QueuePairState::Reset {
            return Err(self.invalid("post_recv", state));
        }
        let depth = self.identity.max_recv_wr;
        if count > depth - wire.receive_count {
            return Err(FabricError::QueueFull {
                qp_num: self.number(),
                queue: "receive",
                depth,
            });
        }
        if count == 0 {
            return Ok(());
        }
        wire.receive_count += count;
        match wire.receives.back_mut() {
            Some(last) if last.wr_id == request.wr_id => last.count += count,
            _ => wire.receives.push_back(Receives {
                wr_id: request.wr_id,
                count,
            }),
        }
        if state == QueuePairState::Error {
            self.flush_receives(&mut wire);
        } else if let Some(held) = wire.held.take() {
            self.deliver(&mut wire, held.message, true);
            self.unstall(&mut wire);
            self.advance(&mut wire);
            self.look_after(&mut wire);
        }
        Ok(())
    }

    /// Posts sends, which leave in one system call if the socket takes them: at once, or with
    /// others at the next poll, as [`gathering`](super::gathering) says.
    pub(super) fn post_sends(
        &self,
        requests: &[SendRequest<'_>],
        max_inline: u32,
    ) -> Result<(), FabricError> {
        let mut wire = self.lock();
        let was_blocked = wire.is_blocked();
        let is_alone = wire.unacknowledged.is_empty();
        let posted = requests.iter().try_for_each(|request| {
            request.check_inline(max_inline, crate::fabric::TCP)?;
            self.post(&mut wire, request)
        });
        if !was_blocked && wire.stream.is_some() && !wire.output.is_empty() {
            if (is_alone || !self.gathers(&mut wire))
                && let Err(ending) = self.send(&mut wire)
            {
                self.end_after_input(&mut wire, ending);
            }
            // Whoever polls may not poll again.
            if !wire.output.is_empty() {
                self.look_after(&mut wire);
            }
        }
        posted
    }

    /// Whether what was posted behind others waits for the next poll.
    fn gathers(&self, wire: &mut Wire) -> bool {
        let Identity {
            send_cq, recv_cq, ..
        } = &self.identity;
        // Of two queues it is not known which one is polled.
        if !Arc::ptr_eq(send_cq, recv_cq) {
            return false;
        }
        let had_begun = wire.gathering.is_waiting();
        let gathered = self.device.gathered();
        if !wire
            .gathering
            .waits(&wire.output, send_cq, gathered.settled())
        {
            return false;
        }
        if !had_begun {
            gathered.add(&self.this);
        }
        // Behind that: whoever goes to sleep now sees this, or is seen here.
        !send_cq.is_slept_on()
    }

    /// Posts a send, which does not leave yet.
    fn post(&self, wire: &mut Wire, request: &SendRequest<'_>) -> Result<(), FabricError> {
        let state = self.state();
        if !matches!(state, QueuePairState::Rts | QueuePairState::Error) {
            return Err(self.invalid("post_send", state));
        }
        let retired = self.retired.load(Ordering::Relaxed);
        if wire.posted.wrapping_sub(retired) >= self.identity.max_send_wr {
            // What frees places may be the next thing on the socket.
            return Err(FabricError::QueueFull {
                qp_num: self.number(),
                queue: "send",
                depth: self.identity.max_send_wr,
            });
        }
        wire.posted = wire.posted.wrapping_add(1);
        if state == QueuePairState::Error {
            let flushed = Request::of(request, None);
            self.complete(wire, &flushed, CompletionStatus::Flushed);
            return Ok(());
        }
        let failure = match wire.is_spoiled {
            true => Some(CompletionStatus::Flushed),
            false => self.line_up(wire, request).err(),
        };
        wire.is_spoiled |= failure.is_some();
        wire.unacknowledged.push_back(Request::of(request, failure));
        if failure.is_some() {
            if let Err(ending) = self.check_oldest(wire) {
                self.end(wire, ending);
            }
        } else if wire.stream.is_none() && wire.give_up.is_none() {
            wire.give_up = Some(Instant::now() + patience(self.identity.retry));
            self.look_after(wire);
        }
        Ok(())
    }

    /// Makes a frame of a request. The error is the status that it fails with.
    fn line_up(&self, wire: &mut Wire, request: &SendRequest<'_>) -> Result<(), CompletionStatus> {
        let length = request.local.len();
        if length > MAX_MESSAGE as usize {
            return Err(CompletionStatus::LocalLength);
        }
        let (kind, imm, access) = match request.operation {
            Operation::Write => (Kind::Write, 0, Access::LOCAL_READ),
            Operation::WriteWithImm(imm) => (Kind::WriteWithImm, imm, Access::LOCAL_READ),
            Operation::Read => (Kind::Read, 0, Access::LOCAL_WRITE),
        };
        let (inline, target): (&[u8], _) = match request.local {
            fabric::Payload::Inline(bytes) => (bytes, Target::empty()),
            fabric::Payload::Region(sge) => {
                let keys = self.device.keys();
                let found = Target::find(keys, sge.lkey, sge.addr, length, access);
                (&[], found.ok_or(CompletionStatus::LocalProtection)?)
            }
        };
        let header = Header {
            is_solicited: request.solicited,
            wants_ack: request.signalled,
            addr: request.remote.addr,
            rkey: request.remote.rkey,
            length: length as u32,
            imm,
            ..Header::bare(kind)
        };
        if kind == Kind::Read {
            wire.reads.push_back(target);
            wire.push(header, &[], Target::empty(), false);
        } else {
            wire.push(header, inline, target, false);
        }
        Ok(())
    }

    /// Moves what there is to move. Whoever polls `queue` does this. Returns whether a frame has
    /// come.
    pub(super) fn progress(&self, queue: &TcpCompletionQueue) -> bool {
        let mut wire = self.lock();
        let before = wire.input.sequence;
        self.advance(&mut wire);
        let owes = wire.owes && wire.stream.is_some();
        if owes {
            queue.owe(&self.this);
        }
        // Whoever polls may not poll again, and its queue does not tell when there is room to send.
        if owes || !wire.output.is_empty() {
            self.look_after(&mut wire);
        }
        wire.input.sequence != before
    }

    /// Sends what has gathered, and tells the peer what has been executed, unless a frame did so.
    pub(super) fn settle_now(&self) {
        let mut wire = self.lock();
        if let Err(ending) = self.settle(&mut wire) {
            self.end_after_input(&mut wire, ending);
        }
        if !wire.output.is_empty() {
            self.look_after(&mut wire);
        }
    }

    fn settle(&self, wire: &mut Wire) -> Result<(), Ending> {
        // Behind what the socket does not take it would be no sooner there, and one of many.
        if wire.is_blocked() || wire.stream.is_none() {
            return Ok(());
        }
        if wire.owes {
            wire.push(Header::bare(Kind::Ack), &[], Target::empty(), false);
        }
        match wire.output.is_empty() {
            true => Ok(()),
            false => self.send(wire),
        }
    }

    /// The device's thread looks, as something happened on the socket (`by_event`) or some time has
    /// passed.
    pub(super) fn look(&self, now: Instant, turn: u64, by_event: bool) -> Watch {
        let mut guard = self.lock();
        let wire = &mut *guard;
        let is_over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        if is_over(wire.give_up) {
            self.end(wire, Ending::Lost);
        } else if is_over(wire.held.as_ref().and_then(|held| held.until)) {
            let refusing = Ending::Refusing(CompletionStatus::RnrRetryExceeded);
            self.end(wire, refusing);
        }
        let is_attended = self.is_attended(turn, by_event);
        let was_blocked = wire.is_blocked();
        if !is_attended || was_blocked {
            self.advance(wire);
        }
        // What nobody reads from does not end by being read from.
        if wire.is_stalled && wire.stream.as_ref().is_some_and(socket::is_gone) {
            self.end(wire, Ending::Lost);
        }
        // Whoever polls found no room to say what is owed, and does not look again; or polls no
        // more since frames have gathered for that.
        if (!is_attended || was_blocked || wire.gathering.is_waiting())
            && let Err(ending) = self.settle(wire)
        {
            self.end_after_input(wire, ending);
        }
        let Some(stream) = &wire.stream else {
            wire.is_looked_after = wire.give_up.is_some();
            return match wire.is_looked_after {
                true => Watch::Again,
                false => Watch::Socket,
            };
        };
        wire.is_looked_after =
            is_attended || wire.held.as_ref().is_some_and(|held| held.until.is_some());
        if wire.is_looked_after {
            return Watch::Again;
        }
        let (may_read, must_write) = (!wire.is_stalled, !wire.output.is_empty());
        self.device
            .rewatch(self.number(), stream, may_read, must_write);
        Watch::Socket
    }

    /// Whether somebody else sees to what comes.
    fn is_attended(&self, turn: u64, by_event: bool) -> bool {
        let Identity {
            send_cq, recv_cq, ..
        } = &self.identity;
        let mut is_attended = send_cq.was_polled(turn) || (by_event && send_cq.has_sleeper(turn));
        if !Arc::ptr_eq(send_cq, recv_cq) {
            is_attended |= recv_cq.was_polled(turn) || (by_event && recv_cq.has_sleeper(turn));
        }
        is_attended
    }

    /// Has the device's thread look soon, and then until nothing is left to be looked after.
    fn look_after(&self, wire: &mut Wire) {
        if !std::mem::replace(&mut wire.is_looked_after, true) {
            self.device.command(Command::LookAfter(self.this.clone()));
        }
    }

    fn advance(&self, wire: &mut Wire) {
        if let Err(ending) = self.exchange(wire) {
            self.end_after_input(wire, ending);
        }
    }

    fn exchange(&self, wire: &mut Wire) -> Result<(), Ending> {
        self.send(wire)?;
        self.receive(wire)?;
        if wire.output.responses > 0 {
            self.send(wire)?;
        }
        Ok(())
    }

    /// Sends what waits to be sent.
    fn send(&self, wire: &mut Wire) -> Result<(), Ending> {
        let Some(stream) = &mut wire.stream else {
            return Ok(());
        };
        wire.gathering.end();
        wire.output.flush(stream).map_err(|unsent| match unsent {
            Unsent::Lost => Ending::Lost,
            Unsent::Deregistered => Ending::Failed(CompletionStatus::LocalProtection),
        })
    }

    /// Receives what has come.
    fn receive(&self, wire: &mut Wire) -> Result<(), Ending> {
        for round in 0.. {
            if self.parse(wire)? {
                self.stall(wire);
                return Ok(());
            }
            let Some(stream) = &mut wire.stream else {
                return Ok(());
            };
            // What it has taken from the socket is taken from it: nobody is told of that again.
            let reads = round < ROUNDS;
            if !reads && !stream.holds_input() {
                return Ok(());
            }
            match wire.input.fill(stream, reads) {
                Filled::Full => {}
                Filled::Emptied => {
                    if self.parse(wire)? {
                        self.stall(wire);
                    }
                    return Ok(());
                }
                Filled::End => return Err(Ending::Lost),
                Filled::Forged => {
                    return Err(Ending::Violation(
                        "bytes that its TLS session does not allow",
                    ));
                }
                Filled::Deregistered(header) => return Err(deregistered(header)),
            }
        }
        Ok(())
    }

    /// Executes what has been received. Says whether the next frame has to wait for a receive.
    fn parse(&self, wire: &mut Wire) -> Result<bool, Ending> {
        loop {
            match wire.input.payload() {
                Payload::None => {}
                Payload::Incomplete => return Ok(false),
                Payload::Deregistered(header) => return Err(deregistered(header)),
                Payload::Complete(header) => {
                    self.execute(wire, header)?;
                    continue;
                }
            }
            let Some(header) = wire.input.header() else {
                return Ok(false);
            };
            let header = header.map_err(Ending::Violation)?;
            if header.kind.is_request() && wire.held.is_some() {
                return Ok(true);
            }
            wire.input.take_header();
            if header.kind.has_payload() {
                let target = self.target(wire, &header)?;
                wire.input.expect(header, target);
            } else {
                self.execute(wire, header)?;
            }
        }
    }

    /// Where the bytes of a frame belong.
    fn target(&self, wire: &Wire, header: &Header) -> Result<Target, Ending> {
        if header.kind == Kind::ReadData {
            let read = wire.reads.front();
            let read = read.filter(|read| read.left() == header.length as usize);
            return read
                .cloned()
                .ok_or(Ending::Violation("an answer that nobody asked for"));
        }
        self.memory(header, Access::REMOTE_WRITE)
    }

    /// The memory that a request of the peer names.
    fn memory(&self, header: &Header, access: Access) -> Result<Target, Ending> {
        let keys = self.device.keys();
        let length = header.length as usize;
        let found = Target::find(keys, header.rkey, header.addr, length, access);
        found.ok_or(Ending::Refusing(CompletionStatus::RemoteAccess))
    }

    /// Executes a frame that has been received whole.
    fn execute(&self, wire: &mut Wire, header: Header) -> Result<(), Ending> {
        match header.kind {
            Kind::Write => wire.executed(header.wants_ack),
            Kind::WriteWithImm => {
                let message = Message {
                    imm: header.imm,
                    byte_len: header.length,
                    is_solicited: header.is_solicited,
                };
                if wire.receive_count == 0 {
                    self.hold(wire, message, header.wants_ack);
                } else {
                    self.deliver(wire, message, header.wants_ack);
                }
            }
            Kind::Read => {
                let target = self.memory(&header, Access::REMOTE_READ)?;
                let most = wire.terms.map_or(0, |terms| terms.max_send_wr);
                if wire.output.responses >= most {
                    return Err(Ending::Violation("more READs than it may have outstanding"));
                }
                wire.executed(false);
                let answer = Header {
                    length: header.length,
                    ..Header::bare(Kind::ReadData)
                };
                wire.push(answer, &[], target, true);
            }
            Kind::ReadData => {
                wire.reads.pop_front();
                wire.reads_done += 1;
            }
            Kind::Ack | Kind::Refusal if header.length > 0 => {
                return Err(Ending::Violation("an acknowledgement with a length"));
            }
            Kind::Ack => {}
            Kind::Refusal => {
                self.acknowledged(wire, header.executed)?;
                let status = REFUSALS.get(header.imm as usize);
                let status = status.filter(|_| !wire.unacknowledged.is_empty());
                return Err(match status {
                    Some(status) => Ending::Refused(*status),
                    None => Ending::Violation("a refusal that makes no sense"),
                });
            }
        }
        self.acknowledged(wire, header.executed)
    }

    /// The peer has executed so many requests.
    fn acknowledged(&self, wire: &mut Wire, executed: u32) -> Result<(), Ending> {
        while wire.acknowledged != executed {
            let Some(request) = wire.unacknowledged.front() else {
                return Err(Ending::Violation("more acknowledged than was sent"));
            };
            if request.failure.is_some() {
                return Err(Ending::Violation("acknowledged what was not sent"));
            }
            if request.opcode == Opcode::Read {
                let Some(left) = wire.reads_done.checked_sub(1) else {
                    return Err(Ending::Violation("a READ without its bytes"));
                };
                wire.reads_done = left;
            }
            wire.acknowledged = wire.acknowledged.wrapping_add(1);
            if let Some(request) = wire.unacknowledged.pop_front() {
                self.complete(wire, &request, CompletionStatus::Success);
            }
        }
        self.check_oldest(wire)
    }

    /// Fails if the oldest request could not be sent.
    fn check_oldest(&self, wire: &mut Wire) -> Result<(), Ending> {
        let oldest = wire.unacknowledged.front();
        match oldest.and_then(|request| request.failure) {
            Some(status) => Err(Ending::Failed(status)),
            None => Ok(()),
        }
    }

    /// Keeps a message until there is a receive for it.
    fn hold(&self, wire: &mut Wire, message: Message, wants_ack: bool) {
        let rnr_retry = wire.terms.map_or(0, |terms| terms.rnr_retry);
        let patience = rnr_patience(self.identity.retry.min_rnr_timer, rnr_retry);
        wire.owes |= wants_ack;
        wire.held = Some(Held {
            message,
            until: patience.map(|patience| Instant::now() + patience),
        });
        self.look_after(wire);
    }

    /// Completes a receive, of which there is one.
    fn deliver(&self, wire: &mut Wire, message: Message, wants_ack: bool) {
        wire.executed(wants_ack);
        let Some(wr_id) = wire.take_receive() else {
            return;
        };
        let completion = Completion {
            wr_id,
            status: CompletionStatus::Success,
            opcode: Opcode::RecvWriteWithImm,
            byte_len: message.byte_len,
            imm: Some(message.imm),
            qp_num: self.number(),
        };
        let entry = Entry {
            completion,
            retires: None,
        };
        self.identity.recv_cq.push(entry, message.is_solicited);
    }

    /// Nothing is read until there is a receive.
    fn stall(&self, wire: &mut Wire) {
        if !std::mem::replace(&mut wire.is_stalled, true)
            && let Some(stream) = &wire.stream
        {
            self.queues(|queue| queue.unwatch(stream));
        }
    }

    fn unstall(&self, wire: &mut Wire) {
        if std::mem::take(&mut wire.is_stalled)
            && let Some(stream) = &wire.stream
        {
            self.queues(|queue| queue.watch(self.number(), stream));
        }
    }

    /// Both completion queues, or the one that both are.
    fn queues(&self, mut each: impl FnMut(&TcpCompletionQueue)) {
        let Identity {
            send_cq, recv_cq, ..
        } = &self.identity;
        each(recv_cq);
        if !Arc::ptr_eq(send_cq, recv_cq) {
            each(send_cq);
        }
    }

    /// Bytes of headers and inline data that have not been sent.
    #[cfg(test)]
    pub(super) fn unsent(&self) -> usize {
        self.lock().output.unsent()
    }

    /// Enters ERR because our side wants to.
    pub(super) fn give_up(&self) {
        self.end(&mut self.lock(), Ending::GivenUp);
    }

    /// Enters ERR because the connection cannot be made.
    pub(super) fn lose(&self) {
        self.end(&mut self.lock(), Ending::Lost);
    }

    /// Enters ERR because its peer, or somebody who has seen what its peer said in the clear, did
    /// not come to the end of a handshake. A connection that is made is not concerned.
    pub(super) fn fail_to_meet(&self, refusal: Option<TlsError>) {
        let mut wire = self.lock();
        if wire.terms.is_some() {
            return;
        }
        if let Some(error) = refusal {
            // The first reason is the right one.
            let _ = self.refusal.set(error);
        }
        if self.state() != QueuePairState::Error {
            self.is_not_met.store(true, Ordering::Release);
        }
        self.end(&mut wire, Ending::Lost);
    }

    /// Whether it has ended because the peer could not be met.
    pub(super) fn is_not_met(&self) -> bool {
        self.is_not_met.load(Ordering::Acquire)
    }

    /// Whether the peer has been met, or why not.
    pub(super) fn has_met_peer(&self) -> Result<bool, TlsError> {
        let has_met = self.is_made() || self.state() == QueuePairState::Error;
        // It is known before the state shows it.
        match self.refusal.get() {
            Some(error) => Err(error.clone()),
            None => Ok(has_met),
        }
    }

    /// Whether it has been connected, be it that it has ended since.
    pub(super) fn is_made(&self) -> bool {
        self.lock().terms.is_some()
    }

    /// Ends; if the connection is lost, then after what had come before.
    fn end_after_input(&self, wire: &mut Wire, ending: Ending) {
        let mut ending = ending;
        if ending == Ending::Lost {
            // At most what the socket holds.
            while wire.stream.is_some() {
                let before = wire.input.sequence;
                match self.receive(wire) {
                    Err(other) => {
                        ending = other;
                        break;
                    }
                    Ok(()) if wire.is_stalled || wire.input.sequence == before => break,
                    Ok(()) => {}
                }
            }
        }
        self.end(wire, ending);
    }

    /// Enters ERR, ends the stream so that the peer does the same, and flushes.
    fn end(&self, wire: &mut Wire, ending: Ending) {
        let state = self.state();
        if state == QueuePairState::Error {
            return;
        }
        self.state
            .store(QueuePairState::Error as u8, Ordering::Release);
        let mut first = match ending {
            Ending::GivenUp | Ending::Refusing(_) => CompletionStatus::Flushed,
            Ending::Lost | Ending::Violation(_) => CompletionStatus::RetryExceeded,
            Ending::Failed(status) | Ending::Refused(status) => status,
        };
        if let Ending::Violation(what) = ending {
            let peer = wire.remote.and_then(|remote| remote.tcp);
            self.device.violation(what, peer.map(|tcp| tcp.socket));
        }
        if let Some(mut stream) = wire.stream.take() {
            let parting = match ending {
                Ending::Refusing(status) => {
                    let code = REFUSALS.iter().position(|known| *known == status);
                    Some(Header {
                        imm: code.unwrap_or_default() as u32,
                        ..Header::bare(Kind::Refusal)
                    })
                }
                Ending::GivenUp | Ending::Failed(_) => wire.owes.then_some(Header::bare(Kind::Ack)),
                Ending::Lost | Ending::Refused(_) | Ending::Violation(_) => None,
            };
            if let Some(header) = parting {
                wire.push(header, &[], Target::empty(), false);
            }
            let is_heard = matches!(ending, Ending::GivenUp | Ending::Failed(_));
            if parting.is_some() || (is_heard && wire.gathering.is_waiting()) {
                // If the socket takes no more, the peer sees the connection end.
                let _ = wire.output.flush(&mut stream);
            }
            self.queues(|queue| queue.detach(self, &stream));
            self.device.unwatch(&stream);
            stream.finish();
            self.device.command(Command::Close(stream.strip()));
        }
        wire.output.clear();
        wire.gathering.end();
        wire.reads.clear();
        wire.held = None;
        wire.give_up = None;
        while let Some(request) = wire.unacknowledged.pop_front() {
            self.complete(wire, &request, first);
            first = CompletionStatus::Flushed;
        }
        self.flush_receives(wire);
    }

    fn flush_receives(&self, wire: &mut Wire) {
        while let Some(wr_id) = wire.take_receive() {
            let completion = Completion {
                wr_id,
                status: CompletionStatus::Flushed,
                opcode: Opcode::RecvWriteWithImm,
                byte_len: 0,
                imm: None,
                qp_num: self.number(),
            };
            let entry = Entry {
                completion,
                retires: None,
            };
            self.identity.recv_cq.push(entry, true);
        }
    }

    /// Accounts for a request that is over.
    fn complete(&self, wire: &mut Wire, request: &Request, status: CompletionStatus) {
        wire.unsignalled += 1;
        if !request.is_signalled && status.is_success() {
            return;
        }
        let is_read = request.opcode == Opcode::Read && status.is_success();
        let completion = Completion {
            wr_id: request.wr_id,
            status,
            opcode: request.opcode,
            byte_len: if is_read { request.length } else { 0 },
            imm: None,
            qp_num: self.number(),
        };
        let places = std::mem::take(&mut wire.unsignalled);
        let entry = Entry {
            completion,
            retires: Some((places, self.retired.clone())),
        };
        self.identity.send_cq.push(entry, !status.is_success());
    }
}

/// What shows that somebody knows a key.
fn shown(key: TcpKey, opening: Opening) -> TcpKey {
    match opening {
        Opening::Hello => key,
        Opening::Preamble => proof(key),
    }
}

/// What follows from memory that was deregistered while the bytes of this frame came.
fn deregistered(header: Header) -> Ending {
    match header.kind {
        Kind::ReadData => Ending::Failed(CompletionStatus::LocalProtection),
        _ => Ending::Refusing(CompletionStatus::RemoteAccess),
    }
}

impl Wire {
    /// Whether something waits until the socket takes more.
    fn is_blocked(&self) -> bool {
        !self.output.is_empty() && !self.gathering.is_waiting()
    }

    /// Appends a frame, which also says what has been executed.
    fn push(&mut self, mut header: Header, inline: &[u8], target: Target, is_response: bool) {
        header.executed = self.executed;
        self.owes = false;
        self.output.push(header, inline, target, is_response);
    }

    /// One more request of the peer has been executed.
    fn executed(&mut self, wants_ack: bool) {
        self.executed = self.executed.wrapping_add(1);
        self.owes |= wants_ack;
    }

    fn take_receive(&mut self) -> Option<u64> {
        let first = self.receives.front_mut()?;
        let wr_id = first.wr_id;
        first.count -= 1;
        if first.count == 0 {
            self.receives.pop_front();
        }
        self.receive_count -= 1;
        Some(wr_id)
    }
}

impl Request {
    fn of(request: &SendRequest<'_>, failure: Option<CompletionStatus>) -> Self {
        Self {
            wr_id: request.wr_id,
            opcode: match request.operation {
                Operation::Read => Opcode::Read,
                Operation::Write | Operation::WriteWithImm(_) => Opcode::Write,
            },
            length: request.local.len() as u32,
            is_signalled: request.signalled,
            failure,
        }
    }
}
