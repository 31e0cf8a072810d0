//! Time against size.

use std::path::Path;

use crate::chart::{self, Axis, Line, Look};
use crate::peers::{self, PeerRow};
use crate::support::record::Record;
use crate::support::{Result, pretty};

/// As the suite calls them, and as the picture does.
const LINES: [(&str, &str, Look); 4] = [
    ("memcpy", "memcpy there and back", Look::Limit(0)),
    ("fabric", "fabric ping-pong", Look::Limit(2)),
    ("raw call", "raw call", Look::Ours(0)),
    ("typed call", "typed call", Look::Ours(1)),
];

pub(crate) fn draw(path: &Path, records: &[Record], peers: &[PeerRow]) -> Result<()> {
    let point = |size: Option<usize>, micros: Option<f64>| {
        let (size, micros) = (size? as f64, micros?);
        (size > 0.0 && micros > 0.0).then(|| (size.log2(), micros.log10()))
    };
    let mut lines: Vec<_> = LINES
        .into_iter()
        .map(|(what, name, look)| {
            let of = |record: &&Record| record.subset == "sizes" && record.what == what;
            let points = records.iter().filter(of);
            let points = points.filter_map(|record| point(record.size, record.p50_us));
            Line::new(name, look, points)
        })
        .collect();
    lines.extend(peers::lines(peers, |row| {
        let is_alone = row.inflight.is_none_or(|inflight| inflight == 1);
        point(row.size, row.p50_us.filter(|_| is_alone))
    }));
    let all = lines.iter().flat_map(|line| &line.points);
    let (left, right) = chart::around(all.clone().map(|(size, _)| *size));
    let (bottom, top) = chart::around(all.map(|(_, micros)| *micros));
    let floor = records
        .iter()
        .find(|record| record.subset == "latency" && record.what == "cache line");
    if let Some(floor) = floor.and_then(|record| record.p50_us) {
        let points = [(left, floor.log10()), (right, floor.log10())];
        lines.insert(0, Line::new("64 B on a cache line", Look::Limit(1), points));
    }
    let (bottom, _) = chart::around(
        lines
            .iter()
            .flat_map(|line| &line.points)
            .map(|(_, micros)| *micros)
            .chain([bottom]),
    );
    let x = Axis {
        title: "bytes there, and back",
        from: left,
        to: right,
        labels: 10,
        label: &|exponent| pretty(exponent.exp2().round() as usize),
    };
    let y = Axis {
        title: "round trip, median",
        from: bottom,
        to: top,
        labels: (top - bottom) as usize + 1,
        label: &chart::micros,
    };
    let area = chart::area(path, (960, 560));
    chart::draw(&area, "Round trips between two processes", &x, &y, &lines)?;
    Ok(area.present()?)
}
