//! Proxies: addresses of services.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use serde::de::DeserializeOwned;
use slimerpc::channel::{AnswerView, CallSpan, LossCause, OneWayCall};
use slimerpc::fabric::LinkType;
use slimerpc::wire::{Codec, EncodeError, PayloadCodec, Raw, Traceparent};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

use crate::client::blocking::would_block_a_runtime;
use crate::client::connection::{CallTarget, ConnectedService, Connection, ProxySetup};
use crate::client::items::{ItemSource, Items};
use crate::client::line::{Claim, Line, Turn, Waiting};
use crate::client::reconnect::{self, Again, Heal};
use crate::client::reply::Decoder;
use crate::observe::trace;
use crate::supervision::current_handler;
use crate::{
    AgentError, Call, ChannelView, Ran, Reply, RpcError, Service, StreamCall, Tell, Watch,
};

/// The address of a service at a peer, used like an actix `Addr`. It is cheap to clone and `Send`,
/// and calls made through it run in the order in which they were made (ORDER-1).
///
/// A proxy has a method for each method of the service (of [`Service::Client`], to which it
/// dereferences), and [`send`](Self::send) for messages as values. Both send the call at once, not
/// when the reply is polled.
///
/// ```no_run
/// # use slimerpc_actors::{PeerAgent, RpcError, service};
/// #[derive(Default)]
/// struct Calc;
///
/// #[service]
/// impl Calc {
///     #[method]
///     fn add(&mut self, a: i64, b: i64) -> i64 {
///         a + b
///     }
/// }
///
/// # async fn example(agent: PeerAgent) -> Result<(), Box<dyn std::error::Error>> {
/// let calc = agent.proxy::<Calc>("worker:0").await?;
/// let three = calc.add(1, 2).await?;
/// let seven = calc.send(Add { a: three, b: 4 }).await?;
/// # Ok(())
/// # }
/// ```
pub struct Proxy<S: Service + ?Sized> {
    client: S::Client,
    caller: Caller,
}

impl<S: Service + ?Sized> Proxy<S> {
    pub(crate) fn new(caller: Caller) -> Self {
        Self {
            client: caller.clone().into(),
            caller,
        }
    }

    /// Calls the method that `message` belongs to.
    pub fn send<M: Call<Service = S>>(&self, message: M) -> Reply<M::Output> {
        self.caller.call(message)
    }

    /// Calls the method that `message` belongs to, without waiting for its result; see [`Tell`].
    pub fn tell<M: Call<Service = S>>(&self, message: M) -> Tell {
        self.caller.tell(message)
    }

    /// Opens the stream that `message` asks for.
    ///
    /// ```no_run
    /// # use futures_util::{Stream, StreamExt, stream};
    /// # use slimerpc_actors::{Proxy, service};
    /// # struct Counter;
    /// # #[service]
    /// # impl Counter {
    /// #     #[method(stream)]
    /// #     fn count(&mut self, to: u32) -> impl Stream<Item = u32> {
    /// #         stream::iter(0..to)
    /// #     }
    /// # }
    /// # async fn example(counter: Proxy<Counter>) {
    /// let items = counter.stream(Count { to: 9 });
    /// let sum = items.filter_map(async |item| item.ok()).collect::<Vec<u32>>().await;
    /// # drop(sum);
    /// # }
    /// ```
    pub fn stream<M: StreamCall<Service = S>>(&self, message: M) -> Items<M::Item> {
        self.caller.stream(message)
    }

    /// Calls as [`send`](Self::send) does, and returns the message with the error if it was not
    /// sent.
    ///
    /// ```no_run
    /// # use slimerpc_actors::{Proxy, service};
    /// # #[derive(Default)]
    /// # struct Calc;
    /// # #[service]
    /// # impl Calc {
    /// #     #[method]
    /// #     fn add(&mut self, a: i64, b: i64) -> i64 {
    /// #         a + b
    /// #     }
    /// # }
    /// # fn example(calc: Proxy<Calc>, other: Proxy<Calc>) {
    /// let sum = match calc.try_send(Add { a: 1, b: 2 }) {
    ///     Ok(reply) => reply,
    ///     Err(unsent) => other.send(unsent.message),
    /// };
    /// # drop(sum);
    /// # }
    /// ```
    ///
    /// # Errors
    /// Why the message was not sent: the peer is lost, the service has no such method, or the
    /// arguments do not fit or do not encode.
    pub fn try_send<M: Call<Service = S>>(
        &self,
        message: M,
    ) -> Result<Reply<M::Output>, SendError<M>> {
        match self.caller.try_call(&message) {
            Ok(reply) => Ok(reply),
            Err(error) => Err(SendError { message, error }),
        }
    }

    /// Returns this proxy with a deadline for each call, counted from the call. The deadline
    /// travels: a request that has expired when its turn comes does not run.
    ///
    /// ```no_run
    /// # use slimerpc_actors::{Proxy, RpcError, service};
    /// # use std::time::Duration;
    /// # #[derive(Default)]
    /// # struct Calc;
    /// # #[service]
    /// # impl Calc {
    /// #     #[method]
    /// #     fn add(&mut self, a: i64, b: i64) -> i64 {
    /// #         a + b
    /// #     }
    /// # }
    /// # async fn example(calc: Proxy<Calc>) -> Result<(), RpcError> {
    /// let sum = calc.with_timeout(Duration::from_millis(50)).add(1, 2).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_timeout(&self, after: Duration) -> Self {
        Self::new(Caller {
            timeout: Some(after),
            ..self.caller.clone()
        })
    }

    /// Returns this proxy with another [`reconnect_wait`](crate::Timeouts::reconnect_wait) than the
    /// agent's: how long calls wait for a lost connection to be restored. With zero they fail at
    /// once.
    ///
    /// ```no_run
    /// # use slimerpc_actors::{Proxy, RpcError, service};
    /// # use std::time::Duration;
    /// # #[derive(Default)]
    /// # struct Calc;
    /// # #[service]
    /// # impl Calc {
    /// #     #[method]
    /// #     fn add(&mut self, a: i64, b: i64) -> i64 {
    /// #         a + b
    /// #     }
    /// # }
    /// # async fn example(calc: Proxy<Calc>) -> Result<(), RpcError> {
    /// let calc = calc.with_reconnect_wait(Duration::from_secs(30));
    /// let sum = calc.add(1, 2).await?; // also while the worker is being restarted
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_reconnect_wait(&self, limit: Duration) -> Self {
        Self::new(Caller {
            reconnect_wait: limit,
            ..self.caller.clone()
        })
    }

    /// Waits until calls can be made: at once, unless the connection is lost; the next call opens
    /// one that rests. A lost connection is restored as soon as the peer is back and serves the
    /// service, which this waits for up to the connect timeout.
    ///
    /// ```no_run
    /// # use slimerpc_actors::{Proxy, RpcError, service};
    /// # #[derive(Default)]
    /// # struct Calc;
    /// # #[service]
    /// # impl Calc {
    /// #     #[method]
    /// #     fn add(&mut self, a: i64, b: i64) -> i64 {
    /// #         a + b
    /// #     }
    /// # }
    /// # async fn example(calc: Proxy<Calc>) -> Result<(), Box<dyn std::error::Error>> {
    /// let sum = loop {
    ///     match calc.add(1, 2).await {
    ///         // `add` may be run twice without harm.
    ///         Err(RpcError::PeerLost { .. }) => calc.ready().await?,
    ///         result => break result?,
    ///     }
    /// };
    /// # drop(sum);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AgentError::NotBack`] after the connect timeout, and at once for a DLSlime peer, whose
    /// connection is not restored; [`AgentError::ShutDown`] if the agent has been shut down.
    pub async fn ready(&self) -> Result<(), AgentError> {
        let inner = &self.caller.inner;
        let Some(cause) = inner.lost() else {
            return Ok(());
        };
        if cause == LossCause::ShutDown {
            return Err(AgentError::ShutDown);
        }
        let started = Instant::now();
        if inner.current().is_native() {
            let limit = reconnect::timer(self.caller.runtime(), inner.setup.connect_timeout);
            tokio::select! {
                biased;
                () = self.caller.connected() => return Ok(()),
                () = limit => {}
            }
        }
        Err(AgentError::NotBack {
            peer: self.peer().to_owned(),
            service: self.name().to_owned(),
            cause,
            waited: started.elapsed(),
        })
    }

    /// Returns this proxy for threads that wait for replies ([`Reply::wait`],
    /// [`Items::wait_next`](crate::Items::wait_next)). A call on a thread that runs async code,
    /// which must not wait, ends with [`RpcError::WouldBlock`] before anything is sent.
    ///
    /// ```no_run
    /// # use slimerpc_actors::{Proxy, Ran, RpcError, service};
    /// # #[derive(Default)]
    /// # struct Calc;
    /// # #[service]
    /// # impl Calc {
    /// #     #[method]
    /// #     fn add(&mut self, a: i64, b: i64) -> i64 {
    /// #         a + b
    /// #     }
    /// # }
    /// # async fn example(calc: Proxy<Calc>) -> Result<(), RpcError> {
    /// let calc = calc.blocking();
    /// assert_eq!(calc.add(1, 2).wait(), Err(RpcError::WouldBlock { ran: Ran::No }));
    /// let sum = tokio::task::spawn_blocking(move || calc.add(1, 2).wait());
    /// # drop(sum);
    /// # Ok(())
    /// # }
    /// ```
    pub fn blocking(&self) -> Self {
        Self::new(Caller {
            is_waited_for: true,
            ..self.caller.clone()
        })
    }

    /// Returns the address of one of the service's methods, without the type of the service.
    pub fn recipient<M: Call<Service = S>>(&self) -> Recipient<M> {
        Recipient {
            caller: self.caller.clone(),
            message: PhantomData,
        }
    }

    /// Name of the service.
    pub fn name(&self) -> &str {
        &self.caller.inner.setup.wanted.name
    }

    /// Sends arguments that may be encoded already, with the codec of typed payloads.
    pub(crate) fn send_encoded<'a, M: Call<Service = S>>(
        &self,
        encoded: impl FnOnce(PayloadCodec) -> &'a Result<Vec<u8>, EncodeError>,
    ) -> Reply<M::Output> {
        let connection = self.caller.connection();
        let codec = connection.codec(S::CODEC);
        let arguments = encoded(codec);
        let encode = |room: &mut [u8]| match arguments {
            Ok(bytes) => Raw::encode(bytes, room),
            Err(error) => Err(error.clone()),
        };
        let decode = result(codec);
        let bytes = arguments.as_deref().ok();
        let made = self
            .caller
            .make(&connection, Some(codec), M::METHOD, bytes, encode, decode);
        made.unwrap_or_else(Reply::failed)
    }

    /// Alias of the peer.
    pub fn peer(&self) -> &str {
        &self.caller.inner.setup.peer
    }

    /// Returns whether the service belongs to the agent that made this proxy.
    pub fn is_local(&self) -> bool {
        self.caller.inner.setup.is_local
    }

    /// A view of the present channel: its credits and counters. Every proxy has one.
    pub fn channel(&self) -> Option<ChannelView> {
        Some(ChannelView(self.caller.connection().serial.0.clone()))
    }

    /// A view of the channel of the parallel methods, if the service has some and the peer is
    /// native. Neither a busy serial method nor calls that wait for a credit of the other channel
    /// delay them.
    pub fn parallel_channel(&self) -> Option<ChannelView> {
        let connection = self.caller.connection();
        Some(ChannelView(connection.parallel.as_ref()?.0.clone()))
    }

    /// Watches the peer as [`PeerAgent::watch`](crate::PeerAgent::watch) does, except that
    /// [`Connected`](crate::PeerEvent::Connected) and
    /// [`Reconnected`](crate::PeerEvent::Reconnected) come when calls through this proxy can be
    /// made.
    ///
    /// # Errors
    /// The errors of [`PeerAgent::watch`](crate::PeerAgent::watch), among them
    /// [`AgentError::WatchesItself`] if the service is one of this agent.
    ///
    /// ```no_run
    /// # use futures_util::StreamExt;
    /// # use slimerpc_actors::{AgentError, Proxy, service};
    /// # struct Calc;
    /// # #[service]
    /// # impl Calc {
    /// #     #[method]
    /// #     fn add(&mut self, a: i64, b: i64) -> i64 {
    /// #         a + b
    /// #     }
    /// # }
    /// # async fn example(calc: Proxy<Calc>) -> Result<(), AgentError> {
    /// let mut events = calc.watch().await?;
    /// while let Some(event) = events.next().await {
    ///     println!("{}: {event:?}", calc.peer());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn watch(&self) -> Result<Watch, AgentError> {
        let inner = &self.caller.inner;
        let (adopted, inner) = (inner.adopted.subscribe(), Arc::downgrade(inner));
        let watch = self.caller.inner.setup.watch().await?;
        Ok(watch.of_proxy(adopted, move |life| {
            let inner = inner.upgrade();
            inner.is_none_or(|inner| inner.can_call(life))
        }))
    }
}

impl<S: Service + ?Sized> Deref for Proxy<S> {
    type Target = S::Client;

    fn deref(&self) -> &S::Client {
        &self.client
    }
}

impl<S: Service + ?Sized> Clone for Proxy<S> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            caller: self.caller.clone(),
        }
    }
}

impl<S: Service + ?Sized> fmt::Debug for Proxy<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("service", &S::NAME)
            .field("peer", &self.peer())
            .finish()
    }
}

/// A message that was not sent, with the reason.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("not sent: {error}")]
pub struct SendError<M> {
    /// The message, to send again or elsewhere.
    pub message: M,
    /// Why the message was not sent.
    #[source]
    pub error: RpcError,
}

impl<M> From<SendError<M>> for RpcError {
    /// Converts the error, and drops the message that it carries.
    fn from(unsent: SendError<M>) -> Self {
        unsent.error
    }
}

impl<M> fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// The address of one method, whatever the service: it takes messages of one type, like an actix
/// `Recipient`. [`Proxy::recipient`] makes it.
///
/// ```no_run
/// # use slimerpc_actors::{Proxy, Recipient, RpcError, service};
/// # #[derive(Default)]
/// # struct Calc;
/// # #[service]
/// # impl Calc {
/// #     #[method]
/// #     fn add(&mut self, a: i64, b: i64) -> i64 {
/// #         a + b
/// #     }
/// # }
/// # async fn example(calc: Proxy<Calc>) -> Result<(), RpcError> {
/// let adder: Recipient<Add> = calc.recipient();
/// assert_eq!(adder.send(Add { a: 1, b: 2 }).await?, 3);
/// # Ok(())
/// # }
/// ```
pub struct Recipient<M> {
    caller: Caller,
    message: PhantomData<fn(M)>,
}

impl<M: Call> Recipient<M> {
    /// Calls the method.
    pub fn send(&self, message: M) -> Reply<M::Output> {
        self.caller.call(message)
    }

    /// Calls the method without waiting for its result; see [`Tell`].
    pub fn tell(&self, message: M) -> Tell {
        self.caller.tell(message)
    }
}

impl<M> Clone for Recipient<M> {
    fn clone(&self) -> Self {
        Self {
            caller: self.caller.clone(),
            message: PhantomData,
        }
    }
}

impl<M> fmt::Debug for Recipient<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipient")
            .field("message", &std::any::type_name::<M>())
            .field("peer", &self.caller.inner.setup.peer)
            .finish_non_exhaustive()
    }
}

/// Room for arguments that are encoded before a slot is claimed for them.
const SMALL: usize = 128;

/// Makes calls without the service's type; the clients of `#[service]` are made of it.
#[derive(Debug)]
pub struct Caller {
    inner: Arc<Inner>,
    /// The connection as of when this caller was made, and the version that it had then.
    connection: Arc<Connection>,
    version: u64,
    /// Deadline of each call.
    pub(crate) timeout: Option<Duration>,
    /// How long each call waits for a lost connection.
    pub(crate) reconnect_wait: Duration,
    /// Whether threads wait for the replies: then no calls are made where a thread must not wait.
    is_waited_for: bool,
}

#[derive(Debug)]
struct Inner {
    setup: ProxySetup,
    /// The present connection, replaced when a lost one is restored, or a resting one opened again.
    current: ArcSwap<Connection>,
    /// How often the connection was replaced.
    version: AtomicU64,
    /// Notified when the connection is replaced.
    adopted: watch::Sender<()>,
    /// The calls that wait for the connection, while it rests.
    line: Line,
}

impl Heal for Inner {
    fn setup(&self) -> &ProxySetup {
        &self.setup
    }

    fn life(&self) -> Option<u64> {
        self.current().life
    }

    fn closing(&self) -> Vec<Arc<Notify>> {
        let connection = self.current();
        let channels = connection.channels();
        channels.map(|channel| channel.closing()).collect()
    }

    fn link(&self) -> Option<LinkType> {
        self.current().serial.0.link()
    }

    fn lost(&self) -> Option<LossCause> {
        Inner::lost(self)
    }

    fn adopt(&self, connected: ConnectedService) {
        let connection = Arc::new(self.setup.connection_with(connected));
        let adopt = || {
            self.current.store(connection.clone());
            self.version.fetch_add(1, Ordering::Release);
        };
        self.line.serve(&self.setup, &connection, adopt);
        self.adopted.send_replace(());
    }

    fn calls_if_idle(&self) -> Option<[u64; 2]> {
        self.current().calls_if_idle()
    }

    fn rest(&self, calls: [u64; 2]) -> bool {
        self.current().rest(calls)
    }

    fn resting(&self) -> Option<Arc<Notify>> {
        self.rests().then(|| self.line.asked.clone())
    }

    fn is_called(&self) -> bool {
        self.line.has_waiting()
    }

    fn lose(&self, cause: LossCause) {
        if self.rests() {
            self.line.lose(&self.setup, cause);
        }
    }
}

impl Inner {
    fn current(&self) -> Arc<Connection> {
        self.current.load_full()
    }

    /// Whether the connection rests, whatever has become of the peer.
    fn rests(&self) -> bool {
        self.current().lost() == Some(LossCause::Resting)
    }

    /// Why calls cannot be made. A connection that rests is opened by the next call.
    fn lost(&self) -> Option<LossCause> {
        match self.current().lost() {
            Some(LossCause::Resting) => self.line.lost(),
            lost => lost,
        }
    }

    /// Returns whether calls to this incarnation of the peer can be made.
    fn can_call(&self, life: u64) -> bool {
        self.current().life == Some(life) && self.lost().is_none()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.line.asked.notify_one();
    }
}

impl Clone for Caller {
    /// A clone starts with the present connection.
    fn clone(&self) -> Self {
        // Read before the connection: if it is replaced in between, each call looks it up again.
        let version = self.inner.version.load(Ordering::Acquire);
        Self {
            inner: self.inner.clone(),
            connection: self.inner.current(),
            version,
            ..*self
        }
    }
}

/// A call that waits for a connection that rests.
struct WaitingCall<T, M> {
    method: usize,
    claim: Arc<Claim>,
    make: M,
    tell: oneshot::Sender<Result<T, RpcError>>,
}

impl<T, M> Waiting for WaitingCall<T, M>
where
    T: Send,
    M: FnOnce(&ProxySetup, &Connection) -> Result<T, RpcError> + Send,
{
    fn is_wanted(&self) -> bool {
        !self.tell.is_closed()
    }

    fn opened(self: Box<Self>, setup: &ProxySetup, opened: Result<&Connection, &LossCause>) {
        // If nobody wants the call any more, it is not made.
        if !self.is_wanted() {
            return;
        }
        let made = match opened {
            Ok(connection) if self.claim.make() => (self.make)(setup, connection),
            Ok(_) => return,
            Err(cause) => Err(setup.lost(self.method, cause.clone())),
        };
        // It ends with its reply, if nobody wants it by now.
        let _ = self.tell.send(made);
    }
}

/// The connection to a service: the one that a caller knows, or the present one.
pub(crate) enum Known<'a> {
    Still(&'a Connection),
    Replaced(Guard<Arc<Connection>>),
}

impl Deref for Known<'_> {
    type Target = Connection;

    #[inline]
    fn deref(&self) -> &Connection {
        match self {
            Self::Still(connection) => connection,
            Self::Replaced(connection) => connection,
        }
    }
}

impl Caller {
    /// Makes a caller of a connected service.
    pub(crate) fn new(
        setup: ProxySetup,
        connected: ConnectedService,
        timeout: Option<Duration>,
        reconnect_wait: Duration,
    ) -> Self {
        let connection = Arc::new(setup.connection_with(connected));
        Self {
            connection: connection.clone(),
            version: 0,
            timeout,
            reconnect_wait,
            is_waited_for: false,
            inner: Arc::new(Inner {
                setup,
                current: ArcSwap::new(connection),
                version: AtomicU64::new(0),
                adopted: watch::Sender::new(()),
                line: Line::default(),
            }),
        }
    }

    /// The proxy for the task that reconnects it; `None` if there is nothing that could be lost.
    pub(crate) fn healing(&self) -> Option<Weak<dyn Heal>> {
        let inner: Weak<dyn Heal> = Arc::<Inner>::downgrade(&self.inner);
        self.connection().is_native().then_some(inner)
    }

    pub(crate) fn peer(&self) -> &str {
        &self.inner.setup.peer
    }

    pub(crate) fn setup(&self) -> &ProxySetup {
        &self.inner.setup
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.inner.setup.wait_policy.runtime
    }

    /// The present connection to the service. It has to be looked up only if the connection was
    /// lost since this caller was made.
    #[inline]
    pub(crate) fn connection(&self) -> Known<'_> {
        if self.inner.version.load(Ordering::Acquire) == self.version {
            return Known::Still(&self.connection);
        }
        Known::Replaced(self.inner.current.load())
    }

    /// Waits until calls can be made.
    pub(crate) async fn connected(&self) {
        let mut adopted = self.inner.adopted.subscribe();
        while self.inner.lost().is_some() {
            // The sender is in `inner`, so it is not gone.
            let _ = adopted.changed().await;
        }
    }

    /// Returns whether a call that failed may wait for the connection to be restored.
    pub(crate) fn can_wait(&self, error: &RpcError) -> bool {
        let is_lost = match error {
            RpcError::PeerLost { cause, ran, .. } => {
                *ran == Ran::No && *cause != LossCause::ShutDown
            }
            _ => false,
        };
        is_lost && !self.reconnect_wait.is_zero() && self.connection().is_native()
    }

    /// Lets a call of a method wait for a connection that rests. What becomes of it is told, if it
    /// waits.
    pub(crate) fn line_up<T: Send + 'static>(
        &self,
        method: usize,
        claim: &Arc<Claim>,
        make: impl FnOnce(&ProxySetup, &Connection) -> Result<T, RpcError> + Send + 'static,
    ) -> (Turn, oneshot::Receiver<Result<T, RpcError>>) {
        let (tell, told) = oneshot::channel();
        let waiting = || -> Box<dyn Waiting> {
            Box::new(WaitingCall {
                method,
                claim: claim.clone(),
                make,
                tell,
            })
        };
        let turn = self.inner.line.join(|| self.inner.rests(), waiting);
        (turn, told)
    }

    /// Counts a call that is not made, if calls are counted and the peer is away.
    pub(crate) fn count_unmade(&self, method: usize, error: &RpcError) {
        self.connection().count_unmade(self.name(method), error);
    }

    /// The name of a method.
    fn name(&self, method: usize) -> &'static &'static str {
        self.inner.setup.name(method)
    }

    /// Calls a typed method.
    pub fn call<M: Call>(&self, message: M) -> Reply<M::Output> {
        self.try_call(&message).unwrap_or_else(Reply::failed)
    }

    fn try_call<M: Call>(&self, message: &M) -> Result<Reply<M::Output>, RpcError> {
        let connection = self.connection();
        let codec = connection.codec(<M::Service as Service>::CODEC);
        let encode = |room: &mut [u8]| codec.encode(&message.arguments(), room);
        // Bytes are sent under one lock, and arguments of this type are a few bytes, as they refer
        // to nothing.
        let mut room = [0; SMALL];
        let is_small = !std::mem::needs_drop::<M>() && size_of::<M>() <= SMALL / 2;
        let len = is_small.then(|| encode(&mut room).ok()).flatten();
        let bytes = len.and_then(|len| room.get(..len));
        let decode = result(codec);
        self.make(&connection, Some(codec), M::METHOD, bytes, encode, decode)
    }

    /// Calls a typed method without waiting for its result.
    pub fn tell<M: Call>(&self, message: M) -> Tell {
        let connection = self.connection();
        let codec = connection.codec(<M::Service as Service>::CODEC);
        let encode = |room: &mut [u8]| codec.encode(&message.arguments(), room);
        let (setup, method) = (&self.inner.setup, M::METHOD);
        let (span, trace) = self.span(method).unzip();
        let trace = trace.flatten();
        let error = match tell(setup, &connection, method, self.timeout, trace, encode) {
            Ok(call) => return Tell::new(Ok(call)).traced(span),
            Err(error) => error,
        };
        let any = |_: &Self, _: &Connection| Ok(());
        let make = move |bytes: &[u8], setup: &ProxySetup, connection: &Connection, left| {
            setup.check_codec(connection, Some(codec))?;
            tell(setup, connection, method, left, trace, |room| {
                Raw::encode(bytes, room)
            })
        };
        let told = match self.again(error, method, encode, any, make) {
            Ok(Again::Made(call)) => Tell::new(Ok(call)),
            Ok(Again::Later(later)) => Tell::later(later),
            Err(error) => Tell::new(Err(error)),
        };
        told.traced(span)
    }

    /// Calls a method that returns a stream.
    pub fn stream<M: StreamCall>(&self, message: M) -> Items<M::Item> {
        let connection = self.connection();
        let codec = connection.codec(<M::Service as Service>::CODEC);
        let item = |codec: PayloadCodec, answer: AnswerView<'_>| {
            if answer.is_end() {
                return Ok(None);
            }
            codec.decode(answer.payload()).map(Some)
        };
        let decode: Decoder<Option<M::Item>> = Decoder::View(codec, item);
        let encode = |room: &mut [u8]| codec.encode(&message.arguments(), room);
        let (setup, method) = (&self.inner.setup, M::METHOD);
        let (span, trace) = self.span(method).unzip();
        let (timeout, trace) = (self.timeout, trace.flatten());
        let opened = self.check(&connection, method);
        let opened = opened
            .and_then(|()| open_stream(setup, &connection, method, timeout, trace, encode, decode));
        let name = self.name(method);
        let error = match opened {
            Ok((first, source)) => {
                return Items::new(source, first, decode, name, timeout).traced(span);
            }
            Err(error) => error,
        };
        let check = move |caller: &Self, connection: &Connection| caller.check(connection, method);
        let make = move |bytes: &[u8], setup: &ProxySetup, connection: &Connection, left| {
            setup.check_codec(connection, Some(codec))?;
            let encode = |room: &mut [u8]| Raw::encode(bytes, room);
            open_stream(setup, connection, method, left, trace, encode, decode)
        };
        let items = match self.again(error, method, encode, check, make) {
            Ok(Again::Made((first, source))) => Items::new(source, first, decode, name, timeout),
            Ok(Again::Later(later)) => Items::later(later, decode, name),
            Err(error) => Items::failed(error, decode, name),
        };
        items.traced(span)
    }

    /// Calls a raw method: number `method` of the service's table.
    pub fn call_raw(&self, method: usize, request: &[u8]) -> Reply<Vec<u8>> {
        self.raw(method, Some(request), |room| Raw::encode(request, room))
    }

    /// Calls a raw method; `fill` writes the request into send memory itself and returns its size
    /// in bytes. If it returns more than there is room for, it is called again with that much.
    pub fn call_raw_with(
        &self,
        method: usize,
        mut fill: impl FnMut(&mut [u8]) -> usize,
    ) -> Reply<Vec<u8>> {
        self.raw(method, None, |room| written(&fill(room), room))
    }

    fn raw(
        &self,
        method: usize,
        bytes: Option<&[u8]>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Reply<Vec<u8>> {
        let decode = Decoder::View(PayloadCodec::default(), |_, answer| {
            <Raw as Codec<[u8]>>::decode(answer.payload())
        });
        self.make(&self.connection(), None, method, bytes, encode, decode)
            .unwrap_or_else(Reply::failed)
    }

    /// Makes a call over the connection that its codec was chosen for. With `bytes`, those are what
    /// `encode` writes.
    fn make<T: 'static>(
        &self,
        connection: &Connection,
        codec: Option<PayloadCodec>,
        method: usize,
        bytes: Option<&[u8]>,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
        decode: Decoder<T>,
    ) -> Result<Reply<T>, RpcError> {
        if trace::is_on()
            && let Some(span) = self.span(method)
        {
            return self.make_traced(span, connection, codec, method, &mut encode, decode);
        }
        let (number, target) = self.target(connection, method)?;
        let name = self.name(method);
        match target.call(number, name, self.timeout, bytes, &mut encode, decode) {
            Ok(reply) => Ok(reply),
            Err(error) => self.make_later(codec, method, None, error, encode, decode),
        }
    }

    /// Makes a call that has a span. `encode` is of another type than in [`make`](Self::make): code
    /// that is used twice is not inlined into the plain path.
    #[cold]
    fn make_traced<T: 'static>(
        &self,
        (mut span, trace): (CallSpan, Option<Traceparent>),
        connection: &Connection,
        codec: Option<PayloadCodec>,
        method: usize,
        encode: &mut dyn FnMut(&mut [u8]) -> Result<usize, EncodeError>,
        decode: Decoder<T>,
    ) -> Result<Reply<T>, RpcError> {
        let made = self
            .target(connection, method)
            .and_then(|(number, target)| {
                let (name, timeout) = (self.name(method), self.timeout);
                let called = target.call_traced(number, name, timeout, trace, &mut *encode, decode);
                called.or_else(|error| {
                    self.make_later(codec, method, trace, error, &mut *encode, decode)
                })
            });
        match made {
            Ok(reply) => Ok(reply.traced(span)),
            Err(error) => {
                span.ends(trace::outcome(&error));
                Err(error)
            }
        }
    }

    /// The span of a call that begins now, with what the service is to be told of it, if somebody
    /// wants it.
    #[cold]
    fn span(&self, method: usize) -> Option<(CallSpan, Option<Traceparent>)> {
        if !trace::is_on() {
            return None;
        }
        let setup = &self.inner.setup;
        trace::call(&setup.peer, &setup.wanted.name, setup.name(method))
    }

    /// Makes a call that has failed once there is a connection again, if it may wait that long.
    #[cold]
    fn make_later<T: 'static>(
        &self,
        codec: Option<PayloadCodec>,
        method: usize,
        trace: Option<Traceparent>,
        error: RpcError,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
        decode: Decoder<T>,
    ) -> Result<Reply<T>, RpcError> {
        let check = move |caller: &Self, connection: &Connection| caller.check(connection, method);
        let make = move |bytes: &[u8], setup: &ProxySetup, connection: &Connection, left| {
            setup.check_codec(connection, codec)?;
            let (number, target) = setup.route(connection, method)?;
            let mut encode = |room: &mut [u8]| Raw::encode(bytes, room);
            target.call_traced(number, setup.name(method), left, trace, &mut encode, decode)
        };
        match self.again(error, method, encode, check, make)? {
            Again::Made(reply) => Ok(reply),
            Again::Later(later) => Ok(Reply::later(later)),
        }
    }

    /// Makes a call with these arguments once more, after `error`; see [`Again::after`].
    #[cold]
    fn again<T: Send + 'static>(
        &self,
        error: RpcError,
        method: usize,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
        check: impl Fn(&Self, &Connection) -> Result<(), RpcError> + Send + 'static,
        make: impl Fn(&[u8], &ProxySetup, &Connection, Option<Duration>) -> Result<T, RpcError>
        + Send
        + Sync
        + 'static,
    ) -> Result<Again<T>, RpcError> {
        let rests = reconnect::is_resting(&error);
        if !rests && !self.can_wait(&error) {
            self.count_unmade(method, &error);
            return Err(error);
        }
        let room = self.connection().serial.0.geometry().max_payload();
        let bytes = match reconnect::encoded(room, encode) {
            Ok(bytes) => bytes,
            // That the connection rests is no error.
            Err(refused) if rests => {
                return Err(RpcError::from_call(
                    refused.into(),
                    self.peer(),
                    self.name(method),
                ));
            }
            Err(_) => return Err(error),
        };
        let make = move |setup: &ProxySetup, connection: &Connection, left| {
            make(&bytes, setup, connection, left)
        };
        Again::after(error, self, method, check, make)
    }

    /// The target of a call; refuses one whose caller would wait for the handler that it runs in.
    #[inline]
    fn target<'a>(
        &self,
        connection: &'a Connection,
        method: usize,
    ) -> Result<(u32, &'a CallTarget), RpcError> {
        let (number, target) = self.inner.setup.route(connection, method)?;
        // A parallel method answers while its service waits for it.
        let is_serial = std::ptr::eq(target, &connection.serial);
        if is_serial && connection.instance.is_some_and(current_handler::is_of) {
            return Err(RpcError::OwnService {
                service: self.inner.setup.wanted.name.clone(),
            });
        }
        if self.is_waited_for && would_block_a_runtime() {
            return Err(RpcError::WouldBlock { ran: Ran::No });
        }
        Ok((number, target))
    }

    /// Refuses a call whose caller would wait for the handler that it runs in.
    fn check(&self, connection: &Connection, method: usize) -> Result<(), RpcError> {
        self.target(connection, method).map(drop)
    }
}

/// Makes a call without waiting for its result.
fn tell(
    setup: &ProxySetup,
    connection: &Connection,
    method: usize,
    timeout: Option<Duration>,
    trace: Option<Traceparent>,
    encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<OneWayCall, RpcError> {
    let (number, target) = setup.route(connection, method)?;
    target.tell(number, setup.name(method), timeout, trace, encode)
}

/// Opens a stream.
fn open_stream<T>(
    setup: &ProxySetup,
    connection: &Connection,
    method: usize,
    timeout: Option<Duration>,
    trace: Option<Traceparent>,
    encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    decode: Decoder<T>,
) -> Result<(Reply<T>, ItemSource), RpcError> {
    let (number, target) = setup.route(connection, method)?;
    target.open_stream(number, setup.name(method), timeout, trace, encode, decode)
}

/// Decodes a typed result.
fn result<T: DeserializeOwned>(codec: PayloadCodec) -> Decoder<T> {
    Decoder::View(codec, |codec, answer| codec.decode(answer.payload()))
}

/// Checks that `len` bytes, which stand in `room` already, fit it.
fn written(len: &usize, room: &mut [u8]) -> Result<usize, EncodeError> {
    let (size, limit) = (*len, room.len());
    if size > limit {
        return Err(EncodeError::TooLarge { size, limit });
    }
    Ok(size)
}
