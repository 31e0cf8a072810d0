//! Whatever stands in an agent's stream is mail or an error; what native agents write to each other
//! by it is read or refused; and a link that is told any letters stays within its rules.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use slimerpc::channel::peer_connection::{Action, Body, HandshakeMessage, Input, PeerConnection, RetryTiming, Session};
use slimerpc::control::{Mail, read_mail};
use slimerpc_actors::fuzzing::read_handshake;

#[derive(Debug, Arbitrary)]
enum Case<'a> {
    /// An answer of Redis, or an event in it.
    Answer(&'a [u8]),
    /// The body of mail of one of our kinds.
    Body(u8, &'a str),
    /// What one link is told.
    PeerConnection(Vec<Step>),
}

const KINDS: [&str; 5] = [
    "slimerpc_open",
    "slimerpc_answer",
    "slimerpc_one_sided_open",
    "slimerpc_one_sided_answer",
    "slimerpc_link",
];

#[derive(Debug, Arbitrary)]
enum Step {
    Want,
    Leave,
    Spare,
    Wake,
    Record(Option<u8>),
    HandshakeMessage {
        from: u8,
        to: u8,
        opener: u8,
        attempt: u64,
        text: Text,
    },
    /// Its session is in error.
    Lost,
    /// So many milliseconds pass.
    Wait(u16),
    /// The next end cannot be made.
    NoneIsMade,
}

#[derive(Debug, Arbitrary)]
enum Text {
    Open(Option<u64>),
    Challenge(u64),
    Accept(u64),
    End,
}

const US: u64 = 2;

/// Incarnations: ours, and some that are larger and smaller.
fn incarnation(which: u8) -> u64 {
    [US, 1, 3, u64::MAX][usize::from(which) % 4]
}

/// A link and a shell that does what it says.
struct Shell {
    link: PeerConnection<u8>,
    now: Instant,
    /// The session that has queue pairs.
    live: Option<Session>,
    is_made: bool,
}

impl Shell {
    fn tell(&mut self, input: Input<u8>) {
        self.link.handle(input, self.now);
        self.act();
    }

    fn act(&mut self) {
        let mut actions = 0;
        while let Some(action) = self.link.poll_action() {
            actions += 1;
            assert!(actions < 32, "it is never done");
            match action {
                Action::Make(session) => {
                    assert_eq!(self.live.replace(session), None, "SLOT-1");
                    let made = if std::mem::replace(&mut self.is_made, true) {
                        Input::Made {
                            session,
                            endpoint: 7,
                        }
                    } else {
                        Input::Lost(session)
                    };
                    self.link.handle(made, self.now);
                }
                Action::Drain(session) => {
                    assert_eq!(self.live.take(), Some(session));
                    self.link.handle(Input::Drained(session), self.now);
                }
                Action::Join { session, .. } | Action::Up { session, .. } => {
                    assert_eq!(self.live, Some(session));
                }
                Action::Send(letter) => assert_eq!(letter.from, US),
                Action::LookUp => {}
            }
        }
        if let Some((session, peer)) = self.link.connected() {
            assert_eq!(self.live, Some(session));
            assert_ne!(peer, US);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Want => self.tell(Input::Want),
            Step::Leave => self.tell(Input::Leave),
            Step::Spare => self.tell(Input::Spare),
            Step::Wake => self.tell(Input::Wake),
            Step::Record(found) => self.tell(Input::Record(found.map(incarnation))),
            Step::HandshakeMessage {
                from,
                to,
                opener,
                attempt,
                text,
            } => self.tell(Input::HandshakeMessage(HandshakeMessage {
                from: incarnation(from),
                to: incarnation(to),
                session: Session {
                    opener: incarnation(opener),
                    attempt,
                },
                body: match text {
                    Text::Open(echo) => Body::Open { endpoint: 9, echo },
                    Text::Challenge(number) => Body::Challenge(number),
                    Text::Accept(void) => Body::Accept { endpoint: 9, void },
                    Text::End => Body::End,
                },
            })),
            Step::Lost => {
                if let Some(session) = self.live {
                    self.tell(Input::Lost(session));
                }
            }
            Step::Wait(millis) => {
                self.now += Duration::from_millis(millis.into());
                self.link.handle_timeout(self.now);
                self.act();
            }
            Step::NoneIsMade => self.is_made = false,
        }
    }
}

fuzz_target!(|case: Case<'_>| {
    match case {
        Case::Answer(answer) => read_mail(answer),
        Case::Body(kind, body) => {
            let kind = KINDS[usize::from(kind) % KINDS.len()];
            let mail = Mail::new(kind).with("peer", "worker:0").with("body", body);
            read_handshake(&mail);
        }
        Case::PeerConnection(steps) => {
            let mut shell = Shell {
                link: PeerConnection::new(US, RetryTiming::default()),
                now: Instant::now(),
                live: None,
                is_made: true,
            };
            steps.into_iter().for_each(|step| shell.step(step));
        }
    }
});
