//! Where a case takes place: a NanoCtrl server and a Redis of its own, processes, and the journals
//! of all of them.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use slimerpc_actors::{PeerAgent, Proxy, Timeouts};

use crate::account::Account;
use crate::journal::{self, Journal};
use crate::limits::Limits;
use crate::load::Driver;
use crate::process::Process;
use crate::target::Target;
use support::{NanoCtrlServer, until_within};

/// What every key of a Redis begins with that belongs to no agent.
const OF_NOBODY: &str = "nano_meta:";

/// Seconds after which a service of a life that is over is not listed any more.
const EXPIRY: i64 = 60;

/// See the [module](self).
pub(crate) struct Stage {
    pub(crate) servers: RefCell<NanoCtrlServer>,
    pub(crate) limits: Limits,
    pub(crate) device: Option<String>,
    journals: PathBuf,
    temp: PathBuf,
    /// Numbers the journals.
    next: Cell<u64>,
    /// Why the case says nothing about what it is for.
    skipped: RefCell<Option<String>>,
}

impl Stage {
    /// Sets one up in an empty directory.
    pub(crate) fn set(dir: &Path, device: Option<String>) -> Self {
        let (journals, temp) = (dir.join("journals"), dir.join("temp"));
        for dir in [&journals, &temp] {
            fs::create_dir_all(dir).expect("directories can be made");
        }
        Self {
            servers: RefCell::new(NanoCtrlServer::start()),
            limits: Limits::of(device.as_deref()),
            device,
            journals,
            temp,
            next: Cell::new(1),
            skipped: RefCell::default(),
        }
    }

    fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    fn journal(&self, number: u64) -> PathBuf {
        self.journals.join(number.to_string())
    }

    /// A worker process that serves under this alias.
    pub(crate) async fn worker(&self, alias: &str) -> Process {
        let limit = self.limits.anything * 2;
        self.role("as:worker", alias, self.number(), &[], limit)
            .await
    }

    /// A driver process that calls these workers, and its number.
    pub(crate) async fn driver(&self, alias: &str, workers: &[&str]) -> (Process, u64) {
        let number = self.number();
        let limit = self.limits.anything * 2;
        let process = self.role("as:driver", alias, number, workers, limit).await;
        (process, number)
    }

    /// A driver process that calls these workers now and then. It may take so long to come up.
    pub(crate) async fn calm_driver(
        &self,
        alias: &str,
        workers: &[&str],
        limit: Duration,
    ) -> (Process, u64) {
        let number = self.number();
        let peers = [&["--calm"][..], workers].concat();
        let process = self.role("as:driver", alias, number, &peers, limit).await;
        (process, number)
    }

    async fn role(
        &self,
        role: &str,
        alias: &str,
        number: u64,
        peers: &[&str],
        limit: Duration,
    ) -> Process {
        let url = self.servers.borrow().url();
        let mut words: Vec<OsString> = [role, "--alias", alias, "--ctrl", &url, "--number"]
            .map(OsString::from)
            .into();
        words.push(number.to_string().into());
        words.extend(["--journal".into(), self.journal(number).into()]);
        words.extend(peers.iter().map(OsString::from));
        let process = Process::start(words, self.device.as_deref(), &self.temp);
        process.ready(limit).await
    }

    /// An agent of this process.
    pub(crate) async fn agent(&self, alias: &str) -> PeerAgent {
        let url = self.servers.borrow().url();
        let agent = support::agent(alias.to_owned()).nanoctrl(url);
        let agent = agent.timeouts(Timeouts::default().connect_timeout(self.limits.anything));
        agent.start().await.expect("an agent starts")
    }

    /// An agent of this process, its proxy for `worker`, and who makes its calls.
    pub(crate) async fn caller(
        &self,
        alias: &str,
        worker: &str,
    ) -> (PeerAgent, Proxy<Target>, Rc<Driver>) {
        let agent = self.agent(alias).await;
        let target = agent.proxy::<Target>(worker).await;
        let target = target.expect("the worker is there");
        (agent, target, self.calls())
    }

    /// Who makes calls in this process.
    pub(crate) fn calls(&self) -> Rc<Driver> {
        let number = self.number();
        let journal = Journal::open(&self.journal(number)).expect("a journal can be opened");
        Driver::new(number, journal)
    }

    /// The account of everything so far.
    pub(crate) fn account(&self) -> Account {
        Account::of(journal::read_all(&self.journals).expect("journals are whole"))
    }

    /// Keys of agents in Redis.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys = self.servers.borrow().redis.keys();
        keys.retain(|key| !key.starts_with(OF_NOBODY));
        keys
    }

    /// Keys that somebody ought to have removed: all but the service entities of dead lives and the
    /// indexes that list them, which expire.
    pub(crate) fn forgotten_keys(&self) -> Vec<String> {
        let mut keys = self.keys();
        let servers = self.servers.borrow();
        keys.retain(|key| {
            let seconds: i64 = servers.redis.run(&["TTL", key]);
            let is_of_the_dead = key.starts_with("service:") || key.starts_with("nanoctrl/");
            !(is_of_the_dead && (-2..=EXPIRY).contains(&seconds) && seconds != -1)
        });
        keys
    }

    /// What the case is for cannot be had here, as has turned out.
    pub(crate) fn skip(&self, why: &str) {
        self.skipped.replace(Some(why.to_owned()));
    }

    pub(crate) fn take_skipped(&self) -> Option<String> {
        self.skipped.take()
    }

    /// Temporary files that processes have left.
    pub(crate) fn temporary_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.temp).expect("it is ours");
        entries.flatten().map(|entry| entry.path()).collect()
    }

    /// Waits for something that is to be so soon.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> bool) -> impl Future<Output = ()> {
        until_within(self.limits.anything, what, is_so)
    }

    /// SLOT-2: all slots of the channels of a proxy are free again.
    pub(crate) async fn credits_are_back(&self, target: &Proxy<Target>) {
        let call = async || {
            target.echo(&[]).await.expect("the worker is there");
            target.lent().await.expect("the worker is there");
        };
        support::credits_are_back(self.limits.anything, target, call).await;
    }
}
