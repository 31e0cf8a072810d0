//! The images and what they show; where they are from stands in README.md.

/// Of an image: 8 rows of 8.
pub(crate) const PIXELS: usize = 64;
/// The digits 0 to 9.
pub(crate) const CLASSES: usize = 10;
/// A pixel that is all ink.
const FULL: u32 = 16;
/// How many of the images a network is trained on; the others try it.
const TRAINED_ON: usize = 1437;

/// Images, and the digit that each shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digits {
    /// One image after the other; values from 0 to 16.
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

/// A line is not an image and its digit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DigitsError {
    #[error("line {line}: an image is {PIXELS} pixels, a space and a digit, not {found:?}")]
    Shape { line: usize, found: String },
    #[error("line {line}, pixel {pixel}: a pixel is 0 to 9 or a to g, not {found:?}")]
    Pixel {
        line: usize,
        pixel: usize,
        found: char,
    },
    #[error("line {line}: it is said to show {found:?}, which is no digit")]
    Label { line: usize, found: String },
    #[error("there are {found} images, too few: {TRAINED_ON} train and at least one more tries")]
    TooFew { found: usize },
}

impl Digits {
    /// The images to train with, and those to try what was learnt.
    pub(crate) fn load() -> Result<(Self, Self), DigitsError> {
        Self::parse(include_str!("digits.txt"))?.split()
    }

    pub(crate) fn parse(text: &str) -> Result<Self, DigitsError> {
        let mut digits = Self {
            pixels: Vec::with_capacity(text.len()),
            labels: Vec::new(),
        };
        for (line, row) in (1..).zip(text.lines()) {
            digits.push(line, row)?;
        }
        Ok(digits)
    }

    fn push(&mut self, line: usize, row: &str) -> Result<(), DigitsError> {
        let parts = row.split_once(' ');
        let Some((image, label)) = parts.filter(|(image, _)| image.chars().count() == PIXELS)
        else {
            let found = row.chars().take(2 * PIXELS).collect();
            return Err(DigitsError::Shape { line, found });
        };
        for (pixel, found) in (1..).zip(image.chars()) {
            // `to_digit` takes capitals, too, of which the file has none.
            let value = found.to_digit(FULL + 1);
            let value = value.ok_or(DigitsError::Pixel { line, pixel, found })?;
            self.pixels.push(value as u8);
        }
        match label.as_bytes() {
            [digit @ b'0'..=b'9'] => self.labels.push(digit - b'0'),
            _ => {
                let found = label.chars().take(2 * PIXELS).collect();
                return Err(DigitsError::Label { line, found });
            }
        }
        Ok(())
    }

    fn split(mut self) -> Result<(Self, Self), DigitsError> {
        if self.len() <= TRAINED_ON {
            return Err(DigitsError::TooFew { found: self.len() });
        }
        let held_out = Self {
            pixels: self.pixels.split_off(TRAINED_ON * PIXELS),
            labels: self.labels.split_off(TRAINED_ON),
        };
        Ok((self, held_out))
    }

    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    /// Those with these numbers, in this order.
    pub(crate) fn select(&self, numbers: impl IntoIterator<Item = usize>) -> Self {
        let mut selected = Self {
            pixels: Vec::new(),
            labels: Vec::new(),
        };
        for number in numbers {
            let image = number * PIXELS;
            selected
                .pixels
                .extend_from_slice(&self.pixels[image..image + PIXELS]);
            selected.labels.push(self.labels[number]);
        }
        selected
    }

    /// One image after the other, [`PIXELS`] values from 0 to 16 each.
    pub(crate) fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The digit that each image shows.
    pub(crate) fn labels(&self) -> &[u8] {
        &self.labels
    }
}
