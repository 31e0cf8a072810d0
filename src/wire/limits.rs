//! Limits on values that come from peers, for the whole process.

use std::sync::atomic::{AtomicUsize, Ordering};

const DEPTH: usize = 128;
const PICKLE_VALUES: usize = 1 << 24;

static MAX_DEPTH: AtomicUsize = AtomicUsize::new(DEPTH);
static MAX_PICKLE_VALUES: AtomicUsize = AtomicUsize::new(PICKLE_VALUES);

/// Limits on the values that this process encodes or decodes. Both codecs apply them in both
/// directions: to arguments, results, items of streams and errors.
///
/// A decoder does not know which agent it works for, so the limits are those of the process.
///
/// ```
/// use slimerpc::wire::CodecLimits;
/// let limits = CodecLimits { depth: 300, ..CodecLimits::current() };
/// limits.apply();
/// assert_eq!(CodecLimits::current(), limits);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodecLimits {
    /// Levels of nesting: each sequence, map, tuple, struct, option and variant with content is
    /// one; a newtype struct is none. A value that takes more than 1 MiB of stack is refused at any
    /// setting, because handlers run on threads of 2 MiB. For types that serde buffers before it
    /// knows what they are (`untagged`, `tag`), only the number of levels limits the stack.
    pub depth: usize,
    /// Values in a pickle. A value that is referred to several times counts each time. A value
    /// takes up to 32 bytes of memory as a [`pickle::Value`](super::pickle::Value), and one byte in
    /// the pickle.
    pub pickle_values: usize,
}

impl Default for CodecLimits {
    /// 128 levels, and 2^24 values in a pickle.
    fn default() -> Self {
        Self {
            depth: DEPTH,
            pickle_values: PICKLE_VALUES,
        }
    }
}

impl CodecLimits {
    /// Returns the present limits.
    pub fn current() -> Self {
        Self {
            depth: max_depth(),
            pickle_values: max_pickle_values(),
        }
    }

    /// Sets the limits of this process.
    pub fn apply(self) {
        MAX_DEPTH.store(self.depth, Ordering::Relaxed);
        MAX_PICKLE_VALUES.store(self.pickle_values, Ordering::Relaxed);
    }
}

#[inline]
pub(super) fn max_depth() -> usize {
    MAX_DEPTH.load(Ordering::Relaxed)
}

#[inline]
pub(super) fn max_pickle_values() -> usize {
    MAX_PICKLE_VALUES.load(Ordering::Relaxed)
}
