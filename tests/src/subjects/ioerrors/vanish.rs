// SPDX-License-Identifier: GPL-2.0

//! A COW device that goes away under load: nothing hangs, and all of it can be taken down.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{ensure, Context, Result};

use super::bench::Bench;
use crate::disks::{Disks, MIB};
use crate::dm::{Mapped, Suspend, Table};
use crate::io::Disk;
use crate::kernel;
use crate::shadow::{write_generation, Shadow};
use crate::store::{co_line, cs_line, until, Device, TARGET};

const CONFIG: &str = "/sys/kernel/config/nullb";
const NAME: &str = "vanishing";

/// A disk in memory that can be switched off.
struct NullBlock {
    config: PathBuf,
}

impl NullBlock {
    fn new(mib: u64) -> Result<Self> {
        if !Path::new("/sys/module/null_blk").exists() {
            kernel::run("modprobe", &["null_blk", "nr_devices=0"])?;
        }
        let config = Path::new(CONFIG).join(NAME);
        fs::create_dir(&config).context("a null block device")?;
        let disk = Self { config };
        disk.set("memory_backed", "1")?;
        disk.set("size", &mib.to_string())?;
        disk.set("power", "1")?;
        Ok(disk)
    }

    /// It is called as its folder, or by its number in older kernels.
    fn node(&self) -> Result<PathBuf> {
        let node = Path::new("/dev").join(NAME);
        if node.exists() {
            return Ok(node);
        }
        let index = fs::read_to_string(self.config.join("index"))?;
        Ok(format!("/dev/nullb{}", index.trim()).into())
    }

    fn set(&self, key: &str, value: &str) -> Result<()> {
        fs::write(self.config.join(key), value).with_context(|| format!("set {key}"))
    }
}

impl Drop for NullBlock {
    fn drop(&mut self) {
        let _ = self.set("power", "0");
        let _ = fs::remove_dir(&self.config);
    }
}

/// What takes a COW device away.
type Vanish<'a> = &'a (dyn Fn() -> Result<()> + Sync);

/// A null block device is switched off.
pub fn null_block(disks: &Disks, policy: &str) -> Result<()> {
    let disk = NullBlock::new(64)?;
    vanishes(disks, &disk.node()?, policy, &|| disk.set("power", "0"))
}

/// A network disk is disconnected.
pub fn network(disks: &Disks, policy: &str) -> Result<()> {
    let bench = Bench::new()?;
    vanishes(disks, &bench.cow.path(), policy, &|| {
        bench.cow.disconnect();
        Ok(())
    })
}

fn vanishes(disks: &Disks, cow: &Path, policy: &str, vanish: Vanish<'_>) -> Result<()> {
    let piece = disks.piece(8 * MIB)?;
    let mut now = Shadow::filled(&piece.open()?)?;
    let line = |options: &str| co_line(&piece.path(), cow, &format!("-i o {options}"));
    let table = Table::new(8 * MIB, TARGET, line(&format!("-b -F -c 1 -e {policy}")));
    let co = Device(Mapped::create("co", &table)?);
    let tag = co.take()?;
    let then = now.clone();
    now.write(&co.open()?, 0, 64)?;
    let cs_table = Table::new(8 * MIB, TARGET, cs_line(&piece.path(), cow, tag, "-i o"));
    let cs = Device(Mapped::create("cs", &cs_table)?);
    // Writers of all sorts until each has met an error, or has been through.
    thread::scope(|scope| -> Result<()> {
        let mut workers = Vec::new();
        for i in 0..3u64 {
            let path = co.path();
            workers.push(scope.spawn(move || -> Result<Vec<(u64, u32, bool)>> {
                let disk = Disk::open(path)?;
                let mut writes = Vec::new();
                for n in 0..400 {
                    let at = MIB + (i * 400 + n) * 8;
                    let generation = crate::content::next_generation();
                    let done = write_generation(&disk, at, 8, generation).is_ok();
                    writes.push((at, generation, done));
                    if !done {
                        break;
                    }
                }
                Ok(writes)
            }));
        }
        let path = cs.path();
        let then = &then;
        let reader = scope.spawn(move || -> Result<()> {
            let disk = Disk::open_read_only(path)?;
            for at in (0..8 * MIB).step_by(64) {
                let Ok(bytes) = disk.read(at, 64) else {
                    break;
                };
                then.check_bytes(&bytes, at)?;
            }
            Ok(())
        });
        let path = cs.path();
        let snapshot_writer = scope.spawn(move || -> Result<()> {
            // Behind what the reader looks at.
            let disk = Disk::open(path)?;
            for _ in 0..200 {
                if disk.flush().is_err() {
                    break;
                }
            }
            Ok(())
        });
        thread::sleep(std::time::Duration::from_millis(300));
        vanish()?;
        for worker in workers {
            for (at, generation, done) in worker.join().expect("no panic")? {
                if done {
                    now.set(at, 8, generation);
                } else {
                    let seen = piece.open()?.read(at, 8)?;
                    let then = now.clone();
                    now.learn_bytes(&seen, at, |sector, found| {
                        found == generation || found == then.generation(sector)
                    })?;
                }
            }
        }
        reader.join().expect("no panic")?;
        snapshot_writer.join().expect("no panic")
    })?;
    // A write that has to be preserved does not go ahead, and is not waited for either.
    let disk = co.open()?;
    let place = 6 * MIB;
    ensure!(
        write_generation(&disk, place, 8, crate::content::next_generation()).is_err(),
        "a write was not preserved, and went ahead"
    );
    now.check(&disk).context("the origin")?;
    drop(disk);
    let refused = co.message("so");
    ensure!(refused.is_err(), "a snapshot was taken of it");
    until("the state", || Ok(co.state()?.state == "error"))?;
    ensure!(cs.state()?.state == "error", "{}", cs.status()?);
    for how in [Suspend::Orderly, Suspend::NoFlush] {
        co.suspend(how)?;
        co.resume()?;
        cs.suspend(how)?;
        cs.resume()?;
    }
    ensure!(co.state()?.state == "error", "{}", co.status()?);
    cs.remove()?;
    co.remove()?;
    kernel::reload()?;
    let below = piece.open()?;
    now.check(&below).context("the origin's own device")
}
