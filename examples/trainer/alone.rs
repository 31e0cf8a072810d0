//! The same training in one process, without workers: what they have to come to, and what it would
//! take without them.

use std::time::Instant;

use crate::args::Mode;
use crate::digits::{Digits, Network};
use crate::figures::{Diverges, Figures, StepFigures, Trained};
use crate::plan::Plan;
use crate::processes::{Interrupt, Progress};
use crate::vector;

/// Does all steps of a plan, or those until an interrupt, and sums gradients as workers do in this
/// mode.
pub(crate) fn train(
    mut network: Network,
    digits: &Digits,
    plan: &Plan,
    rate: f32,
    mode: Mode,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<Trained, Diverges> {
    let mut figures = Figures::default();
    let mut sum = vec![0.0; network.len()];
    let mut gradients = vec![Vec::new(); plan.workers()];
    let began = Instant::now();
    for step in plan.steps() {
        if interrupt.is_asked() {
            break;
        }
        let started = Instant::now();
        let mut loss = 0.0;
        for (rank, scaled) in gradients.iter_mut().enumerate() {
            let images = step.shards()[rank].iter().copied().map(usize::from);
            let (part, gradient) = network.loss_and_gradient(&digits.select(images));
            let share = step.share(rank);
            loss += share * part;
            scaled.clear();
            let slopes = gradient.parts().into_iter().flatten();
            scaled.extend(slopes.map(|slope| share * slope));
        }
        vector::sum(&gradients, mode, &mut sum);
        let mut rest = &sum[..];
        for part in network.parts_mut() {
            let (slopes, others) = rest.split_at(part.len());
            vector::step(part, slopes, rate);
            rest = others;
        }
        let took = started.elapsed();
        progress.step();
        figures.push(StepFigures {
            loss,
            images: step.images(),
            took,
            compute: took,
            moved: 0,
        })?;
    }
    figures.took = began.elapsed();
    Ok(Trained {
        weights: network.parts().concat(),
        figures,
    })
}
