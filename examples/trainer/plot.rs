//! The loss curve.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use plotters::prelude::*;

use crate::figures::StepFigures;

const SIZE: (u32, u32) = (900, 480);
const FONT: (&str, i32) = ("sans-serif", 18);

/// A file that the picture goes to in the end.
pub(crate) struct Plot(PathBuf);

/// There is no picture.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlotError {
    #[error("cannot write {path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error("cannot draw: {0}")]
    Draw(String),
}

impl Plot {
    /// An error now, rather than after the training, if nothing can be written there.
    pub(crate) fn to(path: &Path) -> Result<Self, PlotError> {
        let opened = File::options().create(true).append(true).open(path);
        match opened {
            Ok(_) => Ok(Self(path.to_owned())),
            Err(error) => Err(PlotError::File {
                path: path.to_owned(),
                error,
            }),
        }
    }

    /// Draws the loss of each step, and marks the one in which a worker was killed.
    pub(crate) fn draw(
        self,
        title: &str,
        steps: &[StepFigures],
        killed: Option<usize>,
    ) -> Result<(), PlotError> {
        let mut svg = String::new();
        let drawn = draw(&mut svg, title, steps, killed);
        drawn.map_err(|error| PlotError::Draw(error.to_string()))?;
        let Self(path) = self;
        fs::write(&path, svg).map_err(|error| PlotError::File { path, error })
    }
}

fn draw(
    svg: &mut String,
    title: &str,
    steps: &[StepFigures],
    killed: Option<usize>,
) -> Result<(), Box<dyn std::error::Error>> {
    let points: Vec<(u32, f32)> = (1..).zip(steps.iter().map(|step| step.loss)).collect();
    let highest = points.iter().map(|(_, loss)| *loss).fold(0.0, f32::max);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 24))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(0..steps.len() as u32 + 1, 0.0..highest * 1.05)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc("loss (mean cross-entropy)")
        .label_style(FONT)
        .draw()?;
    chart.draw_series(LineSeries::new(
        points.iter().copied(),
        BLUE.stroke_width(2),
    ))?;
    if let Some(point) = killed.and_then(|step| points.get(step)).copied() {
        chart.draw_series(PointSeries::of_element(
            [point],
            5,
            RED.filled(),
            &|at, size, style| {
                EmptyElement::at(at)
                    + Circle::new((0, 0), size, style)
                    + Text::new("a worker was killed", (10, -14), FONT)
            },
        ))?;
    }
    area.present()?;
    Ok(())
}
