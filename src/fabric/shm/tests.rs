//! The fabric's specification on this implementation, and what only this one has to keep.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::ShmDevice;
use super::control_socket::{ControlSocket, Incoming};
use super::message::{Hello, Message, VERSION};
use super::segment::Segment;
use crate::fabric::conformance::CASES;
use crate::fabric::{Access, Device};

fn open() -> Arc<dyn Device> {
    ShmDevice::open().expect("a device")
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

fn hello(to: &Arc<dyn Device>) -> Hello {
    Hello {
        version: VERSION,
        from_gid: to.port().gid.0,
        from_qp: 1,
        psn: 2,
        to_qp: 0xff_ffff,
    }
}

fn ends(link: &ControlSocket) {
    let end = Instant::now() + Duration::from_secs(10);
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
    let send = |message: &Message| {
        let link = ControlSocket::dial(gid).expect("it listens");
        link.send(message, &[]).expect("room for a message");
        ends(&link);
    };
    send(&Message::Hello(hello(&device)));
    send(&Message::Hello(Hello {
        version: 1,
        ..hello(&device)
    }));
    send(&Message::WantRegion { rkey: 0x100 });
    send(&Message::NoRegion { rkey: 0x100 });

    let garbage: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", &[], &[0xff; 128], &[0; 4096]];
    for bytes in garbage {
        let link = ControlSocket::dial(gid).expect("it listens");
        let here = device.register(64, Access::ALL).expect("a region");
        let (fd, _segment) = Segment::create("test", here.len()).expect("a memfd");
        let fds = [fd.as_fd(); 3];
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

#[test]
fn memory_that_could_shrink_is_refused() {
    let open_ended =
        rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    rustix::fs::ftruncate(&open_ended, 8192).expect("room");
    assert!(Segment::open(&open_ended).is_err());
    let file: OwnedFd = tempfile::tempfile().expect("a file").into();
    assert!(Segment::open(&file).is_err());
    let (sealed, _segment) = Segment::create("test", 8192).expect("a memfd");
    assert_eq!(Segment::open(&sealed).expect("sealed").len(), 8192);
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
    let mut hello = hello(&open());
    hello.to_qp = 0xff_fffe;
    link.send(&Message::Hello(hello), &[]).expect("room");
    ends(&link);
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
