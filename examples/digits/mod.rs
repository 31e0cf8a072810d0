//! A small model on real data, for the examples that need one: a network that reads handwritten
//! digits.

mod data;
mod network;

pub(crate) use data::{CLASSES, Digits, PIXELS};
pub(crate) use network::{Network, Schedule, WeightsError};

/// The digit with the highest score; the first of equals.
pub(crate) fn best(scores: &[f32; CLASSES]) -> u8 {
    let mut best = 0;
    for digit in 1..CLASSES {
        if scores[digit] > scores[best] {
            best = digit;
        }
    }
    best as u8
}
