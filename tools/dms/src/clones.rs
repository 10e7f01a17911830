// SPDX-License-Identifier: GPL-2.0
//! What is noted of each device of `dms apply --instant`, until that is finished: the devices themselves do not
//! outlast a reboot, and what was fetched and written must.

use crate::failure::{Failure, Kind, Result};
use crate::folder::private_folder;
use crate::loops::{Behind, Loops};
use dm_snap_mv_stream::receive::{Notes, StateFile};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where they are.
const FOLDER: &str = "/var/lib/dms/apply";

/// How far it has come.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The target is proven to hold the older version, and may be written to from here on.
    Begun,
    /// The clone knows what it need not fetch.
    Ready,
    /// All has been fetched: the target is what there is, and the clone's metadata are of no use.
    Whole,
}

/// Of one device.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Record {
    /// The UUID of the store.
    pub store: String,
    /// The number of the origin there.
    pub origin: u32,
    /// The tag of the snapshot.
    pub tag: u32,
    /// The tag of the version that the target held; none: all is fetched.
    pub since: Option<u32>,
    /// The target, by a name that it has after a reboot, too.
    pub onto: String,
    /// Sectors that are shown.
    pub sectors: u64,
    /// Sectors of a region.
    pub region: u64,
    /// The metadata device, by a name that it has after a reboot; none: a file of our own.
    pub metadata: Option<String>,
    /// How far it has come.
    pub phase: Phase,
}

impl Record {
    /// Whether both are of the same, however far each is.
    pub fn is(&self, other: &Self) -> bool {
        let same_phase = Self {
            phase: self.phase,
            ..other.clone()
        };
        *self == same_phase
    }
}

/// A record that nobody else may change meanwhile.
pub struct Kept {
    path: PathBuf,
    /// What is noted; none: nothing is.
    pub record: Option<Record>,
    _lock: Flock<File>,
}

fn unnoted(path: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot use {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::new(Kind::Unable, what).hint("run dms as root"),
        _ => Failure::new(Kind::Refused, what),
    }
}

impl Kept {
    /// What is noted of the device `name`. [`Kind::Busy`] if another dms is at it, [`Kind::Damaged`] if it makes no
    /// sense.
    pub fn find(name: &str) -> Result<Self> {
        let folder = Path::new(FOLDER);
        private_folder(folder).map_err(|e| unnoted(folder, &e))?;
        let path = folder.join(format!("{name}.json"));
        let lock = folder.join(format!("{name}.lock"));
        let file = File::create(&lock).map_err(|e| unnoted(&lock, &e))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            let what = format!("{name} is in use: another dms apply is at it");
            Failure::new(Kind::Busy, what)
        })?;
        let record = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => {
                let text = other.map_err(|e| unnoted(&path, &e))?;
                let record = serde_json::from_slice(&text).map_err(|e| {
                    let what = format!("{}: this makes no sense: {e}", path.display());
                    Failure::new(Kind::Damaged, what)
                })?;
                Some(record)
            }
        };
        Ok(Self {
            path,
            record,
            _lock: lock,
        })
    }

    /// Notes something, durably.
    pub fn write(&mut self, record: Record) -> Result<()> {
        let text = serde_json::to_vec_pretty(&record).map_err(io::Error::from);
        let written = text.and_then(|text| StateFile::new(&self.path).store(&text));
        written.map_err(|e| unnoted(&self.path, &e))?;
        self.record = Some(record);
        Ok(())
    }

    /// Notes how far it has come.
    pub fn reach(&mut self, phase: Phase) -> Result<()> {
        match self.record.clone() {
            Some(record) => self.write(Record { phase, ..record }),
            None => Ok(()),
        }
    }

    /// Notes nothing any more, durably.
    pub fn remove(&mut self) -> Result<()> {
        let removed = StateFile::new(&self.path).remove();
        removed.map_err(|e| unnoted(&self.path, &e))?;
        self.record = None;
        Ok(())
    }

    /// The file that serves as the metadata device.
    pub fn file(&self) -> PathBuf {
        self.path.with_extension("clone")
    }

    /// Makes that file anew, empty and with holes.
    pub fn make_file(&self, bytes: u64) -> Result<()> {
        let path = self.file();
        let made = File::create(&path).and_then(|file| {
            file.set_len(bytes)?;
            file.sync_all()
        });
        made.map_err(|e| unnoted(&path, &e))
    }

    /// The loop device of that file, as a path: it is attached if it is not. None: there is no such file.
    pub fn attach_file(&self) -> Result<Option<PathBuf>> {
        let path = self.file();
        if !path.exists() {
            return Ok(None);
        }
        if let Some(device) = self.attached()? {
            return Ok(Some(device));
        }
        losetup(&["--find", "--show"], &path).map(|said| Some(said.trim().into()))
    }

    fn attached(&self) -> Result<Option<PathBuf>> {
        let path = self.file();
        let meta = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| unnoted(&path, &e))?,
        };
        let file = Behind::File(meta.dev(), meta.ino());
        let mut all = Loops::default().all().into_iter();
        let own = all.find(|attached| attached.behind == file);
        Ok(own.map(|attached| Path::new("/dev").join(attached.name)))
    }

    /// Detaches that file from its loop device, and removes it.
    pub fn remove_file(&self) -> Result<()> {
        if let Some(device) = self.attached()? {
            losetup(&["--detach"], &device)?;
        }
        let path = self.file();
        let removed = StateFile::new(&path).remove();
        removed.map_err(|e| unnoted(&path, &e))
    }
}

fn losetup(words: &[&str], path: &Path) -> Result<String> {
    let failed = |why: String| {
        let what = format!("cannot have a loop device for {}: {why}", path.display());
        Failure::new(Kind::Unable, what).hint("or give a device for it with --metadata")
    };
    let output = Command::new("losetup").args(words).arg(path).output();
    let output = output.map_err(|e| failed(format!("losetup: {e}")))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_however_far_it_is() {
        let record = Record {
            store: "u".into(),
            origin: 1,
            tag: 3,
            since: Some(1),
            onto: "abc".into(),
            sectors: 64,
            region: 8,
            metadata: None,
            phase: Phase::Begun,
        };
        let further = Record {
            phase: Phase::Whole,
            ..record.clone()
        };
        assert!(record.is(&further));
        let text = serde_json::to_string(&further).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), further);
        let other = Record {
            tag: 4,
            ..record.clone()
        };
        assert!(!record.is(&other));
    }
}
