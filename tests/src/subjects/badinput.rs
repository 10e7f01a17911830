// SPDX-License-Identifier: GPL-2.0

//! Wrong table lines, messages and `dms` calls: each is refused, for the reason it is wrong,
//! and leaves everything as it was.

use std::process::Command;

use anyhow::{bail, ensure, Context, Result};

use crate::disks::{Disks, Piece, MIB};
use crate::dm::{Mapped, Table};
use crate::io::Buffer;
use crate::kernel::{self, Log};
use crate::report::Subject;
use crate::store::{Device, Origin, TARGET};
use crate::world::World;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let place = match Place::new(disks) {
        Ok(place) => place,
        Err(e) => return subject.case("the place for it", || Err(e)),
    };
    for row in rows::<4>(LINES) {
        let [what, line, ..] = row;
        subject.case(&format!("line: {what}: {line}"), || {
            place.unchanged(|| place.refuses_line(row))
        });
    }
    for row in rows::<3>(MESSAGES) {
        subject.case(&format!("message: {}", row[0]), || {
            place.unchanged(|| place.refuses_message(row))
        });
    }
    subject.case("messages of bytes that are no text", || {
        place.unchanged(|| place.refuses_bytes())
    });
    subject.case("line: the id is too long", || {
        place.unchanged(|| place.long_id())
    });
    subject.case("line: not at the device's start", || {
        place.unchanged(|| place.not_at_start())
    });
    subject.case("message: ds while its device is open", || {
        place.unchanged(|| {
            let cs = place.world.cs(1)?;
            let open = cs.open()?;
            place
                .co
                .refused("ds 1", libc::EBUSY, "snapshot device is in use")?;
            drop(open);
            cs.remove()
        })
    });
    subject.case("message: rs while the origin is open", || {
        place.unchanged(|| {
            let open = place.co.open()?;
            place
                .co
                .refused("rs 1", libc::EBUSY, "origin device is in use")?;
            drop(open);
            Ok(())
        })
    });
    subject.case("line: a second device of the snapshot", || {
        place.unchanged(|| {
            let cs = place.world.cs(1)?;
            let why = "snapshot is already active in another device";
            place.refuses(
                &place.world.store.cs_table(&place.world.origin, 1, SECTORS),
                libc::EBUSY,
                why,
            )?;
            cs.remove()
        })
    });
    for row in rows::<6>(STORES) {
        subject.case(&format!("store: {}", row[0]), || place.bad_superblock(row));
    }
    subject.case("store: its device has shrunk", || place.shrunken_cow());
    subject.case("store: its device is read-only", || place.read_only_cow());
    subject.case("line: the origin has shrunk", || place.shrunken_origin());
    for row in rows::<3>(CALLS) {
        subject.case(&format!("dms {}", row[0]), || {
            place.unchanged(|| place.refuses_call(row))
        });
    }
    subject.case("after all of this", || {
        place.world.check(&place.co)?;
        place.world.check_below()
    });
    if let Err(e) = place.end() {
        subject.case("the end", || Err(e));
    }
}

const SECTORS: u64 = 4 * MIB;

/// A store in use, and what else a line can name.
struct Place {
    world: World,
    co: Device,
    /// Bound to the same store and not active.
    idle: Origin,
    /// Full of zeroes, smaller and larger than anything, and with a file system.
    blank: Piece,
    tiny: Piece,
    foreign: Piece,
    /// A store that no device uses, with one origin and one snapshot.
    spare: Piece,
    spare_origin: Origin,
}

const LINES: &str = include_str!("../../badinput/lines.txt");
const MESSAGES: &str = include_str!("../../badinput/messages.txt");
const STORES: &str = include_str!("../../badinput/stores.txt");
const CALLS: &str = include_str!("../../badinput/calls.txt");

/// The rows of one of these tables, which have N columns. `<BEL>` is that character.
fn rows<const N: usize>(table: &'static str) -> impl Iterator<Item = [&'static str; N]> {
    let lines = table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let columns: Vec<&str> = line.split(" | ").map(str::trim).collect();
        columns
            .try_into()
            .unwrap_or_else(|_| panic!("not {N} columns: {line}"))
    })
}

fn errno(name: &str) -> i32 {
    match name {
        "EINVAL" => libc::EINVAL,
        "ENOENT" => libc::ENOENT,
        "EBUSY" => libc::EBUSY,
        "EEXIST" => libc::EEXIST,
        "ENODEV" => libc::ENODEV,
        "ENOSPC" => libc::ENOSPC,
        "EROFS" => libc::EROFS,
        "EIO" => libc::EIO,
        "EMEDIUMTYPE" => libc::EMEDIUMTYPE,
        _ => panic!("no error {name} is known here"),
    }
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let digits = |i| hex.get(i..i + 2).context("an odd number of digits");
    (0..hex.len())
        .step_by(2)
        .map(|i| Ok(u8::from_str_radix(digits(i)?, 16)?))
        .collect()
}

/// The checksum of a superblock: CRC-32C that is not inverted at its end.
fn checksum(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    });
    crc ^ 0x6d76_2153
}

impl Place {
    fn new(disks: &Disks) -> Result<Self> {
        let (mut world, co) = World::new(disks, SECTORS, 32, 1)?;
        world.take(&co)?;
        world.now.write(&co.open()?, 0, 1000)?;
        world.take(&co)?;
        world.now.write(&co.open()?, 500, 1000)?;
        let gone = world.take(&co)?;
        world.delete(&co, gone)?;
        co.wait_clean()?;

        let idle = Origin::new(disks, "idle", SECTORS)?;
        world.store.bind(&idle)?.remove()?;

        let piece = |mib: u64| disks.piece(mib * MIB);
        let blank = piece(32)?;
        let tiny = piece(1)?;
        let foreign = piece(32)?;
        kernel::run("mkfs.ext4", &["-q", &foreign.path().display().to_string()])?;

        let spare_origin = Origin::new(disks, "spare", SECTORS)?;
        let spare = crate::store::Store { cow: piece(32)? };
        let device = spare.format(&spare_origin, 1)?;
        device.take()?;
        device.remove()?;
        Ok(Self {
            world,
            co,
            idle,
            blank,
            tiny,
            foreign,
            spare: spare.cow,
            spare_origin,
        })
    }

    fn end(self) -> Result<()> {
        self.co.remove()
    }

    /// What must not change: the superblocks, the list, the status, and what is on the others.
    fn look(&self) -> Result<(Vec<u32>, String, String)> {
        let mut sums = Vec::new();
        for piece in [
            &self.world.store.cow,
            &self.spare,
            &self.blank,
            &self.tiny,
            &self.foreign,
        ] {
            let disk = piece.open()?;
            sums.push(checksum(&disk.read(0, 8)?));
            sums.push(checksum(&disk.read(8, 1024.min(disk.sectors() - 8))?));
        }
        Ok((sums, self.co.send("list")?, self.co.status()?))
    }

    fn unchanged(&self, run: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.look()?;
        run()?;
        let after = self.look()?;
        ensure!(before == after, "it was {before:?} and is {after:?}");
        Ok(())
    }

    fn filled_in(&self, line: &str) -> String {
        let names = [
            ("{o}", self.world.origin.piece.path()),
            ("{c}", self.world.store.cow.path()),
            ("{i}", self.idle.piece.path()),
            ("{b}", self.blank.path()),
            ("{t}", self.tiny.path()),
            ("{f}", self.foreign.path()),
            ("{s}", self.spare.path()),
            ("{p}", self.spare_origin.piece.path()),
            ("{d}", self.co.path()),
            ("{n}", self.co.name().into()),
        ];
        names
            .iter()
            .fold(line.replace("<BEL>", "\x07"), |line, (mark, path)| {
                line.replace(mark, &path.display().to_string())
            })
    }

    /// A table must be refused with this error and, in the kernel's log, for this reason.
    fn refuses(&self, table: &Table, errno: i32, why: &str) -> Result<()> {
        let mut log = Log::from_now()?;
        let device = Mapped::create_empty("refused")?;
        match device.load(table) {
            Ok(()) => bail!("it was accepted"),
            Err(e) => ensure!(e.raw_os_error() == Some(errno), "the error is {e}"),
        }
        let lines = log.lines()?;
        let reason = format!("{TARGET}: {why} (");
        ensure!(
            lines.iter().any(|line| line.contains(&reason)),
            "the log says {lines:?}, not {why:?}"
        );
        Ok(())
    }

    fn refuses_line(&self, [_, line, error, why]: [&str; 4]) -> Result<()> {
        let (more, line) = match line.split_once(": ") {
            Some((more, line)) => (more.parse()?, line),
            None => (0, line),
        };
        let length = SECTORS.checked_add_signed(more).context("a length")?;
        let table = Table::new(length, TARGET, self.filled_in(line));
        self.refuses(&table, errno(error), why)
    }

    fn long_id(&self) -> Result<()> {
        let line = format!("co {{i}} {{c}} -b -i {}", "x".repeat(256));
        let table = Table::new(SECTORS, TARGET, self.filled_in(&line));
        self.refuses(&table, libc::EINVAL, "origin id is longer than 255 bytes")
    }

    fn not_at_start(&self) -> Result<()> {
        let table = self.filled_in(&format!(
            "0 {MIB} linear {{b}} 0\n{MIB} {SECTORS} {TARGET} co {{i}} {{c}} -i idle"
        ));
        let file = "/tmp/table";
        std::fs::write(file, table)?;
        let mut log = Log::from_now()?;
        let output = Command::new("dmsetup")
            .args(["create", "refused", file])
            .output()?;
        ensure!(!output.status.success(), "it was accepted");
        let lines = log.lines()?;
        let why = "singleton target type must appear alone in table";
        ensure!(lines.iter().any(|line| line.contains(why)), "{lines:?}");
        Ok(())
    }

    fn refuses_message(&self, [message, error, why]: [&str; 3]) -> Result<()> {
        let message = &message.replace("<BEL>", "\x07");
        self.co.refused(message, errno(error), why)?;
        // Without `try` the log tells.
        let mut log = Log::from_now()?;
        ensure!(
            self.co.message(message).is_err(),
            "it was obeyed the second time"
        );
        let lines = log.lines()?;
        ensure!(
            lines.iter().any(|line| line.contains(why)),
            "the log says {lines:?}"
        );
        Ok(())
    }

    fn refuses_bytes(&self) -> Result<()> {
        for (message, why) in [
            (&b"try so -m \xff\xfe"[..], "memo is not valid UTF-8"),
            (b"try ss 1 -m \xc3(", "memo is not valid UTF-8"),
            (
                b"try \xff",
                "unknown message, not so, ss, do, ds, rs, label, list, delta or commit",
            ),
            (b"try ds \xb2", "tag is not a number from 1 to 4294967295"),
            (b"try try so", "try cannot be tried"),
            (
                b"try",
                "missing message: so, ss, do, ds, rs, label, list, delta or commit",
            ),
        ] {
            let reply = self.co.message_bytes(message, 4096)?;
            ensure!(reply.contains(why), "{message:?}: {reply:?}");
        }
        Ok(())
    }

    fn spare_table(&self) -> Table {
        Table::new(SECTORS, TARGET, self.filled_in("co {p} {s} -i spare"))
    }

    /// The spare store with something changed in its first block.
    fn bad_superblock(&self, [_, at, value, seal, error, why]: [&str; 6]) -> Result<()> {
        let (at, value) = (at.parse::<usize>()?, bytes(value)?);
        let disk = self.spare.open()?;
        let good = disk.read(0, 8)?;
        let mut block = Buffer::new(4096);
        block.copy_from_slice(&good);
        ensure!(
            checksum(&good[4..]).to_le_bytes() == good[..4],
            "the good one's checksum is not the documented one"
        );
        block[at..at + value.len()].copy_from_slice(&value);
        if seal == "sealed" {
            let sum = checksum(&block[4..]);
            block[..4].copy_from_slice(&sum.to_le_bytes());
        }
        disk.write(0, &block)?;
        let result = self.unchanged(|| {
            self.refuses(&self.spare_table(), errno(error), why)?;
            // Nor is it taken for a blank device.
            let table = Table::new(SECTORS, TARGET, self.filled_in("co {p} {s} -i spare -b -f"));
            let device = Mapped::create_empty("refused")?;
            ensure!(device.load(&table).is_err(), "it was formatted with -f");
            Ok(())
        });
        disk.write(0, &good)?;
        result?;
        self.spare_works()
    }

    fn spare_works(&self) -> Result<()> {
        let device = Device(Mapped::create("spare", &self.spare_table())?);
        ensure!(device.list()?.tags() == [1], "{:?}", device.list()?);
        device.remove()
    }

    fn shrunken_cow(&self) -> Result<()> {
        self.spare.show(20 * MIB)?;
        let result = self.refuses(
            &self.spare_table(),
            libc::EINVAL,
            "COW device is smaller than its store",
        );
        self.spare.show(32 * MIB)?;
        result?;
        self.spare_works()
    }

    fn read_only_cow(&self) -> Result<()> {
        let path = self.spare.path().display().to_string();
        kernel::run("blockdev", &["--setro", &path])?;
        let result = self.refuses(&self.spare_table(), libc::EROFS, "COW device is read-only");
        kernel::run("blockdev", &["--setrw", &path])?;
        result?;
        self.spare_works()
    }

    fn shrunken_origin(&self) -> Result<()> {
        self.spare_origin.piece.show(SECTORS - 8)?;
        let table = Table::new(SECTORS - 8, TARGET, self.filled_in("co {p} {s} -i spare"));
        let why = "origin device is smaller than when it was bound";
        let result = self.refuses(&table, libc::EINVAL, why);
        self.spare_origin.piece.show(SECTORS)?;
        result?;
        self.spare_works()
    }

    fn refuses_call(&self, [arguments, status, why]: [&str; 3]) -> Result<()> {
        let status = status.parse()?;
        let arguments = self.filled_in(arguments);
        let output = Command::new("/payload/dms")
            .args(arguments.split_whitespace())
            .output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(status) && told.contains(why),
            "it ended with {} and said {told:?}, not {why:?}",
            output.status
        );
        Ok(())
    }
}
