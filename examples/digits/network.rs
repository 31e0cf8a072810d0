//! Two dense layers, a ReLU between them and a softmax behind; trained by stochastic gradient
//! descent.

use fastrand::Rng;
use ndarray::{Array1, Array2, Axis, Zip};

use super::data::{CLASSES, Digits, PIXELS};

/// More neurons than this nobody needs to read digits: 64 MiB of weights come from afar, no more.
const MAX_NEURONS: usize = (64 << 20) / (4 * (PIXELS + 1 + CLASSES));
/// What a pixel that is all ink becomes 1 by.
const INK: f32 = 1.0 / 16.0;

/// A network, or a gradient of one, which has the same shape.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Network {
    hidden: Layer,
    output: Layer,
}

#[derive(Debug, Clone, PartialEq)]
struct Layer {
    /// A row for each input, a column for each neuron.
    weights: Array2<f32>,
    bias: Array1<f32>,
}

/// How a network is trained.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    pub(crate) epochs: usize,
    /// Images for each step.
    pub(crate) batch: usize,
    pub(crate) learning_rate: f32,
    /// Decides in which order the images come.
    pub(crate) seed: u64,
}

/// Bytes are not the weights of a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WeightsError {
    #[error("{found} bytes are not the weights of a network with {neurons} hidden neurons")]
    Length { neurons: usize, found: usize },
    #[error("a network has 1 to {MAX_NEURONS} hidden neurons, not {neurons}")]
    Neurons { neurons: usize },
    #[error("weight {at} is {value}")]
    NotFinite { at: usize, value: String },
}

impl Layer {
    fn new(inputs: usize, neurons: usize, random: &mut Rng) -> Self {
        // He et al., 2015: so that signals neither grow nor fade on their way.
        let scale = (6.0 / inputs as f32).sqrt();
        Self {
            weights: Array2::from_shape_simple_fn((inputs, neurons), || {
                scale * (2.0 * random.f32() - 1.0)
            }),
            bias: Array1::zeros(neurons),
        }
    }

    fn apply(&self, input: &Array2<f32>) -> Array2<f32> {
        input.dot(&self.weights) + &self.bias
    }

    /// From what came in and the gradient of what came out.
    fn gradient(input: &Array2<f32>, output: &Array2<f32>) -> Self {
        Self {
            weights: input.t().dot(output),
            bias: output.sum_axis(Axis(0)),
        }
    }

    fn step(&mut self, gradient: &Self, rate: f32) {
        self.weights.scaled_add(-rate, &gradient.weights);
        self.bias.scaled_add(-rate, &gradient.bias);
    }

    fn parts(&self) -> [&[f32]; 2] {
        let parts = [self.weights.as_slice(), self.bias.as_slice()];
        parts.map(|part| part.expect("layers lie row after row"))
    }

    fn parts_mut(&mut self) -> [&mut [f32]; 2] {
        let parts = [self.weights.as_slice_mut(), self.bias.as_slice_mut()];
        parts.map(|part| part.expect("layers lie row after row"))
    }
}

impl Network {
    /// An untrained one; the same for the same seed. `neurons` is 1 to some 200,000.
    pub(crate) fn new(neurons: usize, seed: u64) -> Result<Self, WeightsError> {
        if !(1..=MAX_NEURONS).contains(&neurons) {
            return Err(WeightsError::Neurons { neurons });
        }
        let mut random = Rng::with_seed(seed);
        Ok(Self {
            hidden: Layer::new(PIXELS, neurons, &mut random),
            output: Layer::new(neurons, CLASSES, &mut random),
        })
    }

    /// Trains it; the same for the same schedule.
    pub(crate) fn train(&mut self, digits: &Digits, schedule: &Schedule) {
        let mut random = Rng::with_seed(schedule.seed);
        let mut order: Vec<usize> = (0..digits.len()).collect();
        for _ in 0..schedule.epochs {
            random.shuffle(&mut order);
            for batch in order.chunks(schedule.batch) {
                let gradient = self.gradient(&digits.select(batch.iter().copied()));
                self.step(&gradient, schedule.learning_rate);
            }
        }
    }

    /// Of the mean cross-entropy over these images.
    pub(crate) fn gradient(&self, digits: &Digits) -> Self {
        self.loss_and_gradient(digits).1
    }

    /// The mean cross-entropy over these images, and its gradient.
    pub(crate) fn loss_and_gradient(&self, digits: &Digits) -> (f32, Self) {
        let input = input(digits.pixels());
        let hidden = relu(self.hidden.apply(&input));
        let mut output = softmax(self.output.apply(&hidden));
        let mut loss = 0.0;
        for (mut row, &label) in output.rows_mut().into_iter().zip(digits.labels()) {
            let likelihood = &mut row[usize::from(label)];
            loss -= likelihood.max(f32::MIN_POSITIVE).ln();
            *likelihood -= 1.0;
        }
        output /= digits.len() as f32;
        let mut hidden_gradient = output.dot(&self.output.weights.t());
        Zip::from(&mut hidden_gradient)
            .and(&hidden)
            .for_each(|gradient, &value| {
                if value <= 0.0 {
                    *gradient = 0.0;
                }
            });
        let gradient = Self {
            hidden: Layer::gradient(&input, &hidden_gradient),
            output: Layer::gradient(&hidden, &output),
        };
        (loss / digits.len() as f32, gradient)
    }

    /// Goes down a gradient.
    pub(crate) fn step(&mut self, gradient: &Self, rate: f32) {
        self.hidden.step(&gradient.hidden, rate);
        self.output.step(&gradient.output, rate);
    }

    /// How much each image looks like each digit. `pixels` are whole images; what is left over is
    /// not looked at.
    pub(crate) fn scores(&self, pixels: &[u8]) -> Vec<[f32; CLASSES]> {
        let hidden = relu(self.hidden.apply(&input(pixels)));
        let output = self.output.apply(&hidden);
        let row = |row: ndarray::ArrayView1<'_, f32>| std::array::from_fn(|digit| row[digit]);
        output.rows().into_iter().map(row).collect()
    }

    /// Its weights as they travel: little-endian f32, the hidden layer first.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let values = self.parts().into_iter().flatten();
        values.flat_map(|value| value.to_le_bytes()).collect()
    }

    /// From what [`to_bytes`](Self::to_bytes) of a network with as many hidden neurons gave.
    pub(crate) fn from_bytes(neurons: usize, bytes: &[u8]) -> Result<Self, WeightsError> {
        let mut network = Self::new(neurons, 0)?;
        let (values, rest) = bytes.as_chunks();
        if !rest.is_empty() || values.len() != network.len() {
            let found = bytes.len();
            return Err(WeightsError::Length { neurons, found });
        }
        let places = network.parts_mut().into_iter().flatten();
        for (at, (place, &bytes)) in places.zip(values).enumerate() {
            let value = f32::from_le_bytes(bytes);
            if !value.is_finite() {
                let value = value.to_string();
                return Err(WeightsError::NotFinite { at, value });
            }
            *place = value;
        }
        Ok(network)
    }

    /// Its weights in the order in which they travel.
    pub(crate) fn parts(&self) -> [&[f32]; 4] {
        let ([hidden, bias], [output, last]) = (self.hidden.parts(), self.output.parts());
        [hidden, bias, output, last]
    }

    /// The same, to be changed.
    pub(crate) fn parts_mut(&mut self) -> [&mut [f32]; 4] {
        let (hidden, output) = (self.hidden.parts_mut(), self.output.parts_mut());
        let ([hidden, bias], [output, last]) = (hidden, output);
        [hidden, bias, output, last]
    }

    /// Number of weights.
    pub(crate) fn len(&self) -> usize {
        let layers = [&self.hidden, &self.output];
        let lengths = layers.map(|layer| layer.weights.len() + layer.bias.len());
        lengths.iter().sum()
    }
}

fn input(pixels: &[u8]) -> Array2<f32> {
    let (images, _) = pixels.as_chunks::<PIXELS>();
    Array2::from_shape_fn((images.len(), PIXELS), |(image, pixel)| {
        INK * f32::from(images[image][pixel])
    })
}

fn relu(mut values: Array2<f32>) -> Array2<f32> {
    values.mapv_inplace(|value| value.max(0.0));
    values
}

fn softmax(mut values: Array2<f32>) -> Array2<f32> {
    for mut row in values.rows_mut() {
        let largest = row.fold(f32::NEG_INFINITY, |largest, &value| largest.max(value));
        row.mapv_inplace(|value| (value - largest).exp());
        let sum = row.sum();
        row /= sum;
    }
    values
}
