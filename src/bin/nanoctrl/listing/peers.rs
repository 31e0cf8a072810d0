//! `nanoctrl agents --peers`: over which fabric each agent reaches its peers, and why.

use std::error::Error;

use serde_json::json;
use slimerpc::control::natural_order;

use super::{ControlPlane, ListArgs, Report, fields_table, json_array, scoped};

pub(super) async fn peers(args: ListArgs) -> Result<Report, Box<dyn Error>> {
    let (as_json, with_scope) = (args.json, args.all_scopes);
    let mut records = args.collect(ControlPlane::records).await?;
    records.sort_by(|(scope, a), (other, b)| {
        natural_order(scope, other).then_with(|| natural_order(&a.peer_id, &b.peer_id))
    });
    let mut all = Vec::new();
    for (scope, record) in &records {
        for peer in record.slimerpc.iter().flat_map(|ours| &ours.peers) {
            let why = match peer.why.is_empty() {
                true => &peer.fabric_why,
                false => &peer.why,
            };
            let item = json!({
                "alias": record.peer_id,
                "peer": peer.alias,
                "state": peer.state,
                "fabric": peer.fabric,
                "why": why,
            });
            all.push(scoped(item, scope, with_scope));
        }
    }
    if as_json {
        return json_array(all);
    }
    let fields = ["scope", "alias", "peer", "state", "fabric", "why"];
    let head = ["ALIAS", "PEER", "STATE", "FABRIC", "WHY"];
    Ok(fields_table("peers", &head, &fields, with_scope, &all))
}
