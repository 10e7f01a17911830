// SPDX-License-Identifier: GPL-2.0

//! Where the workload runs: two origins and a COW device, all writes to which are recorded.
//!
//! Either all three are parts of one device that dm-log-writes logs, or they are on two disks
//! of the test's own, which have caches of their own and tell when each of them was flushed.

use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{ensure, Context, Result};

use super::logwrites;
use crate::content::SECTOR;
use crate::disks::{linear, Disks, Piece, MIB};
use crate::dm::{Mapped, Suspend, Table};
use crate::io::{Buffer, Disk};
use crate::kernel;
use crate::puppet::Puppet;
use crate::tape::{self, Event, Recorder, Tape};

/// How many origins there are.
pub const ORIGINS: usize = 2;

/// Where each origin has its place in the image, and how large it may become, in sectors.
pub const ORIGIN_PLACES: [(u64, u64); ORIGINS] = [(0, 3 * MIB / 2), (3 * MIB / 2, MIB / 4)];

/// Where the COW device has its place.
pub const COW_PLACE: (u64, u64) = (2 * MIB, 8 * MIB);

/// Sectors of the whole image.
pub const IMAGE: u64 = 10 * MIB;

/// Sizes of the three devices, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Of the origins.
    pub origins: [u64; ORIGINS],
    /// Of the COW device.
    pub cow: u64,
}

/// The three devices, cut from where the image is.
pub struct Parts {
    /// Each with the disk that it is on and its first sector there.
    origins: Vec<(Mapped, PathBuf, u64)>,
    cow: (Mapped, PathBuf, u64),
    sizes: Mutex<Sizes>,
}

impl Parts {
    /// Cuts them. `place` tells which disk a sector of the image is on, and where.
    pub fn new(sizes: Sizes, place: impl Fn(u64) -> (PathBuf, u64)) -> Result<Self> {
        let part = |first: u64, sectors: u64| -> Result<_> {
            let (disk, start) = place(first);
            let mapped = Mapped::create("part", &linear(&disk, start, sectors))?;
            Ok((mapped, disk, start))
        };
        let origins = ORIGIN_PLACES.iter().zip(sizes.origins);
        Ok(Self {
            origins: origins
                .map(|(&(first, _), sectors)| part(first, sectors))
                .collect::<Result<_>>()?,
            cow: part(COW_PLACE.0, sizes.cow)?,
            sizes: Mutex::new(sizes),
        })
    }

    /// Their sizes.
    pub fn sizes(&self) -> Sizes {
        *self.sizes.lock().expect("no panic")
    }

    /// Gives them other sizes.
    pub fn resize(&self, sizes: Sizes) -> Result<()> {
        let old = std::mem::replace(&mut *self.sizes.lock().expect("no panic"), sizes);
        let set = |(mapped, disk, start): &(Mapped, PathBuf, u64), old: u64, new: u64| {
            if old == new {
                return Ok(());
            }
            mapped.replace(Suspend::Orderly, &linear(disk, *start, new))
        };
        for (i, part) in self.origins.iter().enumerate() {
            set(part, old.origins[i], sizes.origins[i])?;
        }
        set(&self.cow, old.cow, sizes.cow)?;
        Ok(())
    }

    /// An origin's node.
    pub fn origin(&self, origin: usize) -> PathBuf {
        self.origins[origin].0.path()
    }

    /// The COW device's node.
    pub fn cow(&self) -> PathBuf {
        self.cow.0.path()
    }
}

/// How it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// By dm-log-writes.
    LogWrites,
    /// By disks with two caches.
    Puppets,
}

enum Below {
    LogWrites {
        // In the order in which they go.
        logger: Mapped,
        log: Piece,
        base: Piece,
    },
    Puppets {
        origin: Puppet,
        cow: Puppet,
        recorder: Recorder,
    },
}

/// The devices, and what records.
pub struct Stage {
    /// The devices.
    pub parts: Parts,
    below: Below,
    base: Vec<u8>,
    /// Held until the mark is made, so that they are on the tape in their order.
    mark: Mutex<u32>,
}

/// What was recorded.
pub struct Recording {
    /// What was on the disks before.
    pub base: Vec<u8>,
    /// What was written.
    pub tape: Tape,
}

fn read_all(disk: &Disk, sectors: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(sectors as usize * SECTOR);
    for at in (0..sectors).step_by(MIB as usize) {
        bytes.extend_from_slice(&disk.read(at, MIB.min(sectors - at))?);
    }
    Ok(bytes)
}

fn write_all(disk: &Disk, bytes: &[u8]) -> Result<()> {
    let stride = MIB as usize * SECTOR;
    let mut buffer = Buffer::new(stride);
    for (i, piece) in bytes.chunks_exact(stride).enumerate() {
        buffer.copy_from_slice(piece);
        disk.write(i as u64 * MIB, &buffer)?;
    }
    disk.flush()?;
    Ok(())
}

impl Stage {
    /// Devices of these sizes, on disks that hold `base`.
    pub fn new(disks: &Disks, by: By, sizes: Sizes, base: Vec<u8>) -> Result<Self> {
        ensure!(base.len() as u64 == IMAGE * SECTOR as u64);
        let (below, parts) = match by {
            By::LogWrites => {
                kernel::modprobe("dm-log-writes")?;
                let piece = disks.piece(IMAGE)?;
                write_all(&piece.open()?, &base)?;
                let log = disks.piece(512 * MIB)?;
                let arguments = format!("{} {}", piece.path().display(), log.path().display());
                let logger = Mapped::create("logged", &Table::new(IMAGE, "log-writes", arguments))
                    .context("dm-log-writes")?;
                let path = logger.path();
                let parts = Parts::new(sizes, |sector| (path.clone(), sector))?;
                let below = Below::LogWrites {
                    logger,
                    log,
                    base: piece,
                };
                (below, parts)
            }
            By::Puppets => {
                let (origin, cow) = (Puppet::new(2)?, Puppet::new(8)?);
                let split = COW_PLACE.0 as usize * SECTOR;
                write_all(&Disk::open(origin.path())?, &base[..split])?;
                write_all(&Disk::open(cow.path())?, &base[split..])?;
                let recorder = Recorder::default();
                origin.record(&recorder, 0, 0);
                cow.record(&recorder, COW_PLACE.0, 1);
                let (first, second) = (origin.path(), cow.path());
                let parts = Parts::new(sizes, |sector| match sector < COW_PLACE.0 {
                    true => (first.clone(), sector),
                    false => (second.clone(), sector - COW_PLACE.0),
                })?;
                let below = Below::Puppets {
                    origin,
                    cow,
                    recorder,
                };
                (below, parts)
            }
        };
        Ok(Self {
            parts,
            below,
            base,
            mark: Mutex::new(0),
        })
    }

    /// Whether a write with FUA comes before older ones on the tape that are not flushed yet, even
    /// if they are of the same sectors, as a copy of the rest of its chunk may be: then FUA cannot
    /// be used.
    pub fn logs_fua_early(&self) -> bool {
        matches!(self.below, Below::LogWrites { .. })
    }

    /// Makes a mark on the tape and tells its number.
    pub fn mark(&self) -> Result<u32> {
        let mut last = self.mark.lock().expect("no panic");
        *last += 1;
        let mark = *last;
        match &self.below {
            Below::LogWrites { logger, .. } => {
                logger.message(&format!("mark {mark}"))?;
            }
            Below::Puppets { recorder, .. } => {
                tape::lock(recorder).events.push(Event::Mark(mark));
            }
        }
        Ok(mark)
    }

    /// Ends it. No device of the target is left. What the tape says is compared with what the
    /// disks hold.
    pub fn end(self) -> Result<Recording> {
        let Self {
            parts, below, base, ..
        } = self;
        drop(parts);
        let (tape, disks) = match below {
            Below::LogWrites {
                logger,
                log,
                base: piece,
            } => {
                let status = logger.status()?;
                ensure!(!status.contains("disabled"), "the log is full: {status}");
                logger.remove()?;
                let tape = logwrites::read(&log.open()?)?;
                let disks = read_all(&piece.open()?, IMAGE)?;
                (tape, disks)
            }
            Below::Puppets {
                origin,
                cow,
                recorder,
            } => {
                origin.stop_recording();
                cow.stop_recording();
                let mut disks = read_all(&Disk::open(origin.path())?, COW_PLACE.0)?;
                disks.extend(read_all(&Disk::open(cow.path())?, COW_PLACE.1)?);
                drop((origin, cow));
                let tape = std::mem::take(&mut *tape::lock(&recorder));
                (tape, disks)
            }
        };
        let mut reel = tape::Reel::new(&tape, &base);
        while reel.next().is_some() {
            reel.step();
        }
        let mut image = Vec::new();
        let mut random = crate::random::Random::new(0);
        reel.image(tape::Left::All, &mut random, &mut image);
        let differs = image
            .chunks(SECTOR)
            .zip(disks.chunks(SECTOR))
            .position(|(a, b)| a != b);
        ensure!(
            differs.is_none(),
            "sector {differs:?} is not what the tape says"
        );
        Ok(Recording { base, tape })
    }
}
