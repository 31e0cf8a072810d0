//! A NanoCtrl server for the agents of a bench to find each other.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use slimerpc::nanoctrl::{Config, RedisSource, Server};

use super::Result;

/// It runs on a thread of its own.
pub(crate) struct NanoCtrl {
    pub(crate) url: String,
    /// URL of its Redis, if that serves nobody else.
    pub(crate) private_redis: Option<String>,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl NanoCtrl {
    pub(crate) fn start() -> Result<Self> {
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = thread::spawn(move || {
            actix::System::new().block_on(async {
                let config = RedisSource::choose(None).map(Config::new);
                let server = match config {
                    Ok(config) => Server::start(config).await,
                    Err(error) => Err(error),
                };
                let started = server
                    .as_ref()
                    .map(|server| (server.address(), server.private_redis()));
                let _ = tell.send(started.map_err(ToString::to_string));
                if let Ok(server) = server {
                    let _ = stopped.await;
                    server.stop().await;
                }
            });
        });
        let (address, private_redis) = told.recv()??;
        Ok(Self {
            url: format!("http://{address}"),
            private_redis,
            stop,
            thread,
        })
    }

    pub(crate) fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}
