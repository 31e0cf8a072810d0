//! Weights and gradients as rows of numbers, in memory and as they travel: f32, little-endian. Sums
//! are rounded, so their order is part of the result.

use std::ops::Range;

use crate::args::Mode;

/// Bytes of a number.
pub(crate) const NUMBER: usize = size_of::<f32>();
/// Numbers that are worked on at a time, so that they stay in the cache meanwhile.
const BLOCK: usize = 4096;

/// One of `of` chunks of a row of `len` numbers.
pub(crate) fn chunk(number: usize, of: usize, len: usize) -> Range<usize> {
    len * number / of..len * (number + 1) / of
}

/// The numbers in `bytes`.
pub(crate) fn numbers(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let (numbers, _) = bytes.as_chunks();
    numbers.iter().map(|&number| f32::from_le_bytes(number))
}

/// Writes `from` to the beginning of `to`; what has no room is left out.
pub(crate) fn write(from: &[f32], to: &mut [u8]) {
    let (places, _) = to.as_chunks_mut();
    for (place, number) in places.iter_mut().zip(from) {
        *place = number.to_le_bytes();
    }
}

/// Reads `to` from the beginning of `from`.
pub(crate) fn read(from: &[u8], to: &mut [f32]) {
    for (place, number) in to.iter_mut().zip(numbers(from)) {
        *place = number;
    }
}

/// Goes down the sum of gradients, each of which counts for a share, in their order.
pub(crate) fn descend(weights: &mut [f32], gradients: &[(f32, &[u8])], rate: f32) {
    let mut sum = [0.0; BLOCK];
    for (block, weights) in weights.chunks_mut(BLOCK).enumerate() {
        let sum = &mut sum[..weights.len()];
        for (rank, (share, gradient)) in gradients.iter().enumerate() {
            let parts = numbers(&gradient[NUMBER * BLOCK * block..]).map(|part| share * part);
            if rank == 0 {
                sum.iter_mut()
                    .zip(parts)
                    .for_each(|(sum, part)| *sum = part);
            } else {
                sum.iter_mut()
                    .zip(parts)
                    .for_each(|(sum, part)| *sum += part);
            }
        }
        step(weights, sum, rate);
    }
}

/// Goes down one gradient.
pub(crate) fn step(weights: &mut [f32], gradient: &[f32], rate: f32) {
    for (weight, slope) in weights.iter_mut().zip(gradient) {
        *weight -= rate * slope;
    }
}

/// The sum of gradients, in the order in which the workers sum them in this mode: by rank, or, of
/// each chunk, along the ring from the rank with its number on.
pub(crate) fn sum(gradients: &[Vec<f32>], mode: Mode, sum: &mut [f32]) {
    let (ranks, len) = (gradients.len(), sum.len());
    for number in 0..ranks {
        let chunk = chunk(number, ranks, len);
        let first = match mode {
            Mode::Driver => 0,
            Mode::Ring => number,
        };
        let sum = &mut sum[chunk.clone()];
        sum.copy_from_slice(&gradients[first][chunk.clone()]);
        for rank in (first + 1..first + ranks).map(|rank| rank % ranks) {
            add(sum, gradients[rank][chunk.clone()].iter().copied());
        }
    }
}

pub(crate) fn add(sum: &mut [f32], parts: impl Iterator<Item = f32>) {
    for (sum, part) in sum.iter_mut().zip(parts) {
        *sum += part;
    }
}
