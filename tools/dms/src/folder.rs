// SPDX-License-Identifier: GPL-2.0
//! Folders below /var/lib for what dms notes.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Makes a folder, and the one above it, durably, if it is not there. Nobody else has any business there.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let mut above = folder.ancestors().skip(1).take(2);
    above.try_for_each(|folder| File::open(folder)?.sync_all())
}
