//! Calls that wait until a lost connection has been restored, or a resting one opened again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use slimerpc::channel::LossCause;
use slimerpc::fabric::LinkType;
use slimerpc::wire::EncodeError;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

use crate::client::connection::{ConnectedService, Connection, ProxySetup};
use crate::client::line::{Claim, Turn};
use crate::client::proxy::Caller;
use crate::{Ran, RpcError};

/// A timer of the agent's runtime, whatever polls it.
pub(crate) fn timer(runtime: &Handle, after: Duration) -> Sleep {
    let _guard = runtime.enter();
    sleep(after)
}

/// Collects what `encode` writes, whatever its size. At first it has this many bytes of room.
pub(crate) fn encoded(
    room: usize,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = vec![0; room];
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
    /// Whether it was made already, by the task that opens its connection again.
    claim: Arc<Claim>,
}

struct Deadline {
    /// The deadline; `None` if it is beyond the end of time.
    at: Option<Instant>,
    after: Duration,
    timer: Pin<Box<Sleep>>,
}

/// What becomes of a call that has found its connection closed.
pub(crate) enum Again<T> {
    /// There was another connection already, and it was made.
    Made(T),
    /// It is made later.
    Later(Box<Later<T>>),
}

impl<T: Send + 'static> Again<T> {
    /// Makes a call of a method that has failed with `error`: in its turn if its connection rests,
    /// or else as soon as `caller` can, if it may wait. It ends with the last error if that takes
    /// too long. `check` tells whether the call may be made from where it is waited for. `make`
    /// gets the time that is left for the call.
    ///
    /// # Errors
    /// The call does not wait, or has failed again.
    pub(crate) fn after(
        mut error: RpcError,
        caller: &Caller,
        method: usize,
        check: impl Fn(&Caller, &Connection) -> Result<(), RpcError> + Send + 'static,
        make: impl Fn(&ProxySetup, &Connection, Option<Duration>) -> Result<T, RpcError>
        + Send
        + Sync
        + 'static,
    ) -> Result<Self, RpcError> {
        let (timeout, started) = (caller.timeout, Instant::now());
        let make = Arc::new(move |setup: &ProxySetup, connection: &Connection| {
            let left = timeout.map(|after| after.saturating_sub(started.elapsed()));
            make(setup, connection, left)
        });
        let attempt = {
            let make = make.clone();
            move |caller: &Caller| {
                let connection = caller.connection();
                check(caller, &connection)?;
                make(caller.setup(), &connection)
            }
        };
        let claim = Arc::new(Claim::default());
        let claimed = claim.clone();
        let line_up = move |caller: &Caller| {
            let make = make.clone();
            caller.line_up(method, &claimed, move |setup, connection| {
                make(setup, connection)
            })
        };
        // It takes its place now, not when it is polled: later calls are behind it.
        let mut waiting = None;
        while is_resting(&error) {
            match line_up(caller) {
                (Turn::Waits, told) => {
                    waiting = Some(told);
                    break;
                }
                (Turn::Now, _) => match attempt(caller) {
                    Ok(made) => return Ok(Self::Made(made)),
                    Err(again) => error = again,
                },
                (Turn::Lost(cause), _) => error = caller.setup().lost(method, cause),
            }
        }
        if waiting.is_none() && !caller.can_wait(&error) {
            caller.count_unmade(method, &error);
            return Err(error);
        }
        let (runtime, peer) = (caller.runtime().clone(), caller.peer().into());
        let name = caller.setup().name(method);
        let caller = caller.clone();
        let timer = timer(&runtime, caller.reconnect_wait);
        let in_line = claim.clone();
        let call = async move {
            let mut timer = std::pin::pin!(timer);
            let mut made = match waiting {
                Some(told) => told.await.unwrap_or(Err(error)),
                None => Err(error),
            };
            loop {
                if made.is_err() {
                    in_line.wait_again();
                }
                made = match made {
                    Err(error) if is_resting(&error) => match line_up(&caller) {
                        (Turn::Waits, told) => told.await.unwrap_or(Err(error)),
                        (Turn::Now, _) => attempt(&caller),
                        (Turn::Lost(cause), _) => Err(caller.setup().lost(method, cause)),
                    },
                    Err(error) if caller.can_wait(&error) => {
                        tokio::select! {
                            biased;
                            () = caller.connected() => attempt(&caller),
                            () = &mut timer => {
                                caller.count_unmade(method, &error);
                                return Err(error);
                            }
                        }
                    }
                    made => {
                        if let Err(error) = &made {
                            caller.count_unmade(method, error);
                        }
                        return made;
                    }
                };
            }
        };
        let mut later = Box::new(Later {
            call: Box::pin(call),
            deadline: None,
            runtime,
            peer,
            method: name,
            claim,
        });
        if let Some(after) = timeout {
            later.set_timeout(after);
        }
        Ok(Self::Later(later))
    }
}

/// Returns whether a call was not sent because its connection rests.
pub(crate) fn is_resting(error: &RpcError) -> bool {
    let resting = |cause: &LossCause| *cause == LossCause::Resting;
    matches!(error, RpcError::PeerLost { cause, ran: Ran::No, .. } if resting(cause))
}

impl<T> Later<T> {
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
            claim: self.claim,
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

    /// Gives the call up. Returns whether it was not made, and never will be.
    pub(crate) fn withdraw(&self) -> bool {
        self.claim.withdraw()
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
                ran: match self.claim.withdraw() {
                    true => Ran::No,
                    false => Ran::Unknown,
                },
            }));
        }
        made
    }
}

/// A proxy, as the task that reconnects it sees it.
pub(crate) trait Heal: Send + Sync {
    /// The parts of the proxy that stay the same.
    fn setup(&self) -> &ProxySetup;
    /// Incarnation of the peer that the proxy is connected with.
    fn life(&self) -> Option<u64>;
    /// Notified when the connection is closed, or when the proxy has gone.
    fn closing(&self) -> Vec<Arc<Notify>>;
    /// The kind of link of the connection; `None` towards a DLSlime peer.
    fn link(&self) -> Option<LinkType>;
    /// What ended the connection. One that rests has not ended.
    fn lost(&self) -> Option<LossCause>;
    /// Gives the proxy a new connection.
    fn adopt(&self, connected: ConnectedService);
    /// The number of calls that were made, if none is under way.
    fn calls_if_idle(&self) -> Option<[u64; 2]>;
    /// Lets the connection rest, if no call was made since those.
    fn rest(&self, calls: [u64; 2]) -> bool;
    /// If the connection rests: notified when a call is made, when the connection is
    /// [lost](Self::lose), and when the proxy has gone.
    fn resting(&self) -> Option<Arc<Notify>>;
    /// Returns whether calls wait for a connection that rests.
    fn is_called(&self) -> bool;
    /// Gives up a connection that rests.
    fn lose(&self, cause: LossCause);
}
