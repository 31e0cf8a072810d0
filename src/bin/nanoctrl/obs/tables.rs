//! The tables of `nanoctrl obs`.

use comfy_table::presets::UTF8_FULL;
use comfy_table::{CellAlignment, Table};
use slimerpc::control::obs::{ObsRecord, ObsState};

use super::Found;
use super::units::{age, bandwidth, bytes};
use crate::output::printable;

pub(super) fn status(found: &Found) -> String {
    let totals = found.totals();
    let scope = match &*found.scope {
        "" => "(none)".to_owned(),
        scope => printable(scope),
    };
    format!(
        "Redis: {}  Scope: {scope}\n\
         Peers: {} alive, {} stale, {} stopped\n\
         Total: assign={} batch={} bytes={} pending={} errors={}\n\
         Estimated BW: {} (EWMA)\n",
        found.redis,
        totals.alive,
        totals.stale,
        totals.stopped,
        totals.assign,
        totals.batch,
        bytes(totals.bytes),
        totals.pending,
        totals.errors,
        bandwidth(totals.bandwidth),
    )
}

pub(super) fn peers(found: &Found) -> String {
    let head = [
        "PEER", "HOST", "PID", "AGE", "STATE", "ASSIGN", "BATCH", "BW", "BYTES", "PENDING",
        "ERRORS",
    ];
    let rows = found.scan.records.iter().map(|record| {
        let summary = &record.summary;
        vec![
            printable(&record.peer_id),
            printable(&record.host),
            record.pid.to_string(),
            age(record.age(found.now_ms)),
            record.state(found.now_ms, found.stale).to_string(),
            summary.assign_total.to_string(),
            summary.batch_total.to_string(),
            bandwidth(record.ewma_bandwidth_bps),
            bytes(summary.completed_bytes_total),
            summary.pending_ops.to_string(),
            summary.error_total.to_string(),
        ]
    });
    table(&head, 5, rows)
}

pub(super) fn nics(found: &Found) -> String {
    let head = [
        "PEER",
        "NIC",
        "AGE",
        "ASSIGN",
        "BATCH",
        "BW",
        "BYTES",
        "PENDING",
        "ERRORS",
        "POST_BYTES",
        "POST_FAIL",
        "CQ_ERR",
    ];
    let each = |record: &ObsRecord| {
        let peer = printable(&record.peer_id);
        let age = marked(age(record.age(found.now_ms)), found, record);
        let rows = record.nics.iter().map(|nic| {
            vec![
                peer.clone(),
                or_unknown(&nic.nic),
                age.clone(),
                nic.assign_total.to_string(),
                nic.batch_total.to_string(),
                bandwidth(nic.ewma_bandwidth_bps),
                bytes(nic.completed_bytes_total),
                nic.pending_ops.to_string(),
                nic.error_total.to_string(),
                bytes(nic.post_bytes_total),
                nic.post_failures_total.to_string(),
                nic.cq_errors_total.to_string(),
            ]
        });
        rows.collect::<Vec<_>>()
    };
    table(&head, 3, found.scan.records.iter().flat_map(each))
}

pub(super) fn links(found: &Found) -> String {
    let head = [
        "SRC_PEER", "SRC_NIC", "DST_PEER", "DST_NIC", "STATE", "BW", "BYTES", "PENDING", "ERRORS",
    ];
    let each = |record: &ObsRecord| {
        let peer = printable(&record.peer_id);
        let rows = record.connections.iter().map(|link| {
            let state = match (&*link.state, link.connected) {
                ("", true) => "connected".to_owned(),
                ("", false) => "unknown".to_owned(),
                (state, _) => printable(state),
            };
            let ends = [
                peer.clone(),
                or_unknown(&link.local_nic),
                or_unknown(&link.peer),
                or_unknown(&link.remote_nic),
                marked(state, found, record),
            ];
            // Records count no traffic by connection.
            let counts = ["-"; 4].map(str::to_owned);
            ends.into_iter().chain(counts).collect()
        });
        rows.collect::<Vec<_>>()
    };
    let text = table(&head, 5, found.scan.records.iter().flat_map(each));
    text + "\nNote: records count no traffic by connection; `nanoctrl obs nics` has that of devices.\n"
}

/// A text of an agent's record, with its state unless it is alive.
fn marked(text: String, found: &Found, record: &ObsRecord) -> String {
    match record.state(found.now_ms, found.stale) {
        ObsState::Alive => text,
        state => format!("{text} ({state})"),
    }
}

fn or_unknown(name: &str) -> String {
    match name {
        "" => "?".to_owned(),
        name => printable(name),
    }
}

/// A table of `rows` under `head`; from column `numbers` on there are numbers.
fn table(head: &[&str], numbers: usize, rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return "(no obs snapshots found)\n".to_owned();
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL).set_header(head).add_rows(rows);
    for column in table.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}
