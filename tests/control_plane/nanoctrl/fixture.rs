//! A server in this process with a Redis of its own.

use std::net::SocketAddr;

use slimerpc::nanoctrl::{Config, Server};
use tokio::runtime::{Builder, Runtime};

use super::http::{self, Answer};
use support::Redis;

pub struct Fixture {
    pub redis: Redis,
    pub server: Server,
    /// Outlives the server, of which tasks run here.
    runtime: Runtime,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|redis| Config::with_redis(redis.url()))
    }

    /// The server is started as `config` says.
    pub fn with(config: impl FnOnce(&Redis) -> Config) -> Self {
        let redis = Redis::start();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let server = runtime.block_on(Server::start(config(&redis))).unwrap();
        Self {
            redis,
            server,
            runtime,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        http::post(self.address(), path, body)
    }

    /// Asks Redis.
    pub fn redis<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        self.redis.run(command)
    }

    pub fn stop(self) {
        self.runtime.block_on(self.server.stop());
    }
}
