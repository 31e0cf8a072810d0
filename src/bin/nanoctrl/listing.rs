//! `nanoctrl services` and `nanoctrl agents`: what is live, as a table or as JSON.

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};
use slimerpc::control::{NanoCtrl, PeerRecord, ServiceRecord, natural_order};
use slimerpc::nanoctrl::daemon;

use crate::TokenArg;

/// Most characters of a cell.
const WIDEST: usize = 60;

#[derive(Args)]
pub(crate) struct ListArgs {
    /// Ask the server here instead of where it was started [default: http://127.0.0.1:3000]
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    /// Scope to look into [default: agents without a scope]
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    scope: String,
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    token: TokenArg,
}

impl ListArgs {
    fn server(self) -> Result<NanoCtrl, Box<dyn Error>> {
        let address = match &self.address {
            Some(address) => address.clone(),
            None => daemon::address()?,
        };
        let server = NanoCtrl::new(&address, &self.scope)?;
        Ok(match self.token.find() {
            Some(token) => server.token(token)?,
            None => server,
        })
    }
}

/// Prints the live services of native agents.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn services(args: ListArgs) -> Result<(), Box<dyn Error>> {
    let as_json = args.json;
    let listed = args.server()?.list_entities(ServiceRecord::KIND).await?;
    let mut services = Vec::new();
    for entity in &listed {
        match ServiceRecord::read(entity) {
            Ok(record) if record.is_gone() => {}
            Ok(record) => services.push(record),
            Err(reason) => eprintln!("skipped {}: {reason}", printable(&entity.id)),
        }
    }
    services.sort_by(|a, b| {
        natural_order(&a.alias, &b.alias).then_with(|| natural_order(&a.name, &b.name))
    });
    if as_json {
        println!("{}", serde_json::to_string_pretty(&services)?);
        return Ok(());
    }
    let row = |it: &ServiceRecord| {
        [
            it.alias.clone(),
            it.name.clone(),
            it.type_name.clone(),
            it.codec.clone(),
            age(it.since),
            it.methods.join(" "),
        ]
    };
    let head = ["ALIAS", "SERVICE", "TYPE", "CODEC", "UP", "METHODS"];
    print("services", head, services.iter().map(row));
    Ok(())
}

/// Prints the registered agents.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn agents(args: ListArgs) -> Result<(), Box<dyn Error>> {
    let as_json = args.json;
    let mut agents = args.server()?.list_agents().await?;
    agents.retain(|agent| !agent.is_gone());
    agents.sort_by(|a, b| natural_order(&a.alias, &b.alias));
    let agents: Vec<_> = agents.iter().map(describe).collect();
    if as_json {
        println!("{}", serde_json::to_string_pretty(&agents)?);
        return Ok(());
    }
    let fields = [
        "alias",
        "kind",
        "hostname",
        "pid",
        "address",
        "device",
        "link_type",
    ];
    let row = |agent: &Value| {
        fields.map(|field| match &agent[field] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        })
    };
    let head = ["ALIAS", "KIND", "HOST", "PID", "ADDRESS", "DEVICE", "LINK"];
    print("agents", head, agents.iter().map(row));
    Ok(())
}

fn describe(agent: &PeerRecord) -> Value {
    let resource = agent.resource.clone().unwrap_or_default();
    json!({
        "alias": agent.alias,
        "kind": if agent.is_native() { "native" } else { "dlslime" },
        "hostname": resource["host"]["hostname"].as_str(),
        "pid": resource["slime"]["pid"].as_u64(),
        "address": agent.address,
        "device": agent.device,
        "ib_port": agent.device.as_ref().and(agent.ib_port),
        "link_type": agent.link_type,
    })
}

fn print<const COLUMNS: usize>(
    what: &str,
    head: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) {
    let rows: Vec<_> = rows.map(|row| row.map(|cell| printable(&cell))).collect();
    if rows.is_empty() {
        println!("no {what}");
        return;
    }
    let mut widths = head.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let rows = rows.iter().map(|row| row.each_ref().map(String::as_str));
    for row in std::iter::once(head).chain(rows) {
        let cells = row.iter().zip(widths);
        let line: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", line.join("  ").trim_end());
    }
}

/// A text from outside, as far as it can be shown on a terminal.
fn printable(text: &str) -> String {
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.to_string(),
    };
    let mut shown: String = text.chars().take(WIDEST).map(escaped).collect();
    if text.chars().nth(WIDEST).is_some() {
        shown.push_str("...");
    }
    shown
}

/// The time since, in one unit.
fn age(since_millis: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now
        .unwrap_or_default()
        .as_secs()
        .saturating_sub(since_millis / 1000);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}min", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
