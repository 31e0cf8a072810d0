//! A figure as it stands in the file that `--csv` names, and that the plots are drawn from.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Result;

/// A column is empty where it does not apply.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Which part of the suite it is of.
    pub(crate) subset: String,
    pub(crate) what: String,
    /// Bytes there, and bytes back.
    pub(crate) size: Option<usize>,
    /// Calls under way at the same time.
    pub(crate) inflight: Option<usize>,
    /// Between the end of a call and the next one.
    pub(crate) pause_us: Option<u64>,
    /// How long waiters polled before they slept.
    pub(crate) busy_poll_us: Option<u64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) calls_per_s: Option<f64>,
    /// Of a core, by the calling process.
    pub(crate) caller_cpu_percent: Option<f64>,
    /// Of a core, by the process that serves.
    pub(crate) service_cpu_percent: Option<f64>,
    /// Callers that do nothing, of the same service.
    #[serde(default)]
    pub(crate) callers: Option<usize>,
    /// To connect one of them.
    #[serde(default)]
    pub(crate) connect_ms: Option<f64>,
    /// Memory of the service for each of them.
    #[serde(default)]
    pub(crate) registered_kib: Option<f64>,
    #[serde(default)]
    pub(crate) resident_kib: Option<f64>,
    /// File descriptors of the service for each of them.
    #[serde(default)]
    pub(crate) descriptors: Option<f64>,
    /// The measured value of a row of the table, in `unit`.
    pub(crate) value: Option<f64>,
    pub(crate) unit: String,
    /// What it is compared with.
    pub(crate) against: String,
    pub(crate) ratio: Option<f64>,
    pub(crate) target: String,
    /// `yes`, `no`, or `skipped: why`.
    pub(crate) met: String,
}

pub(crate) fn write(path: &Path, records: &[Record]) -> Result<()> {
    let failed = |error: csv::Error| format!("cannot write {}: {error}", path.display());
    let mut writer = csv::Writer::from_path(path).map_err(failed)?;
    for record in records {
        writer.serialize(record).map_err(failed)?;
    }
    Ok(writer.flush()?)
}

/// Rows of a CSV file whose columns are the fields of `T`.
pub(crate) fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>> {
    let failed = |error: csv::Error| format!("cannot read {}: {error}", path.display());
    let mut reader = csv::Reader::from_path(path).map_err(failed)?;
    let rows: std::result::Result<_, _> = reader.deserialize().collect();
    Ok(rows.map_err(failed)?)
}

/// Enough digits to tell figures apart.
pub(crate) fn rounded(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}
