//! The fabric's specification on this implementation, and what only this one has to keep.
#![allow(clippy::unwrap_used)]

mod gathering;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::address::TcpKey;
use super::device_state::Command;
use super::frame::{HEADER, Header, Kind};
use super::hello::{HELLO, Hello, Opening, Terms};
use super::{TcpDevice, TcpOptions};
use crate::fabric::conformance::CASES;
use crate::fabric::{
    Access, Completion, CompletionStatus, Device, FabricError, Gid, MemoryRegion, Operation,
    Payload, Poller, QueuePair, QueuePairAddress, QueuePairInit, QueuePairState, RecvRequest,
    RemoteSlice, RetryPolicy, SendRequest, Sge, TcpAddress,
    software::{LIMITS, MAX_MESSAGE},
};

const SOON: Duration = Duration::from_secs(60);

fn open() -> Arc<TcpDevice> {
    TcpDevice::open(&TcpOptions::default()).unwrap()
}

fn conform(a: &Arc<dyn Device>, b: &Arc<dyn Device>) {
    for case in CASES {
        println!("{}", case.name());
        case.run(a, b);
    }
}

#[test]
fn two_devices_conform() {
    let (a, b): (Arc<dyn Device>, Arc<dyn Device>) = (open(), open());
    conform(&a, &b);
}

#[test]
fn one_device_conforms_with_itself() {
    let a: Arc<dyn Device> = open();
    conform(&a, &a);
}

#[test]
fn a_device_on_demand_listens_once_it_has_a_queue_pair() {
    let devices = [(); 2].map(|()| TcpDevice::on_demand(&TcpOptions::default()).unwrap());
    let [a, b]: [Arc<dyn Device>; 2] = devices.clone().map(|device| device as _);
    let _region = a.register(1, Access::ALL).unwrap();
    let _queue = a.create_completion_queue(1).unwrap();
    assert_eq!(devices[0].address(), None);
    CASES[0].run(&a, &b);
    assert!(devices.iter().all(|device| device.address().is_some()));
}

#[test]
fn devices_conform_over_ipv6() {
    let options = TcpOptions {
        bind: Ipv6Addr::LOCALHOST.into(),
        ..TcpOptions::default()
    };
    match TcpDevice::open(&options) {
        Ok(a) => {
            let b: Arc<dyn Device> = TcpDevice::open(&options).unwrap();
            let a: Arc<dyn Device> = a;
            conform(&a, &b);
        }
        Err(error) => println!("skipped, as this host has no IPv6: {error}"),
    }
}

#[cfg(feature = "faults")]
#[test]
fn devices_under_faults_conform() {
    use crate::fabric::faults::{Faults, Plan};
    /// Looks at a queue once, so what comes late is not there yet.
    const IN_TIME: &str = "events::sends_and_receives_may_have_queues_of_their_own";
    let none = Faults::new(Plan::new());
    conform(&none.wrap(open()), &none.wrap(open()));
    assert_eq!(none.stats().total(), 0);
    for seed in 0..2 {
        let faults = Faults::new(Plan::harmless(seed));
        let (a, b) = (faults.wrap(open()), faults.wrap(open()));
        for case in CASES.iter().filter(|case| case.name() != IN_TIME) {
            println!("seed {seed}: {}", case.name());
            case.run(&a, &b);
        }
        let stats = faults.stats();
        assert!(stats.delayed > 100 && stats.overtaken > 100, "{stats:?}");
    }
}

/// A device with a queue pair that expects a peer which the test plays.
struct Victim {
    // Dropped first (DROP-1).
    qp: Box<dyn QueuePair>,
    poller: Box<dyn Poller>,
    region: Arc<dyn MemoryRegion>,
    device: Arc<TcpDevice>,
}

/// Less than any other, so that the attacker is the one who dials.
const DIALLING: Gid = Gid([0; 16]);
/// More than any other, so that the attacker is the one who is dialled.
const DIALLED: Gid = Gid([0xff; 16]);
const ATTACKER_QP: u32 = 7;
const ATTACKER_PSN: u32 = 100;
const ATTACKER_KEY: TcpKey = TcpKey::new([3; 16]);
const RECEIVES: u64 = 4;
const SENDS: u32 = 8;

fn init(device: &Arc<TcpDevice>) -> (QueuePairInit, Box<dyn Poller>) {
    let (cq, poller) = device.create_completion_queue(64).unwrap();
    let init = QueuePairInit {
        send_cq: cq.clone(),
        recv_cq: cq,
        max_send_wr: 16,
        max_recv_wr: 16,
        max_inline: 64,
        retry: RetryPolicy::default(),
    };
    (init, poller)
}

impl Victim {
    fn new() -> Self {
        Self::on(&open())
    }

    fn on(device: &Arc<TcpDevice>) -> Self {
        let mut victim = Self::waiting(device);
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        victim.expect(DIALLING, nowhere);
        victim
    }

    /// Does not know yet who its peer is.
    fn waiting(device: &Arc<TcpDevice>) -> Self {
        let (init, poller) = init(device);
        let mut qp = device.create_queue_pair(&init).unwrap();
        qp.to_init().unwrap();
        for wr_id in 0..RECEIVES {
            qp.post_recv(RecvRequest { wr_id }).unwrap();
        }
        Self {
            qp,
            poller,
            region: device.register(1 << 20, Access::ALL).unwrap(),
            device: device.clone(),
        }
    }

    /// Expects a peer that has this GID, and listens there.
    fn expect(&mut self, gid: Gid, socket: SocketAddr) {
        let peer = QueuePairAddress {
            gid,
            gid_index: 0,
            lid: 0,
            mtu: 5,
            psn: ATTACKER_PSN,
            qp_num: ATTACKER_QP,
            tcp: Some(TcpAddress {
                socket,
                key: ATTACKER_KEY,
                tls: false,
            }),
        };
        self.qp.to_rtr(&peer).unwrap();
        self.qp.to_rts().unwrap();
    }

    fn hello(&self) -> Hello {
        Hello {
            from_gid: DIALLING.0,
            from_qp: ATTACKER_QP,
            psn: ATTACKER_PSN,
            to_qp: self.qp.number(),
            key: self.qp.address().tcp.unwrap().key,
            terms: Terms {
                max_send_wr: SENDS,
                rnr_retry: 1,
            },
        }
    }

    /// Dials, and says this.
    fn say(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.device.address().unwrap()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    }

    /// Dials as the peer.
    fn meet(&self) -> TcpStream {
        let mut stream = self.say(&self.hello().encode(Opening::Hello));
        let mut answer = [0; HELLO];
        stream.read_exact(&mut answer).unwrap();
        let answer = Hello::decode(&answer, Opening::Hello).unwrap();
        assert_eq!((answer.key, answer.to_qp), (ATTACKER_KEY, ATTACKER_QP));
        stream
    }

    fn write_header(&self, sequence: u32, length: u32) -> Header {
        Header {
            sequence: ATTACKER_PSN + sequence,
            addr: self.region.addr(),
            rkey: self.region.rkey(),
            length,
            ..Header::bare(Kind::Write)
        }
    }

    /// Takes the first message of the attacker's queue pair.
    fn takes_a_message(&mut self, stream: &mut TcpStream) {
        let header = Header {
            kind: Kind::WriteWithImm,
            imm: 5,
            ..self.write_header(0, 0)
        };
        stream.write_all(&header.encode()).unwrap();
        assert_eq!(next(&mut *self.poller).imm, Some(5));
    }

    fn is_in_error(&mut self) {
        let end = Instant::now() + SOON;
        while self.qp.state() != QueuePairState::Error {
            assert!(Instant::now() < end, "still in {}", self.qp.state());
            thread::yield_now();
        }
        for wr_id in 0..RECEIVES {
            let completion = next(&mut *self.poller);
            let flushed = (wr_id, CompletionStatus::Flushed);
            assert_eq!((completion.wr_id, completion.status), flushed);
        }
    }

    fn has_violations(&self, count: u64) {
        let end = Instant::now() + SOON;
        while self.device.violations() < count {
            assert!(Instant::now() < end, "{} only", self.device.violations());
            thread::yield_now();
        }
        assert_eq!(self.device.violations(), count);
    }

    /// Others use the device as if nothing had happened.
    fn serves_others(&self) {
        let (a, b): (Arc<dyn Device>, Arc<dyn Device>) = (self.device.clone(), open());
        let case = CASES.iter().find(|case| {
            case.name()
                .ends_with("immediates_arrive_in_order_with_their_data")
        });
        case.unwrap().run(&a, &b);
    }
}

fn next(poller: &mut dyn Poller) -> Completion {
    let end = Instant::now() + SOON;
    let mut one = [Completion::EMPTY];
    while poller.poll(&mut one).unwrap() == 0 {
        assert!(Instant::now() < end, "no completion came");
        thread::yield_now();
    }
    one[0]
}

/// The peer closes; what it said before.
pub(super) fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // It had not read all when it closed.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    bytes
}

/// INPUT-1: whoever does not say a proper hello is closed and counted, and nobody else notices.
#[test]
fn strangers_are_closed_and_counted() {
    let victim = Victim::new();
    let hello = victim.hello();
    let [mut version, mut psn, mut partial] =
        [(); 3].map(|()| hello.encode(Opening::Hello).to_vec());
    version[8] = 9;
    psn[32] ^= 1;
    partial.truncate(HELLO - 1);
    let wrong_key = Hello {
        key: TcpKey::new([0; 16]),
        ..hello
    };
    let wrong_number = Hello {
        to_qp: 0x3f_ffff,
        ..hello
    };
    let said: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        &[0xff; 4096],
        &[0; HELLO],
        &version,
        &psn,
        &wrong_key.encode(Opening::Hello),
        &wrong_number.encode(Opening::Hello),
        b"S",
    ];
    let mut count = 0;
    for bytes in said {
        let stream = victim.say(bytes);
        if bytes.len() == 1 {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        assert!(rest(stream).is_empty(), "{bytes:x?}");
        count += 1;
        victim.has_violations(count);
    }
    // A port scanner says nothing at all.
    drop(victim.say(b""));
    // One who says half and waits does so at nobody's expense.
    let slow = victim.say(&partial);
    victim.serves_others();
    assert!(rest(slow).is_empty());
    victim.has_violations(count + 1);
    assert_eq!(victim.qp.state(), QueuePairState::Rts);
    victim.meet();
}

/// Whoever dials before a queue pair knows its peer waits for that, with the key alone.
#[test]
fn a_queue_pair_without_a_peer_lets_nobody_wait_who_shows_a_wrong_key() {
    let mut victim = Victim::waiting(&open());
    let hello = victim.hello();
    let wrong_key = Hello {
        key: TcpKey::new([0; 16]),
        ..hello
    };
    assert!(rest(victim.say(&wrong_key.encode(Opening::Hello))).is_empty());
    victim.has_violations(1);
    let mut early = victim.say(&hello.encode(Opening::Hello));
    victim.expect(DIALLING, SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
    let mut answer = [0; HELLO];
    early.read_exact(&mut answer).unwrap();
    assert_eq!(
        Hello::decode(&answer, Opening::Hello).unwrap().key,
        ATTACKER_KEY
    );
    victim.has_violations(1);
}

/// Somebody else listens where the peer did, and does not know the key of the queue pair that
/// dials, or which one it is.
#[test]
fn an_impostor_that_answers_is_refused_and_counted() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let socket = listener.local_addr().unwrap();
    let dialled = || {
        let mut victim = Victim::waiting(&open());
        victim.expect(DIALLED, socket);
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut hello = [0; HELLO];
        stream.read_exact(&mut hello).unwrap();
        let hello = Hello::decode(&hello, Opening::Hello).unwrap();
        assert_eq!((hello.key, hello.to_qp), (ATTACKER_KEY, ATTACKER_QP));
        let answer = Hello {
            from_gid: DIALLED.0,
            ..victim.hello()
        };
        (victim, stream, answer)
    };
    let lies: [fn(&mut Hello); 5] = [
        |answer| answer.key = ATTACKER_KEY,
        |answer| answer.from_gid[15] ^= 1,
        |answer| answer.from_qp ^= 1,
        |answer| answer.psn ^= 1,
        |answer| answer.to_qp ^= 1,
    ];
    for (number, lie) in lies.iter().enumerate() {
        let (mut victim, mut stream, mut answer) = dialled();
        lie(&mut answer);
        stream.write_all(&answer.encode(Opening::Hello)).unwrap();
        assert!(rest(stream).is_empty(), "lie {number}");
        victim.has_violations(1);
        victim.is_in_error();
    }
    let (mut victim, mut stream, answer) = dialled();
    stream.write_all(&answer.encode(Opening::Hello)).unwrap();
    victim.takes_a_message(&mut stream);
    victim.has_violations(0);
}

/// Whoever has shown a key is no stranger, and waits until its queue pair is ready however many
/// others do: a service that is busy may have a thousand callers that have dialled already.
#[test]
fn any_number_of_peers_wait_for_their_queue_pairs() {
    let device = open();
    let mut waiting: Vec<_> = (0..300)
        .map(|_| {
            let victim = Victim::waiting(&device);
            let hello = victim.hello();
            let stream = victim.say(&hello.encode(Opening::Hello));
            (victim, stream)
        })
        .collect();
    for (victim, stream) in &mut waiting {
        victim.expect(DIALLING, SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
        let mut answer = [0; HELLO];
        stream.read_exact(&mut answer).unwrap();
        assert!(Hello::decode(&answer, Opening::Hello).is_ok());
        victim.has_violations(0);
    }
}

/// Connections that say nothing are not many at a time, and give way to whoever comes.
#[test]
fn silent_strangers_are_bounded_and_keep_nobody_out() {
    let victim = Victim::new();
    let silent: Vec<_> = (0..300).map(|_| victim.say(b"")).collect();
    victim.has_violations(300 - 256);
    victim.serves_others();
    victim.meet();
    drop(silent);
}

/// INPUT-1: a peer that breaks the protocol loses its connection, and nobody else notices.
#[test]
fn peers_that_break_the_protocol_are_closed_and_counted() {
    type Attack = fn(&Victim) -> Vec<u8>;
    let attacks: [(&str, Attack); 13] = [
        ("an unknown kind", |victim| {
            let mut bytes = victim.write_header(0, 0).encode();
            bytes[0] = 99;
            bytes.to_vec()
        }),
        ("unknown flags", |victim| {
            let mut bytes = victim.write_header(0, 0).encode();
            bytes[1] = 0x80;
            bytes.to_vec()
        }),
        ("longer than any", |victim| {
            victim.write_header(0, MAX_MESSAGE + 1).encode().to_vec()
        }),
        ("as long as can be said", |victim| {
            victim.write_header(0, u32::MAX).encode().to_vec()
        }),
        ("replayed", |victim| {
            let bytes = victim.write_header(0, 0).encode();
            [bytes, bytes].concat()
        }),
        ("from the future", |victim| {
            victim.write_header(1, 0).encode().to_vec()
        }),
        ("interleaved", |victim| {
            // The second begins where the first still has bytes to come.
            let mut bytes = victim
                .write_header(0, 3 * HEADER as u32 / 2)
                .encode()
                .to_vec();
            for sequence in 1..5 {
                bytes.extend(victim.write_header(sequence, 0).encode());
            }
            bytes
        }),
        ("acknowledges what was not sent", |_| {
            let header = Header {
                sequence: ATTACKER_PSN,
                executed: 1,
                ..Header::bare(Kind::Ack)
            };
            header.encode().to_vec()
        }),
        ("answers what was not asked", |_| {
            let header = Header {
                sequence: ATTACKER_PSN,
                ..Header::bare(Kind::ReadData)
            };
            header.encode().to_vec()
        }),
        ("refuses what was not sent", |_| {
            let header = Header {
                sequence: ATTACKER_PSN,
                ..Header::bare(Kind::Refusal)
            };
            header.encode().to_vec()
        }),
        ("an acknowledgement with a length", |_| {
            let header = Header {
                sequence: ATTACKER_PSN,
                length: 1,
                ..Header::bare(Kind::Ack)
            };
            header.encode().to_vec()
        }),
        ("a second hello", |victim| {
            victim.hello().encode(Opening::Hello).to_vec()
        }),
        ("more READs than it may have outstanding", |victim| {
            let reads = (0..2 * SENDS).map(|sequence| Header {
                kind: Kind::Read,
                ..victim.write_header(sequence, 1 << 20)
            });
            reads.flat_map(|header| header.encode()).collect()
        }),
    ];
    let device = open();
    for (count, (name, attack)) in (1..).zip(attacks) {
        println!("{name}");
        let mut victim = Victim::on(&device);
        let mut stream = victim.meet();
        stream.write_all(&attack(&victim)).unwrap();
        victim.is_in_error();
        victim.has_violations(count);
        rest(stream);
    }
    Victim::on(&device).serves_others();
}

/// Memory that a peer may not have is refused in words, and is no violation.
#[test]
fn a_refusal_says_what_was_executed_before() {
    for (rkey, offset, length) in [
        (1, 0, 8),
        (0, -1, 8),
        (0, (1 << 20) - 7, 8),
        (0, 0, MAX_MESSAGE),
    ] {
        let mut victim = Victim::new();
        let mut stream = victim.meet();
        let mut bytes = victim.write_header(0, 4).encode().to_vec();
        bytes.extend(b"fine");
        let good = victim.write_header(1, length);
        let bad = Header {
            rkey: good.rkey ^ rkey,
            addr: good.addr.wrapping_add_signed(offset),
            ..good
        };
        bytes.extend(bad.encode());
        stream.write_all(&bytes).unwrap();
        let answer = rest(stream);
        let refusal = Header::decode(answer.last_chunk::<HEADER>().unwrap()).unwrap();
        assert_eq!((refusal.kind, refusal.executed), (Kind::Refusal, 1));
        victim.is_in_error();
        let mut written = [0; 8];
        victim.region.copy_out(0, &mut written).unwrap();
        assert_eq!(&written, b"fine\0\0\0\0");
        assert_eq!(victim.device.violations(), 0);
    }
}

/// A frame of which some bytes come, one by one or never, keeps nobody waiting.
#[test]
fn a_truncated_frame_is_the_end_of_its_connection_alone() {
    let mut victim = Victim::new();
    let mut stream = victim.meet();
    let mut bytes = victim.write_header(0, 10_000).encode().to_vec();
    bytes.resize(HEADER + 9000, 5);
    for byte in bytes {
        stream.write_all(&[byte]).unwrap();
    }
    victim.serves_others();
    assert_eq!(victim.qp.state(), QueuePairState::Rts);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    victim.is_in_error();
    let mut written = [0; 1];
    victim.region.copy_out(8999, &mut written).unwrap();
    assert_eq!(written, [5]);
}

/// A peer that asks for a lot and reads nothing is given up.
#[test]
fn a_peer_that_stops_reading_is_given_up() {
    let mut victim = Victim::new();
    victim.region = victim.device.register(16 << 20, Access::ALL).unwrap();
    let mut stream = victim.meet();
    for sequence in 0..SENDS {
        let read = Header {
            kind: Kind::Read,
            ..victim.write_header(sequence, 16 << 20)
        };
        stream.write_all(&read.encode()).unwrap();
    }
    victim.serves_others();
    victim.is_in_error();
    drop(stream);
}

/// A peer may have as many requests outstanding as a queue pair of any device, and no more: what it
/// says bounds what is kept for it.
#[test]
fn a_peer_on_impossible_terms_is_refused() {
    let victim = Victim::new();
    let on = |max_send_wr| {
        let hello = victim.hello();
        let terms = Terms {
            max_send_wr,
            ..hello.terms
        };
        Hello { terms, ..hello }.encode(Opening::Hello)
    };
    for (count, most) in (1..).zip([LIMITS.max_qp_wr + 1, u32::MAX]) {
        assert!(rest(victim.say(&on(most))).is_empty());
        victim.has_violations(count);
    }
    let mut stream = victim.say(&on(LIMITS.max_qp_wr));
    stream.read_exact(&mut [0; HELLO]).unwrap();
}

/// INPUT-1: the bytes of answers stay where they are until the socket takes them, however many a
/// peer asks for before it reads one.
#[test]
fn input_1_answers_that_nobody_reads_take_no_memory() {
    let mut victim = Victim::new();
    victim.region = victim.device.register(16 << 20, Access::ALL).unwrap();
    let mut stream = victim.meet();
    let connection = victim.device.connection(victim.qp.number()).unwrap();
    let mut total = 0;
    let mut one = [Completion::EMPTY];
    for sequence in 0..SENDS {
        let len = if sequence == 0 { 16 << 20 } else { 1024 };
        let read = Header {
            kind: Kind::Read,
            ..victim.write_header(sequence, len)
        };
        stream.write_all(&read.encode()).unwrap();
        total += HEADER + len as usize;
        assert_eq!(victim.poller.poll(&mut one).unwrap(), 0);
        let unsent = connection.unsent();
        assert!(unsent <= (sequence as usize + 1) * HEADER, "{unsent} bytes");
    }
    stream.read_exact(&mut vec![0; total]).unwrap();
}

/// As long as the socket takes no acknowledgement one is enough: each counts all.
#[test]
fn a_peer_that_wants_all_acknowledged_and_reads_nothing_takes_no_memory() {
    let mut victim = Victim::new();
    victim.region = victim.device.register(16 << 20, Access::ALL).unwrap();
    let mut stream = victim.meet();
    let connection = victim.device.connection(victim.qp.number()).unwrap();
    let read = Header {
        kind: Kind::Read,
        ..victim.write_header(0, 16 << 20)
    };
    stream.write_all(&read.encode()).unwrap();
    let mut one = [Completion::EMPTY];
    for sequence in 1..2000 {
        let write = Header {
            wants_ack: true,
            ..victim.write_header(sequence, 0)
        };
        stream.write_all(&write.encode()).unwrap();
        assert_eq!(victim.poller.poll(&mut one).unwrap(), 0);
        let unsent = connection.unsent();
        assert!(unsent <= 2 * HEADER, "{unsent} bytes after {sequence}");
    }
    // What was withheld is said once it can be.
    let mut answer = vec![0; HEADER + (16 << 20)];
    stream.read_exact(&mut answer).unwrap();
    let mut executed = 0;
    while executed < 2000 {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).unwrap();
        executed = Header::decode(&header).unwrap().executed;
    }
}

/// Nobody reads from its socket as long as a message waits, so nobody sees its end by reading.
#[test]
fn a_peer_that_resets_while_a_message_waits_for_a_receive_is_lost() {
    for is_polled in [false, true] {
        let mut victim = Victim::new();
        let hello = Hello {
            terms: Terms {
                max_send_wr: SENDS,
                rnr_retry: 7,
            },
            ..victim.hello()
        };
        let mut stream = victim.say(&hello.encode(Opening::Hello));
        stream.read_exact(&mut [0; HELLO]).unwrap();
        for sequence in 0..RECEIVES as u32 + 3 {
            let message = Header {
                kind: Kind::WriteWithImm,
                ..victim.write_header(sequence, 0)
            };
            stream.write_all(&message.encode()).unwrap();
        }
        for _ in 0..RECEIVES {
            assert!(next(&mut *victim.poller).status.is_success());
        }
        thread::sleep(Duration::from_millis(20));
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        drop(stream);
        let end = Instant::now() + SOON;
        while victim.qp.state() != QueuePairState::Error {
            assert!(Instant::now() < end, "still in {}", victim.qp.state());
            if is_polled {
                let _ = victim.poller.poll(&mut [Completion::EMPTY]).unwrap();
            }
            thread::yield_now();
        }
    }
}

/// Whoever has the key may wait until a queue pair knows its peer, once, and as long as there is
/// such a queue pair.
#[test]
fn whoever_waits_for_a_queue_pair_is_one_and_ends_with_it() {
    let victim = Victim::waiting(&open());
    let hello = victim.hello().encode(Opening::Hello);
    let waiting: Vec<_> = (0..5).map(|_| victim.say(&hello)).collect();
    victim.has_violations(4);
    let device = victim.device.clone();
    drop(victim);
    for stream in waiting {
        assert!(rest(stream).is_empty());
    }
    let mut failed = Victim::waiting(&device);
    let stream = failed.say(&failed.hello().encode(Opening::Hello));
    // It is known who it is before the queue pair fails.
    thread::sleep(Duration::from_millis(50));
    failed.qp.to_error().unwrap();
    assert!(rest(stream).is_empty());
    assert_eq!(device.violations(), 4);
}

/// A queue pair may have its thread look at who waits for it before it knows its peer.
#[test]
fn whoever_waits_for_a_queue_pair_is_not_forgotten_when_it_is_looked_at_too_early() {
    let mut victim = Victim::waiting(&open());
    let mut stream = victim.say(&victim.hello().encode(Opening::Hello));
    let worker = victim.device.worker().unwrap();
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(5));
        worker.state().command(Command::Greet(victim.qp.number()));
    }
    drop(worker);
    victim.expect(DIALLING, SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
    stream.read_exact(&mut [0; HELLO]).unwrap();
    victim.takes_a_message(&mut stream);
}

/// A second connection for the same queue pair, with everything right, changes nothing for the
/// first.
#[test]
fn a_replayed_hello_is_refused() {
    let mut victim = Victim::new();
    let mut stream = victim.meet();
    rest(victim.say(&victim.hello().encode(Opening::Hello)));
    victim.has_violations(1);
    victim.takes_a_message(&mut stream);
}

#[test]
fn what_cannot_be_listened_on_is_an_error_that_names_the_setting() {
    let refused = |options: &TcpOptions| {
        let error = TcpDevice::open(options).unwrap_err();
        assert!(matches!(error, FabricError::NoDevice { .. }), "{error:?}");
        error.to_string()
    };
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = refused(&TcpOptions {
        ports: port..=port,
        ..TcpOptions::default()
    });
    assert!(
        text.contains("127.0.0.1") && text.contains(&port.to_string()),
        "{text}"
    );
    assert!(text.contains("`ports`"), "{text}");
    let text = refused(&TcpOptions {
        bind: Ipv4Addr::new(192, 0, 2, 1).into(),
        ..TcpOptions::default()
    });
    assert!(
        text.contains("192.0.2.1") && text.contains("`bind`"),
        "{text}"
    );
    let text = refused(&TcpOptions {
        bind: Ipv4Addr::UNSPECIFIED.into(),
        ..TcpOptions::default()
    });
    assert!(text.contains("`advertise`"), "{text}");
    #[expect(clippy::reversed_empty_ranges)]
    let ports = 2..=1;
    let text = refused(&TcpOptions {
        ports,
        ..TcpOptions::default()
    });
    assert!(text.contains("empty"), "{text}");
    // Another address may be told than the one that is listened on.
    let advertised = TcpDevice::open(&TcpOptions {
        bind: Ipv4Addr::UNSPECIFIED.into(),
        advertise: Some(Ipv4Addr::new(127, 0, 0, 2).into()),
        ports: 0..=0,
        tls: None,
    })
    .unwrap();
    assert_eq!(
        advertised.address().unwrap().ip(),
        Ipv4Addr::new(127, 0, 0, 2)
    );
    let (a, b): (Arc<dyn Device>, Arc<dyn Device>) = (advertised, open());
    for case in CASES
        .iter()
        .filter(|case| case.name().starts_with("transfers"))
    {
        case.run(&a, &b);
    }
}

#[test]
fn memory_of_another_device_is_registered_too() {
    let device = open();
    let heap: Arc<dyn Device> = Arc::new(crate::fabric::heap::HeapDevice::default());
    let region = heap.register(64, Access::ALL).unwrap();
    let too = device.register_too(&region, Access::REMOTE_READ).unwrap();
    assert_eq!((too.addr(), too.len()), (region.addr(), 64));
    assert_ne!(too.rkey(), 0);
}

/// An address without a host and a port, of another fabric or of an older peer, is refused in
/// words.
#[test]
fn an_address_of_another_fabric_is_unreachable() {
    let device = open();
    let (init, _poller) = init(&device);
    let mut qp = device.create_queue_pair(&init).unwrap();
    qp.to_init().unwrap();
    let address = QueuePairAddress {
        tcp: None,
        ..qp.address()
    };
    let error = qp.to_rtr(&address).unwrap_err();
    assert!(
        matches!(error, FabricError::Unreachable { .. }),
        "{error:?}"
    );
}

/// Whoever polls answers a READ as far as the socket takes it. Somebody else has to send the rest
/// if that was the last poll.
#[test]
fn a_read_that_a_poller_has_begun_to_answer_ends_without_it() {
    const LEN: usize = 16 << 20;
    let devices = [open(), open()];
    let made = devices.each_ref().map(|device| {
        let (init, poller) = init(device);
        let mut qp = device.create_queue_pair(&init).unwrap();
        qp.to_init().unwrap();
        let region = device.register(LEN, Access::ALL).unwrap();
        (qp, poller, region)
    });
    let [(mut qp, mut poller, region), (mut peer, mut peers, memory)] = made;
    qp.to_rtr(&peer.address()).unwrap();
    peer.to_rtr(&qp.address()).unwrap();
    qp.to_rts().unwrap();
    peer.to_rts().unwrap();
    let mut one = [Completion::EMPTY];
    for round in 0..40 {
        // The device's thread goes to sleep.
        thread::sleep(Duration::from_millis(10));
        qp.post_send(&SendRequest {
            wr_id: round,
            operation: Operation::Read,
            local: Payload::Region(Sge {
                addr: region.addr(),
                length: LEN as u32,
                lkey: region.lkey(),
            }),
            remote: RemoteSlice {
                addr: memory.addr(),
                rkey: memory.rkey(),
            },
            signalled: true,
            solicited: false,
        })
        .unwrap();
        let polled = Instant::now();
        while polled.elapsed() < Duration::from_micros(500) {
            peers.poll(&mut one).unwrap();
        }
        let end = Instant::now() + SOON;
        while poller.poll(&mut one).unwrap() == 0 {
            assert!(Instant::now() < end, "round {round} does not end");
        }
        assert!(one[0].status.is_success() && one[0].wr_id == round);
    }
}
