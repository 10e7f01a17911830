// SPDX-License-Identifier: GPL-2.0

//! An origin with its snapshots: its devices come and go, and all that it holds is known.

use std::collections::BTreeMap;
use std::sync::{Mutex, RwLock};

use anyhow::{ensure, Context, Result};

use super::active::Active;
use super::SECTORS;
use crate::dm::Table;
use crate::io::Disk;
use crate::random::Random;
use crate::shadow::Shadow;
use crate::store::{co_line, cs_line, Device, TARGET};

/// Of them so many have a device.
pub(super) const MOST_ACTIVE: usize = 3;

/// An origin's active devices. I/O is done by those who hold a read lock of it.
pub(super) struct Devices {
    /// The first one is the origin's.
    pub(super) devices: Vec<Active>,
}

/// One origin and all that is known of it.
pub(super) struct Volume {
    /// Which of the stores it is in.
    pub(super) store: usize,
    pub(super) origin_path: std::path::PathBuf,
    pub(super) cow_path: std::path::PathBuf,
    pub(super) id: String,
    pub(super) active: RwLock<Devices>,
    /// Held for reading by what zeroes, for writing while a snapshot is taken with writes under
    /// way.
    pub(super) steady: RwLock<()>,
    /// Snapshots that have no device, and how deep each is.
    pub(super) rest: Mutex<Rest>,
}

#[derive(Default)]
pub(super) struct Rest {
    pub(super) inactive: BTreeMap<u32, Shadow>,
    pub(super) depths: BTreeMap<u32, u32>,
}

impl Volume {
    pub(super) fn co(&self, options: &str) -> Result<Device> {
        let options = format!("-i {} {options}", self.id);
        let line = co_line(&self.origin_path, &self.cow_path, &options);
        let mapped = crate::dm::Mapped::create("co", &Table::new(SECTORS, TARGET, line));
        Ok(Device(mapped.context("the origin's device")?))
    }

    pub(super) fn cs(&self, tag: u32) -> Result<Device> {
        let options = format!("-i {}", self.id);
        let line = cs_line(&self.origin_path, &self.cow_path, tag, &options);
        let mapped = crate::dm::Mapped::create("cs", &Table::new(SECTORS, TARGET, line));
        Ok(Device(
            mapped.with_context(|| format!("a device of snapshot {tag}"))?,
        ))
    }

    /// Some I/O to one of its devices.
    pub(super) fn io(&self, random: &mut Random) -> Result<()> {
        let active = self.active.read().expect("no panic");
        if active.devices.is_empty() {
            return Ok(());
        }
        let device = if random.once_in(2) {
            &active.devices[0]
        } else {
            random.one_of(&active.devices)
        };
        let (start, count) = random.extent(SECTORS);
        let done = match random.pick(0..40) {
            0..=19 => device.write(start, count),
            20 => {
                let _steady = self.steady.read().expect("no panic");
                device.zero_out(start, count)
            }
            21 => {
                let _steady = self.steady.read().expect("no panic");
                device.discard(start, count)
            }
            22 => device.disk.flush().context("flush"),
            _ => device.read(start, count),
        };
        done.with_context(|| device.name())
    }

    /// All devices go, and what they held is remembered.
    pub(super) fn put_away(&self, active: &mut Devices, rest: &mut Rest) -> Result<Shadow> {
        let mut origin = None;
        // The origin's device goes first in one half of the cases.
        if active.devices.len() % 2 == 0 {
            active.devices.reverse();
        }
        for device in active.devices.drain(..) {
            let shadow = device.shadow();
            let Active {
                tag, device, disk, ..
            } = device;
            drop(disk);
            device.remove()?;
            if tag == 0 {
                origin = Some(shadow);
            } else {
                rest.inactive.insert(tag, shadow);
            }
        }
        origin.context("the origin was active")
    }

    pub(super) fn wake(&self, active: &mut Devices, origin: &Shadow) -> Result<()> {
        let device = self.co("")?;
        active.devices.insert(0, Active::new(0, device, origin)?);
        Ok(())
    }

    /// A device for one of the snapshots that have none.
    pub(super) fn activate(&self, random: &mut Random) -> Result<bool> {
        let mut active = self.active.write().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        let tags: Vec<u32> = rest.inactive.keys().copied().collect();
        if tags.is_empty() || active.devices.len() > MOST_ACTIVE {
            return Ok(false);
        }
        let tag = *random.one_of(&tags);
        let device = self.cs(tag)?;
        let shadow = rest.inactive.remove(&tag).expect("it is there");
        active.devices.push(Active::new(tag, device, &shadow)?);
        Ok(true)
    }

    /// A snapshot's device goes.
    pub(super) fn deactivate(&self) -> Result<bool> {
        let mut active = self.active.write().expect("no panic");
        if active.devices.len() < 2 {
            return Ok(false);
        }
        let device = active.devices.remove(1);
        let shadow = device.shadow();
        let Active {
            tag, device, disk, ..
        } = device;
        drop(disk);
        device.remove()?;
        self.rest
            .lock()
            .expect("no panic")
            .inactive
            .insert(tag, shadow);
        Ok(true)
    }

    /// One snapshot is compared as a whole.
    pub(super) fn check_one(&self, random: &mut Random) -> Result<bool> {
        let active = self.active.read().expect("no panic");
        let rest = self.rest.lock().expect("no panic");
        let tags: Vec<u32> = rest.inactive.keys().copied().collect();
        if tags.is_empty() {
            return Ok(false);
        }
        let tag = *random.one_of(&tags);
        let device = self.cs(tag)?;
        rest.inactive[&tag]
            .check(&device.open_read_only()?)
            .with_context(|| format!("snapshot {tag}"))?;
        device.remove()?;
        drop(active);
        Ok(true)
    }

    /// All that is there, compared: the list, the origin, every snapshot.
    pub(super) fn check_all(&self) -> Result<()> {
        let mut active = self.active.write().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        let origin = self.put_away(&mut active, &mut rest)?;
        let co = self.co("")?;
        let expected: Vec<u32> = rest.inactive.keys().copied().collect();
        let there = co.list()?.tags();
        ensure!(
            there == expected,
            "the snapshots are {there:?}, not {expected:?}"
        );
        for _ in 0..2 {
            origin.check(&co.open_read_only()?).context("the origin")?;
            for (&tag, shadow) in &rest.inactive {
                let device = self.cs(tag)?;
                shadow
                    .check(&device.open_read_only()?)
                    .with_context(|| format!("snapshot {tag}"))?;
                device.remove()?;
            }
            co.wait_rollback()?;
            co.wait_clean()?;
        }
        origin
            .check(&Disk::open_read_only(&self.origin_path)?)
            .context("the origin's own device")?;
        for tag in rest.inactive.keys() {
            co.delete(*tag)?;
        }
        co.wait_clean()?;
        co.remove()
    }
}
