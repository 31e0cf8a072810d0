//! A chart: lines between two axes. Axes are linear; who wants a logarithmic one gives logarithms, and labels that undo them.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::support::Result;

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const INK: RGBColor = RGBColor(60, 60, 60);
const FAINT: RGBColor = RGBColor(228, 228, 228);
const LIMITS: [RGBColor; 3] = [
    RGBColor(175, 175, 175),
    RGBColor(135, 135, 135),
    RGBColor(85, 85, 85),
];
/// From the strongest to the lightest.
const OURS: [RGBColor; 3] = [
    RGBColor(10, 80, 160),
    RGBColor(90, 155, 220),
    RGBColor(160, 200, 240),
];
/// As many as there are peers, so that no two lines share a color.
const PEERS: [RGBColor; 9] = [
    RGBColor(200, 110, 30),
    RGBColor(120, 140, 60),
    RGBColor(150, 90, 140),
    RGBColor(190, 150, 60),
    RGBColor(170, 80, 80),
    RGBColor(80, 130, 125),
    RGBColor(210, 60, 110),
    RGBColor(110, 90, 200),
    RGBColor(40, 150, 60),
];

#[derive(Clone, Copy)]
pub(crate) enum Look {
    /// What the machine or the fabric can do, from the loosest; dashed.
    Limit(usize),
    /// What this library does.
    Ours(usize),
    /// What others do.
    Peer(usize),
}

pub(crate) struct Line {
    pub(crate) name: String,
    look: Look,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Line {
    pub(crate) fn new(
        name: &str,
        look: Look,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            look,
            points: points.into_iter().collect(),
        }
    }

    fn color(&self) -> RGBColor {
        match self.look {
            Look::Limit(number) => LIMITS[number % LIMITS.len()],
            Look::Ours(number) => OURS[number % OURS.len()],
            Look::Peer(number) => PEERS[number % PEERS.len()],
        }
    }

    fn style(&self) -> ShapeStyle {
        let width = if matches!(self.look, Look::Ours(_)) {
            3
        } else {
            2
        };
        self.color().stroke_width(width)
    }
}

pub(crate) struct Axis<'a> {
    pub(crate) title: &'a str,
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// About so many.
    pub(crate) labels: usize,
    /// Empty where there is to be none.
    pub(crate) label: &'a dyn Fn(f64) -> String,
}

/// An area of that size, white, as a file.
pub(crate) fn area(path: &Path, size: (u32, u32)) -> Result<Area<'_>> {
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    Ok(area)
}

pub(crate) fn draw(
    area: &Area<'_>,
    title: &str,
    x: &Axis<'_>,
    y: &Axis<'_>,
    lines: &[Line],
    legend: SeriesLabelPosition,
) -> Result<()> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 19).into_font().color(&INK))
        .margin(14)
        .margin_right(24)
        .x_label_area_size(48)
        .y_label_area_size(74)
        .build_cartesian_2d(x.from..x.to, y.from..y.to)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(LIMITS[1])
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
        .x_desc(x.title)
        .y_desc(y.title)
        .x_labels(x.labels)
        .y_labels(y.labels)
        .x_label_formatter(&|value| (x.label)(*value))
        .y_label_formatter(&|value| (y.label)(*value))
        .draw()?;
    for line in lines {
        let (style, points) = (line.style(), line.points.iter().copied());
        let drawn = match line.look {
            Look::Limit(number) => {
                let dash = 3 + 4 * number as i32;
                chart.draw_series(DashedLineSeries::new(points, dash, 4, style))?
            }
            _ => {
                let dots = points.clone().map(|at| Circle::new(at, 3, style.filled()));
                chart.draw_series(dots)?;
                chart.draw_series(LineSeries::new(points, style))?
            }
        };
        let look = line.look;
        drawn.label(&line.name).legend(move |(x, y)| match look {
            Look::Limit(_) => {
                PathElement::new([(x, y), (x + 5, y), (x + 9, y), (x + 14, y)], style)
            }
            _ => PathElement::new([(x, y), (x + 18, y)], style),
        });
    }
    chart
        .configure_series_labels()
        .position(legend)
        .background_style(WHITE.mix(0.85))
        .border_style(FAINT)
        .label_font(("sans-serif", 14).into_font().color(&INK))
        .legend_area_size(26)
        .margin(8)
        .draw()?;
    Ok(())
}

/// A number of microseconds of which `exponent` is the logarithm to base 10; nothing between powers of 10.
pub(crate) fn micros(exponent: f64) -> String {
    if (exponent - exponent.round()).abs() > 0.01 {
        return String::new();
    }
    match exponent.round() as i32 {
        3.. => format!("{} ms", 10_f64.powi(exponent.round() as i32 - 3)),
        exponent => format!("{} us", 10_f64.powi(exponent)),
    }
}

/// Whole numbers around all of these.
pub(crate) fn around(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let least = values.clone().fold(f64::INFINITY, f64::min).floor();
    let most = values.fold(f64::NEG_INFINITY, f64::max).ceil();
    (least, most.max(least + 1.0))
}
