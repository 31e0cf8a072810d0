//! What the router is told and asked, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use actix::Message;
use slimerpc_actors::RpcError;

use super::ATTEMPTS;
use crate::resend::Repeat;
use crate::runner::Scores;

/// What the router has seen and done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Requests that were sent once more.
    pub(crate) retried: u64,
    /// Workers killed for [`Strike`].
    pub(crate) killed: u64,
    /// Workers that are up again.
    pub(crate) restarts: u64,
    /// For each of those, how long it was away.
    pub(crate) away: Vec<Duration>,
    /// Workers that were given up, and why.
    pub(crate) given_up: Vec<String>,
}

/// A request has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("no worker is left to answer: {}", .reasons.join("; "))]
    NoWorkers { reasons: Vec<String> },
    #[error("sent {ATTEMPTS} times without an answer, at last: {0}")]
    Attempts(RpcError),
    #[error(transparent)]
    Failed(RpcError),
    #[error("the router has ended")]
    Ended,
}

/// Reads a batch of images on some worker.
#[derive(Message)]
#[rtype(result = "Result<Scores, RouteError>")]
pub(crate) struct Infer {
    pub(crate) pixels: Arc<[u8]>,
    pub(crate) repeat: Repeat,
}

/// Kills a worker that is at work, if there is one.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Strike;

/// Waits until every worker is up or given up, but not all are given up.
#[derive(Message)]
#[rtype(result = "Result<(), RouteError>")]
pub(crate) struct Settle;

/// What has happened since the last report.
#[derive(Message)]
#[rtype(result = "Tally")]
pub(crate) struct Report;

/// Ends the workers and waits for that.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Drain;
