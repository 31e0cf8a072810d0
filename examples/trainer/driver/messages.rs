//! What the driver is told and asked, and what it answers.

use actix::Message;
use slimerpc_actors::Proxy;

use crate::train_worker::TrainWorker;

/// All workers, by rank.
#[derive(Debug, Clone)]
pub(crate) struct Crew {
    pub(crate) members: Vec<Member>,
    /// Workers that were started again until now.
    pub(crate) restarts: u64,
}

/// A worker in one of its lives.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) proxy: Proxy<TrainWorker>,
    pub(crate) life: u64,
}

/// There is no crew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CrewError {
    #[error("{0}")]
    GivenUp(String),
    #[error("the workers are dismissed")]
    Dismissed,
}

/// Waits until every worker is up.
#[derive(Message)]
#[rtype(result = "Result<Crew, CrewError>")]
pub(crate) struct Assemble;

/// All workers have done a step: whatever they die of now, it is not how they were started.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Stepped;

/// A worker did not answer in this life; it gets another.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Missed {
    pub(crate) rank: usize,
    pub(crate) life: u64,
}

/// Kills a worker, and leaves it to the driver to find out.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Kill {
    pub(crate) rank: usize,
}

/// Ends the workers and waits for that.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Dismiss;
