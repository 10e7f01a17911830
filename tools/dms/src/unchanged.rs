// SPDX-License-Identifier: GPL-2.0
//! Whether an origin is what one of its snapshots is.
//!
//! Where they have all chunks in the same places, it is: that is known without reading one. After a
//! rollback the content is the same in other places. So where places differ, what is there is compared.

use crate::ahead::{parts, Ahead};
use crate::dm::{Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::list;
use crate::names::BlockDevice;
use crate::private::{Shown, Wants};
use crate::ranges::Ranges;
use crate::reading::{self, Opened};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_store::delta::{Sizes, Versions};
use dm_snap_mv_store::Changed;
use dm_snap_mv_stream::frame::{PAYLOAD, SECTOR};
use dm_snap_mv_stream::receive::{Local, Unlike};
use dm_snap_mv_stream::{Piece, Source};
use std::ffi::OsStr;
use std::io;

/// An origin, by its device, that nobody else may write to.
pub struct Origin<'a> {
    /// The way to it.
    pub dm: &'a Dm,
    /// Its device.
    pub device: &'a Mapped,
    /// Reading may take long.
    pub interrupt: &'a Interrupt,
}

/// A snapshot that is there, with the origin as it was then.
struct Found {
    opened: Opened,
    origin: OriginRow,
    row: SnapshotRow,
}

/// Either what was looked for, or why it is of no use.
type Or<T> = std::result::Result<T, Unlike>;

impl Origin<'_> {
    /// Whether a snapshot of it is there, is valid, and was never written to: if not, why not.
    pub fn lost(&self, local: &Local) -> Result<Option<Unlike>> {
        Ok(self.find(local)?.err())
    }

    /// Whether it is what that snapshot is: if not, why not. `read` reads the origin; all that was
    /// written to it has to have come to the store.
    pub fn unlike(
        &self,
        local: &Local,
        mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<Option<Unlike>> {
        let found = match self.find(local)? {
            Ok(found) => found,
            Err(why) => return Ok(Some(why)),
        };
        let origin = &found.origin;
        if origin.rollback.is_some() || origin.deferred.is_some() {
            return Ok(Some(Unlike::Rollback));
        }
        let differing = self.differing(&found)?;
        if differing.iter().next().is_none() {
            return Ok(None);
        }
        let same = self.compare(&found, &differing, &mut read)?;
        Ok((!same).then_some(Unlike::Changed))
    }

    fn find(&self, local: &Local) -> Result<Or<Found>> {
        let opened = reading::of_device(self.dm, self.device)?;
        let number = opened.own_origin()?.number;
        let Some(tag) = Tag::new(local.tag).filter(|_| number.get() == local.origin) else {
            return Ok(Err(Unlike::Another));
        };
        let seen = opened.read(|store| {
            if store.superblock().uuid != local.store {
                return Ok(Err(Unlike::Another));
            }
            let Some(origin) = store.origin(number)? else {
                return Ok(Err(Unlike::Another));
            };
            let row = store.snapshot(number, tag)?.filter(SnapshotRow::is_whole);
            match row {
                None => Ok(Err(Unlike::Gone)),
                Some(_) if origin.is_invalid(tag) => Ok(Err(Unlike::Invalid)),
                Some(row) if reading::is_written(store, number, &row)? => Ok(Err(Unlike::Written)),
                Some(row) => Ok(Ok((origin, row))),
            }
        })?;
        let (origin, row) = match seen {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        if list::holds_chunks(self.dm, self.device, local.tag)? {
            return Ok(Err(Unlike::Written));
        }
        Ok(Ok(Found {
            opened,
            origin,
            row,
        }))
    }

    /// What of the snapshot is in other places. The origin may have grown since.
    fn differing(&self, found: &Found) -> Result<Ranges> {
        let versions = Versions {
            origin: found.origin.number,
            old: Some(found.row.tag),
            new: None,
        };
        let mut ranges = Ranges::default();
        let mut put = |sizes: &Sizes, changed: &Changed| {
            let (start, sectors) = sizes.sectors(changed);
            let sectors = sectors.min(sizes.old.saturating_sub(start));
            if sectors > 0 {
                ranges.push(Piece {
                    start,
                    sectors,
                    zero: false,
                });
            }
        };
        found.opened.differing(versions, self.interrupt, &mut put)?;
        Ok(ranges)
    }

    /// Whether all that is in other places is the same there.
    fn compare(
        &self,
        found: &Found,
        ranges: &Ranges,
        read: &mut impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<bool> {
        let line = &self.device.line;
        let find = || {
            let number = line.origin.to_string();
            BlockDevice::find(OsStr::new(&number), "origin device", &self.dm.sysfs)
        };
        let wants = Wants {
            origin: &find,
            cow: line.cow,
            id: &line.id,
            number: found.origin.number.get(),
            tag: found.row.tag.get(),
            sectors: found.row.size,
            written: false,
        };
        let shown = Shown::find(self.dm, &wants, self.interrupt)?;
        let mut ahead = Ahead::new(shown.file.clone(), ranges.iter(), 0, self.interrupt.clone());
        let mut was = vec![0; PAYLOAD];
        let mut is = vec![0; PAYLOAD];
        let mut same = Ok(true);
        for (start, sectors) in parts(ranges.iter(), 0) {
            let len = (sectors * SECTOR) as usize;
            let was = was.get_mut(..len).unwrap_or_default();
            let is = is.get_mut(..len).unwrap_or_default();
            let both = ahead.read(start, was).and_then(|()| read(start, is));
            same = both.map(|()| was == is);
            if !matches!(same, Ok(true)) {
                break;
            }
        }
        drop(ahead);
        shown.close(self.dm);
        if self.interrupt.came() {
            return Err(Failure::new(Kind::Interrupted, "interrupted"));
        }
        same.map_err(|e| {
            let what = format!(
                "cannot compare {} with snapshot {}: {e}",
                self.device.name,
                found.row.tag.get()
            );
            Failure::new(Kind::Refused, what)
        })
    }
}
