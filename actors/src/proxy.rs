//! Addresses of services.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use slimerpc::channel::ClientChannel;
use slimerpc::wire::{Codec, EncodeError, PayloadCodec, Raw};

use crate::reply::Decoder;
use crate::{Call, Reply, RpcError, Service};

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

    /// Alias of the peer.
    pub fn peer(&self) -> &str {
        self.caller.inner.channel.peer()
    }

    /// The channel below: its account of credits and counters.
    pub fn channel(&self) -> &ClientChannel {
        &self.caller.inner.channel
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

/// Makes calls without knowing the service's type; what `#[service]`'s clients are made of.
#[derive(Debug, Clone)]
pub struct Caller {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    channel: Arc<ClientChannel>,
    service: &'static str,
    methods: &'static [&'static str],
    /// The server's number for each of `methods`; `None` for those that it does not have.
    numbers: Vec<Option<u32>>,
}

impl Caller {
    pub(crate) fn new(
        channel: Arc<ClientChannel>,
        service: &'static str,
        methods: &'static [&'static str],
        numbers: Vec<Option<u32>>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                channel,
                service,
                methods,
                numbers,
            }),
        }
    }

    /// Calls a typed method.
    pub fn call<M: Call>(&self, message: M) -> Reply<M::Output> {
        let codec = <M::Service as Service>::CODEC;
        let codec = self.inner.channel.profile().codec(codec);
        self.make(
            M::METHOD,
            |room| codec.encode(&message.arguments(), room),
            (codec, PayloadCodec::decode::<M::Output>),
        )
    }

    /// Calls a raw method: number `method` of the service's table.
    pub fn call_raw(&self, method: usize, request: &[u8]) -> Reply<Vec<u8>> {
        self.make(
            method,
            |room| Raw::encode(request, room),
            (PayloadCodec::default(), |_, bytes| {
                <Raw as Codec<[u8]>>::decode(bytes)
            }),
        )
    }

    fn make<T>(
        &self,
        method: usize,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, EncodeError>,
        decode: Decoder<T>,
    ) -> Reply<T> {
        let inner = &self.inner;
        let call = match inner.numbers.get(method).copied().flatten() {
            Some(number) => inner
                .channel
                .call(number, encode)
                .map_err(|error| RpcError::from_call(error, inner.channel.peer())),
            None => Err(RpcError::MethodNotFound {
                service: inner.service.to_owned(),
                method: inner.methods.get(method).copied().unwrap_or("?").to_owned(),
            }),
        };
        Reply::new(call, decode)
    }
}
