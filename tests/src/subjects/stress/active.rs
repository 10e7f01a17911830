// SPDX-License-Identifier: GPL-2.0

//! A device that I/O goes to, and what each of its sectors must hold.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock};

use anyhow::{Context, Result};

use super::SECTORS;
use crate::content::{compare, next_generation, SECTOR, ZERO};
use crate::io::Disk;
use crate::shadow::{write_generation, Shadow};
use crate::store::Device;

/// Sectors that one lock guards: no multiple of anything.
pub(super) const REGION: u64 = 101;

/// A device that I/O goes to.
pub(super) struct Active {
    /// 0 for the origin.
    pub(super) tag: u32,
    /// Before the device: while this is open that cannot be removed.
    pub(super) disk: Disk,
    pub(super) device: Device,
    pub(super) regions: Vec<Mutex<()>>,
    /// Held for reading while a write is numbered and noted as begun, for writing while somebody looks
    /// which are: what is noted then, or has a higher number.
    pub(super) numbering: RwLock<()>,
    /// By sector: of the write that was begun last, and of the one that ended last.
    pub(super) issued: Vec<AtomicU32>,
    pub(super) acknowledged: Vec<AtomicU32>,
}

impl Active {
    pub(super) fn new(tag: u32, device: Device, shadow: &Shadow) -> Result<Self> {
        let disk = device.open()?;
        let cells = || {
            (0..SECTORS)
                .map(|s| AtomicU32::new(shadow.generation(s)))
                .collect()
        };
        Ok(Self {
            tag,
            disk,
            device,
            regions: (0..SECTORS.div_ceil(REGION))
                .map(|_| Mutex::new(()))
                .collect(),
            numbering: RwLock::new(()),
            issued: cells(),
            acknowledged: cells(),
        })
    }

    pub(super) fn name(&self) -> String {
        match self.tag {
            0 => "the origin".to_owned(),
            tag => format!("snapshot {tag}"),
        }
    }

    /// What it must hold, while no I/O is under way.
    pub(super) fn shadow(&self) -> Shadow {
        let mut shadow = Shadow::zeroed(SECTORS);
        for (sector, generation) in self.acknowledged.iter().enumerate() {
            shadow.set(sector as u64, 1, generation.load(Ordering::SeqCst));
        }
        shadow
    }

    fn lock(&self, start: u64, count: u64) -> Vec<MutexGuard<'_, ()>> {
        let regions = start / REGION..=(start + count - 1) / REGION;
        regions
            .map(|region| self.regions[region as usize].lock().expect("no panic"))
            .collect()
    }

    fn set(cells: &[AtomicU32], start: u64, count: u64, generation: u32) {
        for cell in &cells[start as usize..(start + count) as usize] {
            cell.store(generation, Ordering::SeqCst);
        }
    }

    pub(super) fn write(&self, start: u64, count: u64) -> Result<()> {
        let _locks = self.lock(start, count);
        let numbering = self.numbering.read().expect("no panic");
        let generation = next_generation();
        Self::set(&self.issued, start, count, generation);
        drop(numbering);
        write_generation(&self.disk, start, count, generation)?;
        Self::set(&self.acknowledged, start, count, generation);
        Ok(())
    }

    pub(super) fn zero_out(&self, start: u64, count: u64) -> Result<()> {
        let _locks = self.lock(start, count);
        self.disk.zero_out(start, count)?;
        Self::set(&self.issued, start, count, ZERO);
        Self::set(&self.acknowledged, start, count, ZERO);
        Ok(())
    }

    pub(super) fn discard(&self, start: u64, count: u64) -> Result<()> {
        let _locks = self.lock(start, count);
        self.disk.discard(start, count)?;
        let bytes = self.disk.read(start, count)?;
        for (i, bytes) in bytes.chunks_exact(SECTOR).enumerate() {
            let sector = start + i as u64;
            if bytes.iter().all(|&b| b == 0) {
                Self::set(&self.issued, sector, 1, ZERO);
                Self::set(&self.acknowledged, sector, 1, ZERO);
            }
        }
        self.compare(&bytes, start, count)
            .context("after a discard")
    }

    pub(super) fn read(&self, start: u64, count: u64) -> Result<()> {
        let _locks = self.lock(start, count);
        let bytes = self.disk.read(start, count)?;
        self.compare(&bytes, start, count)
    }

    fn compare(&self, bytes: &[u8], start: u64, count: u64) -> Result<()> {
        let cells = &self.acknowledged[start as usize..(start + count) as usize];
        let expected: Vec<u32> = cells.iter().map(|c| c.load(Ordering::SeqCst)).collect();
        compare(bytes, start, &expected)?;
        Ok(())
    }
}

/// What the generations of a device are, now.
pub(super) fn look(cells: &[AtomicU32]) -> Vec<u32> {
    cells
        .iter()
        .map(|cell| cell.load(Ordering::SeqCst))
        .collect()
}
