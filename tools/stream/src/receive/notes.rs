// SPDX-License-Identifier: GPL-2.0
//! Notes in a file.

use super::target::Notes;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Larger ones are none.
const MOST: u64 = 1 << 18;

/// A file that is written anew each time, beside its place, and then put there.
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// With this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The path with something behind it.
pub(super) fn with(path: &Path, behind: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(behind);
    name.into()
}

/// Has what was done with names in the file's folder on stable storage.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// Removes a file, durably, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder(path),
    }
}

impl Notes for StateFile {
    fn load(&mut self) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut note = Vec::new();
        file.take(MOST).read_to_end(&mut note)?;
        Ok(Some(note))
    }

    fn store(&mut self, note: &[u8]) -> io::Result<()> {
        let beside = with(&self.path, ".tmp");
        let mut file = File::create(&beside)?;
        file.write_all(note)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        sync_folder(&self.path)
    }

    fn remove(&mut self) -> io::Result<()> {
        remove(&self.path)
    }
}
