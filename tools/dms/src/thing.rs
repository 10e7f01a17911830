// SPDX-License-Identifier: GPL-2.0
//! What can be looked at as a whole: a disk, a file, a version of an origin.

use crate::ahead::{parts, Ahead};
use crate::dm::{node, Dm};
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::names::{normalise, BlockDevice};
use crate::private::Shown;
use crate::streams::{of_io, unopened};
use crate::sysfs::Sysfs;
use dm_snap_mv_stream::{Piece, Source};
use nix::libc;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// BLAKE3.
pub type Digest = [u8; 32];

/// Something with content.
pub struct Thing {
    /// As it was named.
    name: String,
    file: Option<Arc<File>>,
    /// What shows it, if it is a snapshot.
    shown: Option<Shown>,
    sectors: u64,
    interrupt: Interrupt,
}

/// What is meant by a word.
pub enum Meant {
    /// A device or a file.
    Path(PathBuf),
    /// A snapshot, by a device of its origin and its tag.
    Snapshot(String, String),
}

impl Meant {
    /// `DM_DEV@TAG`, `DM_DEV@now`, a device, or a file.
    pub fn by(word: &str) -> Result<Self> {
        if let (Some((device, tag)), false) = (word.rsplit_once('@'), Path::new(word).exists()) {
            let dm = Dm::open()?;
            let device = dm.find(device)?;
            if tag != "now" && tag != "0" {
                return Ok(Self::Snapshot(device.name, tag.to_owned()));
            }
            let origin = dm.origin_of(&device)?.ok_or_else(|| {
                let what = format!("no device shows the origin of {} as it is now", device.name);
                Failure::new(Kind::NotFound, what)
            })?;
            return Ok(Self::Path(node::path(&origin.name)));
        }
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let named = normalise(OsStr::new(word), &cwd);
        let is_file = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.is_file());
        for path in [Path::new(word), &named] {
            if is_file(path) {
                return Ok(Self::Path(path.to_owned()));
            }
        }
        let found = BlockDevice::find(OsStr::new(word), "device", &Sysfs::default())?;
        Ok(Self::Path(found.node))
    }
}

impl Thing {
    /// A disk, or a file.
    pub fn at(name: &str, path: &Path, interrupt: Interrupt) -> Result<Self> {
        let failed = |e| unopened(path, &e);
        let is_file = fs::metadata(path).map_err(failed)?.is_file();
        let mut options = OpenOptions::new();
        options.read(true);
        if !is_file {
            // Nothing is read that was written past what is looked at.
            options.custom_flags(libc::O_DIRECT);
        }
        let mut file = options.open(path).map_err(failed)?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if bytes % 512 != 0 {
            let what = format!("{}: its size is no multiple of 512 bytes", path.display());
            return Err(Failure::new(Kind::Refused, what));
        }
        Ok(Self {
            name: name.to_owned(),
            file: Some(Arc::new(file)),
            shown: None,
            sectors: bytes / 512,
            interrupt,
        })
    }

    /// A snapshot of so many sectors.
    pub(crate) fn shown(name: &str, shown: Shown, sectors: u64, interrupt: Interrupt) -> Self {
        Self {
            name: name.to_owned(),
            file: Some(shown.file.clone()),
            shown: Some(shown),
            sectors,
            interrupt,
        }
    }

    /// Its size.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Digests of blocks of `each` sectors of it, from sector `start` on; the last one may be smaller. It is read
    /// in pieces of at most 1 MiB, of which `each` has to be a part, and `start` a multiple.
    pub fn digests(&self, start: u64, sectors: u64, each: u64) -> Result<Vec<Digest>> {
        let end = start
            .checked_add(sectors)
            .filter(|end| *end <= self.sectors);
        let each = usize::try_from(each.saturating_mul(512)).unwrap_or(0);
        let (Some(_), Some(file), true) = (end, &self.file, each > 0) else {
            let what = format!("{}: there are no such blocks", self.name);
            return Err(Failure::new(Kind::Refused, what));
        };
        let piece = Piece {
            start,
            sectors,
            zero: false,
        };
        let mut ahead = Ahead::new(
            file.clone(),
            [piece].into_iter(),
            start,
            self.interrupt.clone(),
        );
        let mut digests = Vec::new();
        let mut buffer = Vec::new();
        for (at, many) in parts([piece].into_iter(), start) {
            buffer.resize((many * 512) as usize, 0);
            ahead.read(at, &mut buffer).map_err(|error| {
                let what = match of_io(&error) {
                    Kind::Interrupted => "interrupted".to_owned(),
                    _ => format!("cannot read {}: {error}", self.name),
                };
                Failure::new(of_io(&error), what)
            })?;
            digests.extend(
                buffer
                    .chunks(each)
                    .map(|block| Digest::from(blake3::hash(block))),
            );
        }
        Ok(digests)
    }
}

impl Drop for Thing {
    fn drop(&mut self) {
        self.file = None;
        if let (Some(shown), Some(dm)) = (self.shown.take(), Dm::if_there()) {
            shown.close(&dm);
        }
    }
}
