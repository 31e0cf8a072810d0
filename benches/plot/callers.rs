//! What a call takes beside callers that do nothing (left), and what each of them takes of the
//! service's memory (right), against their number.

use std::path::Path;

use crate::chart::{self, Axis, Line, Look};
use crate::peers::PeerRow;
use crate::support::Result;
use crate::support::record::Record;

pub(crate) fn draw(path: &Path, records: &[Record], _: &[PeerRow]) -> Result<()> {
    let line = |name: &str, look: Look, value: fn(&Record) -> Option<f64>| {
        let of_subset = records.iter().filter(|record| record.subset == "callers");
        let point = |record: &Record| Some(((record.callers? as f64).log10(), value(record)?));
        Line::new(name, look, of_subset.filter_map(point))
    };
    let latency = [
        line("median", Look::Ours(0), |record| record.p50_us),
        line("99 of 100 are faster", Look::Ours(1), |record| {
            record.p99_us
        }),
    ];
    let memory = [
        line("resident", Look::Ours(0), |record| record.resident_kib),
        line("registered", Look::Ours(1), |record| record.registered_kib),
    ];
    let most = latency[0].points.iter().map(|(callers, _)| *callers);
    let (left, right) = chart::around(most);
    let x = Axis {
        title: "callers that do nothing",
        from: left,
        to: right,
        labels: (right - left) as usize + 1,
        label: &|exponent| match (exponent - exponent.round()).abs() > 0.01 {
            true => String::new(),
            false => 10_f64.powf(exponent).round().to_string(),
        },
    };
    let area = chart::area(path, (1160, 440));
    let halves = area.split_evenly((1, 2));
    let [left, right] = halves.as_slice() else {
        return Err("a picture has two halves".into());
    };
    let micros = |value: f64| format!("{value:.1} us");
    let kibibytes = |value: f64| format!("{value:.0} KiB");
    chart::draw(
        left,
        "Round trip of 64 bytes of one more caller",
        &x,
        &from_zero("raw call", &latency, &micros),
        &latency,
    )?;
    chart::draw(
        right,
        "Memory of the service, each caller",
        &x,
        &from_zero("each caller", &memory, &kibibytes),
        &memory,
    )?;
    Ok(area.present()?)
}

fn from_zero<'a>(title: &'a str, lines: &[Line], label: &'a dyn Fn(f64) -> String) -> Axis<'a> {
    let points = lines.iter().flat_map(|line| &line.points);
    let most = points.map(|(_, value)| *value).fold(0.0, f64::max);
    Axis {
        title,
        from: 0.0,
        to: (most * 1.1).max(1.0),
        labels: 6,
        label,
    }
}
