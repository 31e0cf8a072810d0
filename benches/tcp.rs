//! The tcp fabric against the sockets that it is made of, both polling, in one run: `cargo
//! bench --bench tcp`. With `--features tls` also both with TLS.
//!
//! Rounds of either take turns, so that what else the machine does hits both.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use slimerpc::fabric::tcp::{TcpDevice, TcpOptions};
use slimerpc::fabric::{
    Access, Completion, Device, MemoryRegion, Opcode, Operation, Payload, Poller, QueuePair,
    QueuePairInit, RecvRequest, RemoteSlice, RetryPolicy, SendRequest, Sge,
};

const SMALL: usize = 64;
const LARGE: usize = 16 << 20;
const CALLS: usize = 5_000;
const COPIES: usize = 8;
const ROUNDS: usize = 7;

fn main() {
    let mut small = [Vec::new(), Vec::new()];
    let mut large = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        small[0].push(socket_round_trip());
        small[1].push(fabric_round_trip());
        large[0].push(socket_copy());
        large[1].push(fabric_copy(&TcpOptions::default()));
    }
    for (what, [socket, fabric]) in [("64 B there and back", small), ("16 MiB there", large)] {
        let [socket, fabric] = [socket, fabric].map(median);
        let ratio = fabric.as_secs_f64() / socket.as_secs_f64();
        println!("{what}: socket {socket:.1?}, fabric {fabric:.1?}, {ratio:.2}x");
    }
    #[cfg(feature = "tls")]
    with_tls::compare();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The median of so many times.
fn time(count: usize, mut what: impl FnMut()) -> Duration {
    what();
    let times = (0..count).map(|_| {
        let began = Instant::now();
        what();
        began.elapsed()
    });
    median(times.collect())
}

fn sockets() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let here = TcpStream::connect(listener.local_addr().expect("an address")).expect("a socket");
    let (there, _) = listener.accept().expect("a socket");
    [here, there].inspect(|stream| {
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_nonblocking(true).expect("a socket");
    })
}

trait Inspect {
    fn inspect(self, look: impl Fn(&TcpStream)) -> Self;
}

impl Inspect for [TcpStream; 2] {
    fn inspect(self, look: impl Fn(&TcpStream)) -> Self {
        self.iter().for_each(look);
        self
    }
}

/// Reads all of `bytes`, spinning. `false`: the peer has closed.
fn spin_read(stream: &mut TcpStream, bytes: &mut [u8]) -> bool {
    let mut at = 0;
    while at < bytes.len() {
        match stream.read(&mut bytes[at..]) {
            Ok(0) => return false,
            Ok(count) => at += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => panic!("{error}"),
        }
    }
    true
}

fn spin_write(stream: &mut TcpStream, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        match stream.write(&bytes[at..]) {
            Ok(count) => at += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn socket_round_trip() -> Duration {
    let [mut here, mut there] = sockets();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut bytes = [0; SMALL];
            while spin_read(&mut there, &mut bytes) {
                spin_write(&mut there, &bytes);
            }
        });
        let mut bytes = [7; SMALL];
        let median = time(CALLS, || {
            spin_write(&mut here, &bytes);
            spin_read(&mut here, &mut bytes);
        });
        drop(here);
        median
    })
}

fn socket_copy() -> Duration {
    let [mut here, mut there] = sockets();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut bytes = vec![0; LARGE];
            while spin_read(&mut there, &mut bytes) {
                spin_write(&mut there, &[1]);
            }
        });
        let bytes = vec![7; LARGE];
        let median = time(COPIES, || {
            spin_write(&mut here, &bytes);
            spin_read(&mut here, &mut [0]);
        });
        drop(here);
        median
    })
}

struct End {
    qp: Box<dyn QueuePair>,
    poller: Box<dyn Poller>,
    region: Arc<dyn MemoryRegion>,
}

impl End {
    fn new(options: &TcpOptions) -> Self {
        let device = TcpDevice::open(options).expect("a device");
        let (cq, poller) = device.create_completion_queue(256).expect("a queue");
        let init = QueuePairInit {
            send_cq: cq.clone(),
            recv_cq: cq,
            max_send_wr: 64,
            max_recv_wr: 64,
            max_inline: SMALL as u32,
            retry: RetryPolicy::default(),
        };
        let mut qp = device.create_queue_pair(&init).expect("a queue pair");
        qp.to_init().expect("RESET to INIT");
        qp.post_recvs(RecvRequest { wr_id: 0 }, 16).expect("room");
        let region = device.register(LARGE, Access::ALL).expect("memory");
        region.copy_in(0, &vec![7; LARGE]).expect("it fits");
        Self { qp, poller, region }
    }

    fn remote(&self) -> RemoteSlice {
        RemoteSlice {
            addr: self.region.addr(),
            rkey: self.region.rkey(),
        }
    }

    fn send(&mut self, local: Payload<'_>, remote: RemoteSlice, imm: u32, signalled: bool) {
        let request = SendRequest {
            wr_id: 1,
            operation: Operation::WriteWithImm(imm),
            local,
            remote,
            signalled,
            solicited: true,
        };
        self.qp.post_send(&request).expect("room");
    }

    /// Polls until a message has come, or a send has completed.
    fn wait(&mut self, opcode: Opcode) -> Completion {
        let mut one = [Completion::EMPTY];
        loop {
            if self.poller.poll(&mut one).expect("a queue") > 0 {
                assert!(one[0].status.is_success(), "{:?}", one[0]);
                if one[0].opcode == Opcode::RecvWriteWithImm {
                    self.qp.post_recv(RecvRequest { wr_id: 0 }).expect("room");
                }
                if one[0].opcode == opcode {
                    return one[0];
                }
            }
        }
    }
}

fn ends(options: &TcpOptions) -> [End; 2] {
    let [mut here, mut there] = [(); 2].map(|()| End::new(options));
    here.qp.to_rtr(&there.qp.address()).expect("INIT to RTR");
    there.qp.to_rtr(&here.qp.address()).expect("INIT to RTR");
    here.qp.to_rts().expect("RTR to RTS");
    there.qp.to_rts().expect("RTR to RTS");
    [here, there]
}

fn fabric_round_trip() -> Duration {
    const LAST: u32 = 1;
    let [mut here, mut there] = ends(&TcpOptions::default());
    let (to_there, to_here) = (there.remote(), here.remote());
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut bytes = [0; SMALL];
            for number in 0_u32.. {
                let message = there.wait(Opcode::RecvWriteWithImm);
                there.region.copy_out(0, &mut bytes).expect("it fits");
                let is_signalled = number.is_multiple_of(16) || message.imm == Some(LAST);
                there.send(Payload::Inline(&bytes), to_here, 0, is_signalled);
                if message.imm == Some(LAST) {
                    there.wait(Opcode::Write);
                    return;
                }
            }
        });
        let (mut bytes, mut number) = ([7; SMALL], 0_u32);
        let mut call = |imm| {
            here.send(
                Payload::Inline(&bytes),
                to_there,
                imm,
                number.is_multiple_of(16),
            );
            here.wait(Opcode::RecvWriteWithImm);
            here.region.copy_out(0, &mut bytes).expect("it fits");
            number += 1;
        };
        let median = time(CALLS, || call(0));
        call(LAST);
        // The other end waits for the acknowledgement.
        let end = Instant::now() + Duration::from_millis(20);
        while Instant::now() < end {
            let _ = here.poller.poll(&mut [Completion::EMPTY]);
        }
        median
    })
}

fn fabric_copy(options: &TcpOptions) -> Duration {
    let [mut here, mut there] = ends(options);
    let to_there = there.remote();
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..=COPIES {
                there.wait(Opcode::RecvWriteWithImm);
            }
            let end = Instant::now() + Duration::from_millis(20);
            while Instant::now() < end {
                let _ = there.poller.poll(&mut [Completion::EMPTY]);
            }
        });
        let local = Payload::Region(Sge {
            addr: here.region.addr(),
            length: LARGE as u32,
            lkey: here.region.lkey(),
        });
        time(COPIES, || {
            here.send(local, to_there, 0, true);
            here.wait(Opcode::Write);
        })
    })
}

/// Mutual TLS: the fabric against a pair of rustls streams over blocking sockets.
#[cfg(feature = "tls")]
mod with_tls {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use rustls::crypto::ring::{cipher_suite::TLS13_AES_128_GCM_SHA256, default_provider};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
    use slimerpc::fabric::tcp::TcpOptions;
    use slimerpc::tls::TlsFiles;
    use support::certificates::Authority;

    use super::{COPIES, LARGE, ROUNDS, fabric_copy, median, time};

    pub(super) fn compare() {
        let authority = Authority::new();
        let issued = authority.issue("both", "URI:slimerpc:*,DNS:localhost");
        let files = TlsFiles {
            cert: issued.cert,
            key: issued.key,
            ca: authority.ca(),
        };
        let options = TcpOptions {
            tls: Some(files.clone()),
            ..TcpOptions::default()
        };
        let (mut streams, mut fabric) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            streams.push(stream_copy(&files));
            fabric.push(fabric_copy(&options));
        }
        let [streams, fabric] = [streams, fabric].map(median);
        let rate = |time: Duration| LARGE as f64 / time.as_secs_f64() / f64::from(1 << 20);
        println!(
            "16 MiB there with TLS: rustls streams {streams:.1?} ({:.0} MiB/s), fabric {fabric:.1?} ({:.0} MiB/s), \
             {:.2} of their rate",
            rate(streams),
            rate(fabric),
            rate(fabric) / rate(streams),
        );
    }

    fn configs(files: &TlsFiles) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
        let mut provider = default_provider();
        provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256];
        let provider = Arc::new(provider);
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(&files.ca).expect("a certificate");
        roots.add(ca).expect("an authority");
        let roots = Arc::new(roots);
        let cert = || vec![CertificateDer::from_pem_file(&files.cert).expect("a certificate")];
        let key = || PrivateKeyDer::from_pem_file(&files.key).expect("a key");
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("authorities"))
            .with_single_cert(cert(), key())
            .expect("a certificate");
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(cert(), key())
            .expect("a certificate");
        (client.into(), server.into())
    }

    fn stream_copy(files: &TlsFiles) -> Duration {
        let (client, server) = configs(files);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::scope(|scope| {
            scope.spawn(move || {
                let (socket, _) = listener.accept().expect("a socket");
                socket.set_nodelay(true).expect("a TCP socket");
                let session = ServerConnection::new(server).expect("a session");
                let mut stream = rustls::StreamOwned::new(session, socket);
                let mut bytes = vec![0; LARGE];
                for _ in 0..=COPIES {
                    stream.read_exact(&mut bytes).expect("all bytes");
                    stream.write_all(&[1]).expect("room");
                }
            });
            let socket = TcpStream::connect(address).expect("a socket");
            socket.set_nodelay(true).expect("a TCP socket");
            let name = "localhost".try_into().expect("a name");
            let session = ClientConnection::new(client, name).expect("a session");
            let mut stream = rustls::StreamOwned::new(session, socket);
            let bytes = vec![7; LARGE];
            time(COPIES, || {
                stream.write_all(&bytes).expect("room");
                stream.read_exact(&mut [0]).expect("an answer");
            })
        })
    }
}
