// SPDX-License-Identifier: GPL-2.0

//! A read of a snapshot that falls through to the origin, and an origin that changes under
//! it: the read must never see the change.
//!
//! Under load the moment is found now and then. Held up by the kernel's own I/O throttle,
//! which knows whose read it is, the read is on its way for as long as a test likes.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::disks::{Disks, MIB};
use crate::io::Disk;
use crate::random::Random;
use crate::report::Subject;
use crate::shadow::Shadow;
use crate::store::Device;
use crate::world::World;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    for pages in [1, 16] {
        subject.case(&format!("under load, chunks of {pages} pages"), || {
            under_load(disks, pages)
        });
    }
    subject.case("a write waits for a slow read", || {
        held_up(disks, |disk, now| now.write(disk, 0, 256))
    });
    subject.case("a write of a part waits for a slow read", || {
        held_up(disks, |disk, now| now.write(disk, 77, 1))
    });
    subject.case("a discard waits for a slow read", || {
        held_up(disks, |disk, now| now.discard(disk, 0, 256))
    });
    subject.case("write-zeroes waits for a slow read", || {
        held_up(disks, |disk, now| now.zero_out(disk, 0, 256))
    });
    subject.case("a rollback waits for a slow read", || {
        rollback_held_up(disks)
    });
    subject.case("a slow read stops no other chunk", || others_go_on(disks));
}

/// A writer overwrites, as fast as it can, what readers read through the snapshot.
fn under_load(disks: &Disks, pages: u32) -> Result<()> {
    const SECTORS: u64 = 4 * MIB;
    let (mut world, co) = World::new(disks, SECTORS, 160, pages)?;
    let mut random = Random::from_environment("race");
    for _ in 0..6 {
        let tag = world.take(&co)?;
        let cs = world.cs(tag)?;
        let then = world.snapshots[&tag].clone();
        let over = AtomicBool::new(false);
        let reads = AtomicU64::new(0);
        // The writer goes over all chunks in an order of its own; readers run to where it is.
        let position = AtomicU64::new(0);
        let step = random.pick(1..4) * 8 + random.pick(0..2);
        thread::scope(|scope| -> Result<()> {
            let readers: Vec<_> = (0..3)
                .map(|i| {
                    let (cs, then, over) = (&cs, &then, &over);
                    let (reads, position) = (&reads, &position);
                    scope.spawn(move || -> Result<()> {
                        let disk = cs.open()?;
                        let mut random = Random::new(i);
                        while !over.load(Ordering::Relaxed) {
                            let at = position.load(Ordering::Relaxed) + random.pick(0..48);
                            let at = at.min(SECTORS - 1);
                            let count = random.pick(1..40).min(SECTORS - at);
                            then.check_range(&disk, at, count)?;
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(())
                    })
                })
                .collect();
            let disk = co.open()?;
            let mut at = 0;
            let written = (|| {
                while at < SECTORS {
                    position.store(at, Ordering::Relaxed);
                    let count = random.pick(1..step + 8).min(SECTORS - at);
                    world.now.write(&disk, at, count)?;
                    at += step;
                }
                Ok(())
            })();
            over.store(true, Ordering::Relaxed);
            for reader in readers {
                reader.join().expect("no panic")?;
            }
            written
        })?;
        ensure!(reads.into_inner() > 50, "hardly anything was read");
        then.check(&cs.open()?)?;
        cs.remove()?;
    }
    world.check(&co)?;
    co.remove()
}

/// A control group whose reads of one device are slow.
struct Slow {
    group: PathBuf,
}

const CGROUP: &str = "/sys/fs/cgroup";

impl Slow {
    /// At most `rate` bytes a second are read of a disk.
    fn new(kernel_name: &str, rate: u64) -> Result<Self> {
        let control = format!("{CGROUP}/cgroup.subtree_control");
        if !PathBuf::from(&control).exists() {
            crate::kernel::run("mount", &["-t", "cgroup2", "none", CGROUP])?;
        }
        fs::write(&control, "+io").context("control groups for I/O")?;
        let group = PathBuf::from(format!("{CGROUP}/slow"));
        fs::create_dir_all(&group)?;
        let slow = Self { group };
        let number = fs::read_to_string(format!("/sys/block/{kernel_name}/dev"))?;
        let limit = format!("{} rbps={rate}", number.trim());
        fs::write(slow.group.join("io.max"), limit).context("limit a group's reads")?;
        Ok(slow)
    }

    /// A process of the group reads `sectors` from the start of `device` into `file`.
    fn read(&self, device: &Device, sectors: u64, file: &str) -> Result<Child> {
        let script = format!(
            "echo $$ >{}/cgroup.procs && exec dd if={} of={file} iflag=direct bs={} count=1",
            self.group.display(),
            device.path().display(),
            sectors * 512
        );
        let child = Command::new("sh")
            .args(["-c", &script])
            .stderr(Stdio::null())
            .spawn()?;
        Ok(child)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // A group can go once its last process is gone.
        for _ in 0..100 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            sleep(Duration::from_millis(50));
        }
    }
}

/// Waits until a slow read is on its way.
fn under_way(child: &mut Child, device: &Device) -> Result<()> {
    crate::store::until("the slow read", || Ok(device.open_count()? > 0))?;
    sleep(Duration::from_millis(300));
    ensure!(child.try_wait()?.is_none(), "the read is not slow");
    Ok(())
}

/// What a slow read brought is compared with what it had to see.
fn check_read(mut child: Child, file: &str, then: &Shadow) -> Result<()> {
    let status = child.wait()?;
    ensure!(status.success(), "the slow read: {status}");
    let bytes = fs::read(file)?;
    fs::remove_file(file)?;
    ensure!(
        bytes.len() == 128 * 512,
        "the slow read: {} bytes",
        bytes.len()
    );
    then.check_bytes(&bytes, 0).context("the slow read")
}

/// 64 KiB at this rate take two seconds.
const RATE: u64 = 32 << 10;

fn held_up(disks: &Disks, change: impl FnOnce(&Disk, &mut Shadow) -> Result<()>) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 48, 4)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let slow = Slow::new(&world.origin.piece.mapped().kernel_name(), RATE)?;
    let disk = co.open()?;
    let file = "/tmp/slow";
    let mut child = slow.read(&cs, 128, file)?;
    under_way(&mut child, &cs)?;
    change(&disk, &mut world.now)?;
    check_read(child, file, &world.snapshots[&tag])?;
    drop((slow, disk));
    cs.remove()?;
    world.check(&co)?;
    co.remove()
}

fn rollback_held_up(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 48, 4)?;
    let old = world.take(&co)?;
    world.now.write(&co.open()?, 0, 512)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let slow = Slow::new(&world.origin.piece.mapped().kernel_name(), RATE)?;
    let file = "/tmp/slow";
    let mut child = slow.read(&cs, 128, file)?;
    under_way(&mut child, &cs)?;
    co.send(&format!("rs {old} -b"))?;
    world.now = world.snapshots[&old].clone();
    world
        .now
        .check(&co.open()?)
        .context("the origin rolled back")?;
    check_read(child, file, &world.snapshots[&tag])?;
    co.wait_rollback()?;
    drop(slow);
    cs.remove()?;
    world.check(&co)?;
    co.remove()
}

fn others_go_on(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 48, 4)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let slow = Slow::new(&world.origin.piece.mapped().kernel_name(), RATE / 4)?;
    let file = "/tmp/slow";
    let mut child = slow.read(&cs, 128, file)?;
    under_way(&mut child, &cs)?;
    let begin = Instant::now();
    let disk = co.open()?;
    world.now.write(&disk, MIB, 256)?;
    world.snapshots[&tag].check_range(&cs.open()?, MIB, 256)?;
    let tag_meanwhile = world.take(&co)?;
    world.now.write(&disk, MIB, 256)?;
    ensure!(child.try_wait()?.is_none(), "it took {:?}", begin.elapsed());
    check_read(child, file, &world.snapshots[&tag])?;
    ensure!(tag_meanwhile == tag + 1, "tag {tag_meanwhile}");
    drop((slow, disk));
    cs.remove()?;
    world.check(&co)?;
    co.remove()
}
