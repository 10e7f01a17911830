// SPDX-License-Identifier: GPL-2.0

//! What a device must hold: a full copy beside it, changed in step with it.

use anyhow::{Context, Result};

use crate::content::{self, generation_of, next_generation, SECTOR, UNKNOWN, ZERO};
use crate::io::{Buffer, Disk};

/// Sectors of one read or write when a whole device is gone through.
const STRIDE: u64 = 2048;

/// The copy. A clone of it is what a snapshot must hold.
#[derive(Clone, Debug)]
pub struct Shadow {
    generations: Vec<u32>,
}

impl Shadow {
    /// A device full of zeroes.
    pub fn zeroed(sectors: u64) -> Self {
        Self {
            generations: vec![ZERO; sectors as usize],
        }
    }

    /// Writes all of a device.
    pub fn filled(disk: &Disk) -> Result<Self> {
        let mut shadow = Self::zeroed(disk.sectors());
        shadow.write_all(disk)?;
        Ok(shadow)
    }

    /// Its size.
    pub fn sectors(&self) -> u64 {
        self.generations.len() as u64
    }

    /// The device has grown, by zeroes.
    pub fn grow(&mut self, sectors: u64) {
        self.generations.resize(sectors as usize, ZERO);
    }

    fn part(&mut self, sector: u64, count: u64) -> &mut [u32] {
        &mut self.generations[sector as usize..(sector + count) as usize]
    }

    /// What is to be at a sector.
    pub fn generation(&self, sector: u64) -> u32 {
        self.generations[sector as usize]
    }

    /// Takes it that this is there now.
    pub fn set(&mut self, sector: u64, count: u64, generation: u32) {
        self.part(sector, count).fill(generation);
    }

    /// Writes all of the device.
    pub fn write_all(&mut self, disk: &Disk) -> Result<()> {
        let mut at = 0;
        while at < self.sectors() {
            let count = STRIDE.min(self.sectors() - at);
            self.write(disk, at, count)?;
            at += count;
        }
        Ok(())
    }

    /// Writes something new.
    pub fn write(&mut self, disk: &Disk, sector: u64, count: u64) -> Result<()> {
        let generation = write(disk, sector, count)?;
        self.set(sector, count, generation);
        Ok(())
    }

    /// Writes zeroes as the block layer does it.
    pub fn zero_out(&mut self, disk: &Disk, sector: u64, count: u64) -> Result<()> {
        disk.zero_out(sector, count)
            .with_context(|| format!("write zeroes to {count} sectors at {sector}"))?;
        self.set(sector, count, ZERO);
        Ok(())
    }

    /// Discards. What is there then is either the old content or zeroes, and stays so.
    pub fn discard(&mut self, disk: &Disk, sector: u64, count: u64) -> Result<()> {
        disk.discard(sector, count)
            .with_context(|| format!("discard {count} sectors at {sector}"))?;
        let bytes = disk.read(sector, count)?;
        for (i, bytes) in bytes.chunks_exact(SECTOR).enumerate() {
            let at = sector + i as u64;
            if bytes.iter().all(|&b| b == 0) {
                self.set(at, 1, ZERO);
            } else {
                content::compare(bytes, at, &[self.generation(at)]).context("after a discard")?;
            }
        }
        Ok(())
    }

    /// Reads what cannot be known and goes by that from now on. Every sector must be one
    /// of the writes that `allowed` accepts.
    pub fn learn(&mut self, disk: &Disk, allowed: impl Fn(u64, u32) -> bool) -> Result<()> {
        let mut at = 0;
        while at < self.sectors() {
            let count = STRIDE.min(self.sectors() - at);
            let bytes = disk.read(at, count)?;
            self.learn_bytes(&bytes, at, &allowed)?;
            at += count;
        }
        Ok(())
    }

    /// The same for what was read at `sector`.
    pub fn learn_bytes(
        &mut self,
        bytes: &[u8],
        sector: u64,
        allowed: impl Fn(u64, u32) -> bool,
    ) -> Result<()> {
        for (i, bytes) in bytes.chunks_exact(SECTOR).enumerate() {
            let sector = sector + i as u64;
            match generation_of(bytes, sector) {
                Some(found) if allowed(sector, found) => self.set(sector, 1, found),
                Some(found) => anyhow::bail!("sector {sector} is of write {found}"),
                None => anyhow::bail!("sector {sector} is of no write at all"),
            }
        }
        Ok(())
    }

    /// Reads a range and compares.
    pub fn check_range(&self, disk: &Disk, sector: u64, count: u64) -> Result<()> {
        let bytes = disk
            .read(sector, count)
            .with_context(|| format!("read {count} sectors at {sector}"))?;
        self.check_bytes(&bytes, sector)
    }

    /// Compares what was read at `sector`.
    pub fn check_bytes(&self, bytes: &[u8], sector: u64) -> Result<()> {
        let count = bytes.len() / SECTOR;
        let expected = &self.generations[sector as usize..sector as usize + count];
        content::compare(bytes, sector, expected)?;
        Ok(())
    }

    /// Reads all of the device and compares.
    pub fn check(&self, disk: &Disk) -> Result<()> {
        anyhow::ensure!(
            disk.sectors() == self.sectors(),
            "the device has {} sectors, not {}",
            disk.sectors(),
            self.sectors()
        );
        let mut buffer = Buffer::new(STRIDE as usize * SECTOR);
        let mut at = 0;
        while at < self.sectors() {
            let count = STRIDE.min(self.sectors() - at);
            if count == STRIDE {
                disk.read_into(at, &mut buffer)
                    .with_context(|| format!("read {count} sectors at {at}"))?;
                self.check_bytes(&buffer, at)?;
            } else {
                self.check_range(disk, at, count)?;
            }
            at += count;
        }
        Ok(())
    }

    /// How many sectors of two copies differ.
    pub fn difference(&self, other: &Self) -> usize {
        let pairs = self.generations.iter().zip(&other.generations);
        pairs.filter(|(a, b)| a != b).count()
    }

    /// Nothing is known of this range: it is not compared until it is written.
    pub fn forget(&mut self, sector: u64, count: u64) {
        self.set(sector, count, UNKNOWN);
    }
}

/// Writes something new that nobody else writes, and tells its generation.
pub fn write(disk: &Disk, sector: u64, count: u64) -> Result<u32> {
    let generation = next_generation();
    write_generation(disk, sector, count, generation)?;
    Ok(generation)
}

/// Writes the content of a generation.
pub fn write_generation(disk: &Disk, sector: u64, count: u64, generation: u32) -> Result<()> {
    let mut buffer = Buffer::new(count as usize * SECTOR);
    content::fill(&mut buffer, sector, generation);
    disk.write(sector, &buffer)
        .with_context(|| format!("write {count} sectors at {sector}"))
}
