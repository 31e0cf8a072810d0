//! What polling before sleeping gains (left) and costs (right).

use std::path::Path;

use crate::chart::{self, Axis, Line, Look};
use crate::peers::PeerRow;
use crate::support::Result;
use crate::support::record::Record;

pub(crate) fn draw(path: &Path, records: &[Record], _: &[PeerRow]) -> Result<()> {
    let records: Vec<_> = records
        .iter()
        .filter(|record| record.subset == "polling")
        .collect();
    let sorted = |of: fn(&Record) -> Option<u64>| {
        let mut values: Vec<_> = records.iter().filter_map(|record| of(record)).collect();
        values.sort_unstable();
        values.dedup();
        values
    };
    let (budgets, pauses) = (
        sorted(|record| record.busy_poll_us),
        sorted(|record| record.pause_us),
    );
    // Budgets stand side by side, whatever lies between them.
    let lines = |value: fn(&Record) -> Option<f64>| -> Vec<Line> {
        let line = |(number, pause): (usize, &u64)| {
            let of_pause = records
                .iter()
                .filter(|record| record.pause_us == Some(*pause));
            let points = of_pause.filter_map(|record| {
                let place = budgets.binary_search(&record.busy_poll_us?).ok()?;
                Some((place as f64, value(record)?))
            });
            let name = format!("pauses of {}", span(*pause));
            Line::new(&name, Look::Ours(number), points)
        };
        pauses.iter().enumerate().map(line).collect()
    };
    let label = |place: f64| {
        let is_whole = (place - place.round()).abs() < 0.01;
        let budget = budgets.get(place.round() as usize).filter(|_| is_whole);
        budget.map_or_else(String::new, |budget| span(*budget))
    };
    let x = Axis {
        title: "polling before sleeping (busy_poll), both agents",
        from: 0.0,
        to: budgets.len().saturating_sub(1).max(1) as f64,
        labels: budgets.len(),
        label: &label,
    };
    let area = chart::area(path, (1160, 440));
    let halves = area.split_evenly((1, 2));
    let [left, right] = halves.as_slice() else {
        return Err("a picture has two halves".into());
    };

    let latency = lines(|record| record.p50_us.filter(|micros| *micros > 0.0).map(f64::log10));
    let points = latency.iter().flat_map(|line| &line.points);
    let (bottom, top) = chart::around(points.map(|(_, micros)| *micros));
    let y = Axis {
        title: "round trip of 64 bytes, median",
        from: bottom,
        to: top,
        labels: (top - bottom) as usize + 1,
        label: &chart::micros,
    };
    chart::draw(left, "What it gains: latency", &x, &y, &latency)?;

    let cost = lines(|record| Some(record.caller_cpu_percent? + record.service_cpu_percent?));
    let y = Axis {
        title: "both processes, % of a core",
        from: 0.0,
        to: above(&cost),
        labels: 6,
        label: &|percent| percent.to_string(),
    };
    chart::draw(right, "What it costs: processor time", &x, &y, &cost)?;
    Ok(area.present()?)
}

/// More than the largest.
fn above(lines: &[Line]) -> f64 {
    let points = lines.iter().flat_map(|line| &line.points);
    let most = points.map(|(_, value)| *value).fold(1.0, f64::max);
    most * 1.1
}

/// A time for people.
fn span(micros: u64) -> String {
    match micros {
        1000.. if micros.is_multiple_of(1000) => format!("{} ms", micros / 1000),
        _ => format!("{micros} us"),
    }
}
