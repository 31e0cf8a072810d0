//! Follows the live services of a type.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream, Stream, StreamExt};

use crate::agent::supervisor::Following;
use crate::discovery::service_instance::live;
use crate::{Service, ServiceInstance};

/// A change among the live services of a type.
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
    /// A service has appeared.
    Added(ServiceInstance),
    /// A service has been replaced: its agent was restarted, or serves it anew.
    Changed {
        /// The service before the change.
        was: ServiceInstance,
        /// The service after the change.
        is: ServiceInstance,
    },
    /// A service has gone.
    Removed(ServiceInstance),
}

/// The changes of the live services of a type, from
/// [`PeerAgent::watch_services`](crate::PeerAgent::watch_services). The stream ends when the agent
/// leaves.
///
/// The stream compares the services that are live now with those it has reported, and keeps no
/// history. A slow reader, or an outage of the control plane, may therefore hide that a service
/// came and went, but never the final set.
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

    /// Waits for the next change; `None` once the agent has left.
    pub async fn next(&mut self) -> Option<ServiceChange> {
        self.0.next().await
    }
}

/// Lists the changes that lead from `told` to `now`: removals first.
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
