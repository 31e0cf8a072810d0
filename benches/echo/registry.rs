//! Many agents register with one NanoCtrl at once, find each other and leave: how long each step
//! takes all of them, and what it takes of Redis.

use std::future::Future;
use std::time::Instant;

use futures_util::future::try_join_all;
use serde_json::json;
use slimerpc::control::{Control, ControlError, NanoCtrl, Registration};

use crate::account::Account;
use crate::commands::Commands;
use crate::missing::Missing;
use crate::row::{Row, Unit};
use crate::suite::Suite;
use crate::support::{self, Result};

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let server = support::NanoCtrl::start().map_err(Missing::because)?;
    let measured = measure(suite, &server);
    server.stop();
    measured
}

fn measure(suite: &Suite, server: &support::NanoCtrl) -> Result<()> {
    let count = suite.args.agents as usize;
    let redis = server.private_redis.as_deref();
    let mut redis = redis.map(Commands::of).transpose()?;
    let agents = (0..count).map(|_| NanoCtrl::new(&server.url, "registry"));
    let agents: Vec<_> = agents.collect::<std::result::Result<_, _>>()?;
    let alias = |number: usize| format!("registry:{}", number % count);
    let numbered = || agents.iter().enumerate();

    suite.report.expect(6);
    let mut step = Step {
        suite,
        count,
        redis: redis.as_mut(),
    };
    let register = numbered().map(|(number, agent)| {
        let registration = Registration {
            alias: Some(alias(number)),
            ..Registration::default()
        };
        async move { agent.register(registration).await.map(drop) }
    });
    step.run("register", register)?;
    let declare = numbered().map(|(number, agent)| {
        let other = [alias(number + 1)];
        async move { agent.set_topology(&other).await }
    });
    step.run("say whom they want to be connected with", declare)?;
    let publish = numbered().map(|(number, agent)| agent.publish("number", json!(number)));
    step.run("publish a record", publish)?;
    let find = numbered().map(|(number, agent)| {
        let (other, wanted) = (alias(number + 1), json!((number + 1) % count));
        async move {
            let found = agent.peer(&other).await?;
            let record = agent.lookup(&other, "number").await?;
            match found.is_some() && record == Some(wanted) {
                true => Ok(()),
                false => Err(ControlError::NotRegistered),
            }
        }
    });
    step.run("find another, and its record", find)?;
    step.run("renew", agents.iter().map(|agent| agent.heartbeat()))?;
    step.run("leave", numbered().map(|(_, agent)| agent.clean_up()))
}

struct Step<'a> {
    suite: &'a Suite,
    count: usize,
    redis: Option<&'a mut Commands>,
}

impl Step<'_> {
    /// All agents do this at once.
    fn run<F: Future<Output = std::result::Result<(), ControlError>>>(
        &mut self,
        what: &str,
        each: impl Iterator<Item = F>,
    ) -> Result<()> {
        let (report, count) = (&self.suite.report, self.count);
        report.step(what);
        let mut commands = || -> Result<Option<(f64, u64)>> {
            let redis = self.redis.as_mut();
            redis
                .map(|redis| Ok((redis.cpu()?, redis.so_far()?)))
                .transpose()
        };
        let before = (commands()?, Account::of_this_process()?);
        let began = Instant::now();
        self.suite.runtime.block_on(try_join_all(each))?;
        let seconds = began.elapsed().as_secs_f64();
        let after = (commands()?, Account::of_this_process()?);
        let what = format!("{count} agents {what}, in all");
        report.row(&Row::new(what, seconds, Unit::Seconds));
        if let (Some(before), Some(after)) = (before.0, after.0) {
            // The last two questions are commands themselves.
            let each = after.1.saturating_sub(before.1 + 2) as f64 / count as f64;
            report.row(&Row::new("  commands to Redis", each, Unit::EachAgent));
            let cpu = (after.0 - before.0) * 1e3 / count as f64;
            report.row(&Row::new(
                "  processor of Redis, an agent",
                cpu,
                Unit::Millis,
            ));
        }
        let cpu = (after.1.cpu - before.1.cpu) * 1e3 / count as f64;
        report.row(&Row::new(
            "  processor of agents and server, an agent",
            cpu,
            Unit::Millis,
        ));
        Ok(())
    }
}
