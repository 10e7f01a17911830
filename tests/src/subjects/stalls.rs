// SPDX-License-Identifier: GPL-2.0

//! Who waits for whom: a device that does not answer holds up those who need it, and nobody else; a
//! suspended one is at rest; who waits costs nothing.
//!
//! The order of events is held by disks that hold requests back for as long as a case likes.

use std::process::{Command, Stdio};
use std::thread;

use anyhow::{ensure, Context, Result};

use crate::disks::{linear, Disks, MIB};
use crate::dm::{self, Mapped, Suspend, Table};
use crate::io::{ioctls_waiting, is_in_ioctl, reads_waiting, writes_waiting, Buffer, Disk};
use crate::kernel;
use crate::puppet::{Op, Puppet, OPS};
use crate::report::Subject;
use crate::shadow::{self, Shadow};
use crate::store::{co_line, cs_line, until, Device, Origin, Store, TARGET};
use crate::world::World;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    subject.case("a suspension ends the wait of rs", || rs_waits(disks));
    for how in [Suspend::Orderly, Suspend::NoFlush] {
        subject.case(&format!("a suspended origin rests, {how:?}"), || {
            origin_rests(disks, how)
        });
    }
    subject.case("a suspended origin is removed", || removed(disks));
    subject.case("a deleted snapshot of a suspended origin stays", || {
        cleaning_rests(disks)
    });
    subject.case("writes that wait for a rollback cost nothing", || {
        writers_wait(disks)
    });
    subject.case("readers do not keep a rollback out", || {
        rollback_among_readers(disks)
    });
    subject.case(
        "a COW device that does not answer stops no other store",
        || stuck_cow(disks),
    );
    subject.case(
        "an origin that does not answer stops no other's message",
        || stuck_origin(disks),
    );
    subject.case("an origin on a snapshot of its own store", || {
        stacked(disks)
    });
    subject.case(
        "reads that follow one another do not keep a rollback from its end",
        end_among_readers,
    );
    subject.case("limits of what a rollback reads from", limits);
}

/// An origin whose requests can be held back, with a snapshot from which it differs here and there;
/// and another one in the same store.
struct Rolling {
    disk: Puppet,
    store: Store,
    co: Device,
    now: Shadow,
    tag: u32,
    then: Shadow,
    other: Origin,
    co_other: Device,
    now_other: Shadow,
}

const SIZE: u64 = 8 * MIB;

/// Where the origin differs: so many places, so far apart, each a run of its own.
const PLACES: u64 = 60;
const STEP: u64 = 272;

impl Rolling {
    fn new(disks: &Disks) -> Result<Self> {
        let disk = Puppet::new(8)?;
        let store = Store::new(disks, 64 * MIB)?;
        let mut now = Shadow::filled(&Disk::open(disk.path())?)?;
        let line = co_line(&disk.path(), &store.cow.path(), "-i o -b -F -c 4");
        let co = Device(Mapped::create("co", &Table::new(SIZE, TARGET, line))?);
        let then = now.clone();
        let tag = co.take()?;
        let device = co.open()?;
        for place in 0..PLACES {
            now.write(&device, place * STEP, 8)?;
        }
        drop(device);
        let other = Origin::new(disks, "other", MIB)?;
        let now_other = Shadow::filled(&other.piece.open()?)?;
        let co_other = store.bind(&other)?;
        co_other.take()?;
        Ok(Self {
            disk,
            store,
            co,
            now,
            tag,
            then,
            other,
            co_other,
            now_other,
        })
    }

    /// The table of the origin's device.
    fn table(&self) -> Table {
        let line = co_line(&self.disk.path(), &self.store.cow.path(), "-i o");
        Table::new(SIZE, TARGET, line)
    }

    fn cs(&self, tag: u32) -> Result<Device> {
        let line = cs_line(&self.disk.path(), &self.store.cow.path(), tag, "-i o");
        let table = Table::new(SIZE, TARGET, line);
        Ok(Device(Mapped::create("cs", &table)?))
    }

    /// Begins the rollback, of which no write of the origin ends before it is released.
    fn begin(&mut self) -> Result<()> {
        self.disk.hold(&[Op::Write]);
        self.co.send(&format!("rs {} -b", self.tag))?;
        self.now = self.then.clone();
        self.disk.wait_held(1)
    }

    /// Suspends a device while the rollback is under way: what is on its way of it ends meanwhile.
    fn suspend(&self, device: &Device, how: Suspend) -> Result<()> {
        thread::scope(|scope| {
            let suspension = scope.spawn(|| device.suspend(how));
            let came = until("it to be suspended", || Ok(device.is_suspended()?));
            self.disk.release();
            suspension.join().expect("no panic")?;
            came
        })
    }

    /// Has the store do all that there is to do by now.
    fn others_go_on(&mut self) -> Result<()> {
        let disk = self.co_other.open()?;
        for chunk in 0..4 {
            self.now_other.write(&disk, chunk * 32, 8)?;
            disk.flush()?;
        }
        self.co_other.take()?;
        Ok(())
    }

    /// How many requests there were of the origin.
    fn requests(&self) -> usize {
        OPS.iter().map(|&op| self.disk.count(op)).sum()
    }

    /// No request comes, whatever others do.
    fn rests(&mut self, when: &str) -> Result<()> {
        let before = self.requests();
        self.others_go_on()?;
        let more = self.requests() - before;
        ensure!(more == 0, "{more} requests of the origin: {when}");
        let going_on = dm::status(self.co_other.name()).is_ok();
        ensure!(going_on, "the store does not answer");
        Ok(())
    }

    fn goes_on(&self) -> Result<()> {
        let before = self.requests();
        until("the rollback to go on", || Ok(self.requests() > before))
    }

    fn end(self) -> Result<()> {
        self.co.wait_rollback()?;
        self.now.check(&self.co.open()?).context("the origin")?;
        self.now.check(&Disk::open(self.disk.path())?)?;
        let cs = self.cs(self.tag)?;
        self.then.check(&cs.open()?).context("the snapshot")?;
        cs.remove()?;
        self.co.remove()?;
        self.now_other.check(&self.co_other.open()?)?;
        self.co_other.remove()?;
        drop(self.other);
        Ok(())
    }
}

fn rs_waits(disks: &Disks) -> Result<()> {
    let mut rolling = Rolling::new(disks)?;
    rolling.now = rolling.then.clone();
    let (disk, co) = (&rolling.disk, &rolling.co);
    let cs = rolling.cs(rolling.tag)?;
    disk.hold(&[Op::Write]);
    thread::scope(|scope| -> Result<()> {
        let tag = rolling.tag;
        let waits = scope.spawn(move || co.message(&format!("rs {tag}")));
        let came = disk.wait_held(1);
        let suspension = scope.spawn(|| co.suspend(Suspend::Orderly));
        let ends = until("rs to end", || Ok(waits.is_finished()));
        let early = suspension.is_finished();
        disk.release();
        let told = waits.join().expect("no panic");
        suspension.join().expect("no panic")?;
        came?;
        ends?;
        let error = told.err().context("rs was over")?;
        ensure!(error.raw_os_error() == Some(libc::EINTR), "{error}");
        ensure!(!early, "what was on its way was not waited for");
        Ok(())
    })?;
    ensure!(co.state()?.rollback.is_some(), "it is over already");
    co.resume()?;
    cs.remove()?;
    rolling.end()
}

fn origin_rests(disks: &Disks, how: Suspend) -> Result<()> {
    let mut rolling = Rolling::new(disks)?;
    let cs = rolling.cs(rolling.tag)?;
    rolling.begin()?;
    rolling.suspend(&rolling.co, how)?;
    rolling.rests("suspended")?;
    cs.suspend(how)?;
    rolling.rests("and so is a snapshot")?;
    cs.resume()?;
    rolling.then.check_range(&cs.open()?, 0, 64)?;
    rolling.co.load(&rolling.table())?;
    let running = rolling.co.state()?.rollback.is_some();
    ensure!(running, "it is over already");
    // With the new table it goes on, and a snapshot's device makes no difference.
    cs.suspend(how)?;
    rolling.disk.hold(&[Op::Write]);
    rolling.co.resume()?;
    rolling.disk.wait_held(1)?;
    // Again, the snapshot's first; and then the origin's device goes.
    rolling.suspend(&rolling.co, how)?;
    rolling.rests("suspended again")?;
    let co = Device(Mapped::create_empty("co-next")?);
    std::mem::replace(&mut rolling.co, co).remove()?;
    rolling.rests("removed, and the snapshot is suspended")?;
    cs.resume()?;
    rolling.goes_on()?;
    rolling.co.load(&rolling.table())?;
    rolling.co.resume()?;
    cs.remove()?;
    rolling.end()
}

fn removed(disks: &Disks) -> Result<()> {
    let mut rolling = Rolling::new(disks)?;
    rolling.begin()?;
    rolling.suspend(&rolling.co, Suspend::NoFlush)?;
    let co = Device(Mapped::create_empty("co-next")?);
    std::mem::replace(&mut rolling.co, co).remove()?;
    rolling.rests("removed")?;
    rolling.co.load(&rolling.table())?;
    rolling.rests("a table is loaded")?;
    rolling.co.resume()?;
    rolling.end()
}

fn cleaning_rests(disks: &Disks) -> Result<()> {
    let mut rolling = Rolling::new(disks)?;
    let extra = rolling.co.take()?;
    let device = rolling.co.open()?;
    for place in 0..PLACES {
        rolling.now.write(&device, place * STEP, 8)?;
    }
    drop(device);
    // What the others take, they take before.
    rolling.others_go_on()?;
    let disk = rolling.co_other.open()?;
    rolling.now_other.write(&disk, 0, 8)?;
    drop(disk);
    rolling.co.suspend(Suspend::Orderly)?;
    rolling.co.delete(extra)?;
    let before = rolling.co.state()?.chunks;
    for _ in 0..4 {
        let disk = rolling.co_other.open()?;
        rolling.now_other.write(&disk, 0, 8)?;
        rolling.co_other.send("list")?;
    }
    let after = rolling.co.state()?.chunks;
    ensure!(
        after == before,
        "it was cleaned: {before:?} chunks, then {after:?}"
    );
    rolling.co.resume()?;
    rolling.co.wait_clean()?;
    rolling.end()
}

/// So many ticks of all processors, and of these busy, since the machine came up.
fn ticks() -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("no line")?;
    let all: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    let (idle, waits) = (all.get(3).context("idle")?, all.get(4).context("iowait")?);
    let sum: u64 = all.iter().sum();
    Ok((sum, sum - idle - waits))
}

/// Writers wait for a rollback that does not go on. One of them for the chunks that it has locked,
/// the others for it to come to them.
fn writers_wait(disks: &Disks) -> Result<()> {
    const WRITERS: u64 = 6;
    let mut rolling = Rolling::new(disks)?;
    rolling.begin()?;
    let (disk, co) = (&rolling.disk, &rolling.co);
    let writes = thread::scope(|scope| -> Result<Vec<u32>> {
        let writers: Vec<_> = (0..WRITERS)
            .map(|place| {
                scope.spawn(move || -> Result<u32> { shadow::write(&co.open()?, place * STEP, 8) })
            })
            .collect();
        let measured = (|| -> Result<(u64, u64)> {
            until("the writes to come", || {
                Ok(writes_waiting()? == WRITERS as usize)
            })?;
            let begin = ticks()?;
            until("some time to pass", || Ok(ticks()?.0 > begin.0 + 200))?;
            let end = ticks()?;
            Ok((end.0 - begin.0, end.1 - begin.1))
        })();
        disk.release();
        let writes = writers
            .into_iter()
            .map(|writer| writer.join().expect("no panic"))
            .collect();
        let (all, busy) = measured?;
        // One processor of two that does nothing else is half of it.
        ensure!(busy * 3 < all, "busy for {busy} of {all} ticks");
        writes
    })?;
    for (place, generation) in (0..).zip(writes) {
        rolling.now.set(place * STEP, 8, generation);
    }
    rolling.end()
}

/// Reads of a snapshot that take turns at a chunk that the rollback comes to.
fn rollback_among_readers(disks: &Disks) -> Result<()> {
    const ELSEWHERE: usize = 4;
    let mut rolling = Rolling::new(disks)?;
    let tag = rolling.co.take()?;
    let then = rolling.now.clone();
    let cs = rolling.cs(tag)?;
    rolling.disk.hold_some(&[Op::Read], 1);
    thread::scope(|scope| -> Result<()> {
        let read = || -> Result<Buffer> { Ok(cs.open()?.read(0, 8)?) };
        let reads = |count: usize| until("the read", || Ok(reads_waiting()? == count));
        let first = scope.spawn(read);
        let held = (|| -> Result<usize> {
            rolling.disk.wait_held(1)?;
            reads(1)?;
            rolling.co.send(&format!("rs {} -b", rolling.tag))?;
            rolling.now = rolling.then.clone();
            rolling.others_go_on()?;
            Ok(rolling.disk.count(Op::Read))
        })();
        let second = scope.spawn(read);
        let passed = held.and_then(|before| -> Result<usize> {
            reads(2)?;
            rolling.others_go_on()?;
            for _ in 0..ELSEWHERE {
                then.check_range(&cs.open()?, 136, 8)?;
                rolling.others_go_on()?;
            }
            Ok(rolling.disk.count(Op::Read) - before)
        });
        rolling.disk.release();
        let (first, second) = (first.join(), second.join());
        for bytes in [first, second] {
            then.check_bytes(&bytes.expect("no panic")?, 0)?;
        }
        let passed = passed?;
        ensure!(passed == ELSEWHERE, "the second read went first");
        Ok(())
    })?;
    then.check(&cs.open()?)?;
    cs.remove()?;
    rolling.end()
}

/// Reads of the origin, of which there is always one under way: the first one leads to the snapshot,
/// the next one no more.
fn end_among_readers() -> Result<()> {
    let (disk, cow) = (Puppet::new(8)?, Puppet::new(64)?);
    let then = Shadow::filled(&Disk::open(disk.path())?)?;
    let line = co_line(&disk.path(), &cow.path(), "-i o -b -F -c 4");
    let co = Device(Mapped::create("co", &Table::new(SIZE, TARGET, line))?);
    let tag = co.take()?;
    for place in 0..4 {
        then.clone().write(&co.open()?, place * STEP, 8)?;
    }
    disk.hold(&[Op::Write]);
    co.send(&format!("rs {tag} -b"))?;
    disk.wait_held(1)?;
    thread::scope(|scope| -> Result<()> {
        let read = |sector: u64| -> Result<Buffer> { Ok(co.open()?.read(sector, 8)?) };
        cow.hold_some(&[Op::Read], 1);
        let first = scope.spawn(move || read(3 * STEP));
        let ends = cow.wait_held(1).and_then(|()| {
            disk.release();
            until("all to be merged", || {
                let rollback = co.state()?.rollback.context("it is over")?;
                Ok(rollback.done >= rollback.chunks)
            })?;
            disk.hold_some(&[Op::Read], 1);
            let second = scope.spawn(move || read(MIB));
            let ends = disk.wait_held(1).and_then(|()| {
                cow.release();
                co.wait_rollback()
            });
            disk.release();
            then.check_bytes(&second.join().expect("no panic")?, MIB)?;
            ends
        });
        disk.release();
        cow.release();
        then.check_bytes(&first.join().expect("no panic")?, 3 * STEP)?;
        ends
    })?;
    then.check(&co.open()?)?;
    co.remove()
}

/// Runs what must come to an end though a disk holds requests back. If it does not, they are released.
fn must_end<R: Send>(
    what: &str,
    disk: &Puppet,
    run: impl FnOnce() -> Result<R> + Send,
) -> Result<R> {
    thread::scope(|scope| {
        let runs = scope.spawn(run);
        let ends = until(what, || Ok(runs.is_finished()));
        if ends.is_err() {
            disk.release();
        }
        let result = runs.join().expect("no panic");
        ends?;
        result.with_context(|| what.to_owned())
    })
}

fn stuck_cow(disks: &Disks) -> Result<()> {
    let cow = Puppet::new(64)?;
    let origin = disks.piece(MIB)?;
    let table = |options: &str| {
        let line = co_line(&origin.path(), &cow.path(), options);
        Table::new(MIB, TARGET, line)
    };
    Mapped::create("co", &table("-i o -b -F"))?.remove()?;
    let (world, other) = World::new(disks, MIB, 64, 1)?;
    let tag = other.take()?;
    let cow_path = world.store.cow.path();
    let others = |other: Device| -> Result<Device> {
        let cs = world.store.cs(&world.origin, tag)?;
        world.now.check(&cs.open()?)?;
        kernel::run("dms", &["list"])?;
        kernel::run("dms", &["list", other.name()])?;
        kernel::run("dms", &["status", other.name()])?;
        cs.remove()?;
        // The last device goes, the store is looked at, and the first comes.
        other.remove()?;
        let path = cow_path.to_str().context("a path")?;
        kernel::run("dms", &["check", path])?;
        world.co()
    };
    // While a store is being opened.
    cow.hold(&[Op::Read]);
    let (co, other) = thread::scope(|scope| -> Result<_> {
        let opens = scope.spawn(|| Mapped::create("co", &table("-i o")));
        let done = cow.wait_held(1).and_then(|()| {
            let other = must_end("another store while one is opened", &cow, || others(other))?;
            let line = table("-i o").arguments;
            let mut second = Command::new("dmsetup")
                .args(["create", "co-second", "--table"])
                .arg(format!("0 {MIB} {TARGET} {line}"))
                .stderr(Stdio::null())
                .spawn()?;
            // It loads the table when the device is there.
            let waits = until("the second one", || {
                Ok(dm::exists("co-second")? && is_in_ioctl(second.id())?)
            });
            second.kill()?;
            let ends = must_end("the second one", &cow, || Ok(second.wait()?));
            let still = cow.held() > 0;
            dm::remove("co-second")?;
            waits?;
            ends?;
            ensure!(still, "nothing was held back");
            Ok(other)
        });
        cow.release();
        let co = opens.join().expect("no panic")?;
        Ok((co, done?))
    })?;
    // While its last device goes.
    co.message("so")?;
    cow.hold(&[Op::Write, Op::Flush]);
    let other = thread::scope(|scope| -> Result<_> {
        let goes = scope.spawn(|| co.remove());
        let done = cow
            .wait_held(1)
            .and_then(|()| must_end("another store while one is closed", &cow, || others(other)));
        cow.release();
        goes.join().expect("no panic")?;
        done
    })?;
    other.remove()?;
    Ok(())
}

fn stuck_origin(disks: &Disks) -> Result<()> {
    let mut rolling = Rolling::new(disks)?;
    let (disk, co, co_other) = (&rolling.disk, &rolling.co, &rolling.co_other);
    disk.hold(&[Op::Write]);
    let generation = thread::scope(|scope| -> Result<u32> {
        let writer = scope.spawn(|| -> Result<u32> { shadow::write(&co.open()?, 0, 8) });
        let came = disk.wait_held(1);
        // A message that waits for that write.
        let waits = scope.spawn(|| co.take());
        let other = came.and_then(|()| {
            until("the message to come", || {
                Ok(ioctls_waiting()? > 0 || waits.is_finished())
            })?;
            must_end("the other origin's message", disk, || co_other.take())
        });
        let early = waits.is_finished();
        disk.release();
        let generation = writer.join().expect("no panic")?;
        waits.join().expect("no panic")?;
        other?;
        ensure!(!early, "the message did not wait");
        Ok(generation)
    })?;
    rolling.now.set(0, 8, generation);
    rolling.end()
}

/// What the store's worker waits for must not be what it has to do itself.
fn stacked(disks: &Disks) -> Result<()> {
    let (world, co) = World::new(disks, MIB, 64, 1)?;
    let tag = co.take()?;
    let cs = world.store.cs(&world.origin, tag)?;
    let below = Mapped::create("below", &linear(&cs.path(), 0, MIB))?;
    let line = co_line(
        &below.path(),
        &world.store.cow.path(),
        "-i upper -b -e error",
    );
    let upper = match Mapped::create("co", &Table::new(MIB, TARGET, line)) {
        Ok(upper) => Device(upper),
        // That is as good.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EBUSY)) => {
            below.remove()?;
            cs.remove()?;
            return co.remove();
        }
        Err(error) => return Err(error.into()),
    };
    let mut now = world.now.clone();
    let tag = upper.take()?;
    for place in 0..7 {
        now.write(&upper.open()?, place * STEP, 8)?;
    }
    now.check(&upper.open()?)?;
    upper.rollback(tag)?;
    world.now.check(&upper.open()?)?;
    world.now.check(&cs.open()?)?;
    upper.remove()?;
    below.remove()?;
    cs.remove()?;
    world.now.check(&co.open()?)?;
    co.remove()
}

/// A number from a device's queue in sysfs.
fn queue(name: &str, what: &str) -> Result<u64> {
    let file = format!("/sys/block/{name}/queue/{what}");
    let text = std::fs::read_to_string(&file).context(file)?;
    Ok(text.trim().parse()?)
}

fn limits() -> Result<()> {
    kernel::modprobe("dm-log-writes")?;
    // What wants its pages aligned to its blocks.
    let [origin, data, log] = [4, 64, 64].map(|mib| Puppet::with_blocks(mib, 4096));
    let (origin, data, log) = (origin?, data?, log?);
    let arguments = format!("{} {}", data.path().display(), log.path().display());
    let cow = Mapped::create("cow", &Table::new(64 * MIB, "log-writes", arguments))?;
    let line = co_line(&origin.path(), &cow.path(), "-i o -b -F");
    let co = Mapped::create("co", &Table::new(4 * MIB, TARGET, line))?;
    let of = |what: &str| -> Result<[u64; 2]> {
        Ok([
            queue(&co.kernel_name(), what)?,
            queue(&cow.kernel_name(), what)?,
        ])
    };
    let [ours, theirs] = of("dma_alignment")?;
    ensure!(theirs == 4095, "the COW device is content with {theirs}");
    ensure!(ours == theirs, "pages may lie at {ours}, not {theirs}");
    let zeroes = queue(&co.kernel_name(), "write_zeroes_max_bytes")?;
    ensure!(zeroes <= 64 << 20, "{zeroes} bytes of zeroes at once");
    co.remove()?;
    cow.remove()?;
    Ok(())
}
