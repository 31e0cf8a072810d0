//! The connection through which a proxy's calls reach its service.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use slimerpc::channel::{
    CallError, ClientChannel, Delivery, LocalService, LossCause, OneWayCall, Profile, Route,
    ServiceInfo, ServiceTable, TellError, WaitPolicy,
};
use slimerpc::wire::{EncodeError, Fault, PayloadCodec, Signature};
use tokio::sync::broadcast;
use tokio::sync::mpsc::UnboundedSender;

use crate::client::items::ItemSource;
use crate::client::reply::Decoder;
use crate::client::watch::Follow;
use crate::supervision::current_handler::InstanceId;
use crate::{AgentError, AgentEvent, Reply, RpcError, Watch, client::tell};

/// A connection to a service.
pub(crate) enum ServiceConnection {
    /// Two channels; the second is for parallel methods, if the service has some and the peer is
    /// native.
    Channels(Arc<ClientChannel>, Option<Arc<ClientChannel>>),
    /// The service belongs to this agent; the second queue is for its parallel methods, if it has
    /// some.
    Local(UnboundedSender<Delivery>, Option<UnboundedSender<Delivery>>),
}

/// A service that can be called.
pub(crate) struct ConnectedService {
    pub(crate) link: ServiceConnection,
    pub(crate) table: ServiceTable,
    /// Incarnation of the peer, if it is native.
    pub(crate) incarnation: Option<u64>,
}

/// The parts of a proxy that stay the same for every connection to its service.
#[derive(Debug)]
pub(crate) struct ProxySetup {
    pub(crate) peer: Box<str>,
    /// The service as its callers declare it.
    pub(crate) wanted: ServiceTable,
    pub(crate) wait_policy: WaitPolicy,
    pub(crate) connect_timeout: Duration,
    pub(crate) stream_patience: Duration,
    /// Size in bytes of the largest answer that is written in place.
    pub(crate) max_in_place: usize,
    pub(crate) events: broadcast::Sender<AgentEvent>,
    /// Whom to ask what becomes of the peer.
    pub(crate) follow: Recipient<Follow>,
}

impl ProxySetup {
    /// The connection that a proxy makes of a connected service.
    pub(crate) fn reached(&self, dialled: ConnectedService) -> Connection {
        let mut routes = dialled.table.resolve(&self.wanted);
        if dialled.incarnation.is_some() {
            // Towards DLSlime peers every method is typed with their codec.
            let methods = self
                .wanted
                .methods
                .iter()
                .map(|method| self.wanted.signature(method));
            for (route, signature) in routes.iter_mut().zip(methods) {
                route.take_if(|_| signature.is_some_and(|it| it.obstacle().is_some()));
            }
        }
        let failed = self.report_tells(dialled.table.clone());
        let target = |channel: Arc<ClientChannel>| {
            let failed = failed.clone();
            channel.listen(move |failure| failed(failure.method, failure.cause));
            CallTarget::Channel(channel)
        };
        let (serial, parallel) = match dialled.link {
            ServiceConnection::Channels(serial, parallel) => (target(serial), parallel.map(target)),
            ServiceConnection::Local(serial, parallel) => {
                let service = Arc::new(ServiceInfo {
                    name: self.wanted.name.clone(),
                    stream_patience: self.stream_patience,
                });
                let target = |deliveries| {
                    let failed = failed.clone();
                    let service = LocalService {
                        deliveries,
                        service: service.clone(),
                        peer: (*self.peer).into(),
                        max_in_place: self.max_in_place,
                        wait_policy: self.wait_policy.clone(),
                    };
                    let failed = move |method, fault| failed(method, TellError::Fault(fault));
                    CallTarget::Local(service, Failed(Arc::new(failed)))
                };
                (target(serial), parallel.map(target))
            }
        };
        let life = dialled.incarnation;
        Connection {
            serial,
            parallel,
            life,
            instance: life.map(|life| InstanceId::new(life, &self.wanted.name)),
            routes,
            table: dialled.table,
        }
    }

    fn report_tells(&self, table: ServiceTable) -> Arc<dyn Fn(u32, TellError) + Send + Sync> {
        let (events, peer) = (self.events.clone(), self.peer.to_string());
        Arc::new(move |method, cause| {
            let method = table.methods.get(method as usize);
            let method = method.cloned().unwrap_or_default();
            let event = AgentEvent::TellFailed {
                error: tell::error(cause, &peer, &method),
                peer: peer.clone(),
                service: table.name.clone(),
                method,
            };
            tracing::debug!(?event, "a call that nobody waits for failed");
            // The listeners may have gone.
            let _ = events.send(event);
        })
    }

    /// Watches the peer.
    pub(crate) async fn watch(&self) -> Result<Watch, AgentError> {
        let follow = Follow {
            peer: self.peer.to_string(),
            timeout: self.connect_timeout,
        };
        let watch = self.follow.send(follow).await;
        watch.unwrap_or(Err(AgentError::ShutDown))
    }
}

/// The connection to a service, until it is lost.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) serial: CallTarget,
    /// The target of parallel methods, if they have another one.
    pub(crate) parallel: Option<CallTarget>,
    /// Incarnation of the peer, if it is native.
    pub(crate) life: Option<u64>,
    /// The instance that is called, if it may be in this process.
    pub(crate) instance: Option<InstanceId>,
    /// The route of each of the caller's methods; `None` for methods that the server does not have.
    pub(crate) routes: Vec<Option<Route>>,
    /// The service as its server declares it.
    table: ServiceTable,
}

impl Connection {
    /// The error for a method without a route.
    pub(crate) fn no_route(&self, wanted: &ServiceTable, method: &str) -> RpcError {
        let (service, method) = (wanted.name.clone(), method.to_owned());
        let obstacle = wanted.signature(&method).and_then(Signature::obstacle);
        if let Some(mismatch) = self.table.difference(wanted, &method) {
            let mismatch = Box::new(mismatch);
            return RpcError::MethodMismatch { service, mismatch };
        }
        if let Some(reason) = obstacle {
            return RpcError::NotInCodec {
                service,
                method,
                codec: wanted.codec.as_str().into(),
                reason: reason.to_owned(),
            };
        }
        RpcError::MethodNotFound { service, method }
    }

    /// The codec of typed payloads, where native peers would use `native`.
    pub(crate) fn codec(&self, native: PayloadCodec) -> PayloadCodec {
        let channel = self.serial.channel();
        channel.map_or(native, |channel| channel.profile().codec(native))
    }

    /// Returns whether payloads that were encoded with `codec` can take this connection, for a
    /// service that is `wanted` with this codec or another.
    pub(crate) fn speaks(&self, wanted: &ServiceTable, codec: PayloadCodec) -> bool {
        match self.serial.channel().map(|channel| channel.profile()) {
            Some(Profile::Compatible) => codec == PayloadCodec::Pickle,
            Some(Profile::Native) | None => codec.name() == wanted.codec,
        }
    }

    pub(crate) fn channels(&self) -> impl Iterator<Item = &Arc<ClientChannel>> {
        let ways = self.parallel.iter().chain([&self.serial]);
        ways.filter_map(CallTarget::channel)
    }

    /// Why the connection has ended, if it has.
    pub(crate) fn lost(&self) -> Option<LossCause> {
        self.channels().find_map(|channel| channel.closed())
    }

    /// Returns whether calls to this incarnation of the peer can be made.
    pub(crate) fn can_call(&self, life: u64) -> bool {
        self.life == Some(life) && self.lost().is_none()
    }

    /// Returns whether it has channels to a native peer.
    pub(crate) fn is_native(&self) -> bool {
        let channel = self.serial.channel();
        channel.is_some_and(|channel| channel.profile() == Profile::Native)
    }
}

/// The target of calls to a service.
#[derive(Debug, Clone)]
pub(crate) enum CallTarget {
    Channel(Arc<ClientChannel>),
    /// The service belongs to this agent.
    Local(LocalService, Failed),
}

/// Called with the method and the reason when a call that nobody waits for fails.
#[derive(Clone)]
pub(crate) struct Failed(pub(crate) Arc<dyn Fn(u32, Fault) + Send + Sync>);

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Failed")
    }
}

impl CallTarget {
    pub(crate) fn channel(&self) -> Option<&Arc<ClientChannel>> {
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

    #[inline]
    pub(crate) fn call<T>(
        &self,
        number: u32,
        name: &'static &'static str,
        timeout: Option<Duration>,
        bytes: Option<&[u8]>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
        decode: Decoder<T>,
    ) -> Result<Reply<T>, RpcError> {
        let made = match self {
            Self::Channel(channel) => match bytes {
                Some(bytes) => channel.call_bytes(number, timeout, bytes),
                None => channel.call(number, timeout, encode),
            }
            .map(|call| Reply::called(call, name, decode)),
            Self::Local(service, _) => service
                .call(number, timeout, encode)
                .map(|call| Reply::local(call, name, decode)),
        };
        made.map_err(|error| self.failed(error, name))
    }

    pub(crate) fn open_stream<T>(
        &self,
        number: u32,
        name: &'static &'static str,
        timeout: Option<Duration>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
        decode: Decoder<T>,
    ) -> Result<(Reply<T>, ItemSource), RpcError> {
        let opened = match self {
            Self::Channel(channel) if channel.profile() == Profile::Compatible => {
                return Err(RpcError::NotNative {
                    peer: channel.peer().to_owned(),
                    what: "streams".into(),
                });
            }
            Self::Channel(channel) => {
                channel
                    .open_stream(number, timeout, encode)
                    .map(|(call, stream)| {
                        let source = ItemSource::Remote(channel.clone(), stream);
                        (Reply::called(call, name, decode), source)
                    })
            }
            Self::Local(service, _) => {
                service
                    .open_stream(number, timeout, encode)
                    .map(|(call, demand)| {
                        let source = ItemSource::Local(service.clone(), demand);
                        (Reply::local(call, name, decode), source)
                    })
            }
        };
        opened.map_err(|error| self.failed(error, name))
    }

    #[cold]
    fn failed(&self, error: CallError, name: &str) -> RpcError {
        RpcError::from_call(error, self.peer(), name)
    }

    pub(crate) fn tell(
        &self,
        number: u32,
        name: &str,
        timeout: Option<Duration>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<Option<OneWayCall>, RpcError> {
        let told = match self {
            Self::Channel(channel) => channel.tell(number, timeout, encode).map(Some),
            Self::Local(service, Failed(failed)) => {
                let failed = failed.clone();
                let failed = move |fault| failed(number, fault);
                service.tell(number, timeout, encode, failed).map(|()| None)
            }
        };
        told.map_err(|error| self.failed(error, name))
    }
}
