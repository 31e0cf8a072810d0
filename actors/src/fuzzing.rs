//! Entry points for fuzz targets; not for users.

use slimerpc::control::Mail;

use crate::agent::handshake::Handshake;
use crate::dlslime::handshake::{self, QpReady};

/// Reads a `qp_ready` message. A message that is accepted must survive a round trip.
pub fn read_qp_ready(mail: &Mail) {
    assert!(QpReady::is(mail));
    let Ok(ready) = QpReady::read(mail) else {
        return;
    };
    let again = handshake::mail("driver:0", &ready.peer, &ready.queue_pairs, &ready.path);
    let read = QpReady::read(&again).expect("what we write, we read");
    assert_eq!(read.queue_pairs, ready.queue_pairs);
}

/// Reads a message of a native agent. A message that is accepted must survive a round trip.
pub fn read_handshake(mail: &Mail) {
    let Ok(Some(handshake)) = Handshake::read(mail) else {
        return;
    };
    let read = format!("{handshake:?}");
    let again = match handshake {
        Handshake::Open(peer, open) => open.to_mail(&peer),
        Handshake::OneSidedOpen(peer, open) => open.to_mail(&peer),
        Handshake::Link(peer, message) => message.to_mail(&peer),
        Handshake::Answer(answer) => answer.to_mail("worker:0"),
        Handshake::OneSidedAnswer(answer) => answer.to_mail("worker:0"),
    };
    let again = Handshake::read(&again).expect("what we write, we read");
    assert_eq!(format!("{:?}", again.expect("it is of our kinds")), read);
}
