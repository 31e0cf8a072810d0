//! What is tried.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::attacker::{Attacker, Frames, QueuePair, is_closed, reset, tell};
use super::victim::{LEN, RECEIVES, Slice};
use super::wire::{
    ACK, ACKNOWLEDGE, Frame, HELLO, READ, READ_DATA, REFUSAL, WRITE, WRITE_WITH_IMM,
};

pub(super) type Attack = fn(&mut Attacker);

/// Longer than a stranger may take to say hello.
const LONGER: Duration = Duration::from_secs(7);
/// Longest message.
const MAX_MESSAGE: u32 = 1 << 31;

pub(super) const ATTACKS: [(&str, Attack); 36] = [
    // Whoever has no key.
    ("ports are scanned", scan),
    ("HTTP", |it| {
        stranger(it, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    }),
    ("the hello of TLS", |it| {
        stranger(it, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03")
    }),
    ("random bytes, up to 64 KiB", |it| {
        let len = it.rng.usize(8..65_536);
        let bytes = it.bytes(len);
        stranger(it, &bytes)
    }),
    ("a hello that ends too early", truncated_hello),
    ("a hello with a wrong key, or to nobody", wrong_key),
    ("a hello of which a bit is flipped", flipped_hello),
    ("a hello of which a byte comes each second", slow_hello),
    (
        "300 to 1500 connections that say nothing, for seconds",
        silent,
    ),
    (
        "connections that are reset within their hello",
        reset_in_hello,
    ),
    (
        "the right hello from a peer that is not expected",
        wrong_peer,
    ),
    // Whoever has stolen a key, or is a peer.
    ("the right hello twice, at once or later", replayed_hello),
    (
        "the right hello before it is expected, 30 times, and nothing more",
        early,
    ),
    ("frames of random bytes", random_frames),
    ("frames of which some bits are flipped", flipped_frames),
    ("frames that are replayed", replayed_frames),
    ("frames that are interleaved", interleaved),
    ("frames out of sequence", out_of_sequence),
    ("lengths beyond the longest", too_long),
    ("lengths beyond the memory, up to 2 GiB", beyond_memory),
    ("a key of memory that is wrong", wrong_rkey),
    ("memory that may not be read, or not written", wrong_rights),
    (
        "addresses before, behind and far from the memory",
        wrong_bounds,
    ),
    (
        "answers and acknowledgements that nobody waits for",
        unasked,
    ),
    (
        "messages for which there is no receive, then a reset",
        no_receive_then_reset,
    ),
    (
        "messages for which there is no receive, then silence",
        no_receive_then_silence,
    ),
    ("a reset in the middle of a frame", reset_in_frame),
    (
        "a frame that never ends, half of the connection closed",
        half_closed,
    ),
    ("frames of which the bytes come one by one", byte_by_byte),
    (
        "READs of megabytes, of which nothing is read",
        stops_reading,
    ),
    (
        "READs without end, by the terms of a peer that may have any number",
        many_reads,
    ),
    (
        "a peer that wants all acknowledged and reads little",
        reads_little,
    ),
    ("empty frames, as fast as they go", flood),
    ("what is dialled says nothing, or nonsense", impostor),
    (
        "what is dialled lets itself be met, and then breaks the protocol",
        false_friend,
    ),
    ("what is dialled accepts and is gone", gone_when_dialled),
];

fn stranger(attacker: &mut Attacker, bytes: &[u8]) {
    let stream = attacker.say(bytes);
    attacker.is_closed_and_counted(stream);
}

fn scan(attacker: &mut Attacker) {
    for _ in 0..attacker.rng.usize(1..200) {
        let stream = attacker.dial();
        if attacker.rng.bool() {
            reset(stream);
        }
    }
}

fn truncated_hello(attacker: &mut Attacker) {
    let hello = attacker.expecting().hello().encode();
    let len = attacker.rng.usize(1..HELLO);
    let stream = attacker.say(&hello[..len]);
    let _ = stream.shutdown(Shutdown::Write);
    attacker.is_closed_and_counted(stream);
}

fn wrong_key(attacker: &mut Attacker) {
    let given = attacker.expecting();
    let mut hello = given.hello();
    if attacker.rng.bool() {
        hello.key[attacker.rng.usize(..16)] ^= 1 << attacker.rng.u8(..8);
    } else {
        hello.to = attacker.rng.u32(..);
        hello.key = attacker.bytes(16).try_into().expect("16 bytes");
    }
    stranger(attacker, &hello.encode());
}

fn flipped_hello(attacker: &mut Attacker) {
    let given = attacker.expecting();
    let mut hello = given.hello().encode();
    // The terms may be others.
    let at = match attacker.rng.usize(..HELLO) {
        10 | 56..60 => 0,
        at => at,
    };
    hello[at] ^= 1 << attacker.rng.u8(..8);
    stranger(attacker, &hello);
}

fn slow_hello(attacker: &mut Attacker) {
    let hello = attacker.expecting().hello().encode();
    let stream = attacker.dial();
    let began = Instant::now();
    for byte in hello {
        tell(&stream, &[byte]);
        sleep(Duration::from_secs(1));
        if began.elapsed() > LONGER {
            break;
        }
    }
    attacker.is_closed_and_counted(stream);
}

fn silent(attacker: &mut Attacker) {
    let count = attacker.rng.usize(300..1500);
    let silent: Vec<_> = (0..count).map(|_| attacker.dial()).collect();
    let (end, mut hurry) = (Instant::now() + LONGER, attacker.rng.bool());
    for stream in silent {
        // Some are closed by us.
        hurry |= Instant::now() > end;
        if hurry {
            drop(stream);
        } else {
            attacker.is_closed_and_counted(stream);
        }
    }
}

fn reset_in_hello(attacker: &mut Attacker) {
    let hello = attacker.expecting().hello().encode();
    for _ in 0..20 {
        let len = attacker.rng.usize(..=HELLO);
        reset(attacker.say(&hello[..len]));
    }
}

fn wrong_peer(attacker: &mut Attacker) {
    let given = attacker.expecting();
    let mut hello = given.hello();
    match attacker.rng.u8(..3) {
        0 => hello.gid[attacker.rng.usize(..16)] ^= 1,
        1 => hello.from ^= 1,
        _ => hello.psn ^= 1,
    }
    stranger(attacker, &hello.encode());
}

fn replayed_hello(attacker: &mut Attacker) {
    let (given, stream) = attacker.met();
    let hello = given.hello().encode();
    if attacker.rng.bool() {
        stranger(attacker, &hello);
        is_served(&given, &stream);
    } else {
        reset(stream);
        let again = attacker.say(&hello);
        // The queue pair may be in ERR already, whose end is no violation.
        is_closed(again);
    }
}

fn early(attacker: &mut Attacker) {
    let mut given = attacker.waiting();
    let hello = given.hello();
    let waiting: Vec<_> = (0..30).map(|_| attacker.say(&hello.encode())).collect();
    sleep(Duration::from_millis(attacker.rng.u64(..1000)));
    if attacker.rng.bool() {
        given.expect([0; 16], attacker.port);
    }
    drop(given);
    waiting.into_iter().map(is_closed).for_each(drop);
}

fn random_frames(attacker: &mut Attacker) {
    let (_given, stream) = attacker.met();
    let len = attacker.rng.usize(32..20_000);
    let mut bytes = attacker.bytes(len);
    // No kind has this number.
    bytes[0] |= 8;
    tell(&stream, &bytes);
    attacker.is_closed_and_counted(stream);
}

/// Frames as a peer sends them.
fn proper(attacker: &mut Attacker, given: &QueuePair, frames: &mut Frames) -> Vec<u8> {
    let mut bytes = Vec::new();
    let messages = RECEIVES / 2;
    for number in 0..attacker.rng.u32(1..20) {
        let length = attacker.rng.u32(..5000);
        let kind = match attacker.rng.u8(..3) {
            0 if number < messages => WRITE_WITH_IMM,
            1 if number < messages => READ,
            _ => WRITE,
        };
        let flags = attacker.rng.u8(..4);
        bytes.extend(frames.next(Frame {
            kind,
            flags,
            length,
            imm: number,
            ..of(given.given.open)
        }));
        if kind != READ {
            bytes.extend(attacker.bytes(length as usize));
        }
    }
    bytes
}

fn of(slice: Slice) -> Frame {
    Frame {
        addr: slice.addr,
        rkey: slice.rkey,
        ..Frame::default()
    }
}

/// A peer that does nothing wrong is answered.
fn is_served(given: &QueuePair, mut stream: &TcpStream) {
    let read = Frame {
        kind: READ,
        length: 100,
        ..of(given.given.open)
    };
    tell(stream, &Frames::new().next(read));
    let mut answer = [0; 132];
    stream
        .read_exact(&mut answer)
        .expect("who keeps to the protocol is answered");
    assert_eq!(answer[0], READ_DATA);
}

/// Whatever comes of it, it may only be the end of this connection.
fn flipped_frames(attacker: &mut Attacker) {
    let (given, stream) = attacker.met();
    let mut bytes = proper(attacker, &given, &mut Frames::new());
    for _ in 0..attacker.rng.u32(1..6) {
        let at = attacker.rng.usize(..bytes.len());
        bytes[at] ^= 1 << attacker.rng.u8(..8);
    }
    tell(&stream, &bytes);
    let _ = stream.shutdown(Shutdown::Write);
    is_closed(stream);
}

fn replayed_frames(attacker: &mut Attacker) {
    let (given, stream) = attacker.met();
    let bytes = proper(attacker, &given, &mut Frames::new());
    tell(&stream, &bytes);
    tell(&stream, &bytes);
    attacker.is_closed_and_counted(stream);
}

fn interleaved(attacker: &mut Attacker) {
    let (given, stream) = attacker.met();
    let mut frames = Frames::new();
    let length = attacker.rng.u32(1..32) + 32 * attacker.rng.u32(..10);
    let write = Frame {
        kind: WRITE,
        length,
        ..of(given.given.open)
    };
    let mut bytes = frames.next(write);
    // Its end is taken for the beginning of one that is not whole.
    while bytes.len() < 2000 {
        bytes.extend(frames.next(Frame { length: 0, ..write }));
    }
    tell(&stream, &bytes);
    attacker.is_closed_and_counted(stream);
}

fn out_of_sequence(attacker: &mut Attacker) {
    let (given, stream) = attacker.met();
    let mut frames = Frames::new();
    for _ in 0..attacker.rng.u32(1..1000) {
        frames.next(Frame::default());
    }
    tell(&stream, &frames.next(of(given.given.open)));
    attacker.is_closed_and_counted(stream);
}

fn too_long(attacker: &mut Attacker) {
    let (given, stream) = attacker.met();
    let frame = Frame {
        kind: attacker.rng.u8(..4),
        length: attacker.rng.u32(MAX_MESSAGE + 1..),
        ..of(given.given.open)
    };
    tell(&stream, &Frames::new().next(frame));
    tell(&stream, &attacker.bytes(5000));
    attacker.is_closed_and_counted(stream);
}

/// The victim refuses this, in words, and closes.
fn is_refused(attacker: &mut Attacker, frame: Frame) {
    let (given, stream) = attacker.met();
    let frame = Frame {
        kind: [WRITE, WRITE_WITH_IMM, READ][attacker.rng.usize(..3)],
        ..frame
    };
    refused(attacker, stream, frame);
    drop(given);
}

fn refused(attacker: &mut Attacker, stream: TcpStream, frame: Frame) {
    tell(&stream, &Frames::new().next(frame));
    if attacker.rng.bool() {
        tell(&stream, &attacker.bytes(10_000));
    }
    let said = is_closed(stream);
    // It is lost if the victim had not read all.
    assert!(said.is_empty() || said[0] == REFUSAL, "{:?}", &said[..1]);
}

fn beyond_memory(attacker: &mut Attacker) {
    let open = attacker.waiting().given.open;
    let length = attacker.rng.u32(LEN as u32 + 1..=MAX_MESSAGE);
    is_refused(attacker, Frame { length, ..of(open) });
}

fn wrong_rkey(attacker: &mut Attacker) {
    let open = attacker.waiting().given.open;
    let rkey = open.rkey.wrapping_add(attacker.rng.u32(1..1000));
    let frame = Frame {
        rkey,
        length: 8,
        ..of(open)
    };
    is_refused(attacker, frame);
}

fn wrong_bounds(attacker: &mut Attacker) {
    let open = attacker.waiting().given.open;
    let end = open.addr + LEN as u64;
    let addr = match attacker.rng.u8(..4) {
        0 => open.addr - attacker.rng.u64(1..8),
        1 => end - attacker.rng.u64(..8),
        2 => u64::MAX - attacker.rng.u64(..16),
        _ => attacker.rng.u64(..1 << 20),
    };
    let frame = Frame {
        addr,
        length: 8,
        ..of(open)
    };
    is_refused(attacker, frame);
}

fn wrong_rights(attacker: &mut Attacker) {
    let (given, stream) = attacker.met();
    let [readable, writable, local] = given.given.closed;
    let (slice, kind) = [
        (readable, WRITE),
        (readable, WRITE_WITH_IMM),
        (writable, READ),
        (local, WRITE),
        (local, READ),
    ][attacker.rng.usize(..5)];
    let frame = Frame {
        kind,
        addr: slice.addr + attacker.rng.u64(..LEN as u64 - 5000),
        length: attacker.rng.u32(1..5000),
        ..of(slice)
    };
    refused(attacker, stream, frame);
}

fn unasked(attacker: &mut Attacker) {
    let (_given, stream) = attacker.met();
    let mut frame = Frame {
        kind: [READ_DATA, ACK, REFUSAL][attacker.rng.usize(..3)],
        imm: attacker.rng.u32(..4),
        ..Frame::default()
    };
    if frame.kind == ACK {
        frame.executed = attacker.rng.u32(1..);
    }
    tell(&stream, &Frames::new().next(frame));
    attacker.is_closed_and_counted(stream);
}

/// More messages than there are receives, by the terms of a peer that waits for ever.
fn no_receive(attacker: &mut Attacker) -> (QueuePair, TcpStream) {
    let given = attacker.expecting();
    let mut hello = given.hello();
    hello.rnr_retry = 7;
    let stream = attacker.meet(&hello);
    let mut frames = Frames::new();
    for _ in 0..4 * RECEIVES {
        let message = Frame {
            kind: WRITE_WITH_IMM,
            flags: ACKNOWLEDGE,
            ..of(given.given.open)
        };
        tell(&stream, &frames.next(message));
    }
    (given, stream)
}

fn no_receive_then_reset(attacker: &mut Attacker) {
    let (given, stream) = no_receive(attacker);
    sleep(Duration::from_millis(attacker.rng.u64(..300)));
    reset(stream);
    // What it leaves behind has to be quiet: see `is_at_rest`.
    sleep(Duration::from_millis(attacker.rng.u64(..3000)));
    drop(given);
}

fn no_receive_then_silence(attacker: &mut Attacker) {
    let (given, stream) = no_receive(attacker);
    if attacker.rng.bool() {
        let _ = stream.shutdown(Shutdown::Write);
    }
    sleep(Duration::from_millis(attacker.rng.u64(..3000)));
    drop(given);
    is_closed(stream);
}

/// The beginning of a frame with many bytes.
fn begun(attacker: &mut Attacker) -> (QueuePair, TcpStream) {
    let (given, stream) = attacker.met();
    let write = Frame {
        kind: WRITE,
        length: LEN as u32,
        ..of(given.given.open)
    };
    let mut bytes = Frames::new().next(write);
    let len = attacker.rng.usize(..100_000);
    bytes.extend(attacker.bytes(len));
    bytes.truncate(attacker.rng.usize(1..bytes.len()));
    tell(&stream, &bytes);
    (given, stream)
}

fn reset_in_frame(attacker: &mut Attacker) {
    let (_given, stream) = begun(attacker);
    reset(stream);
}

fn half_closed(attacker: &mut Attacker) {
    let (_given, stream) = begun(attacker);
    let _ = stream.shutdown(Shutdown::Write);
    is_closed(stream);
}

fn byte_by_byte(attacker: &mut Attacker) {
    let (given, stream) = attacker.met();
    let bytes = proper(attacker, &given, &mut Frames::new());
    for byte in &bytes[..bytes.len().min(3000)] {
        tell(&stream, &[*byte]);
    }
    let pause = Duration::from_secs(1);
    for byte in bytes.iter().skip(3000).take(5) {
        sleep(pause);
        tell(&stream, &[*byte]);
    }
    drop(given);
    is_closed(stream);
}

fn read_of(given: &QueuePair, length: usize) -> Frame {
    Frame {
        kind: READ,
        length: length as u32,
        ..of(given.given.open)
    }
}

fn stops_reading(attacker: &mut Attacker) {
    let (given, stream) = attacker.met();
    let mut frames = Frames::new();
    for _ in 0..8 {
        tell(&stream, &frames.next(read_of(&given, LEN)));
    }
    sleep(Duration::from_millis(attacker.rng.u64(..6000)));
    if attacker.rng.bool() {
        reset(stream);
    }
}

/// The victim keeps none of them beyond what a device may have.
fn many_reads(attacker: &mut Attacker) {
    let given = attacker.expecting();
    let mut hello = given.hello();
    hello.max_send_wr = [u32::MAX, 1 << 18][attacker.rng.usize(..2)];
    let stream = attacker.say(&hello.encode());
    let length = [0, LEN][attacker.rng.usize(..2)];
    pour(attacker, &stream, read_of(&given, length), 0);
}

fn reads_little(attacker: &mut Attacker) {
    let (given, stream) = attacker.met();
    let write = Frame {
        kind: WRITE,
        flags: ACKNOWLEDGE,
        ..of(given.given.open)
    };
    let each = attacker.rng.usize(1..64);
    pour(attacker, &stream, write, each);
}

fn flood(attacker: &mut Attacker) {
    let (given, stream) = attacker.met();
    let write = of(given.given.open);
    pour(attacker, &stream, write, 4096);
}

/// This frame again and again for some seconds; now and then `each` bytes are read.
fn pour(attacker: &mut Attacker, mut stream: &TcpStream, frame: Frame, each: usize) {
    let end = Instant::now() + Duration::from_millis(attacker.rng.u64(500..4000));
    let short = Some(Duration::from_millis(1));
    stream.set_write_timeout(short).unwrap();
    stream.set_read_timeout(short).unwrap();
    let mut frames = Frames::new();
    let mut read = vec![0; each];
    while Instant::now() < end {
        let many: Vec<u8> = (0..256).flat_map(|_| frames.next(frame)).collect();
        let mut rest = &many[..];
        while !rest.is_empty() && Instant::now() < end {
            match std::io::Write::write(&mut stream, rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            if each > 0 {
                let _ = stream.read(&mut read);
            }
        }
    }
}

fn impostor(attacker: &mut Attacker) {
    let (given, stream) = attacker.dialled();
    match attacker.rng.u8(..3) {
        0 => {
            let bytes = attacker.bytes(100);
            tell(&stream, &bytes);
            attacker.is_closed_and_counted(stream);
        }
        1 => {
            let mut hello = given.hello();
            hello.gid = [0xff; 16];
            hello.key[0] ^= 1;
            tell(&stream, &hello.encode());
            attacker.is_closed_and_counted(stream);
        }
        _ => {
            sleep(Duration::from_millis(attacker.rng.u64(..3000)));
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
}

fn false_friend(attacker: &mut Attacker) {
    let (given, stream) = attacker.dialled();
    let mut hello = given.hello();
    hello.gid = [0xff; 16];
    tell(&stream, &hello.encode());
    tell(&stream, &proper(attacker, &given, &mut Frames::new()));
    tell(&stream, &[0xff; 64]);
    attacker.is_closed_and_counted(stream);
}

fn gone_when_dialled(attacker: &mut Attacker) {
    let (_given, stream) = attacker.dialled();
    if attacker.rng.bool() {
        reset(stream);
    }
}
