//! Addresses of services.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use slimerpc::channel::{ClientChannel, LocalService, Profile, Route, ToldCall};
use slimerpc::wire::{Codec, EncodeError, Fault, PayloadCodec, Raw};

use crate::answer::written;
use crate::instance_id::InstanceId;
use crate::items::{Items, Source};
use crate::reply::{AnyCall, Decoder};
use crate::{Call, Message, Reply, RpcError, Service, StreamCall, Tell};

/// The address of a service at a peer, used like an actix `Addr`: cheap to clone, `Send`, and calls made
/// through it run in the order in which they were made (ORDER-1).
///
/// It has a method for each method of the service (of [`Service::Client`], to which it dereferences), and
/// [`send`](Self::send) for messages as values. Both make the call at once, not when the reply is polled.
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

    /// Calls the method that `message` belongs to without waiting for its result; see [`Tell`].
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
    /// let sum = counter.stream(Count { to: 9 }).filter_map(async |item| item.ok()).collect::<Vec<u32>>().await;
    /// # drop(sum);
    /// # }
    /// ```
    pub fn stream<M: StreamCall<Service = S>>(&self, message: M) -> Items<M::Item> {
        self.caller.stream(message)
    }

    /// As [`send`](Self::send), unless the message was not sent: then it comes back with the error.
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
    /// Why it was not sent: the peer is lost, it has no such method, or the arguments do not fit or do not encode.
    pub fn try_send<M: Call<Service = S>>(
        &self,
        message: M,
    ) -> Result<Reply<M::Output>, SendError<M>> {
        match self.caller.try_call(&message) {
            Ok(reply) => Ok(reply),
            Err(error) => Err(SendError { message, error }),
        }
    }

    /// This address with a deadline for each call made through it, counted from when the call is made. The deadline
    /// travels: a request that has expired when its turn comes is not run.
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

    /// The address of one of the service's methods, without the type of the service.
    pub fn recipient<M: Call<Service = S>>(&self) -> Recipient<M> {
        Recipient {
            caller: self.caller.clone(),
            message: PhantomData,
        }
    }

    /// Name of the service.
    pub fn name(&self) -> &str {
        &self.caller.inner.service
    }

    /// How its typed payloads travel.
    pub(crate) fn codec(&self) -> PayloadCodec {
        self.caller.inner.codec(S::CODEC)
    }

    /// Sends arguments that have been encoded with the [codec](Self::codec), or have not.
    pub(crate) fn send_encoded<M: Call<Service = S>>(
        &self,
        arguments: &Result<Vec<u8>, EncodeError>,
    ) -> Reply<M::Output> {
        let encode = |room: &mut [u8]| match arguments {
            Ok(bytes) => Raw::encode(bytes, room),
            Err(error) => Err(error.clone()),
        };
        let decode: Decoder<_> = (self.codec(), |codec, answer| codec.decode(answer.payload()));
        let made = self.caller.make(M::METHOD, encode, decode);
        made.unwrap_or_else(Reply::failed)
    }

    /// Alias of the peer.
    pub fn peer(&self) -> &str {
        self.caller.inner.serial.peer()
    }

    /// Whether the service is of this agent: then calls do not touch the fabric.
    pub fn is_local(&self) -> bool {
        self.channel().is_none()
    }

    /// The channel below: its account of credits and counters. `None` if the service is [local](Self::is_local).
    pub fn channel(&self) -> Option<&ClientChannel> {
        self.caller.inner.serial.channel()
    }

    /// The channel of the parallel methods, if the service has some and the peer is native: neither a busy serial method
    /// nor calls that wait for a credit of the other channel delay them.
    pub fn parallel_channel(&self) -> Option<&ClientChannel> {
        self.caller.inner.parallel.as_ref()?.channel()
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

/// A message was not sent, and comes back.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("not sent: {error}")]
pub struct SendError<M> {
    /// The message.
    pub message: M,
    /// Why it was not sent.
    #[source]
    pub error: RpcError,
}

impl<M> fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// Takes messages of one type, like an actix `Recipient`: the address of one method, whatever the service. Made by
/// [`Proxy::recipient`].
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
            .field("peer", &self.caller.inner.serial.peer())
            .finish_non_exhaustive()
    }
}

/// Makes calls without knowing the service's type; what `#[service]`'s clients are made of.
#[derive(Debug, Clone)]
pub struct Caller {
    inner: Arc<Inner>,
    /// Of each call.
    timeout: Option<Duration>,
}

#[derive(Debug)]
struct Inner {
    serial: Way,
    /// For parallel methods, if they have one of their own.
    parallel: Option<Way>,
    /// What is called, if it is served by a process that may be this one.
    instance: Option<InstanceId>,
    service: Box<str>,
    methods: &'static [&'static str],
    /// For each of `methods`; `None` for those that the server does not have.
    routes: Vec<Option<Route>>,
}

/// How calls get to a service.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    Channel(Arc<ClientChannel>),
    /// It is of this agent.
    Local(LocalService, Failed),
}

/// Hears of calls without a waiter that fail: the method, and why.
#[derive(Clone)]
pub(crate) struct Failed(pub(crate) Arc<dyn Fn(u32, Fault) + Send + Sync>);

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Failed")
    }
}

impl Way {
    pub(crate) fn channel(&self) -> Option<&ClientChannel> {
        match self {
            Self::Channel(channel) => Some(channel),
            Self::Local(..) => None,
        }
    }

    fn peer(&self) -> &str {
        match self {
            Self::Channel(channel) => channel.peer(),
            Self::Local(service, _) => &service.peer,
        }
    }

    fn call(
        &self,
        number: u32,
        timeout: Option<Duration>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<AnyCall, RpcError> {
        let made = match self {
            Self::Channel(channel) => channel.call(number, timeout, encode).map(AnyCall::Remote),
            Self::Local(service, _) => service.call(number, timeout, encode).map(AnyCall::Local),
        };
        made.map_err(|error| RpcError::from_call(error, self.peer()))
    }

    fn open_stream(
        &self,
        number: u32,
        timeout: Option<Duration>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(AnyCall, Source), RpcError> {
        let opened = match self {
            Self::Channel(channel) if channel.profile() == Profile::Compatible => {
                return Err(RpcError::NotNative {
                    peer: channel.peer().to_owned(),
                    what: "streams",
                });
            }
            Self::Channel(channel) => {
                channel
                    .open_stream(number, timeout, encode)
                    .map(|(call, stream)| {
                        let source = Source::Remote(channel.clone(), stream);
                        (AnyCall::Remote(call), source)
                    })
            }
            Self::Local(service, _) => {
                service
                    .open_stream(number, timeout, encode)
                    .map(|(call, demand)| {
                        let source = Source::Local(service.clone(), demand);
                        (AnyCall::Local(call), source)
                    })
            }
        };
        opened.map_err(|error| RpcError::from_call(error, self.peer()))
    }

    fn tell(
        &self,
        number: u32,
        timeout: Option<Duration>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<Option<ToldCall>, RpcError> {
        let told = match self {
            Self::Channel(channel) => channel.tell(number, timeout, encode).map(Some),
            Self::Local(service, Failed(failed)) => {
                let failed = failed.clone();
                let failed = move |fault| failed(number, fault);
                service.tell(number, timeout, encode, failed).map(|()| None)
            }
        };
        told.map_err(|error| RpcError::from_call(error, self.peer()))
    }
}

impl Inner {
    fn codec(&self, native: PayloadCodec) -> PayloadCodec {
        let channel = self.serial.channel();
        channel.map_or(native, |channel| channel.profile().codec(native))
    }
}

impl Caller {
    pub(crate) fn new(
        (serial, parallel): (Way, Option<Way>),
        service: &str,
        methods: &'static [&'static str],
        routes: Vec<Option<Route>>,
        instance: Option<InstanceId>,
        timeout: Option<Duration>,
    ) -> Self {
        Self {
            timeout,
            inner: Arc::new(Inner {
                serial,
                parallel,
                instance,
                service: service.into(),
                methods,
                routes,
            }),
        }
    }

    /// Calls a typed method.
    pub fn call<M: Call>(&self, message: M) -> Reply<M::Output> {
        self.try_call(&message).unwrap_or_else(Reply::failed)
    }

    fn try_call<M: Call>(&self, message: &M) -> Result<Reply<M::Output>, RpcError> {
        let codec = self.codec::<M>();
        self.make(
            M::METHOD,
            |room| codec.encode(&message.arguments(), room),
            (codec, |codec, answer| codec.decode(answer.payload())),
        )
    }

    /// Calls a typed method without waiting for its result.
    pub fn tell<M: Call>(&self, message: M) -> Tell {
        let codec = self.codec::<M>();
        let told = self.route(M::METHOD).and_then(|(number, way)| {
            let encode = |room: &mut [u8]| codec.encode(&message.arguments(), room);
            way.tell(number, self.timeout, encode)
        });
        Tell::new(told)
    }

    /// Calls a method that gives back a stream.
    pub fn stream<M: StreamCall>(&self, message: M) -> Items<M::Item> {
        let codec = self.codec::<M>();
        let decode: Decoder<Option<M::Item>> = (codec, |codec, answer| {
            if answer.is_end() {
                return Ok(None);
            }
            codec.decode(answer.payload()).map(Some)
        });
        let opened = self.way(M::METHOD).and_then(|(number, way)| {
            let encode = |room: &mut [u8]| codec.encode(&message.arguments(), room);
            way.open_stream(number, self.timeout, encode)
        });
        match opened {
            Ok((first, source)) => Items::new(source, first, decode, self.timeout),
            Err(error) => Items::failed(error, decode),
        }
    }

    /// How the payloads of a message travel.
    fn codec<M: Message>(&self) -> PayloadCodec {
        self.inner.codec(<M::Service as Service>::CODEC)
    }

    /// Calls a raw method: number `method` of the service's table.
    pub fn call_raw(&self, method: usize, request: &[u8]) -> Reply<Vec<u8>> {
        self.raw(method, |room| Raw::encode(request, room))
    }

    /// The same; `fill` writes the request into send memory itself and says how many bytes. If it says more than there is
    /// room for, it is called again with that much.
    pub fn call_raw_with(
        &self,
        method: usize,
        mut fill: impl FnMut(&mut [u8]) -> usize,
    ) -> Reply<Vec<u8>> {
        self.raw(method, |room| written(&fill(room), room))
    }

    fn raw(
        &self,
        method: usize,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Reply<Vec<u8>> {
        let decode: Decoder<_> = (PayloadCodec::default(), |_, answer| {
            <Raw as Codec<[u8]>>::decode(answer.payload())
        });
        self.make(method, encode, decode)
            .unwrap_or_else(Reply::failed)
    }

    /// The server's number of a method, and the way to it.
    fn route(&self, method: usize) -> Result<(u32, &Way), RpcError> {
        let inner = &*self.inner;
        let Some(route) = inner.routes.get(method).copied().flatten() else {
            return Err(RpcError::MethodNotFound {
                service: inner.service.to_string(),
                method: inner.methods.get(method).copied().unwrap_or("?").to_owned(),
            });
        };
        let parallel = inner.parallel.as_ref().filter(|_| route.is_parallel);
        Ok((route.number, parallel.unwrap_or(&inner.serial)))
    }

    fn make<T>(
        &self,
        method: usize,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
        decode: Decoder<T>,
    ) -> Result<Reply<T>, RpcError> {
        let (number, way) = self.way(method)?;
        let call = way.call(number, self.timeout, encode)?;
        Ok(Reply::new(call, decode))
    }

    /// The same for a call whose caller waits: not for the handler that it runs in itself.
    fn way(&self, method: usize) -> Result<(u32, &Way), RpcError> {
        let inner = &self.inner;
        let (number, way) = self.route(method)?;
        // A parallel method answers while its service waits for it.
        let is_serial = std::ptr::eq(way, &inner.serial);
        if is_serial && inner.instance.is_some_and(InstanceId::is_running_here) {
            return Err(RpcError::OwnService {
                service: inner.service.to_string(),
            });
        }
        Ok((number, way))
    }
}
