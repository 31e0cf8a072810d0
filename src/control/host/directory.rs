//! The directory in which the agents of one user meet.

use std::{
    env,
    fmt::Display,
    fs::{self, DirBuilder},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_64;

use crate::control::{ControlError, topology::uid};
use crate::fabric::SystemLimit;

/// Longest name that is used as it is: the path of a socket has at most 107 bytes.
const LONGEST_NAME: usize = 24;

/// `$XDG_RUNTIME_DIR/slimerpc`, or `/tmp/slimerpc-<uid>` if that variable is not set.
pub(super) fn of_this_user() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR").filter(|it| !it.is_empty()) {
        Some(runtime) => Path::new(&runtime).join("slimerpc"),
        None => PathBuf::from(format!("/tmp/slimerpc-{}", uid())),
    }
}

/// The name of the file that stands for `name`: the name itself if it is short and plain, or else a
/// hash. No two plain names share one, and none begins with a dot.
pub(super) fn file_name(name: &str) -> String {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b':' | b'_' | b'-' | b'.');
    let fits = (1..=LONGEST_NAME).contains(&name.len()) && !name.starts_with('.');
    match fits && name.bytes().all(is_plain) {
        true => name.to_owned(),
        false => format!("~{:016x}", xxh3_64(name.as_bytes())),
    }
}

/// What to do about a directory that cannot be used.
const REMEDY: &str = "It has to be, or be in, a directory that this user alone may enter, with \
                      space left; all agents use another if XDG_RUNTIME_DIR names one";

/// Makes a directory that this user alone may enter, or checks that it is one. In `/tmp` somebody
/// else may have made it first.
pub(super) fn make_private(path: &Path) -> Result<(), ControlError> {
    if !path.is_absolute() {
        return Err(unfit(path, "it is not an absolute path"));
    }
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => match make(path)? {
            true => return Ok(()),
            // Somebody was faster.
            false => fs::symlink_metadata(path).map_err(failed(path))?,
        },
        found => found.map_err(|error| unfit(path, error))?,
    };
    let reason = if found.is_symlink() {
        "it is a symbolic link".to_owned()
    } else if !found.is_dir() {
        "it is not a directory".to_owned()
    } else if found.uid() != uid() {
        format!("it belongs to the user {}", found.uid())
    } else if found.mode() & 0o077 != 0 {
        format!(
            "others may enter it, by its mode {:o}",
            found.mode() & 0o777
        )
    } else {
        return Ok(());
    };
    Err(unfit(path, reason))
}

/// Makes a directory that this user alone may enter, and returns whether there was none.
fn make(path: &Path) -> Result<bool, ControlError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound && is_for_this_user(path) => {
            let reason = "XDG_RUNTIME_DIR names a directory that does not exist; create it, or unset the variable";
            Err(unusable(path, reason))
        }
        Err(error) => Err(unfit(path, error)),
    }
}

/// Whether it is the directory that the environment names.
fn is_for_this_user(path: &Path) -> bool {
    env::var_os("XDG_RUNTIME_DIR").is_some() && path == of_this_user()
}

/// The error that says why a directory cannot be used, for which another one is the remedy.
pub(super) fn unfit(path: &Path, reason: impl Display) -> ControlError {
    unusable(path, format!("{reason}. {REMEDY}"))
}

/// The error that says why a directory, or a file in it, cannot be used.
pub(super) fn unusable(path: &Path, reason: impl ToString) -> ControlError {
    ControlError::HostDirectory {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

/// The error of an operation on a file or directory at `path`.
pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> ControlError {
    use ErrorKind::{NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    move |error| match error.kind() {
        NotFound | PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull => {
            unfit(path, error)
        }
        _ => match SystemLimit::met(&error) {
            Some(limit) => ControlError::SystemLimit {
                limit,
                path: path.display().to_string(),
                reason: error.to_string(),
            },
            None => unusable(path, error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn input_1_a_file_name_is_short_and_stays_in_its_directory() {
        let long = "x".repeat(256);
        let names = [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a b",
            ".gone",
            "~",
            "worker:0",
            "größe",
            "a\0b",
            &long,
            &long[1..],
            "socket",
            "agent-1",
        ];
        let files: HashSet<_> = names.iter().map(|name| file_name(name)).collect();
        assert_eq!(files.len(), names.len());
        for file in &files {
            assert!(
                file.len() <= LONGEST_NAME && !file.starts_with('.'),
                "{file}"
            );
            assert!(!file.contains(['/', '\0']), "{file}");
        }
        assert!(files.contains("worker:0"));
    }

    #[test]
    fn a_limit_of_the_process_is_named_and_a_full_disk_is_none() {
        let failed = |errno: rustix::io::Errno| failed(Path::new("/run/x"))(errno.into());
        let error = failed(rustix::io::Errno::MFILE);
        assert!(
            error.is_of_limit() && error.to_string().contains("ulimit -n"),
            "{error}"
        );
        assert!(error.to_string().contains("/run/x"), "{error}");
        let error = failed(rustix::io::Errno::NOSPC);
        assert!(
            !error.is_of_limit() && error.to_string().contains("space left"),
            "{error}"
        );
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let path = parent.path().join("slimerpc");
        let refused = |reason: &str| {
            let error = make_private(&path).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
            assert!(error.contains(&*path.to_string_lossy()), "{error}");
            assert!(error.contains("XDG_RUNTIME_DIR"), "{error}");
        };
        make_private(&path).expect("it is made");
        make_private(&path).expect("it is ours");
        assert_eq!(
            fs::metadata(&path).expect("it is there").mode() & 0o777,
            0o700
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).expect("it is ours");
        refused("mode 750");
        fs::remove_dir(&path).expect("it is empty");
        fs::write(&path, "").expect("temporary directory");
        refused("not a directory");
        fs::remove_file(&path).expect("it is a file");
        symlink(parent.path(), &path).expect("temporary directory");
        refused("symbolic link");
        fs::remove_file(&path).expect("it is a link");
        if rustix::process::geteuid().is_root() {
            fs::create_dir(&path).expect("temporary directory");
            std::os::unix::fs::chown(&path, Some(65534), None).expect("root may");
            refused("user 65534");
        }
        let relative = make_private(Path::new("run")).expect_err("it is relative");
        assert!(relative.to_string().contains("absolute"), "{relative}");
    }
}
