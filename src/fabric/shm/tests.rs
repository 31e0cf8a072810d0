//! The fabric's specification on this implementation, and what only this one has to keep.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::ShmDevice;
use super::link::{Incoming, Link};
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

fn ends(link: &Link) {
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
        let link = Link::dial(gid).expect("it listens");
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
        let link = Link::dial(gid).expect("it listens");
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
    Link::dial(gid).expect("the region keeps the device");
    drop(region);
    Link::dial(gid).expect_err("nobody listens any more");
}

/// Both ends look: who dials, and who is dialled. Needs to be root, to become somebody else for a moment.
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
        let refused = Link::dial(gid).expect_err("we look who listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        let link = Link::dial_anyone(gid).expect("anybody can connect");
        ends(&link);
    });
    as_somebody_else.join().expect("both ends refuse");
    CASES[2].run(&device, &device);
}
