// SPDX-License-Identifier: GPL-2.0

//! Whose disk it is: what has one role is refused another, saying who has it, and nothing is written.

mod identity;
mod loading;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{bail, ensure, Context, Result};

use crate::disks::{linear, Disks, Piece, MIB};
use crate::dm::{Mapped, Suspend, Table};
use crate::io::{Buffer, Disk};
use crate::kernel::{self, Log};
use crate::null_block::NullBlock;
use crate::report::Subject;
use crate::shadow::Shadow;
use crate::store::{co_line, cs_line, Device, Origin, Store, TARGET};
use crate::world::World;

/// Of the origin.
const SECTORS: u64 = 4 * MIB;
/// Of a disk that can be an origin and a COW device.
const EITHER: u64 = 24 * MIB;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let place = match Place::new(disks) {
        Ok(place) => place,
        Err(e) => return subject.case("the place for it", || Err(e)),
    };
    let refused: &[(&str, Refuse)] = &[
        (
            "an origin in use as another of its store",
            Place::bound_twice,
        ),
        (
            "an origin in use as one of another store",
            Place::bound_elsewhere,
        ),
        ("an origin in use as a COW device", Place::origin_as_cow),
        ("a COW device in use as an origin", Place::cow_as_origin),
        (
            "a COW device as an origin, its store not in use",
            Place::store_as_origin,
        ),
        ("a disk with a mapping on it", Place::mapped),
        (
            "a disk with a mapping that was never resumed",
            Place::mapped_never_resumed,
        ),
        (
            "a disk with one of its pieces in use",
            Place::whole_of_origin,
        ),
        ("a piece of an origin in use", Place::piece_of_origin),
        (
            "a piece of a piece of a COW device in use",
            Place::piece_of_cow,
        ),
        (
            "a COW device in use by another way to it",
            Place::loop_over_cow,
        ),
        ("a partition and its disk", Place::partition),
        ("a disk that is read-only", Place::read_only),
        (
            "a mapping of a disk that is read-only",
            Place::read_only_below,
        ),
        ("a zoned disk", Place::zoned),
        (
            "a rollback of an origin with a mapping on it",
            Place::rollback_below_mapping,
        ),
    ];
    for (what, refuse) in refused {
        subject.case(what, || place.unchanged(|| refuse(&place)));
    }
    subject.case("a copy of a COW device in use", || place.copy_of_cow());
    subject.case("an origin with blocks larger than a chunk", || {
        place.large_blocks()
    });
    subject.case("two tables for one disk at once", || place.at_once());
    subject.case("what was a role before is free again", || {
        place.free_again()
    });
    subject.case("reloads, and many devices of one origin", || {
        place.reloads()
    });
    subject.case("a binding that is loaded and not resumed", || {
        loading::planned(&place)
    });
    subject.case("bindings in another order than they were loaded in", || {
        loading::in_another_order(&place)
    });
    subject.case(
        "an origin's new size that is loaded and not resumed",
        || loading::origin_not_grown(&place),
    );
    subject.case(
        "a COW device's new size that is loaded and not resumed",
        || loading::cow_not_grown(&place),
    );
    subject.case("another disk under an origin's identity", || {
        identity::another_disk(&place)
    });
    subject.case("a disk that others have written", || {
        identity::written_by_others(&place)
    });
    subject.case("after all of this", || {
        place.world.check(&place.co)?;
        place.world.check_below()
    });
    if let Err(e) = place.co.remove() {
        subject.case("the end", || Err(e));
    }
}

/// Something that must be refused.
type Refuse = fn(&Place) -> Result<()>;

/// A store in use with one origin and a snapshot, and disks for others.
struct Place {
    world: World,
    co: Device,
    /// An origin of its own, in no store, full of data.
    other: Origin,
    /// Blank.
    blank: Piece,
    /// A store with an origin, not in use.
    spare: Store,
    spare_origin: Origin,
}

impl Place {
    fn new(disks: &Disks) -> Result<Self> {
        let (mut world, co) = World::new(disks, SECTORS, 32, 1)?;
        world.take(&co)?;
        world.now.write(&co.open()?, 0, 1000)?;
        let other = Origin::new(disks, "other", EITHER)?;
        Shadow::filled(&other.piece.open()?)?;
        let spare_origin = Origin::new(disks, "spare", SECTORS)?;
        let spare = Store::new(disks, 32 * MIB)?;
        spare.format(&spare_origin, 1)?.remove()?;
        Ok(Self {
            world,
            co,
            other,
            blank: disks.piece(32 * MIB)?,
            spare,
            spare_origin,
        })
    }

    fn origin(&self) -> PathBuf {
        self.world.origin.piece.path()
    }

    fn cow(&self) -> PathBuf {
        self.world.store.cow.path()
    }

    /// What is on the disks, apart from where the store that is in use keeps its own.
    fn look(&self) -> Result<Vec<Vec<u8>>> {
        let pieces = [
            &self.world.origin.piece,
            &self.other.piece,
            &self.blank,
            &self.spare.cow,
            &self.spare_origin.piece,
        ];
        let first = |piece: &&Piece| Ok(piece.open()?.read(0, SECTORS)?.to_vec());
        pieces.iter().map(first).collect()
    }

    /// Nothing is written where nothing should be, and the store goes on as before.
    fn unchanged(&self, run: impl FnOnce() -> Result<()>) -> Result<()> {
        let (before, listed) = (self.look()?, self.co.send("list")?);
        run()?;
        ensure!(before == self.look()?, "something was written");
        ensure!(listed == self.co.send("list")?, "the list has changed");
        self.world.check_snapshots()
    }

    fn bound_twice(&self) -> Result<()> {
        let (origin, cow) = (self.origin(), self.cow());
        let why = "origin device is in use as another origin";
        let told = format!("is origin {} of the store on", self.world.origin.id);
        refused(&origin, &cow, "-b -i again", libc::EBUSY, why, &told)
    }

    fn bound_elsewhere(&self) -> Result<()> {
        let why = "origin device is in use as another origin";
        let told = format!("is origin {} of the store on", self.world.origin.id);
        for (cow, options) in [
            (&self.blank, "-b -f"),
            (&self.blank, "-b -F"),
            (&self.spare.cow, "-b"),
            (&self.spare.cow, "-i spare"),
        ] {
            refused(
                &self.origin(),
                &cow.path(),
                options,
                libc::EBUSY,
                why,
                &told,
            )?;
        }
        Ok(())
    }

    fn origin_as_cow(&self) -> Result<()> {
        let why = "COW device is in use as an origin";
        let told = format!("is origin {} of the store on", self.world.origin.id);
        for options in ["-b -F", "-b -f", "-b", ""] {
            let other = self.other.piece.path();
            refused(&other, &self.origin(), options, libc::EBUSY, why, &told)?;
        }
        Ok(())
    }

    fn cow_as_origin(&self) -> Result<()> {
        let why = "origin device is the COW device of a store in use";
        let told = "is the COW device of a store";
        for (cow, options) in [(&self.blank, "-b -F"), (&self.spare.cow, "-b")] {
            refused(&self.cow(), &cow.path(), options, libc::EBUSY, why, told)?;
        }
        Ok(())
    }

    /// The words of a command line in the wrong order.
    fn store_as_origin(&self) -> Result<()> {
        let why = "origin device holds a store";
        let (store, other) = (self.spare.cow.path(), self.other.piece.path());
        for options in ["-b -F", "-b -f"] {
            refused(&store, &other, options, libc::EINVAL, why, "")?;
        }
        refused(&store, &self.cow(), "-b", libc::EINVAL, why, "")
    }

    /// Whoever it is that has a mapping: to device-mapper all of its tables are one holder.
    fn mapped(&self) -> Result<()> {
        let volume = on_top(&self.other.piece.path(), 2048, 1024)?;
        self.is_mapped(&volume)?;
        let upper = on_top(&volume.path(), 0, 512)?;
        self.is_mapped(&volume)?;
        upper.remove()?;
        volume.remove()?;
        Ok(())
    }

    fn mapped_never_resumed(&self) -> Result<()> {
        let volume = Mapped::create_empty("volume")?;
        volume.load(&linear(&self.other.piece.path(), 0, 1024))?;
        self.is_mapped(&volume)?;
        volume.remove()?;
        Ok(())
    }

    fn is_mapped(&self, volume: &Mapped) -> Result<()> {
        let (other, told) = (
            self.other.piece.path(),
            format!("is in use by {}", volume.name()),
        );
        let why = "origin device is in use by another device";
        refused(&other, &self.blank.path(), "-b -f", libc::EBUSY, why, &told)?;
        refused(&other, &self.cow(), "-b", libc::EBUSY, why, &told)?;
        let why = "COW device is in use by another device";
        let origin = self.spare_origin.piece.path();
        refused(&origin, &other, "-b -F", libc::EBUSY, why, &told)
    }

    /// The disk that the origin was cut from.
    fn whole_of_origin(&self) -> Result<()> {
        let (disk, _) = self.world.origin.piece.place();
        let why = "origin device is in use by another device";
        refused(
            disk,
            &self.blank.path(),
            "-b -f",
            libc::EBUSY,
            why,
            "is in use by piece",
        )?;
        let why = "COW device is in use by another device";
        let other = self.other.piece.path();
        refused(
            &other,
            disk,
            "-b -F",
            libc::EBUSY,
            why,
            "is in use by piece",
        )
    }

    fn piece_of_origin(&self) -> Result<()> {
        let part = on_top(&self.origin(), 1024, 4096)?;
        self.is_part_of(&part, &format!("which is origin {}", self.world.origin.id))?;
        part.remove()?;
        Ok(())
    }

    fn piece_of_cow(&self) -> Result<()> {
        let lower = on_top(&self.cow(), 0, 32 * MIB)?;
        let part = on_top(&lower.path(), 0, 32 * MIB)?;
        self.is_part_of(&part, "which is the COW device of a store")?;
        part.remove()?;
        lower.remove()?;
        Ok(())
    }

    fn is_part_of(&self, part: &Mapped, told: &str) -> Result<()> {
        let (path, other) = (part.path(), self.other.piece.path());
        let why = "origin device is a part of a device in use";
        refused(&path, &self.blank.path(), "-b -f", libc::EBUSY, why, told)?;
        refused(&path, &self.spare.cow.path(), "-b", libc::EBUSY, why, told)?;
        let why = "COW device is a part of a device in use";
        refused(&other, &path, "-b -F", libc::EBUSY, why, told)?;
        refused(&other, &path, "-b", libc::EBUSY, why, told)
    }

    /// A loop device does not say what it lies on, but shows the store.
    fn loop_over_cow(&self) -> Result<()> {
        let alias = Loop::new(&self.cow(), &[])?;
        let told = "the store is in use on";
        let why = "store is in use on another device";
        let other = self.other.piece.path();
        for options in ["-b -F", "-b", ""] {
            refused(&other, alias.path(), options, libc::EBUSY, why, told)?;
        }
        Ok(())
    }

    /// Both would take themselves for the store.
    fn copy_of_cow(&self) -> Result<()> {
        let spare = self.spare.co(&self.spare_origin)?;
        let (from, to) = (self.spare.cow.open()?, self.blank.open()?);
        let copy = from.read(0, 16 * MIB)?;
        to.write(0, &copy)?;
        let why = "store is in use on another device";
        let other = self.other.piece.path();
        for options in ["-b", "-b -F"] {
            refused(
                &other,
                &self.blank.path(),
                options,
                libc::EBUSY,
                why,
                "in use on",
            )?;
        }
        ensure!(*copy == *to.read(0, 16 * MIB)?, "the copy was written");
        self.blank.wipe()?;
        spare.remove()
    }

    /// That is the block layer's to refuse.
    fn partition(&self) -> Result<()> {
        let disk = NullBlock::new("parted", 32, &[])?;
        let node = disk.node()?.display().to_string();
        // A partition table with one entry.
        let mut table = Buffer::new(512);
        table[446 + 4] = 0x83;
        table[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
        table[446 + 12..446 + 16].copy_from_slice(&(SECTORS as u32).to_le_bytes());
        table[510..512].copy_from_slice(&[0x55, 0xaa]);
        Disk::open(&node)?.write(0, &table)?;
        kernel::run("blockdev", &["--rereadpt", &node])?;
        let part = match node.ends_with(|c: char| c.is_ascii_digit()) {
            true => format!("{node}p1"),
            false => format!("{node}1"),
        };
        let blank = self.blank.path();
        let data = Disk::open(&part)?.read(0, 8)?;
        // A part is in use, and then the whole.
        for (has, wants) in [(&part, &node), (&node, &part)] {
            let has = on_top(Path::new(has), 0, 64)?;
            let why = "origin device is in use (is it mounted?)";
            refused(Path::new(wants), &blank, "-b -f", libc::EBUSY, why, "")?;
            let why = "COW device is in use (is it mounted?)";
            let other = self.other.piece.path();
            refused(&other, Path::new(wants), "-b -F", libc::EBUSY, why, "")?;
            has.remove()?;
        }
        ensure!(*data == *Disk::open(&part)?.read(0, 8)?, "it was written");
        Ok(())
    }

    fn read_only(&self) -> Result<()> {
        let path = self.other.piece.path();
        set_read_only(&path, true)?;
        let result = self.is_read_only(&path, &path);
        set_read_only(&path, false)?;
        result
    }

    fn read_only_below(&self) -> Result<()> {
        let below = self.other.piece.path();
        let lower = on_top(&below, 0, SECTORS)?;
        let upper = on_top(&lower.path(), 0, SECTORS)?;
        set_read_only(&below, true)?;
        let result = self.is_read_only(&upper.path(), &below);
        set_read_only(&below, false)?;
        upper.remove()?;
        lower.remove()?;
        result
    }

    fn is_read_only(&self, path: &Path, disk: &Path) -> Result<()> {
        let disk = disk
            .file_name()
            .and_then(|n| n.to_str())
            .context("a name")?;
        let told = match path.ends_with(disk) {
            true => String::new(),
            false => format!("lies on {disk}, which is read-only"),
        };
        let (why, blank) = ("origin device is read-only", self.blank.path());
        refused(path, &blank, "-b -f", libc::EROFS, why, &told)?;
        let (why, origin) = ("COW device is read-only", self.spare_origin.piece.path());
        refused(&origin, path, "-b -F", libc::EROFS, why, &told)
    }

    fn zoned(&self) -> Result<()> {
        let disk = NullBlock::new("zoned", 64, &[("zoned", "1"), ("zone_size", "4")])?;
        let (node, blank) = (disk.node()?, self.blank.path());
        refused(
            &node,
            &blank,
            "-b -f",
            libc::EINVAL,
            "origin device is zoned",
            "",
        )?;
        let other = self.other.piece.path();
        refused(
            &other,
            &node,
            "-b -F",
            libc::EINVAL,
            "COW device is zoned",
            "",
        )
    }

    fn large_blocks(&self) -> Result<()> {
        let disk = NullBlock::new("coarse", 16, &[("blocksize", "16384")])?;
        let node = disk.node()?;
        let why = "origin device has blocks larger than a chunk";
        let before = self.look()?;
        for (cow, options) in [
            (&self.blank, "-b -f"),
            (&self.blank, "-b -F -c 2"),
            (&self.spare.cow, "-b"),
        ] {
            refused(&node, &cow.path(), options, libc::EINVAL, why, "")?;
        }
        ensure!(before == self.look()?, "something was written");
        // With chunks that are large enough it is fine.
        let options = "-b -F -c 4 -i coarse";
        let table = Table::new(
            16 * MIB,
            TARGET,
            co_line(&node, &self.blank.path(), options),
        );
        let result = Mapped::create("co", &table);
        match result {
            Ok(co) => co.remove()?,
            Err(e) => bail!("with chunks of 16 KiB: {e}"),
        }
        self.blank.wipe()
    }

    /// Who has the mapping would see his data change.
    fn rollback_below_mapping(&self) -> Result<()> {
        let volume = on_top(&self.origin(), 0, 1024)?;
        let mut log = Log::from_now()?;
        let why = "origin device is in use by another device";
        self.co.refused("rs 1", libc::EBUSY, why)?;
        let told = format!("is in use by {}", volume.name());
        let lines = log.lines()?;
        ensure!(lines.iter().any(|line| line.contains(&told)), "{lines:?}");
        volume.remove()?;
        Ok(())
    }

    /// Of those who come at once one is first, and only one.
    fn at_once(&self) -> Result<()> {
        for round in 0..20 {
            let (other, blank, spare) = (
                self.other.piece.path(),
                self.blank.path(),
                self.spare.cow.path(),
            );
            let third = self.spare_origin.piece.path();
            let loads = [
                (EITHER, co_line(&other, &blank, "-b -F -i one")),
                (EITHER, co_line(&other, &spare, "-b -i two")),
                (SECTORS, co_line(&third, &other, "-b -F -i three")),
            ];
            let made: Vec<_> = thread::scope(|scope| {
                let load = |(sectors, line): &(u64, String)| {
                    let table = Table::new(*sectors, TARGET, line.clone());
                    scope.spawn(move || Mapped::create("one", &table))
                };
                let threads: Vec<_> = loads.iter().map(load).collect();
                threads
                    .into_iter()
                    .map(|t| t.join().expect("no panic"))
                    .collect()
            });
            let wrong = made.iter().filter_map(|made| made.as_ref().err());
            let told: Vec<_> = wrong.filter_map(|e| e.raw_os_error()).collect();
            ensure!(told == [libc::EBUSY; 2], "round {round}: {made:?}");
            for device in made.into_iter().flatten() {
                if device.table()?.contains("-i two") {
                    device.message("do")?;
                }
                device.remove()?;
            }
            self.data_again()?;
        }
        Ok(())
    }

    /// The other disk full of data again, whatever became of it.
    fn data_again(&self) -> Result<()> {
        Shadow::filled(&self.other.piece.open()?)?;
        self.blank.wipe()
    }

    fn free_again(&self) -> Result<()> {
        // An origin, then a COW device, then an origin of another store.
        let (other, blank) = (self.other.piece.path(), self.blank.path());
        for (sectors, line) in [
            (EITHER, co_line(&other, &blank, "-b -F -i one")),
            (
                SECTORS,
                co_line(&self.spare_origin.piece.path(), &other, "-b -F -i two"),
            ),
        ] {
            Mapped::create("co", &Table::new(sectors, TARGET, line))?.remove()?;
        }
        self.data_again()?;
        let co = self.spare.bind(&self.other)?;
        co.send("do")?;
        co.remove()
    }

    /// One role, however many tables.
    fn reloads(&self) -> Result<()> {
        let table = self.world.store.co_table(&self.world.origin, "");
        for _ in 0..3 {
            self.co.replace(Suspend::Orderly, &table)?;
        }
        let first = self.world.cs(1)?;
        let line = cs_line(
            &self.origin(),
            &self.cow(),
            1,
            &format!("-i {}", self.world.origin.id),
        );
        let table = Table::new(SECTORS, TARGET, line);
        for _ in 0..3 {
            first.replace(Suspend::Orderly, &table)?;
        }
        // With a mapping on it that came later: who has the device keeps it.
        let volume = on_top(&self.origin(), 0, 1024)?;
        let table = self.world.store.co_table(&self.world.origin, "");
        self.co.replace(Suspend::Orderly, &table)?;
        volume.remove()?;
        first.remove()
    }
}

/// A mapping of some sectors of a device.
fn on_top(path: &Path, start: u64, sectors: u64) -> Result<Mapped> {
    Mapped::create("volume", &linear(path, start, sectors)).context("a mapping")
}

fn set_read_only(path: &Path, read_only: bool) -> Result<()> {
    let option = if read_only { "--setro" } else { "--setrw" };
    kernel::run("blockdev", &[option, &path.display().to_string()]).map(drop)
}

/// A table must be refused for a reason with this error, and the log say `told`, which is who has it.
fn refused(
    origin: &Path,
    cow: &Path,
    options: &str,
    errno: i32,
    why: &str,
    told: &str,
) -> Result<()> {
    let line = co_line(origin, cow, options);
    let sectors = Disk::open_read_only(origin)?.sectors();
    let mut log = Log::from_now()?;
    let device = Mapped::create_empty("refused")?;
    match device.load(&Table::new(sectors, TARGET, line.clone())) {
        Ok(()) => bail!("{line:?} was accepted"),
        Err(e) => ensure!(
            e.raw_os_error() == Some(errno),
            "{line:?}: the error is {e}"
        ),
    }
    let lines = log.lines()?;
    for wanted in [format!("{TARGET}: {why} ("), told.to_owned()] {
        ensure!(
            lines.iter().any(|line| line.contains(&wanted)),
            "{line:?}: the log says {lines:?}, not {wanted:?}"
        );
    }
    Ok(())
}

/// A loop device.
struct Loop(PathBuf);

impl Loop {
    fn new(over: &Path, options: &[&str]) -> Result<Self> {
        kernel::modprobe("loop")?;
        let over = over.display().to_string();
        let arguments = [&["--show", "-f"], options, &[&over]].concat();
        Ok(Self(kernel::run("losetup", &arguments)?.trim().into()))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}
