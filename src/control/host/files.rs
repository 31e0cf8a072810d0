//! Small files of an agent: each holds a name and a value as JSON. Whatever stands in their place
//! neither blocks a reader nor makes it allocate much.

use std::{
    fs::{self, File, FileTimes},
    io::{self, ErrorKind, Read, Write},
    path::Path,
    time::SystemTime,
};

use rustix::fs::{Mode, OFlags};
use serde::{Serialize, de::DeserializeOwned};

use super::directory::{failed, unusable};
use crate::control::ControlError;

/// Longest file, in bytes.
pub(super) const LONGEST: usize = 1 << 20;

/// What a file is called until it is complete.
const UNFINISHED: &str = ".new";

/// Opens a regular file. A link is not followed, and a pipe does not block.
pub(super) fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// The contents of a file; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, ControlError> {
    let mut contents = Vec::new();
    let read = open(path, OFlags::RDONLY).and_then(|file| {
        // Room for all, and for the read that finds the end.
        let length = file.metadata()?.len().min(LONGEST as u64);
        contents.reserve(length as usize + 1);
        file.take(LONGEST as u64 + 1).read_to_end(&mut contents)
    });
    match read {
        Ok(_) if contents.len() <= LONGEST => Ok(Some(contents)),
        Ok(_) => Err(unusable(path, "it is longer than 1 MiB")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path)(error)),
    }
}

/// Writes a file, in place of whatever there is: a reader sees either the one or the other. A file
/// that holds the same already stays. Returns whether it was written.
pub(super) fn write(path: &Path, contents: &[u8]) -> Result<bool, ControlError> {
    if contents.len() > LONGEST {
        return Err(unusable(path, "it would be longer than 1 MiB"));
    }
    if refresh(path, contents) {
        return Ok(false);
    }
    let unfinished = path.with_file_name(UNFINISHED);
    let written = make_way(&unfinished)
        .and_then(|()| open(&unfinished, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC))
        .and_then(|mut file| file.write_all(contents))
        .and_then(|()| make_way(path))
        .and_then(|()| fs::rename(&unfinished, path));
    written.map(|()| true).map_err(|error| {
        // It takes space of which there may be none left.
        let _ = fs::remove_file(&unfinished);
        failed(path)(error)
    })
}

/// Makes a file that holds `contents` a new one, lest a cleaner takes it for forgotten. Returns
/// whether there is one.
fn refresh(path: &Path, contents: &[u8]) -> bool {
    let mut found = Vec::with_capacity(contents.len() + 1);
    let Ok(file) = open(path, OFlags::RDONLY) else {
        return false;
    };
    let read = (&file)
        .take(contents.len() as u64 + 1)
        .read_to_end(&mut found);
    let is_same = read.is_ok() && found == contents;
    if is_same {
        let now = SystemTime::now();
        let _ = file.set_times(FileTimes::new().set_accessed(now).set_modified(now));
    }
    is_same
}

/// Makes a file empty.
pub(super) fn clear(path: &Path) -> Result<(), ControlError> {
    let cleared = open(path, OFlags::WRONLY).and_then(|file| file.set_len(0));
    cleared.map_err(failed(path))
}

/// Makes an empty file, unless there is one.
pub(super) fn touch(path: &Path) -> Result<(), ControlError> {
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let touched = make_way(path).and_then(|()| open(path, flags));
    touched.map(drop).map_err(failed(path))
}

/// Removes what stands in the place of a regular file.
pub(super) fn make_way(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(found) if !found.is_file() => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Removes a file, or whatever stands in its place, if there is anything.
pub(super) fn remove(path: &Path) -> Result<(), ControlError> {
    match make_way(path).and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

/// The name and the value that a file holds.
pub(super) fn read_named<T: DeserializeOwned>(
    path: &Path,
) -> Result<Option<(String, T)>, ControlError> {
    let Some(contents) = read(path)? else {
        return Ok(None);
    };
    let named = serde_json::from_slice(&contents);
    named.map(Some).map_err(|error| ControlError::Malformed {
        what: path.display().to_string(),
        reason: error.to_string(),
    })
}

/// Writes a name and a value. Returns whether the file did not hold them already.
pub(super) fn write_named(
    path: &Path,
    name: &str,
    value: &impl Serialize,
) -> Result<bool, ControlError> {
    let contents = serde_json::to_vec(&(name, value)).map_err(|error| ControlError::Malformed {
        what: name.to_owned(),
        reason: error.to_string(),
    })?;
    write(path, &contents)
}
