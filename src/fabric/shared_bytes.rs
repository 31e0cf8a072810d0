//! Bytes that others may change at any time, and how this process copies them.
//!
//! Devices, peers and several threads of this process may use registered memory at the same time.
//! So no reference to its bytes is made here: the memory is divided into cells, aligned words with
//! single bytes before the first and behind the last, and each is read and written by atomic
//! accesses of its own size. The division depends on the memory alone, so two accesses to a byte
//! are always accesses to the same cell, as the memory model asks of atomics that race. What is
//! copied while it changes is a mixture of old and new cells, as with any DMA, and never undefined
//! behaviour.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

const WORD: usize = size_of::<usize>();

/// Access to shared bytes by atomics; the module's description says why that is sound.
#[derive(Debug, Clone, Copy)]
pub(super) struct SharedBytes<'a> {
    head: &'a [AtomicU8],
    words: &'a [AtomicUsize],
    tail: &'a [AtomicU8],
}

impl<'a> SharedBytes<'a> {
    /// Wraps the `len` bytes at `base`.
    ///
    /// # Safety
    /// They must be valid for reads and writes, and initialised, for `'a`. As long as this or a
    /// copy of it is used, this process must access them by nothing but `SharedBytes` of the same
    /// bytes, unless another access is ordered with these ones by other means. Other processes and
    /// devices may do what they like.
    pub(super) unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        let first = base.as_ptr().align_offset(align_of::<usize>()).min(len);
        let count = (len - first) / WORD;
        let rest = first + count * WORD;
        // SAFETY: the three parts lie inside the `len` bytes, do not overlap and are together all
        // of them. The middle begins at a multiple of the alignment of a word, unless it is empty
        // and dangles inside or one past them. Atomics have the layout of what they hold, accept
        // every bit pattern, and may change under a shared reference.
        unsafe {
            let at = |offset: usize| base.as_ptr().add(offset);
            let words = match count {
                0 => &[],
                _ => std::slice::from_raw_parts(at(first).cast(), count),
            };
            Self {
                head: std::slice::from_raw_parts(at(0).cast(), first),
                words,
                tail: std::slice::from_raw_parts(at(rest).cast(), len - rest),
            }
        }
    }

    /// Copies `bytes` into the memory, from byte `offset` on.
    ///
    /// # Panics
    /// If the range exceeds the memory.
    pub(super) fn store(self, offset: usize, bytes: &[u8]) {
        let [head, words, tail] = self.parts(offset, bytes.len());
        let (first, bytes) = bytes.split_at(head.len());
        let (middle, last) = bytes.split_at(words.len());
        store_bytes(&self.head[head], first);
        store_words(self.words, words.start, middle);
        store_bytes(&self.tail[tail], last);
    }

    /// Fills `bytes` with a copy of the memory from byte `offset` on.
    ///
    /// # Panics
    /// If the range exceeds the memory.
    pub(super) fn load(self, offset: usize, bytes: &mut [u8]) {
        let [head, words, tail] = self.parts(offset, bytes.len());
        let (first, bytes) = bytes.split_at_mut(head.len());
        let (middle, last) = bytes.split_at_mut(words.len());
        load_bytes(&self.head[head], first);
        load_words(self.words, words.start, middle);
        load_bytes(&self.tail[tail], last);
    }

    /// Divides a range into the parts within head, words and tail.
    fn parts(self, offset: usize, len: usize) -> [Range<usize>; 3] {
        let words = self.head.len()..self.head.len() + self.words.len() * WORD;
        let all = words.end + self.tail.len();
        let end = offset.checked_add(len).filter(|end| *end <= all);
        let end = end.expect("the range lies inside the memory");
        [0..words.start, words.clone(), words.end..all].map(|part| {
            let clip = |at: usize| at.clamp(part.start, part.end) - part.start;
            clip(offset)..clip(end)
        })
    }
}

fn store_bytes(cells: &[AtomicU8], bytes: &[u8]) {
    for (cell, byte) in cells.iter().zip(bytes) {
        cell.store(*byte, Ordering::Relaxed);
    }
}

fn load_bytes(cells: &[AtomicU8], bytes: &mut [u8]) {
    for (cell, byte) in cells.iter().zip(bytes) {
        *byte = cell.load(Ordering::Relaxed);
    }
}

/// Copies `bytes` to the byte `at` of `words`.
fn store_words(words: &[AtomicUsize], at: usize, bytes: &[u8]) {
    let (words, begin) = (&words[at / WORD..], at % WORD);
    let (first, bytes) = bytes.split_at(part_of_first(begin, bytes.len()));
    store_part(words, begin, first);
    let words = &words[usize::from(!first.is_empty())..];
    let (whole, last) = bytes.as_chunks();
    for (word, value) in words.iter().zip(whole) {
        word.store(usize::from_ne_bytes(*value), Ordering::Relaxed);
    }
    store_part(&words[whole.len()..], 0, last);
}

/// Copies `bytes`, which are less than a word, to the byte `at` of the first of `words`. Those
/// beside them stay as they are.
fn store_part(words: &[AtomicUsize], at: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    update(&words[0], |word| {
        let mut value = word.to_ne_bytes();
        value[at..at + bytes.len()].copy_from_slice(bytes);
        usize::from_ne_bytes(value)
    });
}

/// Changes a word atomically, whatever other threads write meanwhile.
fn update(word: &AtomicUsize, change: impl Fn(usize) -> usize) {
    // The closure always returns a new value.
    let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
        Some(change(word))
    });
}

/// Copies from the byte `at` of `words` into `bytes`.
fn load_words(words: &[AtomicUsize], at: usize, bytes: &mut [u8]) {
    /// A core waits for each word if they are loaded one by one: this doubles the speed.
    const AT_ONCE: usize = 8;
    let (words, begin) = (&words[at / WORD..], at % WORD);
    let (first, bytes) = bytes.split_at_mut(part_of_first(begin, bytes.len()));
    load_part(words, begin, first);
    let words = &words[usize::from(!first.is_empty())..];
    let (whole, last) = bytes.as_chunks_mut();
    load_part(&words[whole.len()..], 0, last);
    let (blocks, singles) = whole.as_chunks_mut::<AT_ONCE>();
    let (of_blocks, of_singles) = words.split_at(AT_ONCE * blocks.len());
    for (block, words) in blocks.iter_mut().zip(of_blocks.as_chunks::<AT_ONCE>().0) {
        let values = words.each_ref().map(|word| word.load(Ordering::Relaxed));
        *block = values.map(usize::to_ne_bytes);
    }
    for (value, word) in singles.iter_mut().zip(of_singles) {
        *value = word.load(Ordering::Relaxed).to_ne_bytes();
    }
}

/// Copies from the byte `at` of the first of `words` into `bytes`, which are less than a word.
fn load_part(words: &[AtomicUsize], at: usize, bytes: &mut [u8]) {
    if bytes.is_empty() {
        return;
    }
    let value = words[0].load(Ordering::Relaxed).to_ne_bytes();
    bytes.copy_from_slice(&value[at..at + bytes.len()]);
}

/// How many of `len` bytes from `begin` on are part of a word that does not begin with them.
fn part_of_first(begin: usize, len: usize) -> usize {
    match begin {
        0 => 0,
        _ => len.min(WORD - begin),
    }
}

#[cfg(all(test, not(slime_loom)))]
mod tests {
    use std::cell::Cell;
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    /// Shared bytes of a slice of atomics, which may begin anywhere in a word.
    fn shared(bytes: &[AtomicUsize], range: Range<usize>) -> SharedBytes<'_> {
        let all = size_of_val(bytes);
        assert!(range.start <= range.end && range.end <= all);
        // SAFETY: the range lies inside `bytes`, which live as long and are used by nothing else in
        // these tests.
        unsafe {
            let base = bytes.as_ptr().cast_mut().cast::<u8>().add(range.start);
            SharedBytes::new(NonNull::new_unchecked(base), range.len())
        }
    }

    fn zeros(words: usize) -> Vec<AtomicUsize> {
        (0..words).map(|_| AtomicUsize::new(0)).collect()
    }

    fn all(memory: &[AtomicUsize]) -> Vec<u8> {
        let mut bytes = vec![0; size_of_val(memory)];
        shared(memory, 0..bytes.len()).load(0, &mut bytes);
        bytes
    }

    #[test]
    fn every_range_of_memory_that_begins_and_ends_anywhere_is_copied_and_nothing_beside_it() {
        let step = if cfg!(miri) { 3 } else { 1 };
        for begin in (0..WORD).step_by(step) {
            for end in begin..=begin + 2 * WORD + 1 {
                for offset in (0..=end - begin).step_by(step) {
                    for len in 0..=end - begin - offset {
                        let memory = zeros(3);
                        let bytes: Vec<u8> = (1..=len as u8).collect();
                        shared(&memory, begin..end).store(offset, &bytes);
                        let mut expected = vec![0; 3 * WORD];
                        let at = begin + offset;
                        expected[at..at + len].copy_from_slice(&bytes);
                        assert_eq!(all(&memory), expected, "{begin} {end} {offset} {len}");
                        let mut back = vec![0xff; len];
                        shared(&memory, begin..end).load(offset, &mut back);
                        assert_eq!(back, bytes, "{begin} {end} {offset} {len}");
                    }
                }
            }
        }
    }

    #[test]
    fn long_ranges_are_copied_too() {
        for (begin, len) in [
            (0, 24 * WORD),
            (3, 20 * WORD),
            (1, 8 * WORD + 1),
            (7, 17 * WORD),
        ] {
            let memory = zeros(24);
            let bytes: Vec<u8> = (1..=len as u8).collect();
            shared(&memory, 0..24 * WORD).store(begin, &bytes);
            let mut expected = vec![0; 24 * WORD];
            expected[begin..begin + len].copy_from_slice(&bytes);
            assert_eq!(all(&memory), expected, "{begin} {len}");
            let mut back = vec![0; len];
            shared(&memory, 0..24 * WORD).load(begin, &mut back);
            assert_eq!(back, bytes, "{begin} {len}");
        }
    }

    #[test]
    #[should_panic = "inside the memory"]
    fn what_does_not_fit_is_not_copied() {
        shared(&zeros(2), 3..11).store(usize::MAX, &[1, 2]);
    }

    #[test]
    fn what_another_thread_makes_of_a_word_while_it_is_changed_is_not_lost() {
        let word = AtomicUsize::new(0x10);
        let is_late = Cell::new(false);
        update(&word, |value| {
            if !is_late.replace(true) {
                word.store(0x20, Ordering::Relaxed);
            }
            value | 1
        });
        assert_eq!(word.into_inner(), 0x21);
    }

    /// Of a word that two threads write, each has its own bytes.
    #[test]
    fn bytes_beside_those_that_are_written_are_not_lost_when_another_thread_writes_them() {
        const ROUNDS: u32 = if cfg!(miri) { 100 } else { 10_000 };
        const HALF: usize = WORD / 2;
        let memory = zeros(1);
        let start = Barrier::new(2);
        thread::scope(|scope| {
            for at in [0, HALF] {
                let (memory, start) = (&memory, &start);
                scope.spawn(move || {
                    let (mut ours, mut found) = ([0; HALF], [0; HALF]);
                    start.wait();
                    for round in 1..=ROUNDS {
                        load_part(memory, at, &mut found);
                        assert_eq!(found, ours);
                        ours = [round as u8; HALF];
                        store_part(memory, at, &ours);
                    }
                });
            }
        });
    }

    /// Copies of overlapping ranges may race; each cell is of one of them.
    #[test]
    fn copies_that_race_give_a_mixture() {
        let memory = zeros(4);
        let len = 4 * WORD - 3;
        thread::scope(|scope| {
            for (number, offset) in [(1, 0), (2, 3), (3, 5)] {
                let bytes = shared(&memory, 2..2 + len);
                scope.spawn(move || {
                    let mut back = vec![0; len];
                    for _ in 0..50 {
                        bytes.store(offset, &vec![number; len - offset]);
                        bytes.load(0, &mut back);
                        assert!(back.iter().all(|byte| *byte <= 3), "{back:?}");
                    }
                });
            }
        });
    }
}
