//! The configuration of a server.

use std::env;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use super::StartError;
use super::environment;
use crate::control::Secret;

/// Address of Redis if none is configured.
const DEFAULT_URL: &str = "redis://127.0.0.1:6379";
const DEFAULT_ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 6379);

/// How long a Redis at the default address may take to accept a connection.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The Redis that a server uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisSource {
    /// A Redis that is already running, by URL.
    Url(String),
    /// A `redis-server` that the server starts: on loopback, without persistence, and ended with
    /// the server.
    Private,
}

impl RedisSource {
    /// Chooses a Redis: the environment's URL, else the `given` one, else the default one if
    /// something answers there, else a private Redis.
    ///
    /// # Errors
    /// [`StartError::NoRedis`] if that would need a `redis-server` and none is on `PATH`.
    pub fn choose(given: Option<&str>) -> Result<Self, StartError> {
        if let Some(url) = environment::lookup("REDIS_URL").or(given.map(str::to_owned)) {
            Ok(Self::Url(url))
        } else if TcpStream::connect_timeout(&SocketAddr::from(DEFAULT_ADDRESS), PROBE_TIMEOUT)
            .is_ok()
        {
            Ok(Self::Url(DEFAULT_URL.to_owned()))
        } else if is_on_path("redis-server") {
            Ok(Self::Private)
        } else {
            Err(StartError::NoRedis {
                default: DEFAULT_URL,
            })
        }
    }
}

fn is_on_path(program: &str) -> bool {
    let is_in = |folder: PathBuf| folder.is_absolute() && folder.join(program).is_file();
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(is_in))
}

/// The configuration of a [`Server`](super::Server).
///
/// ```
/// use slimerpc::nanoctrl::Config;
///
/// let config = Config::with_redis("redis://10.0.0.5:6379").listen("0.0.0.0", 3000);
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) redis: RedisSource,
    pub(super) advertise: Option<String>,
    pub(super) public_address: Option<String>,
    pub(super) token: Option<Secret>,
    pub(super) tls: Option<ServerTls>,
}

/// The files, in PEM form, with which a server speaks TLS. They are looked at when somebody
/// connects, and read anew if one has changed; those that cannot be used change nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificate, and those that lead from it to its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// If set, only callers are let in that show a certificate which one of these authorities has
    /// signed.
    pub client_ca: Option<PathBuf>,
}

impl Config {
    /// Configures a server on 127.0.0.1, on a port that the system chooses, with the Redis at
    /// `url`.
    pub fn with_redis(url: impl Into<String>) -> Self {
        Self::new(RedisSource::Url(url.into()))
    }

    /// Configures a server on 127.0.0.1, on a port that the system chooses.
    pub fn new(redis: RedisSource) -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: 0,
            redis,
            advertise: None,
            public_address: None,
            token: None,
            tls: None,
        }
    }

    /// Sets the `host` (name or address) and `port` to listen on; with port 0 the system chooses.
    #[must_use]
    pub fn listen(mut self, host: impl Into<String>, port: u16) -> Self {
        self.host = host.into();
        self.port = port;
        self
    }

    /// Sets the Redis address that agents are told in place of the URL's: `host:port`, optionally
    /// after `redis://`.
    #[must_use]
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into()).filter(|address| !address.is_empty());
        self
    }

    /// Sets the Redis address for agents on other machines when the URL is on loopback.
    #[must_use]
    pub fn public_address(mut self, address: impl Into<String>) -> Self {
        self.public_address = Some(address.into()).filter(|address| !address.is_empty());
        self
    }

    /// Speaks TLS, and nothing else, with these files. Needs the cargo feature `tls`.
    #[must_use]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Requires this token (visible ASCII characters) as `Authorization: Bearer`. Without
    /// [`tls`](Self::tls) it travels unencrypted: it keeps strangers out, but not those who can
    /// read the traffic.
    #[must_use]
    pub fn token(mut self, token: impl Into<Secret>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Takes the Redis addresses for agents from the [`environment`].
    #[must_use]
    pub fn addresses_from_environment(mut self) -> Self {
        self.advertise = environment::lookup("REDIS_ADVERTISE").or(self.advertise);
        self.public_address = environment::redis_public_address().or(self.public_address);
        self
    }
}
