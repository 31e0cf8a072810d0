//! Inputs and actions of a [`PeerConnection`](super::PeerConnection), and the messages that its two
//! ends exchange.

use std::time::Duration;

/// Identifies one connection, or an attempt at one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    /// Incarnation of the opening end.
    pub opener: u64,
    /// Number of the opening end's attempt, from 1.
    pub attempt: u64,
}

/// A message between the two ends, sent through the control plane. It may arrive late, twice, or at
/// another incarnation of the addressee. `E` is what one end must know of the other to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeMessage<E> {
    /// Incarnation of the sender.
    pub from: u64,
    /// Incarnation of the addressee.
    pub to: u64,
    /// The session that the message is about.
    pub session: Session,
    /// Content of the message.
    pub body: Body<E>,
}

/// The content of a [`HandshakeMessage`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<E> {
    /// Asks the addressee to connect.
    Open {
        /// The opener's endpoint.
        endpoint: E,
        /// The number of the challenge that this answers.
        echo: Option<u64>,
    },
    /// Asks whether the opener is alive: it is to open once more, with this number.
    Challenge(u64),
    /// The sender is connected with the addressee.
    Accept {
        /// The acceptor's endpoint.
        endpoint: E,
        /// The acceptor's attempts up to this one are void.
        void: u64,
    },
    /// The session is over, or never existed.
    End,
}

/// An event that a [`PeerConnection`](super::PeerConnection) handles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<E> {
    /// The connection is wanted: it is made, and made again whenever it is lost.
    Want,
    /// The connection is no longer wanted: it ends, and is made again only if the peer opens it.
    Leave,
    /// The connection is no longer wanted, but goes on until it is lost.
    Spare,
    /// The peer, or another incarnation of it, can probably be reached now: it has registered, say.
    Wake,
    /// The answer to [`Action::LookUp`]: the incarnation that the peer has published, if any.
    Record(Option<u64>),
    /// A message from the peer, or from an earlier incarnation of it.
    HandshakeMessage(HandshakeMessage<E>),
    /// The answer to [`Action::Make`].
    Made {
        /// The session that the endpoint was made for.
        session: Session,
        /// The endpoint to send to the peer.
        endpoint: E,
    },
    /// The endpoint of this session could not be made or joined, or is in error.
    Lost(Session),
    /// The answer to [`Action::Drain`].
    Drained(Session),
}

/// A step that the owner of a [`PeerConnection`](super::PeerConnection) has to take, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<E> {
    /// Ask the control plane for the peer's incarnation. If no answer comes, this action is
    /// repeated.
    LookUp,
    /// Create queue pairs. They are the only ones of this connection.
    Make(Session),
    /// Connect the queue pairs of a session with the peer's endpoint.
    Join {
        /// The session.
        session: Session,
        /// The peer's endpoint.
        theirs: E,
    },
    /// Send a message to the peer.
    Send(HandshakeMessage<E>),
    /// The session can be used, with this incarnation of the peer.
    Up {
        /// The session.
        session: Session,
        /// Incarnation of the peer.
        peer: u64,
    },
    /// The session is over, whether it was up, made or still being made: its queue pairs go to ERR
    /// and its calls end. [`Input::Drained`] reports when that is done.
    Drain(Session),
}

/// How long a [`PeerConnection`](super::PeerConnection) waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryTiming {
    /// Time for the answer to a look-up, and to the first open. It doubles up to three times.
    pub answer: Duration,
    /// Pause before the first attempt after a failed one; doubled with each.
    pub first: Duration,
    /// Longest pause before an attempt.
    pub last: Duration,
}

impl Default for RetryTiming {
    /// 1 s for an answer, pauses from 10 ms to 1 s.
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(1),
            first: Duration::from_millis(10),
            last: Duration::from_secs(1),
        }
    }
}
