//! The fabric's specification on this implementation, and what only this one has to keep.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::ShmDevice;
use super::arena::Arena;
use super::control_socket::{self, ControlSocket, Incoming};
use super::message::{
    ConnectionId, Hello, LotAddress, MAX_LEN, Message, RegionInfo, VERSION, Welcome,
};
use super::queue_page::QueuePage;
use super::receiver::RingMemory;
use super::segment::{SEALS, Segment};
use crate::fabric::conformance::CASES;
use crate::fabric::{
    Access, Completion, CompletionStatus, Device, FabricError, Gid, Operation, Payload,
    QueueHalves, QueuePair, QueuePairAddress, QueuePairInit, QueuePairState, RecvRequest,
    RemoteSlice, RetryPolicy, SendRequest, eventfd, software,
};

fn open() -> Arc<dyn Device> {
    ShmDevice::open_apart().expect("a device")
}

#[test]
fn two_devices_conform() {
    let (a, b) = (open(), open());
    for case in CASES {
        println!("{}", case.name());
        case.run(&a, &b);
    }
}

#[test]
fn one_device_conforms_with_itself() {
    let a = open();
    for case in CASES {
        println!("{}", case.name());
        case.run(&a, &a);
    }
}

/// Devices of one process share a thread and a link, and no memory and no key.
#[test]
fn devices_of_a_process_conform_with_each_other_on_one_port() {
    let [a, b] = [(); 2].map(|()| ShmDevice::open().expect("a device"));
    assert_eq!(a.port().gid, b.port().gid);
    for case in CASES {
        println!("{}", case.name());
        case.run(&a, &b);
    }
    let queue = a.create_completion_queue(1).expect("a queue").0;
    let init = QueuePairInit {
        send_cq: queue.clone(),
        recv_cq: queue,
        max_send_wr: 1,
        max_recv_wr: 1,
        max_inline: 0,
        retry: RetryPolicy::default(),
    };
    a.create_queue_pair(&init).expect("it is its own queue");
    let refused = b
        .create_queue_pair(&init)
        .expect_err("the queue is of another");
    assert!(matches!(refused, FabricError::Foreign { .. }), "{refused}");
    // Each has keys of its own, so equal ones name different memory.
    let of_others = [(); 2].map(|()| ShmDevice::open().expect("a device"));
    let regions = of_others.map(|device| device.register(1, Access::ALL).expect("a region"));
    assert_eq!(regions[0].rkey(), regions[1].rkey());
}

/// A peer wakes the owner of a quiet queue without a descriptor for it, once for each arming.
#[test]
fn the_owner_of_a_quiet_queue_is_woken_by_a_message() {
    let (here, there) = (open(), open());
    let pair = |device: &Arc<dyn Device>, (queue, poller): QueueHalves| {
        let init = QueuePairInit {
            send_cq: queue.clone(),
            recv_cq: queue.clone(),
            max_send_wr: 16,
            max_recv_wr: 4,
            max_inline: 0,
            retry: RetryPolicy::default(),
        };
        let mut qp = device.create_queue_pair(&init).expect("a queue pair");
        qp.to_init().expect("it is new");
        qp.post_recvs(RecvRequest { wr_id: 0 }, 4).expect("room");
        (qp, queue, poller)
    };
    let quiet = there.create_quiet_completion_queue(8).expect("a queue");
    let (mut to, queue, mut poller) = pair(&there, quiet);
    let own = here.create_completion_queue(8).expect("a queue");
    let (mut from, _own, _poller) = pair(&here, own);
    let (here, there) = (from.address(), to.address());
    assert_ne!(here.gid, there.gid, "as in two processes");
    for (qp, peer) in [(&mut from, there), (&mut to, here)] {
        qp.to_rtr(&peer).expect("it is there");
        qp.to_rts().expect("it is connected");
    }
    let is_raised = |time: u64| {
        let mut fds = [PollFd::from_borrowed_fd(queue.event_fd(), PollFlags::IN)];
        let time = Timespec::try_from(Duration::from_millis(time)).expect("a time");
        poll(&mut fds, Some(&time)).expect("it is open") > 0
    };
    let mut send = || {
        from.post_send(&SendRequest {
            wr_id: 0,
            operation: Operation::WriteWithImm(7),
            local: Payload::Inline(&[]),
            remote: RemoteSlice::default(),
            signalled: false,
            solicited: true,
        })
        .expect("room");
    };
    let mut arrived = [Completion::EMPTY; 8];
    send();
    while poller.poll(&mut arrived).expect("it works") == 0 {}
    for _ in 0..2 {
        queue.arm().expect("it can be");
        assert!(!is_raised(0), "nothing has come since");
        send();
        assert!(is_raised(10_000));
        queue.clear_events();
        assert_eq!(poller.poll(&mut arrived).expect("it works"), 1);
        send();
        assert!(!is_raised(20), "it is not armed");
        assert_eq!(poller.poll(&mut arrived).expect("it works"), 1);
        to.post_recvs(RecvRequest { wr_id: 0 }, 2).expect("room");
    }
}

/// The first message of a device that no one has opened.
const DEVICE: Message = Message::Device {
    version: VERSION,
    gid: [7; 16],
};

/// A hello to a queue pair that there is not.
const HELLO: Message = Message::Hello(Hello {
    from: ConnectionId { qp_num: 1, life: 1 },
    psn: 2,
    to_qp: 0xff_ffff,
});

fn refused(link: &ControlSocket) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match link.receive() {
            Incoming::Message(Message::Refusal { to }, _) => {
                return assert_eq!(to, ConnectionId { qp_num: 1, life: 1 });
            }
            Incoming::Nothing => assert!(Instant::now() < end, "there is no answer"),
            other => panic!("{other:?}"),
        }
        std::thread::yield_now();
    }
}

fn ends(link: &ControlSocket) {
    let end = Instant::now() + Duration::from_secs(60);
    while !matches!(link.receive(), Incoming::End) {
        assert!(Instant::now() < end, "the link is still open");
        std::thread::yield_now();
    }
}

/// INPUT-1: whoever does not keep to the protocol is cut off, and nobody else notices.
#[test]
fn strange_dials_are_cut_off() {
    let device = open();
    let gid = device.port().gid;
    let said = |messages: &[Message]| {
        let link = ControlSocket::dial(gid).expect("it listens");
        for message in messages {
            // It may be cut off already.
            let _ = link.send(message, &[]);
        }
        link
    };
    let old = Message::Device {
        version: 1,
        gid: [7; 16],
    };
    ends(&said(&[old, HELLO]));
    ends(&said(&[HELLO]));
    ends(&said(&[Message::Done]));
    ends(&said(&[DEVICE, DEVICE]));
    ends(&said(&[DEVICE, Message::Crossed]));
    ends(&said(&[DEVICE, Message::Done]));
    // What is about queue pairs that there are not is answered, over and over.
    let from = ConnectionId { qp_num: 1, life: 1 };
    let (to_qp, rkey) = (0xff_ffff, 0x100);
    let wants = Message::WantRegion { from, to_qp, rkey };
    let to = ConnectionId {
        qp_num: 17,
        life: 0,
    };
    let link = said(&[
        DEVICE,
        Message::Goodbye { from, to_qp },
        Message::NoRegion { to, rkey },
        Message::Refusal { to },
        Message::Unmapped { lot: 7 },
    ]);
    for message in [HELLO, wants, HELLO] {
        link.send(&message, &[]).expect("it is open");
        refused(&link);
    }

    let garbage: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", &[], &[0xff; 128], &[0; 4096]];
    for bytes in garbage {
        let link = ControlSocket::dial(gid).expect("it listens");
        let here = device.register(64, Access::ALL).expect("a region");
        let (lot, _segment) = Arena::new("test").create(here.len()).expect("a lot");
        let fds = [lot.as_fd(); 3];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        rustix::net::sendmsg(
            &link,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .expect("room for a message");
        ends(&link);
    }
    CASES[2].run(&device, &open());
}

/// A device that answers what a test wants.
struct Impostor {
    gid: Gid,
    listener: OwnedFd,
}

impl Impostor {
    /// If it and a device dial each other, its link is used.
    fn new() -> Self {
        Self::beside(0xff)
    }

    /// One whose link is not used then.
    fn that_yields() -> Self {
        Self::beside(0)
    }

    /// One whose GID is beyond those of all devices, on this side.
    fn beside(byte: u8) -> Self {
        let mut gid: [u8; 16] = software::random().expect("random bytes");
        gid[..8].fill(byte);
        let listener = control_socket::listen(Gid(gid)).expect("nobody else has this name");
        let gid = Gid(gid);
        Self { gid, listener }
    }

    /// Dials a device, and says who it is.
    fn dial(&self, device: &Arc<dyn Device>) -> ControlSocket {
        let link = ControlSocket::dial(device.port().gid).expect("it listens");
        let (version, gid) = (VERSION, self.gid.0);
        link.send(&Message::Device { version, gid }, &[])
            .expect("room");
        link
    }

    /// Connects a queue pair of `device` with one of its own.
    fn lure(&self, device: &Arc<dyn Device>) -> Box<dyn QueuePair> {
        connected(device, self.gid)
    }

    /// Asks for a queue pair of `device` over another link. Gives that and its end of the
    /// connection.
    fn greet(&self, device: &Arc<dyn Device>, qp: &dyn QueuePair) -> (ControlSocket, ConnectionId) {
        let link = self.dial(device);
        let from = ConnectionId {
            qp_num: 99,
            life: 5,
        };
        let hello = Hello {
            from,
            psn: 1,
            to_qp: qp.number(),
        };
        link.send(&Message::Hello(hello), &[]).expect("room");
        (link, from)
    }

    fn accept(&self) -> ControlSocket {
        let accepted = control_socket::accept(&self.listener).expect("it can");
        let link = accepted.expect("the dial does not wait");
        assert!(matches!(next(&link), Message::Device { .. }));
        link
    }
}

/// The parameters of a queue pair that need not hold much.
fn small(cq: Arc<dyn crate::fabric::CompletionQueue>) -> QueuePairInit {
    QueuePairInit {
        send_cq: cq.clone(),
        recv_cq: cq,
        max_send_wr: 4,
        max_recv_wr: 4,
        max_inline: 0,
        retry: RetryPolicy::default(),
    }
}

/// A queue pair of `device` that is connected with one of the device with this GID.
fn connected(device: &Arc<dyn Device>, gid: Gid) -> Box<dyn QueuePair> {
    let (cq, _) = device.create_completion_queue(16).expect("a queue");
    let init = small(cq);
    let mut qp = device.create_queue_pair(&init).expect("a queue pair");
    let address = QueuePairAddress {
        gid,
        psn: 1,
        qp_num: 99,
        ..qp.address()
    };
    qp.to_init().expect("INIT");
    qp.to_rtr(&address).expect("it listens");
    // The answer may be there already.
    let _ = qp.to_rts();
    qp
}

/// The next message on a link.
fn next(link: &ControlSocket) -> Message {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match link.receive() {
            Incoming::Message(message, _) => return message,
            Incoming::Nothing => assert!(Instant::now() < end, "there is no message"),
            other => panic!("{other:?}"),
        }
        std::thread::yield_now();
    }
}

/// INPUT-1: a link costs a descriptor, so one that connects nothing does not stay.
#[test]
fn input_1_links_that_connect_nothing_are_closed() {
    let device = open();
    let dial = || ControlSocket::dial(device.port().gid).expect("it listens");
    let (silent, introduced, asking) = (dial(), dial(), dial());
    introduced.send(&DEVICE, &[]).expect("room");
    for message in [DEVICE, HELLO] {
        asking.send(&message, &[]).expect("room");
    }
    refused(&asking);
    [silent, introduced, asking].iter().for_each(ends);
}

/// The two directions of a connection may go over two links, of which the peer reads one only.
#[test]
fn call_1_the_end_of_a_queue_pair_is_told_to_whoever_asked_for_it() {
    let (device, impostor) = (open(), Impostor::new());
    let qp = impostor.lure(&device);
    let (link, from) = impostor.greet(&device, &*qp);
    let welcome = next(&link);
    assert!(matches!(welcome, Message::Welcome(it) if it.to == from));
    drop(qp);
    assert_eq!(next_but_unmapped(&link), Message::Refusal { to: from });
}

/// A goodbye may be read before this end has answered the peer's hello, and after the peer has
/// answered this end's: then it is told once.
#[test]
fn call_1_a_goodbye_before_the_answer_to_a_hello_ends_the_connection() {
    let (device, impostor) = (ShmDevice::open_apart().expect("a device"), Impostor::new());
    let (cq, _) = device.create_completion_queue(16).expect("a queue");
    let init = small(cq);
    let mut qp = device.queue_pair(&init).expect("a queue pair");
    qp.to_init().expect("INIT");
    let device: Arc<dyn Device> = device;
    let (link, from) = impostor.greet(&device, &qp);
    // What comes behind the hello is answered, so the hello waits by then.
    link.send(&HELLO, &[]).expect("room");
    refused(&link);
    let address = QueuePairAddress {
        gid: impostor.gid,
        psn: 1,
        qp_num: from.qp_num,
        ..qp.address()
    };
    qp.dial(&address).expect("it listens");
    hello_on(&link);
    let to_qp = qp.number();
    link.send(&Message::Goodbye { from, to_qp }, &[])
        .expect("room");
    errs(&qp);
}

/// Sends as many descriptors as a user who is not root may have in messages that nobody has read.
fn send_unread() -> Vec<[OwnedFd; 2]> {
    let fd = eventfd::create().expect("a descriptor");
    // Most of one message.
    let fds = [fd.as_fd(); 253];
    let mut pairs = Vec::new();
    loop {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::NONBLOCK);
        let pair = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None);
        let (from, to) = pair.expect("a pair of sockets");
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
            let bytes = [IoSlice::new(&[0])];
            rustix::net::sendmsg(&from, &bytes, &mut control, SendFlags::empty())
        };
        let refused = std::iter::repeat_with(send).find_map(Result::err);
        pairs.push([from, to]);
        match refused.expect("there is a limit") {
            Errno::AGAIN => {}
            Errno::TOOMANYREFS => return pairs,
            error => panic!("{error}"),
        }
    }
}

/// Only root may have more than a process may have open, so this becomes somebody else.
#[test]
fn a_welcome_waits_while_too_many_descriptors_are_on_their_way() {
    let test = || {
        if rustix::process::geteuid().is_root() {
            // Of this thread, and of the device's, which it begins.
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_533))
                .expect("root may");
        }
        let (device, impostor) = (open(), Impostor::new());
        let qp = impostor.lure(&device);
        let unread = send_unread();
        let (link, from) = impostor.greet(&device, &*qp);
        std::thread::sleep(Duration::from_millis(300));
        assert!(matches!(link.receive(), Incoming::Nothing));
        drop(unread);
        assert!(matches!(next(&link), Message::Welcome(it) if it.to == from));
    };
    std::thread::spawn(test).join().expect("it waits");
}

/// The next message that is about a connection.
fn next_but_unmapped(link: &ControlSocket) -> Message {
    loop {
        match next(link) {
            Message::Unmapped { .. } => {}
            message => return message,
        }
    }
}

fn hello_on(link: &ControlSocket) -> ConnectionId {
    match next_but_unmapped(link) {
        Message::Hello(hello) => hello.from,
        other => panic!("{other:?}"),
    }
}

fn errs(qp: &dyn QueuePair) {
    let end = Instant::now() + Duration::from_secs(60);
    while qp.state() != QueuePairState::Error {
        assert!(Instant::now() < end, "it is in {}", qp.state());
        std::thread::yield_now();
    }
}

/// INPUT-1: an answer that makes no sense ends the connection that it is for, and no other, even
/// over the same link; the end of the link ends all.
#[test]
fn input_1_a_wrong_answer_ends_one_connection() {
    let (device, impostor) = (open(), Impostor::new());
    let bystander = impostor.lure(&device);
    let link = impostor.accept();
    let arena = Arena::new("test");
    let lot = |len| arena.create(len).expect("a lot").0;
    let (ring, page) = (lot(RingMemory::len(4)), lot(size_of::<QueuePage>()));
    let event = eventfd::create().expect("an eventfd");
    let good = Welcome {
        to: hello_on(&link),
        queue: 7,
        capacity: 4,
        min_rnr_timer: 1,
        ring: ring.address(),
        page: page.address(),
    };
    let fds = [ring.as_fd(), page.as_fd(), event.as_fd()];
    link.send(&Message::Welcome(good), &fds).expect("room");

    let file: OwnedFd = tempfile::tempfile().expect("a file").into();
    rustix::fs::ftruncate(&file, 1 << 20).expect("room");
    let others = [file.as_fd(), file.as_fd(), event.as_fd()];
    let at = |offset| LotAddress { lot: 1, offset };
    let wrong: [(Welcome, &[_]); 8] = [
        (good, &[]),
        (good, &fds[..1]),
        (good, &others),
        (
            Welcome {
                capacity: 3,
                ..good
            },
            &fds,
        ),
        (
            Welcome {
                capacity: 0,
                ..good
            },
            &fds,
        ),
        (
            Welcome {
                ring: at(!4095),
                ..good
            },
            &fds,
        ),
        (
            Welcome {
                queue: 8,
                page: at(1),
                ..good
            },
            &fds,
        ),
        (
            Welcome {
                capacity: 1 << 31,
                ring: at(1 << 60),
                ..good
            },
            &fds,
        ),
    ];
    for (welcome, fds) in wrong {
        let qp = impostor.lure(&device);
        let to = hello_on(&link);
        link.send(&Message::Welcome(Welcome { to, ..welcome }), fds)
            .expect("room");
        errs(&*qp);
        assert_eq!(
            next_but_unmapped(&link),
            Message::Goodbye {
                from: to,
                to_qp: 99
            }
        );
    }
    let answers: [fn(ConnectionId) -> Message; 2] = [
        |to| Message::Refusal { to },
        |to| Message::Region {
            to,
            info: RegionInfo {
                rkey: 1,
                access: 0,
                addr: 0,
                len: 1,
                memory: LotAddress { lot: 1, offset: 0 },
            },
        },
    ];
    for answer in answers {
        let qp = impostor.lure(&device);
        // FENCE-1: it is not for an earlier life, nor for a later one.
        let to = hello_on(&link);
        for life in [to.life + 1, to.life.wrapping_sub(1)] {
            let answer = answer(ConnectionId { life, ..to });
            link.send(&answer, &[]).expect("room");
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(qp.state(), QueuePairState::Rts);
        link.send(&answer(to), &[]).expect("room");
        errs(&*qp);
        assert_eq!(
            next_but_unmapped(&link),
            Message::Goodbye {
                from: to,
                to_qp: 99
            }
        );
    }
    assert_eq!(bystander.state(), QueuePairState::Rts);
    let second = impostor.lure(&device);
    link.end();
    errs(&*bystander);
    errs(&*second);
    CASES[2].run(&device, &open());
}

/// A peer that reads late gets everything, in order: its socket has no room for so much.
#[test]
fn what_a_peer_does_not_read_at_once_it_reads_later() {
    const COUNT: usize = 2000;
    let (device, impostor) = (open(), Impostor::new());
    let _kept = impostor.lure(&device);
    let link = impostor.accept();
    hello_on(&link);
    for _ in 0..COUNT {
        drop(impostor.lure(&device));
    }
    for _ in 0..COUNT {
        let from = hello_on(&link);
        let goodbye = Message::Goodbye { from, to_qp: 99 };
        assert_eq!(next_but_unmapped(&link), goodbye);
    }
}

/// A process with a thousand threads, or one that is stopped, reads when it comes to that.
#[test]
fn a_peer_that_is_slow_to_read_is_not_lost_and_one_that_does_not_answer_is() {
    let (device, impostor) = (open(), Impostor::new());
    let (cq, mut poller) = device.create_completion_queue(16).expect("a queue");
    let retry = RetryPolicy {
        timeout: 10,
        retry_cnt: 1,
        ..RetryPolicy::default()
    };
    let mut qp = device
        .create_queue_pair(&QueuePairInit { retry, ..small(cq) })
        .expect("a queue pair");
    let address = QueuePairAddress {
        gid: impostor.gid,
        psn: 1,
        qp_num: 99,
        ..qp.address()
    };
    qp.to_init().expect("INIT");
    qp.to_rtr(&address).expect("it listens");
    qp.to_rts().expect("RTS");
    let write = SendRequest {
        wr_id: 1,
        operation: Operation::Write,
        local: Payload::Inline(&[]),
        remote: RemoteSlice::default(),
        signalled: true,
        solicited: false,
    };
    qp.post_send(&write).expect("room");
    let mut ended = || {
        let mut completions = [Completion::EMPTY];
        let count = poller.poll(&mut completions).expect("it works");
        (count > 0).then(|| completions[0].status)
    };
    // The retries take 8 ms.
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(ended(), None);
    let link = impostor.accept();
    hello_on(&link);
    let end = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = ended() {
            break status;
        }
        assert!(Instant::now() < end, "it waits for ever");
    };
    assert_eq!(status, CompletionStatus::RetryExceeded);
}

/// Of two links that were dialled at the same time, one is used: whoever asked over the other asks
/// again, whether it knows of the one already or hears of it later.
#[test]
fn who_has_asked_over_a_crossed_link_asks_over_the_other() {
    for is_known in [true, false] {
        let (device, peer) = (open(), Impostor::new());
        let qp = peer.lure(&device);
        let refused_link = peer.accept();
        let asked = hello_on(&refused_link);
        let known = is_known.then(|| peer.dial(&device));
        if let Some(known) = &known {
            known.send(&HELLO, &[]).expect("room");
            refused(known);
        }
        refused_link.send(&Message::Crossed, &[]).expect("room");
        ends(&refused_link);
        let used = known.unwrap_or_else(|| peer.dial(&device));
        let end = Instant::now() + Duration::from_secs(60);
        let (mut again, mut heard) = (Vec::new(), None);
        while heard.is_none() {
            assert!(Instant::now() < end, "there is no hello");
            // It does not wait for long for the other link.
            if let Some(link) = control_socket::accept(&peer.listener).expect("it can") {
                // It may be a dial that only asks who listens.
                let _ = link.send(&Message::Crossed, &[]);
                again.push(link);
            }
            heard = match used.receive() {
                Incoming::Message(Message::Hello(hello), _) => Some(hello.from),
                _ => None,
            };
            std::thread::yield_now();
        }
        assert_eq!(heard, Some(asked));
        used.send(&Message::Refusal { to: asked }, &[])
            .expect("room");
        errs(&*qp);
    }
}

/// Whoever has asked over two links may be welcomed on both: its sends go on where they were.
#[test]
fn a_second_welcome_changes_nothing() {
    let (device, impostor) = (open(), Impostor::new());
    let qp = impostor.lure(&device);
    let link = impostor.accept();
    let arena = Arena::new("test");
    let lot = |len| arena.create(len).expect("a lot").0;
    let (ring, page) = (lot(RingMemory::len(4)), lot(size_of::<QueuePage>()));
    let event = eventfd::create().expect("an eventfd");
    let fds = [ring.as_fd(), page.as_fd(), event.as_fd()];
    let first = Welcome {
        to: hello_on(&link),
        queue: 7,
        capacity: 4,
        min_rnr_timer: 1,
        ring: ring.address(),
        page: page.address(),
    };
    // If it were looked at, it would end the connection.
    let second = Welcome {
        capacity: 0,
        ..first
    };
    for welcome in [first, second] {
        link.send(&Message::Welcome(welcome), &fds).expect("room");
    }
    link.send(&HELLO, &[]).expect("room");
    let to = ConnectionId { qp_num: 1, life: 1 };
    assert_eq!(next_but_unmapped(&link), Message::Refusal { to });
    assert_eq!(qp.state(), QueuePairState::Rts);
}

/// A peer that says so of every link, and dials none itself, is dialled now and then.
#[test]
fn a_link_that_is_not_there_is_dialled_again() {
    let (device, peer) = (open(), Impostor::new());
    let qp = peer.lure(&device);
    let first = peer.accept();
    let asked = hello_on(&first);
    first.send(&Message::Crossed, &[]).expect("room");
    let end = Instant::now() + Duration::from_secs(60);
    let second = loop {
        if let Some(link) = control_socket::accept(&peer.listener).expect("it can") {
            break link;
        }
        assert!(Instant::now() < end, "it does not dial");
        std::thread::yield_now();
    };
    assert!(matches!(next(&second), Message::Device { .. }));
    assert_eq!(hello_on(&second), asked);
    drop(qp);
    let over = Message::Goodbye {
        from: asked,
        to_qp: 99,
    };
    assert_eq!(next_but_unmapped(&second), over);
}

/// The end whose link is used refuses the other, and closes it if the peer does not.
#[test]
fn a_dial_that_crosses_a_link_in_use_is_refused() {
    let (device, peer) = (open(), Impostor::that_yields());
    let qp = peer.lure(&device);
    let used = peer.accept();
    let asked = hello_on(&used);
    let unused = peer.dial(&device);
    unused.send(&HELLO, &[]).expect("room");
    assert_eq!(next(&unused), Message::Crossed);
    ends(&unused);
    assert_eq!(qp.state(), QueuePairState::Rts);
    used.send(&Message::Refusal { to: asked }, &[])
        .expect("room");
    errs(&*qp);
}

/// A peer that has said something on our link has accepted that. If it dials all the same, it
/// cannot ask over ours: it may take us for somebody else, as from another PID namespace.
#[test]
fn a_dial_beside_a_link_that_was_heard_is_accepted() {
    let (device, peer) = (open(), Impostor::that_yields());
    let _qp = peer.lure(&device);
    let ours = peer.accept();
    hello_on(&ours);
    ours.send(&HELLO, &[]).expect("room");
    refused(&ours);
    let theirs = peer.dial(&device);
    theirs.send(&HELLO, &[]).expect("room");
    refused(&theirs);
}

/// Each of two ports that dial each other at once reaches the other.
#[test]
fn ports_that_dial_each_other_at_once_are_connected() {
    let devices = [open(), open()];
    let mut queues = devices
        .each_ref()
        .map(|device| device.create_completion_queue(64).expect("a queue"));
    for _ in 0..200 {
        let mut qps = [0, 1].map(|at: usize| {
            let init = small(queues[at].0.clone());
            let mut qp = devices[at].create_queue_pair(&init).expect("a queue pair");
            qp.to_init().expect("it is new");
            qp.post_recv(RecvRequest { wr_id: 1 }).expect("room");
            qp
        });
        let addresses = [qps[1].address(), qps[0].address()];
        let start = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for (qp, peer) in qps.iter_mut().zip(&addresses) {
                scope.spawn(|| {
                    start.wait();
                    qp.to_rtr(peer).expect("it is there");
                    qp.to_rts().expect("it is connected");
                });
            }
        });
        for qp in &mut qps {
            qp.post_send(&SendRequest {
                wr_id: 2,
                operation: Operation::WriteWithImm(7),
                local: Payload::Inline(&[]),
                remote: RemoteSlice::default(),
                signalled: true,
                solicited: true,
            })
            .expect("room");
        }
        let end = Instant::now() + Duration::from_secs(60);
        for (_, poller) in &mut queues {
            let mut done = Vec::new();
            while done.len() < 2 {
                let mut found = [Completion::EMPTY; 2];
                let count = poller.poll(&mut found).expect("it works");
                for found in &found[..count] {
                    assert_eq!(found.status, CompletionStatus::Success);
                    done.push(found.wr_id);
                }
                assert!(Instant::now() < end, "{done:?} alone");
            }
            done.sort_unstable();
            assert_eq!(done, [1, 2]);
        }
    }
}

/// INPUT-1: a process that takes another's name keeps nobody from that one.
#[test]
fn input_1_a_device_is_believed_to_be_in_the_process_that_listens() {
    let (device, honest) = (open(), Cramped::start(false));
    let liar = ControlSocket::dial(device.port().gid).expect("it listens");
    let gid = honest.gid.0;
    let version = VERSION;
    liar.send(&Message::Device { version, gid }, &[])
        .expect("room");
    liar.send(&HELLO, &[]).expect("room");
    refused(&liar);
    // The honest device has no such queue pair, and says so.
    errs(&*connected(&device, honest.gid));
    assert!(matches!(liar.receive(), Incoming::Nothing));
}

/// A peer that sends too many descriptors is no peer.
#[test]
fn input_1_more_descriptors_than_any_message_has_end_the_link() {
    let (device, impostor) = (open(), Impostor::new());
    let qps = [impostor.lure(&device), impostor.lure(&device)];
    let link = impostor.accept();
    let to = hello_on(&link);
    let mut bytes = [0; MAX_LEN];
    let len = Message::Refusal { to }.encode(&mut bytes);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let event = eventfd::create().expect("an eventfd");
    let fds = [event.as_fd(); 8];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let flags = SendFlags::NOSIGNAL;
    rustix::net::sendmsg(&link, &[IoSlice::new(&bytes[..len])], &mut control, flags)
        .expect("room for a message");
    qps.iter().for_each(|qp| errs(&**qp));
    CASES[2].run(&device, &open());
}

/// INPUT-1: only memory that is there, and will be, is mapped.
#[test]
fn memory_that_could_be_missing_is_refused() {
    const LEN: usize = 8192;
    let memfd = |flags| rustix::fs::memfd_create("test", flags).expect("a memfd");
    let open_ended = memfd(MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    rustix::fs::ftruncate(&open_ended, LEN as u64).expect("room");
    assert!(Segment::open(&open_ended, 0, LEN, None).is_err());
    let file: OwnedFd = tempfile::tempfile().expect("a file").into();
    rustix::fs::ftruncate(&file, LEN as u64).expect("room");
    assert!(Segment::open(&file, 0, LEN, None).is_err());
    // Not every kernel has any.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    if let Ok(huge) = rustix::fs::memfd_create("test", flags) {
        rustix::fs::ftruncate(&huge, 1 << 30).expect("it takes none yet");
        rustix::fs::fcntl_add_seals(&huge, SEALS).expect("it allows that");
        let refused = Segment::open(&huge, 0, LEN, None).expect_err("it could be missing");
        assert!(refused.to_string().contains("huge"), "{refused}");
    }
    rustix::fs::fcntl_add_seals(&open_ended, SEALS).expect("it allows that");
    let sealed = open_ended;
    for (offset, len) in [
        (0, 0),
        (0, LEN + 1),
        (4096, LEN),
        (1, 4096),
        (LEN as u64, 1),
        (u64::MAX, 1),
        (!4095, 4096),
        (0, usize::MAX),
    ] {
        assert!(
            Segment::open(&sealed, offset, len, None).is_err(),
            "{offset} {len}"
        );
    }
    assert_eq!(
        Segment::open(&sealed, 0, LEN, None).expect("all").len(),
        LEN
    );
    assert_eq!(
        Segment::open(&sealed, 4096, 4096, None)
            .expect("half")
            .len(),
        4096
    );
    rustix::fs::ftruncate(&sealed, 0).expect_err("it is sealed");
}

/// What is left of a device, in this process: nothing.
#[test]
fn the_thread_ends_with_the_last_object() {
    let device = open();
    let region = device.register(64, Access::ALL).expect("a region");
    let gid = device.port().gid;
    drop(device);
    ControlSocket::dial(gid).expect("the region keeps the device");
    drop(region);
    ControlSocket::dial(gid).expect_err("nobody listens any more");
}

/// Both ends look: who dials, and who is dialled. Needs to be root, to become somebody else for a
/// moment.
#[test]
fn other_users_are_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let device = open();
    let gid = device.port().gid;
    let as_somebody_else = std::thread::spawn(move || {
        // Of this thread only.
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).expect("root may");
        let refused = ControlSocket::dial(gid).expect_err("we look who listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        let link = ControlSocket::dial_anyone(gid).expect("anybody can connect");
        ends(&link);
    });
    as_somebody_else.join().expect("both ends refuse");
    CASES[2].run(&device, &device);
}

/// A process with a device and few descriptors, which says its GID and counts its log lines.
struct Cramped {
    process: std::process::Child,
    gid: crate::fabric::Gid,
}

const CRAMPED: &str = "SLIME_TEST_CRAMPED";

impl Cramped {
    /// With no descriptor left at all, if it is `full`.
    fn start(full: bool) -> Self {
        let mut command = std::process::Command::new("prlimit");
        command
            .arg("--nofile=40")
            .arg(std::env::current_exe().expect("it runs"))
            .args(["fabric::shm::tests::the_cramped_process", "--exact"])
            .arg("--nocapture")
            .env(CRAMPED, if full { "full" } else { "1" })
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut process = command.spawn().expect("prlimit is there");
        let out = process.stdout.as_mut().expect("piped");
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(out));
        let gid = lines.find_map(|line| {
            let line = line.expect("text");
            line.strip_prefix("gid ").map(|gid| gid.parse::<u128>())
        });
        let gid = gid.expect("it says").expect("a number");
        Self {
            process,
            gid: crate::fabric::Gid(gid.to_be_bytes()),
        }
    }

    /// CPU time so far.
    fn used(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()));
        let stat = stat.expect("it runs");
        let fields: Vec<_> = stat[stat.rfind(')').expect("a name") + 2..]
            .split(' ')
            .collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
        let per_second = rustix::param::clock_ticks_per_second();
        Duration::from_secs_f64((ticks(11) + ticks(12)) as f64 / per_second as f64)
    }

    /// Ends it; gives its log.
    fn log(mut self) -> String {
        drop(self.process.stdin.take());
        let output = self.process.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    }
}

/// Not a test of its own: the process of those below. Has a device until its standard input ends.
#[test]
fn the_cramped_process() {
    let Some(how) = std::env::var_os(CRAMPED) else {
        return;
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let device = open();
    let held = (0..100).map_while(|_| std::fs::File::open("/dev/null").ok());
    let _held: Vec<_> = held.filter(|_| how == "full").collect();
    println!("\ngid {}", u128::from_be_bytes(device.port().gid.0));
    std::io::read_to_string(std::io::stdin()).expect("it ends");
}

/// INPUT-1: they neither keep a core busy nor fill the disk, are closed, and keep nobody else out.
#[test]
fn strangers_that_say_nothing_are_closed_even_if_no_descriptor_is_left() {
    let cramped = Cramped::start(false);
    let dial = || ControlSocket::dial(cramped.gid).expect("there is a backlog");
    let strangers: Vec<_> = (0..100).map(|_| dial()).collect();
    std::thread::sleep(Duration::from_secs(2));
    let used = cramped.used();
    assert!(used < Duration::from_secs(1), "a core is busy: {used:?}");
    // Somebody who says something is heard before the strangers' time is over: there is no such
    // queue pair.
    let link = dial();
    link.send(&DEVICE, &[]).expect("room");
    link.send(&HELLO, &[]).expect("room");
    refused(&link);
    strangers.iter().for_each(ends);
    let log = cramped.log();
    let lines = log.lines().count();
    assert!((1..10).contains(&lines), "{lines} lines: {log}");
    assert!(log.contains("ulimit -n"), "{log}");
}

/// With descriptors enough, too.
#[test]
fn a_stranger_that_says_nothing_is_closed() {
    let device = open();
    let start = Instant::now();
    let link = ControlSocket::dial(device.port().gid).expect("it listens");
    ends(&link);
    assert!(start.elapsed() > Duration::from_secs(1), "it had some time");
}

/// Those of other users are closed, too, when no descriptor is left and nobody can be sent away.
/// Needs to be root.
#[test]
fn other_users_keep_nobody_waiting_where_no_descriptor_is_left() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let cramped = Cramped::start(true);
    let gid = cramped.gid;
    let others = std::thread::spawn(move || {
        // Of this thread only.
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).expect("root may");
        let dial = |_| ControlSocket::dial_anyone(gid).expect("anybody can connect");
        let others: Vec<_> = (0..500).map(dial).collect();
        others.iter().for_each(ends);
    });
    others.join().expect("all are closed");
    let used = cramped.used();
    assert!(used < Duration::from_secs(1), "{used:?}");
    let log = cramped.log();
    let lines = log.lines().count();
    assert!((1..10).contains(&lines), "{lines} lines: {log}");
}

const WITHOUT_MEMBARRIER: &str = "SLIME_TEST_WITHOUT_MEMBARRIER";

/// Lets the kernel forbid it, to all threads of this process, as a container's policy may.
fn forbid_membarrier() {
    let statement = |code: u32, jf, k| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let refusal = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            1,
            libc::SYS_membarrier as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, 0, refusal),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program, and the statements that it points to, are read before the calls return.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_TSYNC,
                &raw const program,
            ) != 0
    };
    assert!(!refused, "{}", std::io::Error::last_os_error());
}

/// Not a test of its own: the process of the one below.
#[test]
fn the_process_without_membarrier() {
    let Some(when) = std::env::var_os(WITHOUT_MEMBARRIER) else {
        return;
    };
    if when == "early" {
        forbid_membarrier();
    }
    let (a, b) = (open(), open());
    assert_eq!(super::barrier::is_asymmetric(), when != "early");
    if when == "late" {
        forbid_membarrier();
    }
    for case in CASES {
        case.run(&a, &b);
    }
    assert!(!super::barrier::is_asymmetric());
    println!("\nconforms");
}

/// Also if it is forbidden to a process that counts on it already.
#[test]
fn without_membarrier_devices_conform() {
    for when in ["early", "late"] {
        let mut command = std::process::Command::new(std::env::current_exe().expect("it runs"));
        command
            .args(["fabric::shm::tests::the_process_without_membarrier"])
            .args(["--exact", "--nocapture"])
            .env(WITHOUT_MEMBARRIER, when);
        let output = command.output().expect("it can be started");
        let said = String::from_utf8_lossy(&output.stdout);
        let is_done = output.status.success() && said.contains("\nconforms\n");
        assert!(is_done, "{when}: {output:?}");
    }
}
