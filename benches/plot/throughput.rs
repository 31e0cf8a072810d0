//! Calls a second against calls in flight.

use std::path::Path;

use crate::chart::{self, Axis, Line, Look};
use crate::peers::{self, PeerRow};
use crate::support::Result;
use crate::support::record::Record;

const SIZE: usize = 64;

pub(crate) fn draw(path: &Path, records: &[Record], peers: &[PeerRow]) -> Result<()> {
    let point = |inflight: Option<usize>, rate: Option<f64>| {
        let (inflight, rate) = (inflight? as f64, rate?);
        (inflight > 0.0 && rate > 0.0).then(|| (inflight.log2(), rate.log10()))
    };
    let of_subset = |record: &&Record| record.subset == "throughput";
    let ours = records.iter().filter(of_subset);
    let ours = ours.filter_map(|record| point(record.inflight, record.calls_per_s));
    let mut lines = vec![Line::new("raw calls", Look::Ours(0), ours)];
    lines.extend(peers::lines(peers, |row| {
        let is_small = row.size.is_none_or(|size| size == SIZE);
        point(row.inflight, row.calls_per_s.filter(|_| is_small))
    }));
    let (left, right) = chart::around(all(&lines).map(|(inflight, _)| inflight));
    let mut subset = records.iter().filter(of_subset);
    let fabric = subset.find(|record| record.what == "fabric");
    if let Some(rate) = fabric.and_then(|record| record.calls_per_s) {
        let points = [(left, rate.log10()), (right, rate.log10())];
        let name = "messages of the fabric, one way";
        lines.insert(0, Line::new(name, Look::Limit(2), points));
    }
    let (bottom, top) = chart::around(all(&lines).map(|(_, rate)| rate));
    let x = Axis {
        title: "calls in flight, from one thread",
        from: left,
        to: right,
        labels: (right - left) as usize + 1,
        label: &|exponent| exponent.exp2().round().to_string(),
    };
    let y = Axis {
        title: "a second",
        from: bottom,
        to: top,
        labels: (top - bottom) as usize + 1,
        label: &rate,
    };
    let area = chart::area(path, (960, 480));
    let title = "Calls of 64 bytes between two processes";
    chart::draw(&area, title, &x, &y, &lines)?;
    Ok(area.present()?)
}

fn all(lines: &[Line]) -> impl Iterator<Item = (f64, f64)> + Clone {
    lines.iter().flat_map(|line| line.points.iter().copied())
}

/// For people; nothing between powers of 10.
fn rate(exponent: f64) -> String {
    if (exponent - exponent.round()).abs() > 0.01 {
        return String::new();
    }
    let exponent = exponent.round() as i32;
    match exponent {
        6.. => format!("{} million", 10_f64.powi(exponent - 6)),
        3..6 => format!("{} 000", 10_f64.powi(exponent - 3)),
        _ => 10_f64.powi(exponent).to_string(),
    }
}
