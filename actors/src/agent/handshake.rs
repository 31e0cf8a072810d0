//! The messages by which native agents connect a proxy with a service.
//!
//! ```text
//!   caller                                       server
//!     │  slimerpc_open   { service, endpoint }     │
//!     │ ─────────────────────────────────────────▶ │  makes queue pair and rings, ready to
//!     │                                            │  receive and send
//!     │  slimerpc_accept { endpoint }              │
//!     │ ◀───────────────────────────────────────── │
//!     │  ready to send; now it may write           │
//!     ▼                                            ▼
//! ```

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use slimerpc::channel::{Endpoint, Mismatch, QueuePairInfo};
use slimerpc::control::Mail;
use slimerpc::fabric::LinkType;

use crate::agent::handshake_json::HandshakeJson;

/// A caller asks to be connected with a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Open {
    /// Chosen by the caller, echoed in the answer.
    pub(crate) id: u64,
    /// Name of the service.
    pub(crate) service: String,
    /// Whether its parallel methods are to be called.
    #[serde(default)]
    pub(crate) parallel: bool,
    /// Wire version of the caller.
    pub(crate) wire_version: u32,
    /// Incarnation of the caller.
    #[serde(default)]
    pub(crate) from: u64,
    /// Incarnation of the server that the caller means (FENCE-1).
    pub(crate) to: u64,
    /// [`ServiceTable::fingerprint`](slimerpc::channel::ServiceTable::fingerprint) of the table
    /// that the caller has read. Earlier releases do not send it.
    #[serde(default)]
    pub(crate) table: Option<u64>,
    /// The kind of link of both devices.
    pub(crate) link: LinkType,
    /// The caller's endpoint.
    pub(crate) endpoint: Endpoint,
    /// For how many milliseconds the caller waits. Earlier releases do not say it.
    #[serde(default)]
    pub(crate) patience: Option<u64>,
}

/// The answer to an [`Open`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Id of the [`Open`] that this answers.
    pub(crate) id: u64,
    /// The server's endpoint, or why it refuses.
    pub(crate) result: Result<Endpoint, Mismatch>,
}

/// A caller asks for a connection to an agent's one-sided memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OneSidedOpen {
    /// Chosen by the caller, echoed in the answer.
    pub(crate) id: u64,
    /// Wire version of the caller.
    pub(crate) wire_version: u32,
    /// Incarnation of the owner that the caller means (FENCE-1).
    pub(crate) to: u64,
    /// The kind of link of both devices.
    pub(crate) link: LinkType,
    /// The caller's queue pair.
    pub(crate) qp: QueuePairInfo,
}

/// The answer to a [`OneSidedOpen`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OneSidedAnswer {
    /// Id of the [`OneSidedOpen`] that this answers.
    pub(crate) id: u64,
    /// The owner's queue pair, or why it refuses.
    pub(crate) result: Result<QueuePairInfo, Mismatch>,
}

const OPEN: &str = "slimerpc_open";
const ANSWER: &str = "slimerpc_answer";
const ONE_SIDED_OPEN: &str = "slimerpc_one_sided_open";
const ONE_SIDED_ANSWER: &str = "slimerpc_one_sided_answer";
const LINK: &str = "slimerpc_link";

/// A message of the handshake.
#[derive(Debug)]
pub(crate) enum Handshake {
    /// This peer asks to be connected with a service.
    Open(String, Open),
    /// The answer to an [`Open`] of this agent.
    Answer(Answer),
    /// This peer asks for a connection to memory.
    OneSidedOpen(String, OneSidedOpen),
    /// The answer to a [`OneSidedOpen`] of this agent.
    OneSidedAnswer(OneSidedAnswer),
    /// A message of this peer's monitor.
    Link(String, HandshakeJson),
}

impl Open {
    pub(crate) fn to_mail(&self, me: &str) -> Mail {
        mail(OPEN, me, self)
    }
}

impl Answer {
    pub(crate) fn to_mail(&self, me: &str) -> Mail {
        mail(ANSWER, me, self)
    }
}

impl OneSidedOpen {
    pub(crate) fn to_mail(&self, me: &str) -> Mail {
        mail(ONE_SIDED_OPEN, me, self)
    }
}

impl OneSidedAnswer {
    pub(crate) fn to_mail(&self, me: &str) -> Mail {
        mail(ONE_SIDED_ANSWER, me, self)
    }
}

impl HandshakeJson {
    pub(crate) fn to_mail(&self, me: &str) -> Mail {
        mail(LINK, me, self)
    }
}

impl Handshake {
    /// Reads a message. Returns `Ok(None)` if it is of another kind, and an error if it is a
    /// handshake message that is malformed.
    pub(crate) fn read(mail: &Mail) -> Result<Option<Self>, String> {
        match mail.kind.as_str() {
            OPEN => Ok(Some(Self::Open(sender(mail)?, body(mail)?))),
            ANSWER => Ok(Some(Self::Answer(body(mail)?))),
            ONE_SIDED_OPEN => Ok(Some(Self::OneSidedOpen(sender(mail)?, body(mail)?))),
            ONE_SIDED_ANSWER => Ok(Some(Self::OneSidedAnswer(body(mail)?))),
            LINK => Ok(Some(Self::Link(sender(mail)?, body(mail)?))),
            _ => Ok(None),
        }
    }
}

fn mail<T: Serialize>(kind: &str, me: &str, body: &T) -> Mail {
    let body = serde_json::to_string(body).expect("handshakes have string keys only");
    Mail::new(kind).with("peer", me).with("body", body)
}

fn sender(mail: &Mail) -> Result<String, String> {
    let peer = mail.peer().ok_or("field `peer` is missing")?;
    Ok(peer.to_owned())
}

fn body<T: DeserializeOwned>(mail: &Mail) -> Result<T, String> {
    let body = mail.get("body").ok_or("field `body` is missing")?;
    serde_json::from_str(body).map_err(|error| format!("field `body`: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_survive_the_mail() {
        let mismatch = Mismatch::Incarnation {
            meant: u64::MAX,
            found: 2,
        };
        let answer = Answer {
            id: u64::MAX - 1,
            result: Err(mismatch),
        };
        let read = Handshake::read(&answer.to_mail("worker:0")).unwrap();
        assert!(matches!(read, Some(Handshake::Answer(back)) if back == answer));
    }

    #[test]
    fn input_1_malformed_handshakes_are_errors_and_others_are_not_ours() {
        assert!(Handshake::read(&Mail::new("qp_ready")).unwrap().is_none());
        for bad in [
            Mail::new(OPEN),
            Mail::new(OPEN).with("peer", "a"),
            Mail::new(OPEN).with("peer", "a").with("body", "{"),
            Mail::new(ANSWER).with("body", "{\"id\":-1}"),
            Mail::new(ONE_SIDED_OPEN).with("body", "{}"),
            Mail::new(ONE_SIDED_ANSWER),
            Mail::new(LINK)
                .with("peer", "a")
                .with("body", "{\"from\":1}"),
        ] {
            assert!(Handshake::read(&bad).is_err(), "{bad:?}");
        }
    }
}
