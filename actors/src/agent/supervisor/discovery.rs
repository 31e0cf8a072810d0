//! Lists the registered services, and keeps a list up to date.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Context, Handler, Message, ResponseFuture};
use futures_util::StreamExt;
use slimerpc::control::{Entity, EntityEvent, ServiceRecord};
use tokio::sync::watch;

use super::{AgentState, Supervisor};
use crate::AgentError;

/// Registered services by the id of their entity.
pub(crate) type Registered = BTreeMap<String, Arc<ServiceRecord>>;

/// The registered services, kept up to date; `None` until they are known.
pub(crate) type Following = watch::Receiver<Option<Arc<Registered>>>;

/// Lists the registered services.
#[derive(Message)]
#[rtype(result = "Result<Registered, AgentError>")]
pub(crate) struct ListServices;

/// Begins to follow the registered services, or joins an existing subscription.
#[derive(Message)]
#[rtype(result = "Result<Following, AgentError>")]
pub(crate) struct FollowServices;

/// The list that all followers in this agent's scope read: they share one subscription.
#[derive(Default)]
pub(super) struct Followed(RefCell<Option<watch::Sender<Option<Arc<Registered>>>>>);

impl Handler<ListServices> for Supervisor {
    type Result = ResponseFuture<Result<Registered, AgentError>>;

    fn handle(&mut self, _: ListServices, _: &mut Context<Self>) -> Self::Result {
        let state = self.state.clone();
        Box::pin(async move {
            state.check_open()?;
            let listed = state.control().entities(ServiceRecord::KIND).await?;
            Ok(listed.iter().filter_map(read).collect())
        })
    }
}

impl Handler<FollowServices> for Supervisor {
    type Result = Result<Following, AgentError>;

    fn handle(&mut self, _: FollowServices, _: &mut Context<Self>) -> Self::Result {
        self.state.check_open()?;
        Ok(self.state.follow())
    }
}

impl AgentState {
    pub(super) fn follow(self: &Rc<Self>) -> Following {
        let mut followed = self.followed.0.borrow_mut();
        if let Some(sender) = &*followed {
            let mut receiver = sender.subscribe();
            receiver.mark_changed();
            return receiver;
        }
        let (sender, receiver) = watch::channel(None);
        *followed = Some(sender.clone());
        actix::spawn(self.clone().keep_following(sender));
        receiver
    }

    /// Follows until nobody reads any more or the agent leaves. A slow reader sees several changes
    /// as one, so nothing piles up.
    async fn keep_following(self: Rc<Self>, sender: watch::Sender<Option<Arc<Registered>>>) {
        let mut events = self.control().watch_entities(ServiceRecord::KIND);
        let mut registered = Registered::new();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => apply(&mut registered, event),
                    None => break,
                },
                () = sender.closed() => break,
            }
            sender.send_replace(Some(Arc::new(registered.clone())));
        }
        // No await lies between the last reader's end and this, so nobody can have joined: all run
        // on this thread.
        self.followed.0.borrow_mut().take();
    }
}

fn apply(registered: &mut Registered, event: EntityEvent) {
    match event {
        EntityEvent::All(all) => *registered = all.iter().filter_map(read).collect(),
        EntityEvent::Added(entity) => match read(&entity) {
            Some((id, record)) => drop(registered.insert(id, record)),
            None => drop(registered.remove(&entity.id)),
        },
        EntityEvent::Removed { id } => drop(registered.remove(&id)),
    }
}

fn read(entity: &Entity) -> Option<(String, Arc<ServiceRecord>)> {
    match ServiceRecord::read(entity) {
        Ok(record) => Some((entity.id.clone(), Arc::new(record))),
        Err(reason) => {
            tracing::warn!(id = entity.id, reason, "skipped a malformed service");
            None
        }
    }
}
