//! Two links face each other, and one faces ghosts. (Many, with faults, are in the simulation.)

use std::time::{Duration, Instant};

use super::*;

/// Incarnations: of us, of a peer, and of the life that it had before.
const US: u64 = 0x11;
const PEER: u64 = 0x22;
const STALE_RETRY: u64 = 0x33;

/// What has been asked for and is not answered.
#[derive(Debug, Clone)]
enum Pending {
    Record,
    Made(Session),
    Drained(Session),
    HandshakeMessage(HandshakeMessage<u64>),
}

/// Two links and what lies between them. An end is known by its incarnation.
#[derive(Debug, Clone)]
struct Two {
    links: [PeerConnection<u64>; 2],
    pending: Vec<(usize, Pending)>,
    now: Instant,
    /// The end that cannot join any session.
    unjoinable: Option<usize>,
    /// How many sessions have been up at each end.
    ups: [usize; 2],
}

const INCARNATIONS: [u64; 2] = [US, PEER];

impl Two {
    fn new() -> Self {
        Self {
            links: INCARNATIONS
                .map(|incarnation| PeerConnection::new(incarnation, RetryTiming::default())),
            pending: Vec::new(),
            now: Instant::now(),
            unjoinable: None,
            ups: [0; 2],
        }
    }

    fn tell(&mut self, end: usize, input: Input<u64>) {
        self.links[end].handle(input, self.now);
        self.act(end);
    }

    fn act(&mut self, end: usize) {
        while let Some(action) = self.links[end].poll_action() {
            match action {
                Action::LookUp => self.pending.push((end, Pending::Record)),
                Action::Make(session) => self.pending.push((end, Pending::Made(session))),
                Action::Drain(session) => {
                    // What was to be made for it is not made any more.
                    let is_of =
                        |pending: &Pending| matches!(pending, Pending::Made(of) if *of == session);
                    self.pending
                        .retain(|(whose, pending)| *whose != end || !is_of(pending));
                    self.pending.push((end, Pending::Drained(session)));
                }
                Action::Send(message) => self
                    .pending
                    .push((1 - end, Pending::HandshakeMessage(message))),
                Action::Join { session, .. } if self.unjoinable == Some(end) => {
                    self.links[end].handle(Input::Lost(session), self.now);
                }
                Action::Join { .. } => {}
                Action::Up { .. } => self.ups[end] += 1,
            }
        }
    }

    fn happens(&mut self, at: usize) {
        let (end, pending) = self.pending.remove(at);
        let input = match pending {
            Pending::Record => Input::Record(Some(INCARNATIONS[1 - end])),
            Pending::Made(session) => Input::Made {
                session,
                endpoint: INCARNATIONS[end],
            },
            Pending::Drained(session) => Input::Drained(session),
            Pending::HandshakeMessage(message) => Input::HandshakeMessage(message),
        };
        self.tell(end, input);
    }

    /// Follows every order in which what is pending can happen, and says how many there are. So
    /// many times, an end may also lose patience.
    fn follow_all(&self, timeouts: usize, check: &mut impl FnMut(&Self)) -> usize {
        if self.pending.is_empty() {
            check(self);
            return 1;
        }
        let mut orders = 0;
        for at in 0..self.pending.len() {
            let mut next = self.clone();
            next.happens(at);
            orders += next.follow_all(timeouts, check);
        }
        for end in [0, 1] {
            let mut next = self.clone();
            if timeouts > 0 && next.lose_patience(end) {
                orders += next.follow_all(timeouts - 1, check);
            }
        }
        orders
    }

    /// Time passes until `end` wants to be told. Says whether it does.
    fn lose_patience(&mut self, end: usize) -> bool {
        let Some(until) = self.links[end].next_timeout() else {
            return false;
        };
        self.now = self.now.max(until);
        self.links[end].handle_timeout(self.now);
        self.act(end);
        true
    }

    /// Goes on until nothing is to be done or waited for any more.
    fn settle(&mut self) {
        for _ in 0..50 {
            self.run();
            let next = |end: &usize| self.links[*end].next_timeout();
            let first = [0, 1]
                .into_iter()
                .filter(|end| next(end).is_some())
                .min_by_key(next);
            match first {
                Some(end) => self.lose_patience(end),
                None => return,
            };
        }
        panic!("it does not come to rest");
    }

    fn run(&mut self) {
        while !self.pending.is_empty() {
            self.happens(0);
        }
    }

    fn session(&self) -> Session {
        let [ours, theirs] = [&self.links[0], &self.links[1]].map(|link| link.connected());
        let (ours, theirs) = (ours.expect("connected"), theirs.expect("connected"));
        assert_eq!(ours.0, theirs.0, "one connection");
        assert_eq!((ours.1, theirs.1), (PEER, US));
        ours.0
    }
}

#[test]
fn one_connection_when_both_open_at_once_whatever_the_order() {
    let mut two = Two::new();
    two.tell(0, Input::Want);
    two.tell(1, Input::Want);
    let orders = two.follow_all(0, &mut |end| {
        end.session();
    });
    assert!(orders > 20, "only {orders} orders");
}

#[test]
fn one_connection_when_an_end_loses_patience_meanwhile_whatever_the_order() {
    let mut two = Two::new();
    two.tell(0, Input::Want);
    two.tell(1, Input::Want);
    let orders = two.follow_all(1, &mut |end| {
        let mut end = end.clone();
        end.settle();
        end.session();
    });
    assert!(orders > 100, "only {orders} orders");
}

#[test]
fn one_connection_when_one_end_has_lost_the_old_and_the_other_has_not_noticed() {
    let mut two = Two::new();
    two.tell(0, Input::Want);
    two.run();
    let first = two.session();
    // The accepting end loses it, and begins anew.
    two.tell(1, Input::Want);
    two.tell(1, Input::Lost(first));
    two.run();
    assert!(two.lose_patience(1), "it tries again");
    let orders = two.follow_all(1, &mut |end| {
        let mut end = end.clone();
        end.settle();
        assert_ne!(end.session(), first);
    });
    assert!(orders > 1, "only {orders} orders");
}

fn open(from: u64, attempt: u64, echo: Option<u64>) -> Input<u64> {
    Input::HandshakeMessage(HandshakeMessage {
        from,
        to: US,
        session: Session {
            opener: from,
            attempt,
        },
        body: Body::Open {
            endpoint: from,
            echo,
        },
    })
}

/// Connected with `PEER`, which opened.
fn connected() -> (PeerConnection<u64>, Instant) {
    let (mut link, now) = (
        PeerConnection::new(US, RetryTiming::default()),
        Instant::now(),
    );
    link.handle(open(PEER, 1, None), now);
    let session = Session {
        opener: PEER,
        attempt: 1,
    };
    let endpoint = US;
    link.handle(Input::Made { session, endpoint }, now);
    assert_eq!(link.connected(), Some((session, PEER)));
    while link.poll_action().is_some() {}
    (link, now)
}

#[test]
fn fence_1_the_ghost_of_an_earlier_life_is_challenged_and_changes_nothing() {
    let (mut link, now) = connected();
    let before = link.connected();
    for echo in [None, Some(0), Some(7), None] {
        link.handle(open(STALE_RETRY, 9, echo), now);
        let Some(Action::Send(message)) = link.poll_action() else {
            panic!("it is asked whether it lives")
        };
        assert_eq!(
            (message.to, message.body),
            (STALE_RETRY, Body::Challenge(1))
        );
        assert_eq!(link.poll_action(), None);
        assert_eq!(link.connected(), before);
    }
    let session = Session {
        opener: PEER,
        attempt: 1,
    };
    // Nor may it end what is not its own.
    let message = HandshakeMessage {
        from: STALE_RETRY,
        to: US,
        session,
        body: Body::End,
    };
    link.handle(Input::HandshakeMessage(message), now);
    assert_eq!(link.connected(), before);
}

#[test]
fn fence_1_a_new_life_that_echoes_the_challenge_is_believed_and_the_old_one_no_more() {
    let (mut link, now) = connected();
    let old = link.connected().expect("connected").0;
    link.handle(open(STALE_RETRY, 1, Some(1)), now);
    assert_eq!(
        link.poll_action(),
        Some(Action::Drain(old)),
        "SLOT-1: first of all"
    );
    assert_eq!(link.poll_action(), None);
    link.handle(Input::Drained(old), now);
    let session = Session {
        opener: STALE_RETRY,
        attempt: 1,
    };
    assert_eq!(link.poll_action(), Some(Action::Make(session)));
    link.handle(
        Input::Made {
            session,
            endpoint: US,
        },
        now,
    );
    assert_eq!(link.connected(), Some((session, STALE_RETRY)));
    // The challenge that the other one could have echoed is void.
    while link.poll_action().is_some() {}
    link.handle(open(PEER, 5, Some(1)), now);
    assert_eq!(link.connected(), Some((session, STALE_RETRY)));
}

#[test]
fn fence_1_what_is_written_to_an_earlier_life_of_ours_is_dropped() {
    let (mut link, now) = (
        PeerConnection::<u64>::new(US + 1, RetryTiming::default()),
        Instant::now(),
    );
    link.handle(open(PEER, 1, None), now);
    assert_eq!(link.poll_action(), None);
}

#[test]
fn an_attempt_that_comes_again_or_late_opens_nothing() {
    let (mut link, now) = connected();
    link.handle(open(PEER, 1, None), now);
    assert_eq!(link.poll_action(), None);
    link.handle(open(PEER, 2, None), now);
    assert!(
        matches!(link.poll_action(), Some(Action::Drain(_))),
        "a newer one does"
    );
}

#[test]
fn an_attempt_at_a_dead_life_is_given_up_as_soon_as_there_is_another() {
    let (mut link, now) = (
        PeerConnection::<u64>::new(US, RetryTiming::default()),
        Instant::now(),
    );
    link.handle(Input::Want, now);
    assert_eq!(link.poll_action(), Some(Action::LookUp));
    link.handle(Input::Record(Some(STALE_RETRY)), now);
    let Some(Action::Make(session)) = link.poll_action() else {
        panic!("it opens")
    };
    let endpoint = US;
    link.handle(Input::Made { session, endpoint }, now);
    assert!(matches!(link.poll_action(), Some(Action::Send(_))));

    // Nothing new: it goes on.
    link.handle(Input::Wake, now);
    assert_eq!(link.poll_action(), Some(Action::LookUp));
    for record in [Some(STALE_RETRY), None] {
        link.handle(Input::Record(record), now);
        assert_eq!(link.poll_action(), None);
    }
    link.handle(Input::Wake, now);
    assert_eq!(link.poll_action(), Some(Action::LookUp));
    link.handle(Input::Record(Some(PEER)), now);
    assert_eq!(link.poll_action(), Some(Action::Drain(session)), "SLOT-1");
    link.handle(Input::Drained(session), now);
    let again = link.next_timeout().expect("it tries again");
    assert!(again <= now + RetryTiming::default().first);
    link.handle_timeout(again);
    assert_eq!(link.poll_action(), Some(Action::LookUp));
    link.handle(Input::Record(Some(PEER)), again);
    assert!(matches!(link.poll_action(), Some(Action::Make(_))));
}

#[test]
fn attempts_come_ever_later_but_not_later_than_the_pace_says() {
    let timing = RetryTiming::default();
    let (mut link, mut now) = (PeerConnection::<u64>::new(US, timing), Instant::now());
    link.handle(Input::Want, now);
    let mut waits = Vec::new();
    for _ in 0..40 {
        link.handle(Input::Record(None), now);
        let until = link.next_timeout().expect("it tries again");
        waits.push(until - now);
        now = until;
        link.handle_timeout(now);
    }
    assert!(waits[0] <= timing.first && waits.iter().all(|wait| *wait <= timing.last));
    assert!(
        waits[39] >= timing.last / 2 && waits[3] > 2 * waits[0],
        "{waits:?}"
    );
    link.handle(Input::Leave, now);
    assert_eq!(link.next_timeout(), None);
    assert!(waits.iter().sum::<Duration>() > Duration::from_secs(10));
}

/// Each end in turn cannot join the other, ten times in a row.
#[test]
fn a_session_that_cannot_be_joined_is_up_at_neither_end_and_tried_ever_later() {
    for broken in [0, 1] {
        let mut two = Two::new();
        two.tell(0, Input::Want);
        two.unjoinable = Some(broken);
        let mut waits = Vec::new();
        while waits.len() < 10 {
            two.run();
            assert_eq!(two.ups[broken], 0);
            // The end that opens was told of no end that accepts and has not joined.
            assert!(broken == 0 || two.ups == [0, 0]);
            let before = two.now;
            assert!(two.lose_patience(0), "it tries again");
            waits.push(two.now - before);
        }
        assert!(two.links[0].is_in_trouble());
        let longest = waits.iter().max().expect("there are some");
        assert!(*longest > 8 * RetryTiming::default().first, "{waits:?}");
        two.unjoinable = None;
        two.settle();
        two.session();
        assert!(!two.links[0].is_in_trouble());
    }
}

#[test]
fn who_leaves_says_so_and_the_peer_may_open_again() {
    let (mut link, now) = connected();
    let (session, _) = link.connected().expect("connected");
    link.handle(Input::Leave, now);
    let Some(Action::Send(message)) = link.poll_action() else {
        panic!("the peer is told")
    };
    assert_eq!((message.session, message.body), (session, Body::End));
    assert_eq!(link.poll_action(), Some(Action::Drain(session)));
    link.handle(Input::Drained(session), now);
    assert_eq!((link.poll_action(), link.next_timeout()), (None, None));
    link.handle(open(PEER, 2, None), now);
    assert!(matches!(link.poll_action(), Some(Action::Make(_))));
}

#[test]
fn a_spare_connection_goes_on_until_it_is_lost_and_is_then_made_only_if_it_is_wanted_again() {
    for is_wanted_again in [false, true] {
        let (mut link, now) = connected();
        let (session, _) = link.connected().expect("connected");
        link.handle(Input::Want, now);
        link.handle(Input::Spare, now);
        if is_wanted_again {
            link.handle(Input::Want, now);
        }
        assert_eq!(
            (link.connected().is_some(), link.poll_action()),
            (true, None)
        );
        link.handle(Input::Lost(session), now);
        assert_eq!(link.poll_action(), Some(Action::Drain(session)));
        link.handle(Input::Drained(session), now);
        assert_eq!(link.next_timeout().is_some(), is_wanted_again);
        // The peer is answered in any case.
        link.handle(open(PEER, 2, None), now);
        assert!(matches!(link.poll_action(), Some(Action::Make(_))));
    }
}

#[test]
fn attempts_go_on_after_those_of_an_earlier_connection() {
    let now = Instant::now();
    let mut link = PeerConnection::<u64>::new(US, RetryTiming::default()).after(7);
    link.handle(Input::Want, now);
    link.handle(Input::Record(Some(PEER)), now);
    assert_eq!(link.poll_action(), Some(Action::LookUp));
    let eighth = Session {
        opener: US,
        attempt: 8,
    };
    assert_eq!(link.poll_action(), Some(Action::Make(eighth)));
    assert_eq!(link.attempts(), 8);
}

#[test]
fn fence_1_nobody_else_has_our_incarnation() {
    let now = Instant::now();
    let mut link = PeerConnection::new(US, RetryTiming::default());
    let session = Session {
        opener: US,
        attempt: 1,
    };
    for body in [
        Body::Open {
            endpoint: 7,
            echo: None,
        },
        Body::Challenge(1),
        Body::Accept {
            endpoint: 7,
            void: 0,
        },
        Body::End,
    ] {
        let message = HandshakeMessage {
            from: US,
            to: US,
            session,
            body,
        };
        link.handle(Input::HandshakeMessage(message), now);
        assert_eq!(link.poll_action(), None);
    }
    // A record that says so is nobody's.
    link.handle(Input::Want, now);
    assert_eq!(link.poll_action(), Some(Action::LookUp));
    link.handle(Input::Record(Some(US)), now);
    assert_eq!(link.poll_action(), None);
    assert_eq!(link.connected(), None);
}

/// A peer that is asked by a thousand at once answers the last of them late.
#[test]
fn who_is_not_answered_waits_longer_each_time() {
    let timing = RetryTiming::default();
    let mut link = PeerConnection::<u64>::new(US, timing);
    let mut now = Instant::now();
    link.handle(Input::Want, now);
    let mut waits = Vec::new();
    while waits.len() < 6 {
        while let Some(action) = link.poll_action() {
            let input = match action {
                Action::LookUp => Input::Record(Some(PEER)),
                Action::Make(session) => Input::Made {
                    session,
                    endpoint: US,
                },
                Action::Drain(session) => Input::Drained(session),
                Action::Send(message) => {
                    assert!(matches!(message.body, Body::Open { .. }));
                    let until = link.next_timeout().expect("it waits for an answer");
                    waits.push(
                        until.duration_since(now).as_secs_f64() / timing.answer.as_secs_f64(),
                    );
                    continue;
                }
                other => panic!("{other:?}"),
            };
            link.handle(input, now);
        }
        now = link.next_timeout().expect("it goes on");
        link.handle_timeout(now);
    }
    assert_eq!(waits, [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]);
}
