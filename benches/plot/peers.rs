//! Figures of peers that do the same work.

use serde::Deserialize;

use crate::chart::{Line, Look};

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PeerRow {
    peer: String,
    pub(crate) size: Option<usize>,
    pub(crate) inflight: Option<usize>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) calls_per_s: Option<f64>,
}

/// Rows of theirs that the suite measures itself, for comparison.
const OURS: [&str; 3] = ["slimerpc-raw", "slimerpc-typed", "cache-line"];

/// A line for each peer, in the order of the file.
pub(crate) fn lines(rows: &[PeerRow], point: impl Fn(&PeerRow) -> Option<(f64, f64)>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in rows.iter().filter(|row| !OURS.contains(&&*row.peer)) {
        let Some(point) = point(row) else {
            continue;
        };
        match lines.iter_mut().find(|line| line.name == row.peer) {
            Some(line) => line.points.push(point),
            None => {
                let look = Look::Peer(lines.len());
                lines.push(Line::new(&row.peer, look, [point]));
            }
        }
    }
    lines
}
