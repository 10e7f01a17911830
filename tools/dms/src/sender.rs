// SPDX-License-Identifier: GPL-2.0
//! Snapshots of an origin on their way into a stream.

use crate::ahead::Ahead;
use crate::dm::{Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::hints;
use crate::interrupt::Interrupt;
use crate::list;
use crate::names::BlockDevice;
use crate::plan::{misfit, unlike_any_other, version, Base, Plan};
use crate::private::{Shown, Wants};
use crate::progress::Progress;
use crate::ranges::Ranges;
use crate::reading::{self, Opened};
use crate::streams::{interrupted, of_io, wrong, Output};
use crate::sysfs::Sysfs;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_store::delta::{Sizes, Versions};
use dm_snap_mv_store::Changed;
use dm_snap_mv_stream::{
    send, source, Begin, Counts, Encoder, Error, Fault, Options, Piece, Position, Version,
};
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;

/// An origin, of which snapshots are to be sent.
pub struct Sender {
    /// A device of the origin or of its snapshots, or the origin itself.
    named: OsString,
    pub(crate) dm: Dm,
    /// A device of the origin, if one is active.
    pub(crate) device: Option<Mapped>,
    pub(crate) opened: Opened,
    origin: OriginRow,
    interrupt: Interrupt,
}

impl Sender {
    /// Finds the store and the origin by a device; with a COW device, none need be active, and it is the
    /// origin that is named.
    pub fn find(named: &OsStr, cow: Option<&OsStr>, interrupt: Interrupt) -> Result<Self> {
        let dm = Dm::open()?;
        let (opened, origin, device) = match cow {
            Some(cow) => {
                let opened = reading::of_cow(cow)?;
                let origin = opened.origin(named)?;
                let devices = dm.devices()?.into_iter();
                let cow = BlockDevice::find(opened.path.as_os_str(), "COW device", &dm.sysfs)?;
                let id = origin.id.as_bytes();
                let device = devices
                    .filter(|device| device.line.cow == cow.devno)
                    .find(|device| device.line.id == id);
                (opened, origin, device)
            }
            None => {
                let device = dm.find(&named.to_string_lossy())?;
                let opened = reading::of_device(&dm, &device)?;
                let origin = opened.own_origin()?;
                (opened, origin, Some(device))
            }
        };
        Ok(Self {
            named: named.to_owned(),
            dm,
            device,
            opened,
            origin,
            interrupt,
        })
    }

    /// The UUID of the store, and the number of the origin there.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn origin(&self) -> Result<([u8; 16], u32)> {
        let uuid = self.opened.read(|store| Ok(store.superblock().uuid))?;
        Ok((uuid, self.origin.number.get()))
    }

    /// A snapshot of the origin as it is now, if it can be read, and whether it has been written to.
    pub fn look(&self, tag: Tag) -> Result<(SnapshotRow, bool)> {
        let number = self.origin.number;
        let (origin, row, written) = self.opened.read(|store| {
            let origin = store.origin(number)?.ok_or(Refusal::NotBound)?;
            let row = store.snapshot(number, tag)?;
            let row = row.filter(|row| !row.ghost || row.bookmark);
            let row = row.ok_or(Refusal::UnknownTag)?;
            if row.bookmark {
                return Err(Refusal::IsBookmark.into());
            }
            let written = reading::is_written(store, number, &row)?;
            Ok((origin, row, written))
        })?;
        if origin.is_invalid(tag) {
            return Err(
                hints::failure(Refusal::InvalidSnapshot).context(format!("snapshot {}", tag.get()))
            );
        }
        // What has not been written down yet, the kernel knows.
        let held = match &self.device {
            Some(device) => list::holds_chunks(&self.dm, device, tag.get()).unwrap_or(false),
            None => false,
        };
        Ok((row, written || held))
    }

    /// The same of what is sent since: of a bookmark, too. Nobody had written to what that was of.
    pub fn look_at_base(&self, tag: Tag) -> Result<(SnapshotRow, bool)> {
        let number = self.origin.number;
        let bookmark = self.opened.read(|store| {
            let origin = store.origin(number)?.ok_or(Refusal::NotBound)?;
            let row = store.snapshot(number, tag)?.filter(|row| row.bookmark);
            match row {
                Some(_) if origin.is_forgotten(tag) => Err(Refusal::InvalidBookmark.into()),
                row => Ok(row),
            }
        })?;
        match bookmark {
            Some(row) => Ok((row, false)),
            None => self.look(tag),
        }
    }

    /// The snapshots that an origin has had taken of it after one of them, and up to another one, oldest first; and
    /// those that are not fit to be sent since: snapshots of snapshots, and those that have been written to, or are
    /// invalid.
    pub fn history(&self, since: Option<Tag>, to: Option<Tag>) -> Result<(Vec<Tag>, Vec<Tag>)> {
        let number = self.origin.number;
        let (origin, rows) = self.opened.read(|store| {
            let origin = store.origin(number)?.ok_or(Refusal::NotBound)?;
            Ok((origin, store.snapshots(number)?))
        })?;
        let is_meant = |row: &&SnapshotRow| {
            let tag = Some(row.tag);
            row.is_whole() && tag > since && (to.is_none() || tag <= to)
        };
        let (mut fit, mut unfit) = (Vec::new(), Vec::new());
        for row in rows.iter().filter(is_meant) {
            let may = row.parent.is_none() && !origin.is_invalid(row.tag);
            match may && !self.look(row.tag)?.1 {
                true => fit.push(row.tag),
                false => unfit.push(row.tag),
            }
        }
        Ok((fit, unfit))
    }

    /// Finds out what is to be sent of a snapshot, whole or since another one. All of it is known before the first
    /// byte is.
    pub fn plan(&self, to: Tag, base: Option<Base>) -> Result<Plan> {
        let (row, written) = self.look(to)?;
        let (uuid, chunk) = self.opened.read(|store| {
            let superblock = store.superblock();
            Ok((superblock.uuid, superblock.layout.chunk_size.sectors()))
        })?;
        let chunk = u32::try_from(chunk).unwrap_or(u32::MAX);
        let mut begin = Begin {
            size: row.size,
            chunk,
            store: uuid,
            origin: self.origin.number.get(),
            identity: self.origin.id.as_bytes().to_vec(),
            to: self.version(&row)?,
            ..Begin::default()
        };
        if written {
            begin.to.content = Some(unlike_any_other()?);
        }
        let mut ranges = Ranges::default();
        match base {
            None => ranges.push(Piece {
                start: 0,
                sectors: row.size,
                zero: false,
            }),
            Some(base) => ranges = self.since(base, to, &mut begin)?,
        }
        let counts = source::count(ranges.iter().map(Ok), chunk);
        let counts = counts.map_err(|e| Failure::new(Kind::Refused, e.to_string()))?;
        let begin = begin.with_counts(&counts);
        begin.encode().map_err(misfit)?;
        Ok(Plan {
            begin,
            to,
            ranges,
            written,
        })
    }

    /// A snapshot or bookmark as it is called in a stream.
    fn version(&self, row: &SnapshotRow) -> Result<Version> {
        let number = self.origin.number;
        let label = self.opened.read(|store| store.label(number, row.tag))?;
        Ok(version(row, label.as_ref()))
    }

    /// What is sent since a version, which is put into the segment's beginning.
    fn since(&self, base: Base, to: Tag, begin: &mut Begin) -> Result<Ranges> {
        let ranges = self.differing(base.since, Some(to))?;
        // After that: what is written to it from here on makes no difference.
        let (row, written) = self.look_at_base(base.since)?;
        if written {
            let what = format!("snapshot {} has been written to", base.since.get());
            return Err(Failure::new(Kind::Refused, what).hint(
                "nobody can tell that the other end has what it holds now; send the whole, without \
                 --since,\nor since a snapshot that has only been read",
            ));
        }
        let Some((other, size, also)) = base.other else {
            begin.from_size = row.size;
            begin.from = Some(self.version(&row)?);
            return Ok(ranges);
        };
        begin.from_size = size;
        begin.from = Some(other);
        if size < begin.size {
            // Who receives is smaller. What is behind its end has never been there, and may not have been used.
            if ranges.end() > size.next_multiple_of(begin.chunk.into()) {
                let what = format!(
                    "what has been written to it since snapshot {} reaches behind {size} sectors",
                    base.since.get()
                );
                return Err(Failure::new(Kind::NoSpace, what)
                    .hint("enlarge the device that is to receive it, and create it anew"));
            }
            begin.size = size;
        }
        Ok(ranges.up_to(begin.size).and(&also.up_to(begin.size)))
    }

    /// Where a version differs from an earlier one: a snapshot, or the origin as it is.
    ///
    /// # Errors
    ///
    /// One of them is not there any more, or invalid; or a signal has come.
    pub fn differing(&self, from: Tag, to: Option<Tag>) -> Result<Ranges> {
        let versions = Versions {
            origin: self.origin.number,
            old: Some(from),
            new: to,
        };
        let mut ranges = Ranges::default();
        let mut put = |sizes: &Sizes, changed: &Changed| {
            let (start, sectors) = sizes.sectors(changed);
            let zero = changed.zero;
            ranges.push(Piece {
                start,
                sectors,
                zero,
            });
        };
        self.opened.differing(versions, &self.interrupt, &mut put)?;
        Ok(ranges)
    }

    /// What of a snapshot is known to be zeroes.
    ///
    /// # Errors
    ///
    /// As of [`Sender::differing`].
    pub fn zeroes(&self, of: Tag) -> Result<Ranges> {
        let mut ranges = Ranges::default();
        let mut put = |sizes: &Sizes, changed: &Changed| {
            let (start, sectors) = sizes.sectors(changed);
            if changed.zero {
                ranges.push(Piece {
                    start,
                    sectors,
                    zero: true,
                });
            }
        };
        let number = self.origin.number;
        self.opened.whole(number, of, &self.interrupt, &mut put)?;
        Ok(ranges)
    }

    /// Sends plans, one behind the other, the first one from a position on if there is one. Where whoever reads it
    /// goes away, the failure is a quiet one.
    pub fn send(&self, plans: &[Plan], position: Option<&Position>, to: impl Write) -> Result<()> {
        let to = BufWriter::new(Output::new(to, self.interrupt.clone()));
        let failed = |e: io::Error| Failure::new(Kind::Refused, format!("cannot begin: {e}"));
        let mut encoder = Encoder::new(to, Options::default()).map_err(failed)?;
        let mut position = position;
        for plan in plans {
            let shown = self.show(plan)?;
            let done = self.write(plan, position.take(), &shown, &mut encoder);
            shown.close(&self.dm);
            done?;
        }
        let ended = encoder.finish().map(drop);
        ended.map_err(|error| self.why(None, &error))
    }

    /// A device to read the snapshot from.
    pub fn show(&self, plan: &Plan) -> Result<Shown> {
        let find = || self.origin_device();
        let wants = Wants {
            origin: &find,
            cow: match &self.device {
                Some(device) => device.line.cow,
                None => {
                    BlockDevice::find(self.opened.path.as_os_str(), "COW device", &self.dm.sysfs)?
                        .devno
                }
            },
            id: self.origin.id.as_bytes(),
            number: self.origin.number.get(),
            tag: plan.to.get(),
            sectors: plan.begin.size,
            written: plan.written,
        };
        Shown::find(&self.dm, &wants, &self.interrupt)
    }

    /// The origin device, where no device shows the snapshot.
    pub(crate) fn origin_device(&self) -> Result<BlockDevice> {
        let sysfs = &self.dm.sysfs;
        if let Some(device) = &self.device {
            let number = device.line.origin.to_string();
            return BlockDevice::find(OsStr::new(&number), "origin device", sysfs);
        }
        BlockDevice::find(&self.named, "origin device", sysfs).or_else(|_| {
            let id = OsStr::from_bytes(self.origin.id.as_bytes());
            BlockDevice::find(id, "origin device", &Sysfs::default())
        })
    }

    /// Writes a segment.
    fn write(
        &self,
        plan: &Plan,
        position: Option<&Position>,
        shown: &Shown,
        encoder: &mut Encoder<impl Write>,
    ) -> Result<()> {
        let begin = &plan.begin;
        let from = position.map_or(0, |position| position.sector);
        let mut ahead = Ahead::new(
            shown.file.clone(),
            plan.ranges.iter(),
            from,
            self.interrupt.clone(),
        );
        let mut progress = Progress::new();
        let doing = format!("sending {}", begin.to.tag);
        let mut watch = |counts: &Counts| progress.part(&doing, counts.sectors, begin.sectors);
        let changed = RefCell::new(None);
        // Before it is said that this was all.
        let unchanged = || {
            if self.interrupt.came() {
                return Some(Err(interrupted()));
            }
            let failure = self.unchanged(plan, shown).err()?;
            *changed.borrow_mut() = Some(failure);
            Some(Err(io::ErrorKind::Other.into()))
        };
        let pieces = plan.ranges.iter().map(Ok);
        let pieces = pieces.chain(std::iter::once_with(unchanged).flatten());
        let sent = send(encoder, begin, position, pieces, &mut ahead, &mut watch);
        progress.done();
        drop(ahead);
        let Err(error) = sent else { return Ok(()) };
        match changed.into_inner() {
            Some(failure) => Err(failure),
            None => Err(self.why(Some(plan.to), &error)),
        }
    }

    /// Why sending has failed.
    fn why(&self, of: Option<Tag>, error: &Error) -> Failure {
        let Fault::Io(io_error) = &error.fault else {
            return wrong(error);
        };
        match (of_io(io_error), io_error.kind(), of) {
            (Kind::Interrupted, ..) => Failure::new(Kind::Interrupted, "interrupted"),
            // Whoever reads it says why not to its end.
            (_, io::ErrorKind::BrokenPipe, _) => Failure::quiet(Kind::Refused),
            // What cannot be read any more may have been lost.
            (_, _, Some(tag)) => match self.look(tag) {
                Err(failure) => failure,
                Ok(_) => wrong(error),
            },
            _ => wrong(error),
        }
    }

    /// Whether the snapshot still is what it was when this began.
    fn unchanged(&self, plan: &Plan, shown: &Shown) -> Result<()> {
        let (_, mut written) = self.look(plan.to)?;
        let page = list::page(&self.dm, &shown.name, plan.to.get())?;
        let row = page.rows.iter().find(|row| row.tag == plan.to.get());
        written |= row.is_some_and(|row| row.chunks > 0);
        if written && !plan.written {
            let what = format!(
                "snapshot {} has been written to while it was sent",
                plan.to.get()
            );
            return Err(Failure::new(Kind::Busy, what)
                .hint("what was sent is of no use; take a snapshot of it, and send that"));
        }
        Ok(())
    }
}
