//! Calls that wait until a lost connection has been restored.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use slimerpc::channel::{LossCause, ServiceTable, WaitPolicy};
use slimerpc::fabric::LinkType;
use slimerpc::wire::EncodeError;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

use crate::client::connection::ConnectedService;
use crate::client::proxy::Caller;
use crate::{Ran, RpcError};

/// A timer of the agent's runtime, whatever polls it.
pub(crate) fn timer(runtime: &Handle, after: Duration) -> Sleep {
    let _guard = runtime.enter();
    sleep(after)
}

/// Collects what `encode` writes, whatever its size.
pub(crate) fn encoded(
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = vec![0; 256];
    let encoded = match encode(&mut bytes) {
        Err(EncodeError::TooLarge { size, .. }) => {
            bytes.resize(size, 0);
            encode(&mut bytes)
        }
        encoded => encoded,
    };
    bytes.truncate(encoded?);
    Ok(bytes)
}

/// A call that is made once its peer is back.
pub(crate) struct Later<T> {
    call: Pin<Box<dyn Future<Output = Result<T, RpcError>> + Send>>,
    deadline: Option<Deadline>,
    runtime: Handle,
    peer: Box<str>,
    method: &'static str,
}

struct Deadline {
    /// The deadline; `None` if it is beyond the end of time.
    at: Option<Instant>,
    after: Duration,
    timer: Pin<Box<Sleep>>,
}

impl<T> Later<T> {
    /// Calls `method` as soon as `caller` can. It has failed with `lost`, and ends with that if the
    /// wait takes too long. `make` gets the time that is left for the call.
    pub(crate) fn new(
        caller: &Caller,
        method: &'static str,
        lost: RpcError,
        mut make: impl FnMut(&Caller, Option<Duration>) -> Result<T, RpcError> + Send + 'static,
    ) -> Box<Self>
    where
        T: 'static,
    {
        let (runtime, peer) = (caller.runtime().clone(), caller.peer().into());
        let (caller, started) = (caller.clone(), Instant::now());
        let timer = timer(&runtime, caller.reconnect_wait);
        let timeout = caller.timeout;
        let call = async move {
            let mut timer = std::pin::pin!(timer);
            let mut lost = lost;
            loop {
                tokio::select! {
                    biased;
                    () = caller.connected() => {}
                    () = &mut timer => return Err(lost),
                }
                let left = timeout.map(|after| after.saturating_sub(started.elapsed()));
                match make(&caller, left) {
                    Err(error) if caller.can_wait(&error) => lost = error,
                    made => return made,
                }
            }
        };
        let mut later = Box::new(Self {
            call: Box::pin(call),
            deadline: None,
            runtime,
            peer,
            method,
        });
        if let Some(after) = timeout {
            later.set_timeout(after);
        }
        later
    }

    /// Converts what is made of the call.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U + Send + 'static) -> Box<Later<U>>
    where
        T: 'static,
    {
        let call = self.call;
        Box::new(Later {
            call: Box::pin(async move { call.await.map(change) }),
            deadline: self.deadline,
            runtime: self.runtime,
            peer: self.peer,
            method: self.method,
        })
    }

    /// Sets the deadline, counted from now.
    pub(crate) fn set_timeout(&mut self, after: Duration) {
        self.deadline = Some(Deadline {
            at: Instant::now().checked_add(after),
            after,
            timer: Box::pin(timer(&self.runtime, after)),
        });
    }

    /// The deadline, and the time that was allowed.
    pub(crate) fn deadline(&self) -> Option<(Instant, Duration)> {
        let deadline = self.deadline.as_ref()?;
        Some((deadline.at?, deadline.after))
    }

    /// Ready with the call once it is made, or with the reason why it was not.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<T, RpcError>> {
        let made = self.call.as_mut().poll(context);
        if made.is_pending()
            && let Some(deadline) = &mut self.deadline
            && deadline.timer.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(RpcError::Timeout {
                peer: self.peer.to_string(),
                method: self.method.to_owned(),
                after: deadline.after,
                ran: Ran::No,
            }));
        }
        made
    }
}

/// A proxy, as the task that reconnects it sees it.
pub(crate) trait Heal: Send + Sync {
    /// Alias of the proxy's peer.
    fn peer(&self) -> &str;
    /// Incarnation of the peer that the proxy is connected with.
    fn life(&self) -> Option<u64>;
    /// Table of the service that the proxy is for.
    fn wanted(&self) -> &ServiceTable;
    /// How the proxy's callers wait.
    fn wait_policy(&self) -> &WaitPolicy;
    /// Notified when the connection is closed, or when the proxy has gone.
    fn closing(&self) -> Vec<Arc<Notify>>;
    /// The kind of link of the connection; `None` towards a DLSlime peer.
    fn link(&self) -> Option<LinkType>;
    /// What ended the connection.
    fn lost(&self) -> Option<LossCause>;
    /// Gives the proxy a new connection.
    fn adopt(&self, connected: ConnectedService);
}
