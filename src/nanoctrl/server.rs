//! Starts and stops a server, and defines its routes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use actix_web::dev::{Handler, ServerHandle};
use actix_web::http::header::ALLOW;
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{FromRequest, HttpRequest, HttpResponse, HttpServer, Resource, Responder};
use redis::Client;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::address::RedisAddress;
use super::config::{Config, RedisSource};
use super::connections::Connections;
use super::console::{self, Console};
use super::gate::{Gate, guard};
use super::private_redis::PrivateRedis;
use super::repository::Repository;
use super::{StartError, address, agents, entities, host, regions, topology};
use crate::control::keys::Keys;

/// The body of the health check. Nobody reads the words.
const GREETING: &str = "NanoCtrl Server Running";

const WORKERS: usize = 2;
const KEEP_ALIVE: Duration = Duration::from_secs(75);
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const SHUTDOWN_SECONDS: u64 = 3;

/// What every handler needs.
pub(super) struct App {
    pub(super) repository: Repository,
    pub(super) address: RedisAddress,
    pub(super) gate: Gate,
    pub(super) console: Console,
}

/// The server's address that a connection was made to.
struct ReachedAddress(IpAddr);

/// The server's address that a request has come to.
pub(super) fn reached(request: &HttpRequest) -> Option<IpAddr> {
    request.conn_data().map(|ReachedAddress(ip)| *ip)
}

/// Keys of the scope of a request.
pub(super) fn keys(scope: &Option<String>) -> Keys {
    Keys::new(scope.as_deref().unwrap_or_default())
}

/// A running NanoCtrl server. Dropping it stops it too, without waiting for requests in progress.
///
/// The server runs on its own threads, but must be started within a tokio runtime, which must
/// outlive it.
pub struct Server {
    address: SocketAddr,
    handle: ServerHandle,
    app: Data<App>,
    serving: Option<JoinHandle<std::io::Result<()>>>,
    /// Dropped last.
    redis: Option<PrivateRedis>,
}

impl Server {
    /// Starts a server. When this returns, the server answers.
    ///
    /// # Errors
    /// Redis does not answer, its address is not usable for agents, a header cannot carry the
    /// token, or the address to listen on is not free.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        if config.tls.is_some() && !cfg!(feature = "tls") {
            return Err(StartError::NoTls);
        }
        if let Some(token) = &config.token {
            token
                .check_token()
                .map_err(|reason| StartError::Token { reason })?;
        }
        let (url, redis) = match &config.redis {
            RedisSource::Url(url) => (url.clone(), None),
            RedisSource::Private => {
                let redis = PrivateRedis::start().await?;
                (redis.url(), Some(redis))
            }
        };
        let client = open(&url)?;
        let address = RedisAddress::new(&client, &config, redis.is_some())?;
        let url = redacted(&url);
        tracing::info!(url, private = redis.is_some(), "using Redis");
        let repository = Repository::connect(client, &url).await.map_err(|error| {
            StartError::RedisUnreachable {
                url,
                reason: error.to_string(),
            }
        })?;
        let app = Data::new(App {
            console: Console::new(&config, repository.clone()),
            repository,
            address,
            gate: Gate(config.token.clone()),
        });
        let (server, address) = bind(&config, app.clone())?;
        let handle = server.handle();
        let serving = Some(tokio::spawn(server));
        tracing::info!(%address, tls = config.tls.is_some(), "listening");
        let wants_certificates = config.tls.is_some_and(|tls| tls.client_ca.is_some());
        if !address.ip().is_loopback() && config.token.is_none() && !wants_certificates {
            tracing::warn!(
                %address,
                "whoever reaches this address may register, see and remove agents; set NANOCTRL_TOKEN, for the server and for \
                 agents, let in holders of certificates only (--tls-client-ca), or listen on loopback: --host 127.0.0.1"
            );
        }
        Ok(Self {
            address,
            handle,
            app,
            serving,
            redis,
        })
    }

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL of the server's private Redis; `None` if it uses another.
    pub fn private_redis(&self) -> Option<String> {
        self.redis.as_ref().map(PrivateRedis::url)
    }

    /// Stops accepting requests, finishes those in progress, and ends the private Redis if there is
    /// one.
    pub async fn stop(mut self) {
        self.app.console.reader.close();
        self.handle.stop(true).await;
        if let Some(serving) = self.serving.take() {
            // The server has ended: its failure has no effect any more.
            let _ = serving.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.app.console.reader.close();
        // The command is sent at once; the future only waits until it is done.
        drop(self.handle.stop(false));
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut server = f.debug_struct("Server");
        server
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn open(url: &str) -> Result<Client, StartError> {
    let refused = |reason| StartError::RedisUrl {
        url: redacted(url),
        reason,
    };
    if url.starts_with("rediss://") && !cfg!(feature = "tls") {
        return Err(refused("TLS needs the cargo feature `tls`".to_owned()));
    }
    Client::open(url).map_err(|error| refused(error.to_string()))
}

/// `url` without user and password.
fn redacted(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        (None, Some((_, rest))) => rest.to_owned(),
        (_, None) => url.to_owned(),
    }
}

fn bind(
    config: &Config,
    app: Data<App>,
) -> Result<(actix_web::dev::Server, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        address: format!("{}:{}", config.host, config.port),
        source,
    };
    let connections = Connections::within_limit(WORKERS);
    let most = connections.most();
    let server = HttpServer::new(move || {
        actix_web::App::new()
            .app_data(app.clone())
            .wrap(from_fn(guard))
            .configure(routes)
    })
    .workers(WORKERS)
    .max_connections(most / WORKERS)
    .keep_alive(KEEP_ALIVE)
    .client_request_timeout(HEAD_TIMEOUT)
    .shutdown_timeout(SHUTDOWN_SECONDS)
    .disable_signals()
    .on_connect(move |connection, data| {
        data.insert(connections.add());
        let stream = connection.downcast_ref::<TcpStream>();
        #[cfg(feature = "tls")]
        let stream = stream.or_else(|| super::server_tls::socket(connection));
        if let Some(ours) = stream.and_then(|stream| stream.local_addr().ok()) {
            data.insert(ReachedAddress(ours.ip()));
        }
    });
    let at = (host::without_port(&config.host), config.port);
    let server = match &config.tls {
        #[cfg(feature = "tls")]
        Some(tls) => server
            .tls_handshake_timeout(HEAD_TIMEOUT)
            // Those who do not get on with their handshake count among the connections.
            .max_connection_rate(most / WORKERS)
            .bind_rustls_0_23(at, super::server_tls::config(tls)?),
        _ => server.bind(at),
    };
    let server = server.map_err(failed)?;
    let address = *server
        .addrs()
        .first()
        .expect("a server that was bound has an address");
    Ok((server.run(), address))
}

fn routes(app: &mut ServiceConfig) {
    app.service(
        web::resource("/")
            .route(web::get().to(greet))
            .route(web::head().to(greet))
            .default_service(web::to(|| refuse_method("GET,HEAD"))),
    )
    .service(post("/start_peer_agent", agents::start))
    .service(post("/heartbeat", agents::heartbeat))
    .service(post("/query", agents::query))
    .service(post("/v1/desired_topology/{alias}", topology::declare))
    .service(post("/cleanup", agents::cleanup))
    .service(post("/register_mr", regions::register))
    .service(post("/get_mr_info", regions::get))
    .service(post("/register", entities::register))
    .service(post("/unregister", entities::unregister))
    .service(post("/get_entity_info", entities::info))
    .service(post("/list_entities", entities::list))
    .service(post("/list_scopes", agents::list_scopes))
    .service(post("/get_redis_address", address::get))
    .configure(console::routes);
}

pub(super) fn post<F, Arguments>(path: &str, handler: F) -> Resource
where
    F: Handler<Arguments>,
    F::Output: Responder + 'static,
    Arguments: FromRequest + 'static,
{
    web::resource(path)
        .route(web::post().to(handler))
        .default_service(web::to(|| refuse_method("POST")))
}

async fn greet() -> &'static str {
    GREETING
}

pub(super) async fn refuse_method(allowed: &'static str) -> HttpResponse {
    HttpResponse::MethodNotAllowed()
        .insert_header((ALLOW, allowed))
        .finish()
}
