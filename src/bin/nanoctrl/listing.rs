//! `nanoctrl services` and `nanoctrl agents`: what is live, as a table or as JSON.

#[path = "listing/peers.rs"]
mod peers;

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value, json};
use slimerpc::control::obs::ObsRecord;
use slimerpc::control::{
    ClientTls, ControlError, Entity, Host, NanoCtrl, ObsReader, PeerRecord, ServiceRecord,
    natural_order,
};
use slimerpc::nanoctrl::{daemon, environment};

use crate::obs::complain_of_skipped;
use crate::output::{Report, complain, printable};
use crate::{ServerAddress, TokenArg};

#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    server: ServerAddress,
    /// Ask no server: list the agents of this user that find each other through this host
    #[arg(long, value_name = "host", value_parser = ["host"],
        conflicts_with_all = ["address", "at_host", "at_port", "all_scopes"])]
    ctrl: Option<String>,
    /// Scope to look into [default: agents without a scope]
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    scope: String,
    /// Look into all scopes, and into none
    #[arg(long, conflicts_with = "scope")]
    all_scopes: bool,
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    token: TokenArg,
}

#[derive(Args)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    list: ListArgs,
    /// List the peers of each agent: over which fabric it reaches them, and why. Agents tell this
    /// if they were started with DLSLIME_OBS=1
    #[arg(long, conflicts_with = "ctrl")]
    peers: bool,
}

/// Whom to ask, in a scope.
enum ControlPlane {
    NanoCtrl(Box<NanoCtrl>, String),
    Host(Host),
}

impl ControlPlane {
    /// What the agents say of themselves; nothing where there is no Redis to say it in.
    async fn records(&self) -> Result<Vec<ObsRecord>, ControlError> {
        let Self::NanoCtrl(server, scope) = self else {
            return Ok(Vec::new());
        };
        let url = match environment::lookup("REDIS_URL") {
            Some(url) => url,
            None => server.redis_address().await?,
        };
        let scan = ObsReader::new(&url.into())?.read(scope).await?;
        complain_of_skipped(&scan);
        Ok(scan.records)
    }

    async fn agents(&self) -> Result<Vec<PeerRecord>, ControlError> {
        match self {
            Self::NanoCtrl(server, _) => server.list_agents().await,
            Self::Host(host) => host.list_agents().await,
        }
    }

    async fn services(&self) -> Result<Vec<Entity>, ControlError> {
        match self {
            Self::NanoCtrl(server, _) => server.list_entities(ServiceRecord::KIND).await,
            Self::Host(host) => host.list_entities(ServiceRecord::KIND).await,
        }
    }
}

impl ListArgs {
    /// Collects what to print from each scope, with a client for it.
    async fn collect<T>(
        self,
        list: impl AsyncFn(&ControlPlane) -> Result<Vec<T>, ControlError>,
    ) -> Result<Vec<(String, T)>, Box<dyn Error>> {
        if self.ctrl.is_some() {
            let host = ControlPlane::Host(Host::new(&self.scope));
            let listed = list(&host).await?.into_iter();
            return Ok(listed.map(|item| (self.scope.clone(), item)).collect());
        }
        let address = self.server.find().unwrap_or_else(daemon::address);
        let token = self.token.find();
        let tls = ClientTls::default().or_environment();
        let client = |scope: &str| {
            let client = NanoCtrl::new(&address, scope)?.tls(&tls)?;
            match token.clone() {
                Some(token) => client.token(token),
                None => Ok(client),
            }
        };
        let scopes = match self.all_scopes {
            true => client("")?.list_scopes().await.map_err(|error| match error {
                ControlError::Refused { status: 404, .. } => format!(
                    "the server at {address} keeps no list of scopes: it is another program, or an older one; name one, with \
                     --scope"
                )
                .into(),
                error => Box::<dyn Error>::from(error),
            })?,
            false => vec![self.scope],
        };
        let mut all = Vec::new();
        for scope in scopes {
            let server = ControlPlane::NanoCtrl(Box::new(client(&scope)?), scope.clone());
            let listed = list(&server).await?;
            all.extend(listed.into_iter().map(|item| (scope.clone(), item)));
        }
        Ok(all)
    }
}

/// The live services of native agents.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn services(args: ListArgs) -> Result<Report, Box<dyn Error>> {
    let (as_json, with_scope) = (args.json, args.all_scopes);
    let listed = args.collect(ControlPlane::services).await?;
    let mut services = Vec::new();
    for (scope, entity) in &listed {
        match ServiceRecord::read(entity) {
            Ok(record) if record.is_gone() => {}
            Ok(record) => services.push((scope, record)),
            Err(reason) => complain(format_args!("skipped {}: {reason}", printable(&entity.id))),
        }
    }
    services.sort_by(|(scope, a), (other, b)| {
        natural_order(scope, other)
            .then_with(|| natural_order(&a.alias, &b.alias))
            .then_with(|| natural_order(&a.name, &b.name))
    });
    if as_json {
        let services = services
            .iter()
            .map(|(scope, it)| Ok(scoped(serde_json::to_value(it)?, scope, with_scope)));
        return json_array(services.collect::<serde_json::Result<_>>()?);
    }
    let rows = services.iter().map(|(scope, it)| {
        let cells = [
            it.alias.clone(),
            it.name.clone(),
            it.type_name.clone(),
            it.codec.clone(),
            age(it.since),
            it.methods.join(" "),
        ];
        with_scope
            .then(|| (*scope).clone())
            .into_iter()
            .chain(cells)
            .collect()
    });
    let head = ["ALIAS", "SERVICE", "TYPE", "CODEC", "UP", "METHODS"];
    Ok(table("services", &head, with_scope, rows))
}

/// The registered agents.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn agents(args: AgentArgs) -> Result<Report, Box<dyn Error>> {
    if args.peers {
        return peers::peers(args.list).await;
    }
    let args = args.list;
    let (as_json, with_scope) = (args.json, args.all_scopes);
    let mut agents = args.collect(ControlPlane::agents).await?;
    agents.retain(|(_, agent)| !agent.is_gone());
    agents.sort_by(|(scope, a), (other, b)| {
        natural_order(scope, other).then_with(|| natural_order(&a.alias, &b.alias))
    });
    let agents: Vec<_> = agents
        .iter()
        .map(|(scope, agent)| scoped(describe(agent), scope, with_scope))
        .collect();
    if as_json {
        return json_array(agents);
    }
    let fields = [
        "scope",
        "alias",
        "kind",
        "hostname",
        "pid",
        "address",
        "device",
        "link_type",
    ];
    let head = ["ALIAS", "KIND", "HOST", "PID", "ADDRESS", "DEVICE", "LINK"];
    Ok(fields_table("agents", &head, &fields, with_scope, &agents))
}

/// A table of these fields of items, the first of them the scope.
fn fields_table(
    what: &str,
    head: &[&str],
    fields: &[&str],
    with_scope: bool,
    items: &[Value],
) -> Report {
    let fields = &fields[usize::from(!with_scope)..];
    let cell = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let row = |item: &Value| fields.iter().map(|field| cell(&item[*field])).collect();
    table(what, head, with_scope, items.iter().map(row))
}

/// Adds the scope to `item`, if scopes are shown.
fn scoped(mut item: Value, scope: &str, is_shown: bool) -> Value {
    if is_shown {
        item["scope"] = scope.into();
    }
    item
}

fn json_array(items: Vec<Value>) -> Result<Report, Box<dyn Error>> {
    Ok(Report::new(serde_json::to_string_pretty(&items)? + "\n"))
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

/// A table of `rows` under `head`, each with its scope first if scopes are shown.
fn table(
    what: &str,
    head: &[&str],
    with_scope: bool,
    rows: impl Iterator<Item = Vec<String>>,
) -> Report {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return Report::new(format!("no {what}\n"));
    }
    let scope = with_scope.then_some("SCOPE");
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(scope.iter().chain(head))
        .add_rows(rows.map(|row| row.into_iter().map(|cell| printable(&cell))));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    Report::new(table.trim_fmt() + "\n")
}

/// The time since then, in one unit.
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
