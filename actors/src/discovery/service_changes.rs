//! Following the services of a type.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream, Stream, StreamExt};

use crate::agent::supervisor::Following;
use crate::discovery::service_instance::live;
use crate::{Service, ServiceInstance};

/// What happened to the live services of a type.
///
/// ```no_run
/// # use slimerpc_actors::{ServiceChange, ServiceChanges};
/// # async fn example(mut changes: ServiceChanges) {
/// while let Some(change) = changes.next().await {
///     match change {
///         ServiceChange::Added(service) => println!("+ {service}"),
///         ServiceChange::Changed { is, .. } => println!("~ {is}"),
///         ServiceChange::Removed(service) => println!("- {service}"),
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceChange {
    /// One is there.
    Added(ServiceInstance),
    /// One is another: its agent has been restarted, or serves it anew.
    Changed {
        /// As it was.
        was: ServiceInstance,
        /// As it is.
        is: ServiceInstance,
    },
    /// One is gone.
    Removed(ServiceInstance),
}

/// Changes of the live services of a type, from [`PeerAgent::watch_services`](crate::PeerAgent::watch_services): a stream that
/// ends when the agent leaves.
///
/// It compares what is there now with what it has told of, and keeps nothing else. So who reads slowly, or sits out an outage of
/// the control plane, may miss that something came and went, but never what is there in the end.
pub struct ServiceChanges(BoxStream<'static, ServiceChange>);

impl ServiceChanges {
    pub(crate) fn new<S: Service + ?Sized>(following: Following) -> Self {
        let begin = (following, Vec::new(), VecDeque::new());
        let changes = stream::unfold(begin, |(mut following, mut told, mut ready)| async move {
            loop {
                if let Some(change) = ready.pop_front() {
                    return Some((change, (following, told, ready)));
                }
                following.changed().await.ok()?;
                let registered = following.borrow_and_update().clone();
                if let Some(registered) = registered {
                    let now = live::<S>(&registered);
                    ready = changes(&told, &now);
                    told = now;
                }
            }
        });
        Self(changes.boxed())
    }

    /// The next change; `None` once the agent has left.
    pub async fn next(&mut self) -> Option<ServiceChange> {
        self.0.next().await
    }
}

/// From what was told to what is: first what is gone.
fn changes(told: &[ServiceInstance], now: &[ServiceInstance]) -> VecDeque<ServiceChange> {
    let find = |all: &[ServiceInstance], one: &ServiceInstance| {
        let is_same = |it: &&ServiceInstance| it.alias() == one.alias() && it.name() == one.name();
        all.iter().find(is_same).cloned()
    };
    let gone = told.iter().filter(|was| find(now, was).is_none()).cloned();
    let come = now.iter().filter_map(|is| match find(told, is) {
        None => Some(ServiceChange::Added(is.clone())),
        Some(was) if was == *is => None,
        Some(was) => Some(ServiceChange::Changed {
            was,
            is: is.clone(),
        }),
    });
    gone.map(ServiceChange::Removed).chain(come).collect()
}

impl Stream for ServiceChanges {
    type Item = ServiceChange;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl fmt::Debug for ServiceChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceChanges").finish_non_exhaustive()
    }
}
