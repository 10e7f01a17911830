// SPDX-License-Identifier: GPL-2.0
//! Finding a store to be read, whether it is in use or not.

use crate::dm::{Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::hints;
use crate::interrupt::Interrupt;
use crate::names::{normalise, BlockDevice};
use crate::progress::Progress;
use crate::reply::Reply;
use crate::sysfs::Sysfs;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::ids::{OriginNr, Tag};
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_store::delta::{Sizes, Versions};
use dm_snap_mv_store::{Changed, Delta, Device, Error, Live, Store};
use std::ffi::OsStr;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A store to be read.
pub struct Opened {
    /// Where it is.
    pub path: PathBuf,
    device: Device,
    /// The transaction that its journal has been folded into the trees for.
    folded: Option<u64>,
    /// The identity of the origin that was meant, if a device of it was named.
    pub id: Option<Vec<u8>>,
}

impl Opened {
    /// What is to be read in batches.
    pub fn live(&self) -> Live<'_> {
        Live::new(&self.device, self.folded)
    }

    /// Reads a little.
    pub fn read<T>(&self, get: impl Fn(&Store<'_>) -> dm_snap_mv_store::Result<T>) -> Result<T> {
        Store::read(&self.device, get).map_err(|e| failure(&e, self.path.display()))
    }

    /// Reads what differs between two versions, with what shows how far that is.
    ///
    /// # Errors
    ///
    /// [`Kind::Interrupted`] when a signal comes; those of reading the store.
    pub fn differing(
        &self,
        versions: Versions,
        interrupt: &Interrupt,
        each: impl FnMut(&Sizes, &Changed),
    ) -> Result<()> {
        self.all_of(Delta::begin(self.live(), versions), interrupt, each)
    }

    /// Reads all of a version, with what of it is known to be zeroes; the errors are the same.
    pub fn whole(
        &self,
        origin: OriginNr,
        tag: Tag,
        interrupt: &Interrupt,
        each: impl FnMut(&Sizes, &Changed),
    ) -> Result<()> {
        let delta = Delta::whole(self.live(), origin, Some(tag));
        self.all_of(delta, interrupt, each)
    }

    fn all_of(
        &self,
        delta: dm_snap_mv_store::Result<Delta<'_>>,
        interrupt: &Interrupt,
        mut each: impl FnMut(&Sizes, &Changed),
    ) -> Result<()> {
        let failed = |e| failure(&e, self.path.display());
        let mut delta = delta.map_err(failed)?;
        let mut progress = Progress::new();
        let sizes = delta.sizes();
        while let Some(runs) = delta.more().map_err(failed)? {
            for changed in &runs {
                each(&sizes, changed);
            }
            if interrupt.came() {
                return Err(Failure::new(Kind::Interrupted, "interrupted"));
            }
            let (done, all) = delta.progress();
            progress.part("comparing", done, all);
        }
        progress.done();
        Ok(())
    }

    /// The origin that `arg` names: by a device, an identity, or a number.
    pub fn origin(&self, arg: &OsStr) -> Result<OriginRow> {
        let rows = self.read(|store| store.origins())?;
        let by_id = |id: &[u8]| rows.iter().find(|row| row.id.as_bytes() == id).copied();
        if let Some(row) = by_id(arg.as_bytes()) {
            return Ok(row);
        }
        let number = arg.to_str().and_then(|arg| arg.parse::<u32>().ok());
        if let Some(row) = rows.iter().find(|row| Some(row.number.get()) == number) {
            return Ok(*row);
        }
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        if let Some(row) = by_id(normalise(arg, &cwd).as_os_str().as_bytes()) {
            return Ok(row);
        }
        let device = BlockDevice::find(arg, "origin device", &Sysfs::default());
        if let Some(row) = device.ok().and_then(|device| by_id(device.id())) {
            return Ok(row);
        }
        let ids: Vec<_> = rows
            .iter()
            .map(|row| String::from_utf8_lossy(row.id.as_bytes()).into_owned())
            .collect();
        let what = format!(
            "{} is no origin of the store on {}",
            arg.to_string_lossy(),
            self.path.display()
        );
        let failure = Failure::new(Kind::NotFound, what);
        Err(match ids.as_slice() {
            [] => failure.hint("it has none"),
            ids => failure.hint(format!("its origins are: {}", ids.join(", "))),
        })
    }

    /// The origin whose device was named when this was opened.
    pub fn own_origin(&self) -> Result<OriginRow> {
        let id = self.id.as_deref().unwrap_or_default();
        let row = self.read(|store| store.origin_by_id(id))?;
        row.ok_or_else(|| hints::failure(Refusal::NotBound))
    }
}

/// The store that an active device belongs to.
pub fn of_device(dm: &Dm, device: &Mapped) -> Result<Opened> {
    let number = device.line.cow.to_string();
    let cow = BlockDevice::find(OsStr::new(&number), "COW device", &dm.sysfs)?;
    let mut opened = open(cow.node)?;
    opened.folded = commit(dm, device);
    opened.id = Some(device.line.id.clone());
    Ok(opened)
}

/// The store on a COW device, or in a file.
pub fn of_cow(arg: &OsStr) -> Result<Opened> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let is_file = |path: &Path| std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
    for path in [normalise(arg, &cwd), PathBuf::from(arg)] {
        if is_file(&path) {
            return open(path);
        }
    }
    let cow = BlockDevice::find(arg, "COW device", &Sysfs::default())?;
    let mut opened = open(cow.node)?;
    // If any device of it is active, that can be asked.
    if let Ok(dm) = Dm::open() {
        let mut devices = dm.devices().unwrap_or_default().into_iter();
        let active = devices.find(|device| device.line.cow == cow.devno);
        opened.folded = active.and_then(|device| commit(&dm, &device));
    }
    Ok(opened)
}

/// The store that `arg` leads to: a device of its, its COW device, or a file.
pub fn of_either(arg: &OsStr) -> Result<Opened> {
    let active = arg.to_str().and_then(|arg| {
        let dm = Dm::open().ok()?;
        dm.find(arg).ok().map(|device| (dm, device))
    });
    match active {
        Some((dm, device)) => of_device(&dm, &device),
        None => of_cow(arg),
    }
}

fn open(path: PathBuf) -> Result<Opened> {
    let device = Device::open(&path).map_err(|e| {
        let kind = match e.kind() {
            std::io::ErrorKind::PermissionDenied => Kind::Unable,
            _ => Kind::Refused,
        };
        let failure = Failure::new(kind, format!("cannot open {}: {e}", path.display()));
        match kind {
            Kind::Unable => failure.hint("run dms as root"),
            _ => failure,
        }
    })?;
    Ok(Opened {
        path,
        device,
        folded: None,
        id: None,
    })
}

/// Has the journal folded into the trees. A module that does not know how, and a store that takes
/// no changes, are read with the journal.
fn commit(dm: &Dm, device: &Mapped) -> Option<u64> {
    match dm.tell(&device.name, &["commit"]).ok()? {
        Reply::Done(reply) => std::str::from_utf8(&reply).ok()?.trim().parse().ok(),
        Reply::Refused { .. } => None,
    }
}

/// Whether a snapshot has anything of its own, so that somebody has written to it: as far as the store
/// says. What has not been written down yet, the kernel knows; see [`crate::list::holds_chunks`].
pub fn is_written(
    store: &Store<'_>,
    origin: OriginNr,
    row: &SnapshotRow,
) -> dm_snap_mv_store::Result<bool> {
    let tree = store.records(row.timeline(origin))?;
    let mut written = row.chunks > 0;
    let mut at = Some(0);
    while let Some(from) = at.filter(|_| !written) {
        let part = tree.part(from, 1, &|_, _| true)?;
        written = !tree.entries(&part)?.is_empty();
        at = part.next();
    }
    Ok(written)
}

/// The failure that a store's error amounts to; `whose` is said before it where that tells something.
pub fn failure(error: &Error, whose: impl Display) -> Failure {
    match error {
        Error::Refused(refusal @ (Refusal::UnknownTag | Refusal::InvalidSnapshot)) => {
            hints::failure(*refusal)
        }
        Error::Refused(refusal) => hints::failure(*refusal).context(whose),
        Error::Damaged { .. } | Error::Overlong | Error::JournalEnd { .. } => {
            let what = format!("{whose}: {error}");
            Failure::new(Kind::Damaged, what)
                .hint("when no device of the store is active, dms check tells what else is damaged")
        }
        Error::Io { .. } => Failure::new(Kind::Damaged, format!("{whose}: {error}")),
        Error::Another => Failure::new(Kind::Busy, format!("{whose}: {error}")),
    }
}
