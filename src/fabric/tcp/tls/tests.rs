//! Devices with certificates: the fabric's specification, and who is refused.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use support::certificates::{Authority, Issued};

use super::credentials::Credentials;
use super::{Handshake, TlsContext, TlsSession, proof};
use crate::fabric::conformance::CASES;
use crate::fabric::tcp::hello::{HELLO, Hello, Opening, Terms};
use crate::fabric::tcp::stream::Piece;
use crate::fabric::tcp::tests::rest;
use crate::fabric::tcp::{TcpAddress, TcpDevice, TcpKey, TcpOptions};
use crate::fabric::{
    Device, FabricError, Gid, Poller, QueuePair, QueuePairAddress, QueuePairInit, QueuePairState,
    RetryPolicy,
};
use crate::tls::{CertificateProblem, TlsError, TlsFiles};

const SOON: Duration = Duration::from_secs(60);
const ANYBODY: &str = "URI:slimerpc:*";

fn files(authority: &Authority, issued: &Issued) -> TlsFiles {
    TlsFiles {
        cert: issued.cert.clone(),
        key: issued.key.clone(),
        ca: authority.ca(),
    }
}

fn open(files: Option<TlsFiles>) -> Arc<TcpDevice> {
    let options = TcpOptions {
        tls: files,
        ..TcpOptions::default()
    };
    TcpDevice::open(&options).unwrap()
}

fn conform(a: &Arc<dyn Device>, b: &Arc<dyn Device>) {
    for case in CASES {
        println!("{}", case.name());
        case.run(a, b);
    }
}

#[test]
fn devices_with_certificates_conform() {
    let authority = Authority::new();
    let [a, b] = ["a", "b"].map(|name| {
        let device = open(Some(files(&authority, &authority.issue(name, ANYBODY))));
        device as Arc<dyn Device>
    });
    conform(&a, &b);
    conform(&a, &a);
}

#[cfg(feature = "faults")]
#[test]
fn devices_with_certificates_conform_under_faults() {
    use crate::fabric::faults::{Faults, Plan};
    /// A case that looks at a queue once, so what comes late is not there yet.
    const LOOKS_ONCE: &str = "events::sends_and_receives_may_have_queues_of_their_own";
    let authority = Authority::new();
    let files = files(&authority, &authority.issue("a", ANYBODY));
    let faults = Faults::new(Plan::harmless(1));
    let [a, b] = [(); 2].map(|()| faults.wrap(open(Some(files.clone()))));
    for case in CASES.iter().filter(|case| case.name() != LOOKS_ONCE) {
        println!("{}", case.name());
        case.run(&a, &b);
    }
}

/// A queue pair, and what it needs.
struct End {
    // Dropped first (DROP-1).
    qp: Box<dyn QueuePair>,
    _poller: Box<dyn Poller>,
    device: Arc<TcpDevice>,
}

impl End {
    fn on(device: &Arc<TcpDevice>) -> Self {
        let (cq, poller) = device.create_completion_queue(64).unwrap();
        let init = QueuePairInit {
            send_cq: cq.clone(),
            recv_cq: cq,
            max_send_wr: 16,
            max_recv_wr: 16,
            max_inline: 64,
            retry: RetryPolicy::default(),
        };
        let mut qp = device.create_queue_pair(&init).unwrap();
        qp.to_init().unwrap();
        Self {
            qp,
            _poller: poller,
            device: device.clone(),
        }
    }

    fn reach(&mut self, alias: &str, remote: &QueuePairAddress) -> Result<(), FabricError> {
        self.qp.expect_peer(alias);
        self.qp.to_rtr(remote)?;
        self.qp.to_rts()
    }

    /// Waits until it has met its peer, or knows why not.
    fn meets(&self) -> Result<(), TlsError> {
        let end = Instant::now() + SOON;
        loop {
            match self.qp.has_met_peer() {
                Ok(true) => return Ok(()),
                Ok(false) => assert!(Instant::now() < end, "neither met nor refused"),
                Err(FabricError::Tls { error, .. }) => return Err(error),
                Err(error) => panic!("{error}"),
            }
            thread::sleep(Duration::from_millis(1));
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
}

/// Connects `a`, whose peer shall be `b`, with an end that expects `a`, on these devices.
fn meet(devices: [&Arc<TcpDevice>; 2]) -> [End; 2] {
    let [mut a, mut b] = devices.map(End::on);
    let [of_a, of_b] = [a.qp.address(), b.qp.address()];
    a.reach("b", &of_b).unwrap();
    b.reach("a", &of_a).unwrap();
    [a, b]
}

#[test]
fn both_ends_are_told_which_certificate_is_refused_and_why() {
    use CertificateProblem::{Expired, Purpose, UnknownAuthority, WrongName};
    let (authority, stranger) = (Authority::new(), Authority::new());
    let good = open(Some(files(
        &authority,
        &authority.issue("a", "URI:slimerpc:a"),
    )));
    let right = authority.issue("b", "URI:slimerpc:b");
    let [a, b] = meet([&good, &open(Some(files(&authority, &right)))]);
    assert_eq!((a.meets(), b.meets()), (Ok(()), Ok(())));

    let bad = |name: &str, issued: Issued, ca: &Authority| (name.to_owned(), files(ca, &issued));
    let cases = [
        bad(
            "expired",
            authority.issue_expired("old", "URI:slimerpc:b"),
            &authority,
        ),
        bad(
            "name",
            authority.issue("c", "URI:slimerpc:c,DNS:b"),
            &authority,
        ),
        bad(
            "authority",
            stranger.issue("b", "URI:slimerpc:b"),
            &authority,
        ),
        bad(
            "purpose",
            authority.sign(
                "server",
                "subjectAltName=URI:slimerpc:b\nextendedKeyUsage=clientAuth",
                "-days 2",
            ),
            &authority,
        ),
    ];
    for (case, files) in cases {
        // Either end may be the one that dials: that with the smaller GID.
        for dials in [true, false] {
            let bad = loop {
                let bad = open(Some(files.clone()));
                if (good.port().gid < bad.port().gid) == dials {
                    break bad;
                }
            };
            let before = good.violations();
            let [a, b] = meet([&good, &bad]);
            let (ours, theirs) = (a.meets(), b.meets());
            let expected = match &*case {
                // It may be a client's.
                "purpose" if !dials => {
                    assert_eq!((ours, theirs), (Ok(()), Ok(())));
                    continue;
                }
                "purpose" => Purpose,
                "expired" => Expired,
                "authority" => UnknownAuthority,
                _ => {
                    let Err(TlsError::Theirs(WrongName(detail))) = &ours else {
                        panic!("{ours:?}");
                    };
                    let names = ["slimerpc:c", "slimerpc:b"];
                    assert!(names.iter().all(|name| detail.contains(name)), "{detail}");
                    assert_eq!(theirs, Err(TlsError::Ours(WrongName(String::new()))));
                    a.has_violations(before + 1);
                    b.has_violations(1);
                    continue;
                }
            };
            let refused = Err(TlsError::Theirs(expected.clone()));
            assert_eq!(ours, refused, "{case} {dials}");
            assert_eq!(theirs, Err(TlsError::Ours(expected)), "{case} {dials}");
            a.has_violations(before + 1);
            b.has_violations(1);
        }
    }
}

#[test]
fn one_end_with_certificates_and_one_without_say_where_they_are_lacking() {
    let authority = Authority::new();
    let with = open(Some(files(&authority, &authority.issue("a", ANYBODY))));
    let without = open(None);
    let refused = |ours: &Arc<TcpDevice>, theirs: &Arc<TcpDevice>| {
        let (mut ours, theirs) = (End::on(ours), End::on(theirs));
        ours.reach("b", &theirs.qp.address()).unwrap_err()
    };
    for (error, lacking) in [
        (refused(&with, &without), TlsError::MissingThere),
        (refused(&without, &with), TlsError::MissingHere),
    ] {
        assert!(error.to_string().contains("SLIME_RPC_TLS_CERT"), "{error}");
        assert!(
            matches!(&error, FabricError::Tls { error, .. } if *error == lacking),
            "{error:?}"
        );
    }
}

/// Less than any other, so that the attacker is the one who dials.
const DIALLING: Gid = Gid([0; 16]);
const ATTACKER_KEY: TcpKey = TcpKey::new([3; 16]);

/// A queue pair that expects a peer which the test plays.
fn victim(device: &Arc<TcpDevice>) -> (End, Hello) {
    let mut end = End::on(device);
    let ours = end.qp.address();
    let peer = QueuePairAddress {
        gid: DIALLING,
        qp_num: 7,
        psn: 100,
        tcp: Some(TcpAddress {
            socket: SocketAddr::from(([127, 0, 0, 1], 9)),
            key: ATTACKER_KEY,
            tls: true,
        }),
        ..ours
    };
    end.reach("b", &peer).unwrap();
    let hello = Hello {
        from_gid: DIALLING.0,
        from_qp: 7,
        psn: 100,
        to_qp: ours.qp_num,
        key: proof(ours.tcp.unwrap().key),
        terms: Terms {
            max_send_wr: 8,
            rnr_retry: 1,
        },
    };
    (end, hello)
}

fn say(end: &End, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(end.device.address().unwrap()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// INPUT-1: nothing is computed for who does not know the key, and who knows it has no more time
/// than others.
#[test]
fn strangers_get_no_handshake_and_those_who_stall_in_one_are_closed() {
    let authority = Authority::new();
    let device = open(Some(files(&authority, &authority.issue("a", ANYBODY))));
    let (end, hello) = victim(&device);
    let wrong = Hello {
        key: TcpKey::new([0; 16]),
        ..hello
    };
    let client_hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec();
    let plain = hello.encode(Opening::Hello).to_vec();
    let mut count = 0;
    for bytes in [
        client_hello,
        plain,
        wrong.encode(Opening::Preamble).to_vec(),
    ] {
        assert!(rest(say(&end, &bytes)).is_empty());
        count += 1;
        end.has_violations(count);
    }
    // The proof of the key, then nothing.
    let mut stalls = say(&end, &hello.encode(Opening::Preamble));
    let mut answer = [0; HELLO];
    stalls.read_exact(&mut answer).unwrap();
    let answer = Hello::decode(&answer, Opening::Preamble).unwrap();
    assert_eq!(answer.key, proof(ATTACKER_KEY));
    let began = Instant::now();
    assert!(rest(stalls).is_empty());
    assert!(began.elapsed() > Duration::from_secs(3));
    end.has_violations(count + 1);
    // Nonsense in the handshake.
    let (end, hello) = victim(&device);
    let mut nonsense = say(&end, &hello.encode(Opening::Preamble));
    nonsense.write_all(&[0xff; 4096]).unwrap();
    rest(nonsense);
    end.has_violations(count + 2);
    assert!(matches!(end.meets(), Err(TlsError::Handshake(_))));
}

/// What the ends say in the clear may be said again by anybody who has seen it.
#[test]
fn a_replayed_preamble_ends_no_connection_that_is_made() {
    let authority = Authority::new();
    let files = files(&authority, &authority.issue("a", ANYBODY));
    let devices = [(); 2].map(|()| open(Some(files.clone())));
    let [a, b] = meet([&devices[0], &devices[1]]);
    assert_eq!((a.meets(), b.meets()), (Ok(()), Ok(())));
    let (dialler, dialled) = match a.qp.address().gid < b.qp.address().gid {
        true => (a, b),
        false => (b, a),
    };
    let (from, to) = (dialler.qp.address(), dialled.qp.address());
    let seen = Hello {
        from_gid: from.gid.0,
        from_qp: from.qp_num,
        psn: from.psn,
        to_qp: to.qp_num,
        key: proof(to.tcp.unwrap().key),
        terms: Terms {
            max_send_wr: 16,
            rnr_retry: 6,
        },
    };
    let mut replayed = say(&dialled, &seen.encode(Opening::Preamble));
    replayed.write_all(&[0xff; 4096]).unwrap();
    rest(replayed);
    dialled.has_violations(1);
    // The violation is counted before anything ends.
    thread::sleep(Duration::from_millis(200));
    assert_eq!(dialled.qp.state(), QueuePairState::Rts);
    assert_eq!(dialled.meets(), Ok(()));
}

#[test]
fn who_shows_no_certificate_is_refused_and_counted() {
    let authority = Authority::new();
    let files = files(&authority, &authority.issue("a", ANYBODY));
    let device = open(Some(files.clone()));
    let (end, hello) = victim(&device);
    let mut stream = say(&end, &hello.encode(Opening::Preamble));
    let mut answer = [0; HELLO];
    stream.read_exact(&mut answer).unwrap();
    let verifier = Credentials::read(&files).unwrap().configs(None).unwrap();
    let mut config = (*verifier.client).clone();
    config.client_auth_cert_resolver =
        rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth()
            .client_auth_cert_resolver;
    let name = "slimerpc.invalid".try_into().unwrap();
    let session = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut stream = rustls::StreamOwned::new(session, stream);
    let error = stream.read(&mut [0]).unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    let refused = TlsError::Theirs(CertificateProblem::Missing);
    assert_eq!(end.meets(), Err(refused));
    end.has_violations(1);
}

#[test]
fn a_file_that_cannot_be_used_is_an_error_that_names_it_and_its_setting() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = files(&authority, &authority.issue("a", ANYBODY));
    let missing = authority.at("missing");
    let alien = other.issue("b", ANYBODY).key;
    let with = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = good.clone();
        change(&mut files);
        files
    };
    for (files, setting, path) in [
        (
            with(&|it| it.cert = missing.clone()),
            "SLIME_RPC_TLS_CERT",
            &missing,
        ),
        (
            with(&|it| it.cert = good.key.clone()),
            "SLIME_RPC_TLS_CERT",
            &good.key,
        ),
        (
            with(&|it| it.key = missing.clone()),
            "SLIME_RPC_TLS_KEY",
            &missing,
        ),
        (
            with(&|it| it.key = alien.clone()),
            "SLIME_RPC_TLS_KEY",
            &alien,
        ),
        (
            with(&|it| it.ca = missing.clone()),
            "SLIME_RPC_TLS_CA",
            &missing,
        ),
        (
            with(&|it| it.ca = good.key.clone()),
            "SLIME_RPC_TLS_CA",
            &good.key,
        ),
    ] {
        let options = TcpOptions {
            tls: Some(files),
            ..TcpOptions::default()
        };
        let error = TcpDevice::on_demand(&options).unwrap_err();
        assert!(matches!(error, FabricError::NoDevice { .. }), "{error:?}");
        let (text, path) = (error.to_string(), path.to_str().unwrap());
        assert!(text.contains(setting) && text.contains(path), "{text}");
    }
}

/// Both ends of a session over a socket of this process.
fn handshake(a: &TlsContext, b: &TlsContext) -> Result<([TlsSession; 2], [OwnedFd; 2]), TlsError> {
    let (near, far) = UnixStream::pair().unwrap();
    let sockets = [near, far].map(|socket| {
        socket.set_nonblocking(true).unwrap();
        OwnedFd::from(socket)
    });
    let mut ends = [
        TlsSession::begin(a, Some("b"), true)?,
        TlsSession::begin(b, Some("a"), false)?,
    ];
    let mut done = [false; 2];
    while done != [true; 2] {
        for (at, end) in ends.iter_mut().enumerate() {
            let come = end.handshake(&sockets[at]);
            let come = come.map_err(|error| error.expect("nobody just ended"))?;
            done[at] = matches!(come, Handshake::Done);
        }
    }
    // The tickets come behind.
    assert_eq!(
        receive(&mut ends[0], &sockets[0]),
        std::io::ErrorKind::WouldBlock
    );
    Ok((ends, sockets))
}

/// Why nothing is received.
fn receive(end: &mut TlsSession, socket: &OwnedFd) -> std::io::ErrorKind {
    let mut byte = [0_u8];
    let piece = Piece::new(NonNull::from(&mut byte).cast(), byte.len());
    // SAFETY: the piece is `byte`, to which nobody else has a reference.
    let received = unsafe { end.receive(socket, &[piece], true) };
    received.unwrap_err().kind()
}

/// Lets a socket hold what is sent, however much. Returns whether this process may do that.
fn has_room(socket: &OwnedFd) -> bool {
    let size: libc::c_int = 64 << 20;
    // SAFETY: the descriptor is open, and the option is a `c_int`, which is only read.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            (&raw const size).cast(),
            size_of_val(&size) as libc::socklen_t,
        )
    };
    set == 0
}

/// INPUT-1: a peer that is as fast as we are does not keep a thread, so that others are served
/// meanwhile. Needs to be root.
#[test]
fn input_1_no_call_receives_or_sends_without_end() {
    const RECORDS: usize = 100_000;
    let authority = Authority::new();
    let files = files(&authority, &authority.issue("a", ANYBODY));
    let context = TlsContext::open(&files).unwrap();
    let ([mut near, mut far], sockets) = handshake(&context, &context).unwrap();
    if !sockets.iter().all(has_room) {
        return;
    }
    let records = near.records(RECORDS);
    let mut socket = UnixStream::from(sockets[0].try_clone().unwrap());
    socket.write_all(&records).unwrap();
    let mut bytes = vec![0_u8; 20 << 20];
    let mut received = Vec::new();
    while received.iter().sum::<usize>() < RECORDS {
        let piece = Piece::new(NonNull::from(&mut *bytes).cast(), RECORDS);
        // SAFETY: the piece is part of `bytes`, to which nobody else has a reference.
        received.push(unsafe { far.receive(&sockets[1], &[piece], true) }.unwrap());
    }
    let most = received.iter().max().unwrap();
    assert!(*most < RECORDS / 2, "{most} records at once");
    // SAFETY: the piece is `bytes`, which nobody changes.
    let sent = unsafe { far.send(&sockets[1], &[Piece::of(&bytes)]) }.unwrap();
    assert!(sent < bytes.len() / 2, "{sent} bytes at once");
}

/// Whoever dies meanwhile has refused nobody.
#[test]
fn a_handshake_that_just_ends_is_no_refusal() {
    let authority = Authority::new();
    let files = files(&authority, &authority.issue("a", ANYBODY));
    let context = TlsContext::open(&files).unwrap();
    for is_dialler in [true, false] {
        let mut session = TlsSession::begin(&context, None, is_dialler).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        near.set_nonblocking(true).unwrap();
        let ended = session.handshake(&near.into()).map(drop);
        assert_eq!(ended, Err(None));
    }
}

/// Bytes that somebody in between has changed are not taken for those that were sent.
#[test]
fn a_forged_record_is_an_error() {
    let authority = Authority::new();
    let files = files(&authority, &authority.issue("a", ANYBODY));
    let context = TlsContext::open(&files).unwrap();
    let ([_near, mut far], sockets) = handshake(&context, &context).unwrap();
    let record = [&b"\x17\x03\x03\0\x20"[..], &[7; 32]].concat();
    UnixStream::from(sockets[0].try_clone().unwrap())
        .write_all(&record)
        .unwrap();
    assert_eq!(
        receive(&mut far, &sockets[1]),
        std::io::ErrorKind::InvalidData
    );
}

#[test]
fn sessions_are_resumed_until_the_files_change_and_then_the_new_ones_count() {
    let (old, new) = (Authority::new(), Authority::new());
    let names = ["a", "b"];
    let issued = names.map(|name| files(&old, &old.issue(name, &format!("URI:slimerpc:{name}"))));
    let contexts = issued
        .each_ref()
        .map(|files| TlsContext::open(files).unwrap());
    let [a, b] = &contexts;
    let is_resumed = |ends: Result<([TlsSession; 2], _), _>| -> [bool; 2] {
        let (ends, _): (_, [OwnedFd; 2]) = ends.unwrap();
        ends.each_ref().map(TlsSession::is_resumed)
    };
    assert_eq!(is_resumed(handshake(a, b)), [false; 2]);
    assert_eq!(is_resumed(handshake(a, b)), [true; 2]);
    // Half a file is none: what was there before stays.
    let whole = fs::read(&issued[1].cert).unwrap();
    fs::write(&issued[1].cert, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(is_resumed(handshake(a, b)), [true; 2]);
    // One end has new files already, the other not yet.
    let replace = |at: usize| {
        let made = files(
            &new,
            &new.issue(names[at], &format!("URI:slimerpc:{}", names[at])),
        );
        fs::copy(&made.cert, &issued[at].cert).unwrap();
        fs::copy(&made.key, &issued[at].key).unwrap();
    };
    replace(1);
    let refused = handshake(a, b).map(drop).unwrap_err();
    let unknown = TlsError::Theirs(CertificateProblem::UnknownAuthority);
    assert_eq!(refused, unknown);
    replace(0);
    fs::copy(new.ca(), &issued[0].ca).unwrap();
    assert_eq!(is_resumed(handshake(a, b)), [false; 2]);
}
