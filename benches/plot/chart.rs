//! A chart: lines between two axes. Axes are linear; for a logarithmic one pass logarithms, and
//! labels that undo them.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::support::Result;

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

// All colours stand out from white and from black alike, at 3 to 1 or more: the ground of a picture
// is that of its page.
const INK: RGBColor = RGBColor(120, 120, 120);
const FAINT: RGBAColor = RGBAColor(128, 128, 128, 0.25);
/// From the strongest on.
const OURS: [RGBColor; 3] = [
    RGBColor(34, 117, 232),
    RGBColor(37, 158, 214),
    RGBColor(129, 107, 216),
];
/// As many as there are peers, so that no two lines share a colour.
const PEERS: [RGBColor; 9] = [
    RGBColor(198, 93, 38),
    RGBColor(121, 130, 29),
    RGBColor(184, 74, 192),
    RGBColor(176, 133, 5),
    RGBColor(222, 59, 61),
    RGBColor(38, 153, 142),
    RGBColor(230, 72, 135),
    RGBColor(134, 84, 204),
    RGBColor(57, 158, 67),
];

/// Of the name of a line.
const NAME_SIZE: u32 = 14;
/// Between the names of two lines that end close to each other.
const NAME_HEIGHT: i32 = 15;
/// From the end of a line to its name.
const NAME_GAP: i32 = 14;

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
            Look::Limit(_) => INK,
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

/// An area of that size, on the ground of its page, as a file.
pub(crate) fn area(path: &Path, size: (u32, u32)) -> Area<'_> {
    SVGBackend::new(path, size).into_drawing_area()
}

pub(crate) fn draw(
    area: &Area<'_>,
    title: &str,
    x: &Axis<'_>,
    y: &Axis<'_>,
    lines: &[Line],
) -> Result<()> {
    let name_style = ("sans-serif", NAME_SIZE).into_font();
    let mut widest = 0;
    for line in lines {
        let (width, _) = area.estimate_text_size(&line.name, &name_style.color(&INK))?;
        widest = widest.max(width);
    }
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 19).into_font().color(&INK))
        .margin(14)
        .margin_right(widest as i32 + NAME_GAP + 8)
        .x_label_area_size(48)
        .y_label_area_size(74)
        .build_cartesian_2d(x.from..x.to, y.from..y.to)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
        .x_desc(x.title)
        .y_desc(y.title)
        .x_labels(x.labels)
        .y_labels(y.labels)
        .x_label_formatter(&|value| (x.label)(*value))
        .y_label_formatter(&|value| (y.label)(*value))
        .draw()?;
    let mut ends = Vec::new();
    for line in lines {
        let (style, points) = (line.style(), line.points.iter().copied());
        let Some(last) = line.points.last() else {
            continue;
        };
        ends.push((chart.backend_coord(last), line));
        match line.look {
            Look::Limit(number) => {
                let dash = 3 + 4 * number as i32;
                chart.draw_series(DashedLineSeries::new(points, dash, 4, style))?;
            }
            _ => {
                let dots = points.clone().map(|at| Circle::new(at, 3, style.filled()));
                chart.draw_series(dots)?;
                chart.draw_series(LineSeries::new(points, style))?;
            }
        }
    }
    ends.sort_by_key(|((_, y), _)| *y);
    let (left, top) = area.get_base_pixel();
    let (_, bottom) = chart.backend_coord(&(x.to, y.from));
    let right = chart.backend_coord(&(x.to, y.to)).0 + NAME_GAP;
    let mut heights: Vec<i32> = ends.iter().map(|((_, y), _)| *y).collect();
    spread(&mut heights, bottom);
    for (((end_x, end_y), line), height) in ends.into_iter().zip(heights) {
        let (end, at) = ((end_x - left, end_y - top), (right - left, height - top));
        let lead = [(end.0 + 4, end.1), (at.0 - 3, at.1)];
        area.draw(&PathElement::new(lead, line.color().mix(0.6)))?;
        let anchor = Pos::new(HPos::Left, VPos::Center);
        let style = name_style.color(&line.color()).pos(anchor);
        area.draw(&Text::new(line.name.clone(), at, style))?;
    }
    Ok(())
}

/// Moves sorted heights apart, as little as that takes, and none below `bottom`.
fn spread(heights: &mut [i32], bottom: i32) {
    for place in 1..heights.len() {
        heights[place] = heights[place].max(heights[place - 1] + NAME_HEIGHT);
    }
    let mut most = bottom;
    for height in heights.iter_mut().rev() {
        *height = most.min(*height);
        most = *height - NAME_HEIGHT;
    }
}

/// A number of microseconds of which `exponent` is the logarithm to base 10; nothing between powers
/// of 10.
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
