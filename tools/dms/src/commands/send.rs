// SPDX-License-Identifier: GPL-2.0
//! `dms send`

use super::stream::encoder;
use super::{print, tag};
use crate::ahead::Ahead;
use crate::cli::Send;
use crate::dm::{Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::hints;
use crate::interrupt::Interrupt;
use crate::list;
use crate::names::BlockDevice;
use crate::private::{Shown, Wants};
use crate::progress::Progress;
use crate::ranges::Ranges;
use crate::reading::{self, Opened};
use crate::streams::{interrupted, of_io, unopened, wrong, Output};
use crate::sysfs::Sysfs;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_store::delta::{Sizes, Versions};
use dm_snap_mv_store::Changed;
use dm_snap_mv_stream::digest::of_begin;
use dm_snap_mv_stream::version::MEMO;
use dm_snap_mv_stream::{send, source, Begin, Counts, Encoder, Fault, Piece, Position, Version};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub fn run(args: &Send) -> Result<()> {
    let (to, from) = versions(&args.tag, args.since.as_deref())?;
    let position = args.resume.as_deref().map(position).transpose()?;
    if !args.estimate && args.output.is_none() && io::stdout().is_terminal() {
        let failure = Failure::usage("a stream is not written to a terminal");
        return Err(
            failure.hint("give the name of a file with -o, or put it behind \">\" or \"|\"")
        );
    }
    let interrupt = Interrupt::watch()?;
    let sender = Sender::find(&args.dm_dev, args.cow.as_deref(), to, interrupt)?;
    let plan = sender.plan(from)?;
    if args.estimate {
        let Begin {
            ranges,
            chunks,
            size,
            ..
        } = plan.begin;
        let zero: u64 = plan
            .ranges
            .iter()
            .filter(|p| p.zero)
            .map(|p| p.sectors)
            .sum();
        return print(&format!(
            "ranges {ranges}\nchunks {chunks}\nbytes {}\nzero-bytes {}\nof-bytes {}\n",
            plan.begin.sectors * 512,
            zero * 512,
            size * 512
        ));
    }
    if let Some(position) = &position {
        plan.has(position)?;
    }
    sender.send(&plan, position.as_ref(), args.output.as_deref())
}

/// The snapshot that is meant, and the one since which, by their tags as they were typed.
pub(super) fn versions(word: &str, since: Option<&str>) -> Result<(Tag, Option<Tag>)> {
    let to = Tag::new(tag(word)?).ok_or_else(|| hints::failure(Refusal::UnknownTag))?;
    let from = since.map(tag).transpose()?;
    let from = from.and_then(Tag::new);
    if from.is_some_and(|from| from >= to) {
        let (old, new) = (from.map_or(0, Tag::get), to.get());
        let what = match old == new {
            true => format!("nothing changes from snapshot {old} to itself"),
            false => format!("snapshot {old} is newer than snapshot {new}"),
        };
        return Err(
            Failure::usage(what).hint("--since takes a snapshot older than the one that is sent")
        );
    }
    Ok((to, from))
}

pub(super) fn position(word: &str) -> Result<Position> {
    word.trim().parse().map_err(|_| {
        Failure::usage("what --resume was given is no position, or not a whole one")
            .hint("where to go on says: dms receive TARGET --position")
    })
}

/// A snapshot that is to be sent.
pub(super) struct Sender<'a> {
    /// A device of the origin or of its snapshots, or the origin itself.
    named: &'a OsStr,
    pub(super) dm: Dm,
    /// A device of the origin, if one is active.
    pub(super) device: Option<Mapped>,
    pub(super) opened: Opened,
    origin: OriginRow,
    to: Tag,
    interrupt: Interrupt,
}

/// What is sent of it.
pub(super) struct Plan {
    pub(super) begin: Begin,
    pub(super) ranges: Ranges,
    /// Somebody has written to the snapshot.
    pub(super) written: bool,
}

impl Plan {
    /// Whether a position is one of what is sent.
    pub(super) fn has(&self, position: &Position) -> Result<()> {
        if self.written {
            let what = format!(
                "snapshot {} has been written to: it is not known whether that was after a part of it was sent",
                self.begin.to.tag
            );
            return Err(Failure::new(Kind::Refused, what).hint("send it from its beginning"));
        }
        let payload = self.begin.encode().map_err(misfit)?;
        if position.segment != of_begin(&payload) {
            let what = "the position is not one of what is to be sent";
            return Err(Failure::new(Kind::Refused, what).hint(
                "give the snapshots that were sent when it was interrupted, or send from the beginning",
            ));
        }
        Ok(())
    }
}

fn misfit(fault: Fault) -> Failure {
    Failure::new(Kind::Refused, format!("this cannot be sent: {fault}"))
}

impl<'a> Sender<'a> {
    /// Finds the store and the origin by a device; with a COW device, none need be active, and it is the
    /// origin that is named.
    pub(super) fn find(
        named: &'a OsStr,
        cow: Option<&OsStr>,
        to: Tag,
        interrupt: Interrupt,
    ) -> Result<Self> {
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
            named,
            dm,
            device,
            opened,
            origin,
            to,
            interrupt,
        })
    }

    /// A snapshot of the origin as it is now, if it can be read, and whether it has been written to.
    fn look(&self, tag: Tag) -> Result<(SnapshotRow, bool)> {
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
    fn look_at_base(&self, tag: Tag) -> Result<(SnapshotRow, bool)> {
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

    /// Finds out what is to be sent. All of it is known before the first byte is.
    pub(super) fn plan(&self, from: Option<Tag>) -> Result<Plan> {
        let (row, written) = self.look(self.to)?;
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
            to: version(&row),
            ..Begin::default()
        };
        if written {
            begin.to.content = Some(unlike_any_other()?);
        }
        let mut ranges = Ranges::default();
        match from {
            None => ranges.push(Piece {
                start: 0,
                sectors: row.size,
                zero: false,
            }),
            Some(from) => {
                ranges = self.differing(from)?;
                // After that: what is written to it from here on makes no difference.
                let (base, written) = self.look_at_base(from)?;
                if written {
                    let what = format!("snapshot {} has been written to", from.get());
                    return Err(Failure::new(Kind::Refused, what).hint(
                        "nobody can tell that the other end has what it holds now; send the whole, without \
                         --since,\nor since a snapshot that has only been read",
                    ));
                }
                begin.from_size = base.size;
                begin.from = Some(version(&base));
            }
        }
        let counts = source::count(ranges.iter().map(Ok), chunk);
        let counts = counts.map_err(|e| Failure::new(Kind::Refused, e.to_string()))?;
        let begin = begin.with_counts(&counts);
        begin.encode().map_err(misfit)?;
        Ok(Plan {
            begin,
            ranges,
            written,
        })
    }

    fn differing(&self, from: Tag) -> Result<Ranges> {
        let versions = Versions {
            origin: self.origin.number,
            old: Some(from),
            new: Some(self.to),
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

    /// What of the snapshot is known to be zeroes.
    pub(super) fn zeroes(&self) -> Result<Ranges> {
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
        self.opened
            .whole(number, self.to, &self.interrupt, &mut put)?;
        Ok(ranges)
    }

    fn send(&self, plan: &Plan, position: Option<&Position>, output: Option<&Path>) -> Result<()> {
        match output {
            None => self.send_to(plan, position, io::stdout().lock()),
            Some(path) => to_file(path, |file| self.send_to(plan, position, file)),
        }
    }

    /// Sends it, from a position on if there is one. Where whoever reads it goes away, the failure is a
    /// quiet one.
    pub(super) fn send_to(
        &self,
        plan: &Plan,
        position: Option<&Position>,
        to: impl Write,
    ) -> Result<()> {
        let shown = self.show(plan)?;
        let done = self.write(plan, position, &shown, to);
        shown.close(&self.dm);
        done
    }

    /// A device to read the snapshot from.
    pub(super) fn show(&self, plan: &Plan) -> Result<Shown> {
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
            tag: self.to.get(),
            sectors: plan.begin.size,
            written: plan.written,
        };
        Shown::find(&self.dm, &wants, &self.interrupt)
    }

    /// The origin device, where no device shows the snapshot.
    pub(super) fn origin_device(&self) -> Result<BlockDevice> {
        let sysfs = &self.dm.sysfs;
        if let Some(device) = &self.device {
            let number = device.line.origin.to_string();
            return BlockDevice::find(OsStr::new(&number), "origin device", sysfs);
        }
        BlockDevice::find(self.named, "origin device", sysfs).or_else(|_| {
            let id = OsStr::from_bytes(self.origin.id.as_bytes());
            BlockDevice::find(id, "origin device", &Sysfs::default())
        })
    }

    fn write(
        &self,
        plan: &Plan,
        position: Option<&Position>,
        shown: &Shown,
        to: impl Write,
    ) -> Result<()> {
        let begin = &plan.begin;
        let to = BufWriter::new(Output::new(to, self.interrupt.clone()));
        let mut encoder = encoder(to)?;
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
        let sent = send(
            &mut encoder,
            begin,
            position,
            pieces,
            &mut ahead,
            &mut watch,
        );
        let done = sent.and_then(|_| Encoder::finish(encoder).map(drop));
        progress.done();
        drop(ahead);
        let Err(error) = done else { return Ok(()) };
        if let Some(failure) = changed.into_inner() {
            return Err(failure);
        }
        let Fault::Io(io_error) = &error.fault else {
            return Err(wrong(&error));
        };
        match (of_io(io_error), io_error.kind()) {
            (Kind::Interrupted, _) => Err(Failure::new(Kind::Interrupted, "interrupted")),
            // Whoever reads it says why not to its end.
            (_, io::ErrorKind::BrokenPipe) => Err(Failure::quiet(Kind::Refused)),
            // What cannot be read any more may have been lost.
            _ => Err(match self.look(self.to) {
                Err(failure) => failure,
                Ok(_) => wrong(&error),
            }),
        }
    }

    /// Whether the snapshot still is what it was when this began.
    fn unchanged(&self, plan: &Plan, shown: &Shown) -> Result<()> {
        let (_, mut written) = self.look(self.to)?;
        let page = list::page(&self.dm, &shown.name, self.to.get())?;
        let row = page.rows.iter().find(|row| row.tag == self.to.get());
        written |= row.is_some_and(|row| row.chunks > 0);
        if written && !plan.written {
            let what = format!(
                "snapshot {} has been written to while it was sent",
                self.to.get()
            );
            return Err(Failure::new(Kind::Busy, what)
                .hint("what was sent is of no use; take a snapshot of it, and send that"));
        }
        Ok(())
    }
}

fn version(row: &SnapshotRow) -> Version {
    let memo = String::from_utf8_lossy(row.memo.as_bytes()).into_owned();
    let fits = !memo.is_empty() && memo.len() <= MEMO && !memo.chars().any(char::is_control);
    Version {
        tag: row.tag.get(),
        created: Some(row.created),
        memo: fits.then_some(memo),
        ..Version::default()
    }
}

/// What tells a content apart from all others.
fn unlike_any_other() -> Result<Vec<u8>> {
    let path = Path::new("/dev/urandom");
    let mut bytes = vec![0; 16];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map(|()| bytes).map_err(|e| unopened(path, &e))
}

/// Writes a file, so that there is never half of one; or to what is no file.
fn to_file(path: &Path, write: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        let file = fs::OpenOptions::new().write(true).open(path);
        return write(&file.map_err(|e| unopened(path, &e))?);
    }
    let mut beside = path.to_owned().into_os_string();
    beside.push(".tmp");
    let beside = Path::new(&beside);
    let file = File::create(beside).map_err(|e| unopened(beside, &e))?;
    let done = write(&file).and_then(|()| {
        let synced = file.sync_all().and_then(|()| fs::rename(beside, path));
        synced.map_err(|e| unopened(path, &e))
    });
    if done.is_err() {
        drop(fs::remove_file(beside));
    }
    done
}
