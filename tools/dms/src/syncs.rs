// SPDX-License-Identifier: GPL-2.0
//! What is noted here of each target of `dms sync`: for people and monitoring. Nothing depends on it but what
//! is shown: what a target holds is asked of its own side, and bookmarks are in the store.

use crate::failure::{Failure, Kind, Result};
use crate::folder::private_folder;
use dm_snap_mv_store::checksum::crc32c_raw;
use dm_snap_mv_stream::receive::{Notes, StateFile};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Where they are.
const FOLDER: &str = "/var/lib/dms/sync";

/// Of one target.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Record {
    /// As it was named.
    pub target: String,
    /// The UUID of the store that the origin is in.
    pub store: String,
    /// The number of the origin there.
    pub origin: u32,
    /// How the store knows it.
    pub identity: String,
    /// What the target holds: the tag, in the origin's store.
    pub tag: Option<u32>,
    /// When that was taken, in seconds since 1970.
    pub taken: Option<u64>,
    /// When it was received, in seconds since 1970.
    pub received: Option<u64>,
    /// Bytes that were set for it.
    pub bytes: Option<u64>,
    /// How long that has taken, in milliseconds.
    pub milliseconds: Option<u64>,
    /// What went wrong the last time; nothing if nothing did.
    pub error: Option<String>,
    /// When, in seconds since 1970.
    pub failed: Option<u64>,
}

/// A record that nobody else may change meanwhile.
pub struct Kept {
    path: PathBuf,
    /// What is noted.
    pub record: Record,
    _lock: Flock<File>,
}

fn unnoted(path: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot note in {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::new(Kind::Unable, what).hint("run dms as root"),
        _ => Failure::new(Kind::Refused, what),
    }
}

impl Kept {
    /// The record of a target, which may be new. [`Kind::Busy`] if another dms is at it.
    pub fn find(store: &str, origin: u32, identity: &str, target: &str) -> Result<Self> {
        let folder = Path::new(FOLDER);
        private_folder(folder).map_err(|e| unnoted(folder, &e))?;
        let name = format!("{store}-{origin}-{:08x}", crc32c_raw(target.as_bytes()));
        let path = folder.join(format!("{name}.json"));
        let lock = folder.join(format!("{name}.lock"));
        let file = File::create(&lock).map_err(|e| unnoted(&lock, &e))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            let what = format!("{target} is in use: another dms sync is at it");
            Failure::new(Kind::Busy, what)
        })?;
        // One that makes no sense tells nothing.
        let record = load(&path).filter(|record| record.target == target);
        let record = Record {
            target: target.to_owned(),
            store: store.to_owned(),
            origin,
            identity: identity.to_owned(),
            ..record.unwrap_or_default()
        };
        Ok(Self {
            path,
            record,
            _lock: lock,
        })
    }

    /// Beside it: where it is noted how roles are changed.
    pub fn turn(&self) -> PathBuf {
        self.path.with_extension("turn")
    }

    /// Notes it.
    pub fn write(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.record).map_err(io::Error::from);
        let written = text.and_then(|text| StateFile::new(&self.path).store(&text));
        written.map_err(|e| unnoted(&self.path, &e))
    }
}

fn load(path: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// All of them, those of one origin together.
pub fn all() -> Result<Vec<Record>> {
    let folder = Path::new(FOLDER);
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| unnoted(folder, &e))?,
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let paths = paths.filter(|path| path.extension().is_some_and(|e| e == "json"));
    let mut records: Vec<Record> = paths.filter_map(|path| load(&path)).collect();
    records.sort_by(|a, b| (&a.store, a.origin, &a.target).cmp(&(&b.store, b.origin, &b.target)));
    Ok(records)
}
