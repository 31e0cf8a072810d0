//! `nanoctrl doctor`: what agents of this machine would stumble over.

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use slimerpc::control::{ClientTls, Secret};
use slimerpc::nanoctrl::daemon;
use slimerpc::nanoctrl::doctor::{ControlPlane, Finding, Patient, Severity, examine};
use slimerpc::settings;
use tokio::runtime::Builder;

use crate::output::{Report, escaped};
use crate::{ServerAddress, TokenArg};

#[derive(Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    server: ServerAddress,
    /// Ask no server: agents find each other on this host
    #[arg(long, conflicts_with_all = ["address", "at_host", "at_port"])]
    no_server: bool,
    /// Also connect to a peer, which listens there over TCP
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
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
    let named = std::env::var(settings::CONTROL).ok();
    let control = match (args.server.find(), named.as_deref().map(str::trim)) {
        _ if args.no_server => ControlPlane::Host,
        (Some(url), _) => ControlPlane::NanoCtrl(url),
        (None, Some("host")) => ControlPlane::Host,
        (None, Some("local")) => ControlPlane::Local,
        (None, None | Some("")) => ControlPlane::Unsaid(daemon::address()),
        (None, Some(url)) => ControlPlane::NanoCtrl(url.to_owned()),
    };
    let redis = std::env::var(settings::REDIS_URL).ok();
    let text = |it: OsString| it.to_string_lossy().into_owned();
    let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot begin: {error}"))?;
    let findings = runtime.block_on(examine(&Patient {
        control,
        token: args.token.find(),
        tls: ClientTls::default().or_environment(),
        redis: redis.filter(|url| !url.trim().is_empty()).map(Secret::from),
        peer: args.peer,
        environment: environment.collect(),
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

fn host_and_port(text: &str) -> Result<String, &'static str> {
    let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(1..)) if !text.starts_with(':') => Ok(text.to_owned()),
        _ => Err("HOST:PORT is expected"),
    }
}

fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Ok => "ok",
        Severity::Note => "note",
        Severity::Problem => "PROBLEM",
    };
    // It may repeat what a server said, and files.
    let found = escaped(finding.found.chars());
    let mut line = format!("{severity:<8} {:<18} {found}\n", finding.check);
    if let Some(remedy) = &finding.remedy {
        line += &format!("{:28}-> {remedy}\n", "");
    }
    line
}
