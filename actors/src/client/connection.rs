//! The connection through which a proxy's calls reach its service.

use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use slimerpc::channel::{
    CallError, CallFigures, ClientChannel, LossCause, OneWayCall, Profile, Route, ServiceTable,
    TellFailure, WaitPolicy,
};
use slimerpc::wire::{EncodeError, PayloadCodec, Signature, Traceparent};
use tokio::sync::broadcast;

use crate::client::items::ItemSource;
use crate::client::reply::Decoder;
use crate::client::watch::Follow;
use crate::observe::Observed;
use crate::supervision::current_handler::InstanceId;
use crate::{AgentError, AgentEvent, Ran, Reply, RpcError, Watch, client::tell};

/// A service that can be called.
pub(crate) struct ConnectedService {
    pub(crate) serial: Arc<ClientChannel>,
    /// The channel for parallel methods, if any of them may be called and the peer is native.
    pub(crate) parallel: Option<Arc<ClientChannel>>,
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
    /// The names of its methods.
    pub(crate) methods: &'static [&'static str],
    pub(crate) wait_policy: WaitPolicy,
    pub(crate) connect_timeout: Duration,
    /// Whether the service belongs to the agent that calls it.
    pub(crate) is_local: bool,
    pub(crate) events: broadcast::Sender<AgentEvent>,
    /// Where calls are counted, if they are.
    pub(crate) observed: Option<Arc<Observed>>,
    /// Whom to ask what becomes of the peer.
    pub(crate) follow: Recipient<Follow>,
}

impl ProxySetup {
    /// The connection that a proxy makes of a connected service.
    pub(crate) fn connection_with(&self, connected: ConnectedService) -> Connection {
        let mut routes = connected.table.resolve(&self.wanted);
        if connected.incarnation.is_some() {
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
        let table = &connected.table;
        let figures = self.observed.as_ref();
        // Proxies for several services of a DLSlime peer share a channel.
        let figures = figures.filter(|_| connected.incarnation.is_some());
        let channels: Vec<_> = connected
            .parallel
            .iter()
            .chain([&connected.serial])
            .collect();
        let count =
            |it: &Arc<Observed>| it.calls.count(&self.wanted.name, &table.methods, &channels);
        let figures = figures.map(count);
        for channel in channels {
            channel.listen(self.report_tells(table.clone()));
            if let Some(figures) = &figures {
                channel.count_in(figures.clone());
            }
        }
        let life = connected.incarnation;
        Connection {
            serial: CallTarget(connected.serial),
            parallel: connected.parallel.map(CallTarget),
            life,
            instance: life.map(|life| InstanceId::new(life, &self.wanted.name)),
            routes,
            table: connected.table,
            figures,
        }
    }

    /// The name of a method.
    #[inline]
    pub(crate) fn name(&self, method: usize) -> &'static &'static str {
        self.methods.get(method).unwrap_or(&"?")
    }

    /// The error of a call that was not sent, because the connection is lost.
    pub(crate) fn lost(&self, method: usize, cause: LossCause) -> RpcError {
        RpcError::PeerLost {
            peer: self.peer.to_string(),
            method: (*self.name(method)).to_owned(),
            cause,
            ran: Ran::No,
        }
    }

    /// The server's number of a method, and the target of its calls.
    #[inline]
    pub(crate) fn route<'a>(
        &self,
        connection: &'a Connection,
        method: usize,
    ) -> Result<(u32, &'a CallTarget), RpcError> {
        let Some(route) = connection.routes.get(method).copied().flatten() else {
            return Err(connection.no_route(&self.wanted, self.name(method)));
        };
        let parallel = connection.parallel.as_ref().filter(|_| route.is_parallel);
        Ok((route.number, parallel.unwrap_or(&connection.serial)))
    }

    /// Refuses arguments that were encoded for a connection other than this one: the peer that has
    /// come back under the alias may use another codec (TYPE-1). Raw arguments have none.
    pub(crate) fn check_codec(
        &self,
        connection: &Connection,
        encoded: Option<PayloadCodec>,
    ) -> Result<(), RpcError> {
        if encoded.is_none_or(|codec| connection.speaks(&self.wanted, codec)) {
            return Ok(());
        }
        Err(RpcError::Encode {
            reason: "the peer has come back with another codec; call again".to_owned(),
        })
    }

    /// Reports failures of calls that nobody waits for.
    fn report_tells(&self, table: ServiceTable) -> impl Fn(TellFailure) + Send + Sync + 'static {
        let (events, peer) = (self.events.clone(), self.peer.to_string());
        let observed = self.observed.clone();
        move |failure| {
            let method = table.methods.get(failure.method as usize);
            let method = method.cloned().unwrap_or_default();
            let event = AgentEvent::TellFailed {
                error: tell::error(failure.cause, &peer, &method),
                peer: peer.clone(),
                service: table.name.clone(),
                method,
            };
            tracing::debug!(?event, "a call that nobody waits for failed");
            if let Some(observed) = &observed {
                observed.incidents.note("tell_failed", &table.name);
            }
            // The listeners may have gone.
            let _ = events.send(event);
        }
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
    /// Where its calls are counted, if they are.
    figures: Option<Arc<CallFigures>>,
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
        self.serial.0.profile().codec(native)
    }

    /// Returns whether payloads that were encoded with `codec` can take this connection, for a
    /// service that is `wanted` with this codec or another.
    pub(crate) fn speaks(&self, wanted: &ServiceTable, codec: PayloadCodec) -> bool {
        match self.serial.0.profile() {
            Profile::Compatible => codec == PayloadCodec::Pickle,
            Profile::Native => codec.name() == wanted.codec,
        }
    }

    /// Counts a call that failed before it was made, if the peer is away.
    pub(crate) fn count_unmade(&self, method: &str, error: &RpcError) {
        if let (Some(figures), RpcError::PeerLost { .. }) = (&self.figures, error) {
            figures.count_lost(method);
        }
    }

    pub(crate) fn channels(&self) -> impl Iterator<Item = &Arc<ClientChannel>> {
        let targets = self.parallel.iter().chain([&self.serial]);
        targets.map(|CallTarget(channel)| channel)
    }

    /// Why the connection has ended, if it has.
    pub(crate) fn lost(&self) -> Option<LossCause> {
        self.channels().find_map(|channel| channel.closed())
    }

    /// The number of calls over each channel, if none is under way; `None` for a DLSlime peer,
    /// which does not expect a connection to rest.
    pub(crate) fn calls_if_idle(&self) -> Option<[u64; 2]> {
        let calls = |CallTarget(channel): &CallTarget| channel.calls_if_idle();
        let parallel = self.parallel.as_ref().map_or(Some(0), calls)?;
        self.is_native().then_some([calls(&self.serial)?, parallel])
    }

    /// Closes the channels if each has still made so many calls, and none is under way.
    pub(crate) fn rest(&self, [serial, parallel]: [u64; 2]) -> bool {
        let mut channels = vec![(&*self.serial.0, serial)];
        channels.extend(self.parallel.iter().map(|target| (&*target.0, parallel)));
        ClientChannel::rest(&channels)
    }

    /// Returns whether it has channels to a native peer.
    pub(crate) fn is_native(&self) -> bool {
        self.serial.0.profile() == Profile::Native
    }
}

/// The target of calls to a service.
#[derive(Debug, Clone)]
pub(crate) struct CallTarget(pub(crate) Arc<ClientChannel>);

impl CallTarget {
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
        let Self(channel) = self;
        let made = match bytes {
            Some(bytes) => channel.call_bytes(number, timeout, bytes),
            None => channel.call(number, timeout, encode),
        };
        made.map(|call| Reply::called(call, name, decode))
            .map_err(|error| self.failed(error, name))
    }

    /// Calls for a span of a trace, if there is one.
    #[cold]
    pub(crate) fn call_traced<T>(
        &self,
        number: u32,
        name: &'static &'static str,
        timeout: Option<Duration>,
        trace: Option<Traceparent>,
        encode: &mut dyn FnMut(&mut [u8]) -> Result<usize, EncodeError>,
        decode: Decoder<T>,
    ) -> Result<Reply<T>, RpcError> {
        let Self(channel) = self;
        let made = match trace {
            None => channel.call(number, timeout, encode),
            Some(trace) => channel.call_traced(number, timeout, trace, encode),
        };
        made.map(|call| Reply::called(call, name, decode))
            .map_err(|error| self.failed(error, name))
    }

    pub(crate) fn open_stream<T>(
        &self,
        number: u32,
        name: &'static &'static str,
        timeout: Option<Duration>,
        trace: Option<Traceparent>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
        decode: Decoder<T>,
    ) -> Result<(Reply<T>, ItemSource), RpcError> {
        let Self(channel) = self;
        if channel.profile() == Profile::Compatible {
            return Err(RpcError::NotNative {
                peer: channel.peer().to_owned(),
                what: "streams".into(),
            });
        }
        let opened = channel.open_stream(number, timeout, trace, encode);
        let (call, stream) = opened.map_err(|error| self.failed(error, name))?;
        let source = ItemSource {
            channel: channel.clone(),
            stream,
        };
        Ok((Reply::called(call, name, decode), source))
    }

    #[cold]
    fn failed(&self, error: CallError, name: &str) -> RpcError {
        RpcError::from_call(error, self.0.peer(), name)
    }

    pub(crate) fn tell(
        &self,
        number: u32,
        name: &str,
        timeout: Option<Duration>,
        trace: Option<Traceparent>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<OneWayCall, RpcError> {
        let told = self.0.tell(number, timeout, trace, encode);
        told.map_err(|error| self.failed(error, name))
    }
}
