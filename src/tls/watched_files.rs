//! Files that are read anew when they have changed.

use std::fmt::{self, Display};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::complaints::Complaints;

/// What is made of some files, and made anew when one of them has changed. Everybody who reads
/// certificates for longer than one connection reads them so: certificates are renewed while
/// programs run.
pub(crate) struct WatchedFiles<T> {
    /// What they are, for the log.
    what: &'static str,
    files: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    current: Mutex<Current<T>>,
}

struct Current<T> {
    stamps: Vec<Stamp>,
    made: Arc<T>,
    complaints: Complaints,
}

/// By what a file shows that it has been changed. `None`: it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(Option<(u64, i64, i64, u64)>);

impl Stamp {
    fn of(path: &Path) -> Self {
        let metadata = std::fs::metadata(path).ok();
        Self(metadata.map(|it| (it.ino(), it.mtime(), it.mtime_nsec(), it.size())))
    }
}

impl<T> WatchedFiles<T> {
    /// Reads `files` by `read` for the first time. `what` they are is for the log.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn open<E: Display>(
        what: &'static str,
        files: Vec<PathBuf>,
        read: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        // Before they are read: what is changed meanwhile is read again.
        let stamps = stamps(&files);
        let made = Arc::new(read()?);
        Ok(Self {
            what,
            files,
            read: Box::new(move || read().map_err(|error| error.to_string())),
            current: Mutex::new(Current {
                stamps,
                made,
                complaints: Complaints::default(),
            }),
        })
    }

    /// What is in the files. While those that have changed cannot be used, it is what was in them
    /// before: somebody may be writing them, or has replaced one of two.
    pub(crate) fn current(&self) -> Arc<T> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        if current.stamps != stamps {
            match (self.read)() {
                Ok(made) => {
                    tracing::info!("{} have changed and were read anew", self.what);
                    (current.stamps, current.made) = (stamps, Arc::new(made));
                }
                Err(error) => current.complaints.warn(
                    Instant::now(),
                    format_args!("{} stay what they were: {error}", self.what),
                ),
            }
        }
        current.made.clone()
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    files.iter().map(|path| Stamp::of(path)).collect()
}

impl<T> fmt::Debug for WatchedFiles<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedFiles")
            .field("what", &self.what)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn files_are_read_when_they_have_changed_and_stay_what_they_were_while_they_are_bad() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("number");
        fs::write(&path, "1").unwrap();
        let reads = Arc::new(AtomicUsize::new(0));
        let (counted, read) = (reads.clone(), path.clone());
        let watched = WatchedFiles::open("numbers", vec![path.clone()], move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let text = fs::read_to_string(&read).unwrap_or_default();
            text.parse::<u32>()
        })
        .unwrap();
        let now = || (*watched.current(), reads.load(Ordering::Relaxed));
        assert_eq!((now(), now()), ((1, 1), (1, 1)));
        fs::write(&path, "12").unwrap();
        assert_eq!((now(), now()), ((12, 2), (12, 2)));
        fs::write(&path, "twelve").unwrap();
        assert_eq!(now().0, 12);
        fs::remove_file(&path).unwrap();
        assert_eq!(now().0, 12);
        // By a rename, as those do it who want no half file to be seen.
        let next = folder.path().join("next");
        fs::write(&next, "123").unwrap();
        fs::rename(&next, &path).unwrap();
        assert_eq!(now().0, 123);
    }
}
