//! What a link is told, what it says, and what the ends write to each other.

use std::time::Duration;

/// Names one connection, or an attempt at one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    /// Incarnation of the end that began.
    pub opener: u64,
    /// Its attempts to connect with the other end, this one included.
    pub attempt: u64,
}

/// What the ends write to each other over the control plane. It may be late, come twice or be read
/// by another life of the addressee. `E` is what an end must know of the other's to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeMessage<E> {
    /// Incarnation of the writer.
    pub from: u64,
    /// Incarnation of the addressee.
    pub to: u64,
    /// What it is about.
    pub session: Session,
    /// What it says.
    pub body: Body<E>,
}

/// See [`HandshakeMessage`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<E> {
    /// Connect with me.
    Open {
        /// The opener's end.
        endpoint: E,
        /// The challenge that this answers.
        echo: Option<u64>,
    },
    /// Are you alive? Open once more, with this number.
    Challenge(u64),
    /// I am connected with you.
    Accept {
        /// The acceptor's end.
        endpoint: E,
        /// Attempts of the acceptor up to this one are void.
        void: u64,
    },
    /// This session is over, or never was.
    End,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<E> {
    /// The connection is wanted: it is made, and made again whenever it is lost.
    Want,
    /// It is not wanted any more: it ends, and is made again only if the peer opens it.
    Leave,
    /// There is reason to think that the peer can be reached now, or that another life of it can:
    /// it has registered, say.
    Wake,
    /// Answer to [`Action::LookUp`]: the incarnation that the peer has published, if it has any.
    Record(Option<u64>),
    /// The peer, or an earlier life of it, has written.
    HandshakeMessage(HandshakeMessage<E>),
    /// Answer to [`Action::Make`].
    Made {
        /// What it was made for.
        session: Session,
        /// To be told to the peer.
        endpoint: E,
    },
    /// The end of this session could not be made or joined, or is in error.
    Lost(Session),
    /// Answer to [`Action::Drain`].
    Drained(Session),
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<E> {
    /// Ask the control plane which life of the peer there is. An answer that does not come is asked
    /// for again.
    LookUp,
    /// Create queue pairs. They are the only ones of this link.
    Make(Session),
    /// Connect what was made for a session with the peer's end.
    Join {
        /// The session.
        session: Session,
        /// The peer's end.
        theirs: E,
    },
    /// Write to the peer.
    Send(HandshakeMessage<E>),
    /// The session can be used, with this life of the peer.
    Up {
        /// The session.
        session: Session,
        /// Incarnation of the peer.
        peer: u64,
    },
    /// The session is over, whether it was up, made or still being made: its queue pairs go to ERR,
    /// its calls end, and when it is drained that is [said](Input::Drained).
    Drain(Session),
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryTiming {
    /// For the answer to a look-up or an open.
    pub answer: Duration,
    /// Before the first attempt after a failed one; doubled with each.
    pub first: Duration,
    /// Before any attempt, at most.
    pub last: Duration,
}

impl Default for RetryTiming {
    /// 1 s; 10 ms to 1 s.
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(1),
            first: Duration::from_millis(10),
            last: Duration::from_secs(1),
        }
    }
}
