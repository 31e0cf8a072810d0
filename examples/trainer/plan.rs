//! Which images are looked at in which step, and by whom. Decided beforehand, so that a step can be
//! repeated.

use fastrand::Rng;

/// All steps.
pub(crate) struct Plan {
    steps: Vec<Step>,
    per_epoch: usize,
    workers: usize,
}

/// One step: the numbers of the images for each rank, none of which has none.
pub(crate) struct Step {
    shards: Vec<Vec<u16>>,
}

/// A plan cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    #[error(
        "there are {images} images to train with, too few for {workers} workers; use --workers {images} or fewer"
    )]
    Workers { images: usize, workers: usize },
    #[error(
        "--kill-worker-at {step}: the run has {steps} steps ({per_epoch} an epoch); name one of them, or use more --epochs"
    )]
    NoSuchStep {
        step: usize,
        steps: usize,
        per_epoch: usize,
    },
}

impl Plan {
    /// So many epochs of as many `images`, up to `batch` for each worker in a step. The same for
    /// the same seed.
    ///
    /// If fewer images than workers are left at the end of an epoch, they are not looked at; in the
    /// next, others are left.
    pub(crate) fn new(
        images: u16,
        workers: usize,
        batch: usize,
        epochs: usize,
        seed: u64,
    ) -> Result<Self, PlanError> {
        let mut order: Vec<u16> = (0..images).collect();
        if workers > order.len() {
            let images = order.len();
            return Err(PlanError::Workers { images, workers });
        }
        let mut random = Rng::with_seed(seed);
        let mut steps = Vec::new();
        for _ in 0..epochs {
            random.shuffle(&mut order);
            let batches = order.chunks(workers * batch);
            let batches = batches.filter(|images| images.len() >= workers);
            steps.extend(batches.map(|images| Step::split(images, workers)));
        }
        let per_epoch = steps.len() / epochs;
        Ok(Self {
            steps,
            per_epoch,
            workers,
        })
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether an epoch is over after so many steps.
    pub(crate) fn is_epoch(&self, steps: usize) -> bool {
        steps.is_multiple_of(self.per_epoch)
    }

    /// An error if there is no step with this number, the first being 1.
    pub(crate) fn check(&self, step: usize) -> Result<(), PlanError> {
        let (steps, per_epoch) = (self.steps.len(), self.per_epoch);
        if !(1..=steps).contains(&step) {
            return Err(PlanError::NoSuchStep {
                step,
                steps,
                per_epoch,
            });
        }
        Ok(())
    }
}

impl Step {
    fn split(images: &[u16], workers: usize) -> Self {
        let start = |rank| images.len() * rank / workers;
        let shard = |rank| images[start(rank)..start(rank + 1)].to_vec();
        Self {
            shards: (0..workers).map(shard).collect(),
        }
    }

    /// For each rank.
    pub(crate) fn shards(&self) -> &[Vec<u16>] {
        &self.shards
    }

    /// Of all ranks.
    pub(crate) fn images(&self) -> usize {
        self.shards.iter().map(Vec::len).sum()
    }

    /// What the mean over a rank's images counts for in the mean over all.
    pub(crate) fn share(&self, rank: usize) -> f32 {
        self.shards[rank].len() as f32 / self.images() as f32
    }
}
