//! What a training took, and came to.

use std::time::Duration;

/// Of one step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepFigures {
    /// Mean over its images.
    pub(crate) loss: f32,
    pub(crate) images: usize,
    pub(crate) took: Duration,
    /// What of that somebody computed for whom all others waited.
    pub(crate) compute: Duration,
    /// Bytes between processes.
    pub(crate) moved: u64,
}

/// Of all steps that count, and what else happened.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) steps: Vec<StepFigures>,
    /// From the first step to the last, with all that failed in between.
    pub(crate) took: Duration,
    /// Steps that were tried and do not count.
    pub(crate) repeated: usize,
    pub(crate) restarts: u64,
}

/// A trained network.
pub(crate) struct Trained {
    pub(crate) weights: Vec<f32>,
    pub(crate) figures: Figures,
}

/// Training leads nowhere.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("in step {step} the loss is {loss}: the training diverges; use a smaller --rate")]
pub(crate) struct Diverges {
    step: usize,
    loss: f32,
}

impl Figures {
    /// Adds a step that has been done.
    pub(crate) fn push(&mut self, step: StepFigures) -> Result<(), Diverges> {
        self.steps.push(step);
        if step.loss.is_finite() {
            return Ok(());
        }
        let (step, loss) = (self.steps.len(), step.loss);
        Err(Diverges { step, loss })
    }

    pub(crate) fn images(&self) -> usize {
        self.steps.iter().map(|step| step.images).sum()
    }

    /// Of the steps that count.
    pub(crate) fn in_steps(&self) -> Duration {
        self.steps.iter().map(|step| step.took).sum()
    }

    pub(crate) fn in_compute(&self) -> Duration {
        self.steps.iter().map(|step| step.compute).sum()
    }

    pub(crate) fn moved(&self) -> u64 {
        self.steps.iter().map(|step| step.moved).sum()
    }
}
