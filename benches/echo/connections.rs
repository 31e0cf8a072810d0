//! Many agents of ours that are connected with one service.

use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use slimerpc_actors::{PeerAgent, Proxy};

use crate::suite::Suite;
use crate::support::Result;
use crate::worker::{Agents, Echo};

/// So many connect at a time.
const GROUP: usize = 100;

pub(crate) struct Connections {
    // In this order: proxies go before their agents.
    proxies: Vec<Proxy<Echo>>,
    agents: Vec<PeerAgent>,
    /// How long it took to start them.
    pub(crate) starting: Duration,
    /// And to connect them.
    pub(crate) connecting: Duration,
}

impl Connections {
    /// All at once.
    pub(crate) fn make(suite: &Suite, settings: &Agents, count: usize, to: &str) -> Result<Self> {
        let began = Instant::now();
        let starting = (0..count).map(|_| {
            let name = format!("connected-{}", suite.number());
            settings.named(&name).start()
        });
        let agents = suite.runtime.block_on(try_join_all(starting))?;
        let starting = began.elapsed();
        let began = Instant::now();
        let dialling = agents.iter().map(|agent| agent.proxy::<Echo>(to));
        let proxies = suite.runtime.block_on(try_join_all(dialling))?;
        Ok(Self {
            proxies,
            agents,
            starting,
            connecting: began.elapsed(),
        })
    }

    /// A hundred at a time, as those who come one after the other do. Each has been used.
    pub(crate) fn in_groups(
        suite: &Suite,
        settings: &Agents,
        count: usize,
        to: &str,
    ) -> Result<Vec<Self>> {
        let mut groups = Vec::new();
        let mut missing = count;
        while missing > 0 {
            let next = missing.min(GROUP);
            let made = Self::make(suite, settings, next, to)?;
            made.check(suite)?;
            groups.push(made);
            missing -= next;
        }
        Ok(groups)
    }

    /// Whether each can be used.
    pub(crate) fn check(&self, suite: &Suite) -> Result<()> {
        let calls = self.proxies.iter().map(|proxy| proxy.add(40, 2));
        for sum in suite.runtime.block_on(join_all(calls)) {
            if sum? != 42 {
                return Err("a connection adds wrongly".into());
            }
        }
        Ok(())
    }

    pub(crate) fn proxies(&self) -> &[Proxy<Echo>] {
        &self.proxies
    }

    pub(crate) fn end(self, suite: &Suite) -> Result<()> {
        drop(self.proxies);
        let leaving = self.agents.iter().map(PeerAgent::shutdown);
        suite.runtime.block_on(try_join_all(leaving))?;
        Ok(())
    }
}
