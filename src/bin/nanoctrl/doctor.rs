//! `nanoctrl doctor`: what agents of this machine would stumble over.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use slimerpc::control::Secret;
use slimerpc::nanoctrl::daemon;
use slimerpc::nanoctrl::doctor::{Finding, Patient, Severity, examine};
use tokio::runtime::Builder;

use crate::output::Report;
use crate::{ServerAddress, TokenArg};

#[derive(Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    server: ServerAddress,
    /// Ask no server: peers are found in one process, or on one host
    #[arg(long, conflicts_with_all = ["address", "at_host", "at_port"])]
    no_server: bool,
    /// Also connect to a peer, which listens there over TCP
    #[arg(long, value_name = "HOST:PORT")]
    peer: Option<String>,
    /// How long a server or peer may take to answer, in seconds
    #[arg(long, default_value = "3", value_parser = crate::seconds, value_name = "SECONDS")]
    timeout: Duration,
    /// Print a JSON array instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    token: TokenArg,
    /// Folder with the machine's proc, sys, dev and lib
    #[arg(long, value_name = "FOLDER", default_value = "/", hide = true)]
    root: PathBuf,
}

pub(crate) fn doctor(args: DoctorArgs) -> Result<Report, Box<dyn Error>> {
    let nanoctrl = match args.no_server {
        true => None,
        false => Some(args.server.find().unwrap_or_else(daemon::address)),
    };
    let redis = std::env::var("SLIME_RPC_REDIS_URL").ok();
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot begin: {error}"))?;
    let findings = runtime.block_on(examine(&Patient {
        nanoctrl,
        token: args.token.find(),
        redis: redis.filter(|url| !url.is_empty()).map(Secret::from),
        peer: args.peer,
        patience: args.timeout,
        root: args.root,
    }));
    let text = match args.json {
        true => serde_json::to_string_pretty(&findings)? + "\n",
        false => findings.iter().map(line).collect(),
    };
    let is_bad = findings.iter().any(|it| it.severity == Severity::Problem);
    let report = Report::new(text);
    Ok(match is_bad {
        true => report.failed(),
        false => report,
    })
}

fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Ok => "ok",
        Severity::Note => "note",
        Severity::Problem => "PROBLEM",
    };
    let mut line = format!("{severity:<8} {:<18} {}\n", finding.check, finding.found);
    if let Some(remedy) = &finding.remedy {
        line += &format!("{:28}-> {remedy}\n", "");
    }
    line
}
