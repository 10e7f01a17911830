// SPDX-License-Identifier: GPL-2.0
//! An origin of a store that is received into: a snapshot of it is each version that it has been.

use crate::commands::{roll_back, wait_for_rollback};
use crate::devno::Devno;
use crate::dm::{freeze, Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::folder::private_folder;
use crate::interrupt::Interrupt;
use crate::list::{self, List};
use crate::reply;
use crate::show::stream::uuid;
use crate::status::Status;
use crate::sysfs::Sysfs;
use crate::unchanged::Origin;
use dm_snap_mv_store::checksum::crc32c_raw;
use dm_snap_mv_stream::receive::{Local, Plain, Target, Unlike};
use dm_snap_mv_stream::{Content, Version};
use std::io;
use std::path::{Path, PathBuf};

/// Where it is noted what origins and plain devices hold.
const NOTES: &str = "/var/lib/dms/receive";

/// The target.
pub struct Replica<'a> {
    dm: &'a Dm,
    device: &'a Mapped,
    path: PathBuf,
    /// None while it is rolled back: nobody may have it open when that begins.
    plain: Option<Plain>,
    interrupt: Interrupt,
}

/// Where it is noted what an origin holds, if nobody says otherwise: by what does not change with names.
pub fn notes(dm: &Dm, device: &Mapped) -> Result<PathBuf> {
    let store = list::page(dm, &device.name, 0)?.store;
    Ok(Path::new(NOTES).join(format!("{}-{}.state", store.uuid, store.origin)))
}

/// The same for a plain device: by what the disk itself says that it is, so that another one that has its name
/// after a reboot is not taken for it; where it says nothing, by the name that it has now.
pub fn notes_of_device(sysfs: &Sysfs, devno: Devno) -> PathBuf {
    let name = sysfs.lasting_name(devno);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let short: String = name.chars().filter(|&c| plain(c)).take(100).collect();
    // What was left out may be all that tells two of them apart.
    let all = crc32c_raw(name.as_bytes());
    Path::new(NOTES).join(format!("device-{short}-{all:08x}.state"))
}

/// Makes the folder that notes are in.
pub fn make_folder() -> Result<()> {
    private_folder(Path::new(NOTES)).map_err(|e| {
        let what = format!("cannot make the folder {NOTES}: {e}");
        Failure::new(Kind::Refused, what).hint("or say with --state where to note what it holds")
    })
}

impl<'a> Replica<'a> {
    /// An origin whose device has been opened.
    pub fn new(dm: &'a Dm, device: &'a Mapped, plain: Plain) -> Result<Self> {
        Ok(Self {
            dm,
            device,
            path: plain.path().to_owned(),
            plain: Some(plain),
            interrupt: Interrupt::watch()?,
        })
    }

    /// Refuses what becomes something else by itself.
    pub fn need_rest(&self) -> Result<()> {
        let name = &self.device.name;
        let status = Status::parse(&self.dm.status(name)?)?;
        let Some(rollback) = status.rollback else {
            return Ok(());
        };
        let (what, hint) = match rollback.is_deferred() {
            false => (
                "is being rolled back",
                format!("wait for it: dms wait {name} --rollback"),
            ),
            true => (
                "will be rolled back when it is activated next",
                format!("call that off: dmsetup message -- {name} 0 rs -x"),
            ),
        };
        let what = format!("{name} {what} to snapshot {}", rollback.tag);
        Err(Failure::new(Kind::Busy, what).hint(hint))
    }

    /// Why something has failed: what comes of a write that found no space on the COW device is, behind the
    /// page cache, an I/O error like all others.
    fn why(&self, error: io::Error) -> io::Error {
        let status = self.dm.status(&self.device.name);
        let status = status.and_then(|line| Status::parse(&line));
        match status.as_ref().map(|status| status.state.as_str()) {
            Ok("full") => carried(Failure::new(Kind::NoSpace, "the COW device is full")),
            Ok("full-metadata") => carried(Failure::new(
                Kind::NoSpace,
                "the metadata region of the COW device is full",
            )),
            _ => error,
        }
    }

    fn plain(&mut self) -> io::Result<&mut Plain> {
        self.plain.as_mut().ok_or(io::ErrorKind::NotFound.into())
    }

    fn open(&mut self) -> Result<()> {
        let plain = Plain::open(&self.path).map_err(|e| match e.kind() {
            io::ErrorKind::ResourceBusy => self.dm.in_use(&self.device.name, self.device.devno),
            _ => crate::streams::unopened(&self.path, &e),
        })?;
        self.plain = Some(plain);
        Ok(())
    }

    fn next_tag(&self) -> Result<Local> {
        let list = List::of(self.dm, &self.device.name)?;
        // Those that have been deleted may have had larger ones.
        let last = list.rows.iter().map(|row| row.tag).max().unwrap_or(0);
        Ok(Local {
            store: uuid_of(&list.store.uuid)?,
            origin: list.store.origin,
            tag: last.saturating_add(1),
        })
    }

    fn compare(&mut self, local: &Local) -> Result<Option<Unlike>> {
        let cannot = |e: io::Error| {
            let what = format!("cannot read {}: {e}", self.path.display());
            Failure::new(Kind::Refused, what)
        };
        let Some(plain) = self.plain.as_mut() else {
            return Err(cannot(io::ErrorKind::NotFound.into()));
        };
        // What somebody has written and nobody has flushed is in no store yet.
        plain.sync().map_err(cannot)?;
        let origin = Origin {
            dm: self.dm,
            device: self.device,
            interrupt: &self.interrupt,
        };
        origin.unlike(local, |start, into| plain.read(start, into))
    }

    fn find(&mut self, next: &Local, version: &Version) -> Result<Option<Local>> {
        let memo = version.memo.as_deref().unwrap_or_default();
        let list = List::of(self.dm, &self.device.name)?;
        // Of what was taken of a snapshot, or has been written to, nobody knows what it is.
        let taken = list.rows.iter().rev().filter(|row| {
            let of_origin = row.parent == Some(0) && row.flags.trim_matches('L').is_empty();
            row.tag != 0 && row.tag >= next.tag && of_origin && row.memo == memo
        });
        for row in taken {
            let local = Local {
                tag: row.tag,
                ..*next
            };
            if self.compare(&local)?.is_none() {
                return Ok(Some(local));
            }
        }
        Ok(None)
    }

    fn snapshot(&self, content: &Content) -> Result<Local> {
        let version = &content.version;
        let next = self.next_tag()?;
        let label = label_of(content);
        let mut words: Vec<&[u8]> = vec![b"so"];
        if let Some(memo) = version.memo.as_ref().filter(|memo| !memo.is_empty()) {
            words.extend([b"-m", memo.as_bytes()]);
        }
        for (option, value) in &label {
            words.extend([option.as_bytes(), value.as_bytes()]);
        }
        // Nobody has it open but we, and we have written all that we had.
        let reply = freeze::tell(self.dm, self.device, None, &self.interrupt, &words)?;
        let reply = reply.done("the kernel does not take it")?;
        let tag = reply::tag(&reply)?;
        Ok(Local { tag, ..next })
    }

    fn restore_to(&mut self, local: &Local) -> Result<()> {
        let (dm, device) = (self.dm, self.device);
        let status = Status::parse(&dm.status(&device.name)?)?;
        if status
            .rollback
            .is_some_and(|running| !running.is_deferred())
        {
            // This has been begun before, or somebody else has done the same.
            wait_for_rollback(dm, device)?;
        }
        if self.compare(local)?.is_none() {
            return Ok(());
        }
        self.plain = None;
        let doing = format!("cannot roll back {}", device.name);
        roll_back(dm, device, local.tag, &["-b"], &doing)?;
        let waited = wait_for_rollback(dm, device);
        self.open()?;
        waited
    }
}

/// What the label of a snapshot says that is taken of a received content: what the sender's says, and where
/// it came from.
fn label_of(content: &Content) -> Vec<(&'static str, String)> {
    let version = &content.version;
    let mut label = Vec::new();
    if content.origin > 0 && version.tag > 0 {
        let (store, origin, tag) = (uuid(&content.store), content.origin, version.tag);
        label.push(("-f", format!("{store}/{origin}/{tag}")));
    }
    let some = |of: &Option<[u8; 16]>| of.as_ref().filter(|of| **of != [0; 16]).map(uuid);
    label.extend(some(&version.uuid).map(|own| ("-u", own)));
    label.extend(some(&version.group).map(|group| ("-g", group)));
    let name = version
        .name
        .clone()
        .filter(|name| !name.is_empty() && name != "-");
    label.extend(name.map(|name| ("-n", name)));
    label
}

/// The bytes of a UUID, with or without dashes.
pub fn uuid_of(uuid: &str) -> Result<[u8; 16]> {
    let digits = uuid.replace('-', "");
    let number = u128::from_str_radix(&digits, 16).ok();
    let number = number.filter(|_| digits.len() == 32);
    let number = number.ok_or_else(|| Failure::new(Kind::Refused, "that is no UUID"))?;
    Ok(number.to_be_bytes())
}

/// A failure on its way to who says it.
fn carried(failure: Failure) -> io::Error {
    io::Error::other(failure)
}

impl Target for Replica<'_> {
    fn sectors(&self) -> io::Result<Option<u64>> {
        match &self.plain {
            Some(plain) => plain.sectors(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn is_elastic(&self) -> bool {
        false
    }

    fn read(&mut self, start: u64, into: &mut [u8]) -> io::Result<()> {
        self.plain()?.read(start, into)
    }

    fn write(&mut self, start: u64, bytes: &[u8]) -> io::Result<()> {
        let written = self.plain()?.write(start, bytes);
        written.map_err(|e| self.why(e))
    }

    fn zero(&mut self, start: u64, sectors: u64) -> io::Result<()> {
        let zeroed = self.plain()?.zero(start, sectors);
        zeroed.map_err(|e| self.why(e))
    }

    fn extend(&mut self, _sectors: u64) -> io::Result<()> {
        Ok(())
    }

    fn fit(&mut self, _sectors: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let synced = self.plain()?.sync();
        synced.map_err(|e| self.why(e))
    }

    fn keep(&mut self) -> io::Result<()> {
        let what = "its snapshots are what it held";
        Err(io::Error::new(io::ErrorKind::Unsupported, what))
    }

    fn has_kept(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn restore(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn drop_kept(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn remove(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn next(&mut self) -> io::Result<Option<Local>> {
        self.next_tag().map(Some).map_err(carried)
    }

    fn unlike(&mut self, local: &Local) -> io::Result<Option<Unlike>> {
        self.compare(local).map_err(carried)
    }

    fn lost(&mut self, local: &Local) -> io::Result<Option<Unlike>> {
        let origin = Origin {
            dm: self.dm,
            device: self.device,
            interrupt: &self.interrupt,
        };
        origin.lost(local).map_err(carried)
    }

    fn taken(&mut self, next: &Local, version: &Version) -> io::Result<Option<Local>> {
        self.find(next, version).map_err(carried)
    }

    fn take(&mut self, content: &Content) -> io::Result<Local> {
        self.snapshot(content).map_err(carried)
    }

    fn go_back(&mut self, local: &Local) -> io::Result<()> {
        self.restore_to(local).map_err(carried)
    }
}
