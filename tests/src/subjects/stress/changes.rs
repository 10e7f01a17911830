// SPDX-License-Identifier: GPL-2.0

//! What messages and tables do to an origin, mostly with I/O under way.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::active::{look, Active};
use super::volume::{Rest, Volume};
use super::SECTORS;
use crate::content::next_generation;
use crate::dm::{Suspend, Table};
use crate::random::Random;
use crate::shadow::Shadow;
use crate::store::TARGET;

/// Snapshots that an origin has at most.
pub(super) const MOST_SNAPSHOTS: usize = 9;

/// The deepest nesting; deleted snapshots in between count.
pub(super) const DEEPEST: u32 = 30;

impl Volume {
    fn depth(rest: &Rest, tag: u32) -> u32 {
        rest.depths.get(&tag).copied().unwrap_or(0)
    }

    /// A snapshot of one of the active devices while it is written; what it holds is then read
    /// while writes go on. This and others tell whether they could do anything.
    pub(super) fn take_under_load(&self, random: &mut Random) -> Result<bool> {
        let active = self.active.read().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        if rest.inactive.len() + active.devices.len() > MOST_SNAPSHOTS {
            return Ok(false);
        }
        let parent = random.one_of(&active.devices);
        let depth = Self::depth(&rest, parent.tag) + 1;
        if depth > DEEPEST {
            return Ok(false);
        }
        let steady = self.steady.write().expect("no panic");
        // A write that is under way at the message's begin was begun before `issued` is looked
        // at, or has a generation above `begin`; one that ended is in `acknowledged`, or one of
        // those.
        let numbering = parent.numbering.write().expect("no panic");
        let begin = next_generation();
        let issued = look(&parent.issued);
        drop(numbering);
        let acknowledged = look(&parent.acknowledged);
        let tag = match parent.tag {
            0 => active.devices[0].device.take()?,
            tag => random.one_of(&active.devices).device.take_of(tag)?,
        };
        let end = look(&parent.issued);
        drop(steady);
        let device = self.cs(tag)?;
        let mut shadow = Shadow::zeroed(SECTORS);
        let disk = device.open_read_only()?;
        shadow
            .learn(&disk, |sector, found| {
                let i = sector as usize;
                let (ended, begun, last) = (acknowledged[i], issued[i], end[i]);
                let right = found == ended || found == begun || found > begin && found <= last;
                if !right {
                    println!("# {found}: {ended} had ended, {begun} begun, {begin} was next, {last} last");
                }
                right
            })
            .with_context(|| format!("snapshot {tag} of {}, just taken", parent.name()))?;
        drop(disk);
        device.remove()?;
        rest.inactive.insert(tag, shadow);
        rest.depths.insert(tag, depth);
        Ok(true)
    }

    /// A snapshot of an inactive one.
    pub(super) fn take_of_inactive(&self, random: &mut Random) -> Result<bool> {
        let active = self.active.read().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        let tags: Vec<u32> = rest.inactive.keys().copied().collect();
        if tags.is_empty() || tags.len() + active.devices.len() > MOST_SNAPSHOTS {
            return Ok(false);
        }
        let parent = *random.one_of(&tags);
        let depth = Self::depth(&rest, parent) + 1;
        if depth > DEEPEST {
            return Ok(false);
        }
        let tag = random.one_of(&active.devices).device.take_of(parent)?;
        let shadow = rest.inactive[&parent].clone();
        rest.inactive.insert(tag, shadow);
        rest.depths.insert(tag, depth);
        Ok(true)
    }

    /// One of the inactive snapshots is deleted, with I/O under way.
    pub(super) fn delete(&self, random: &mut Random) -> Result<bool> {
        let active = self.active.read().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        let tags: Vec<u32> = rest.inactive.keys().copied().collect();
        if tags.len() < 2 {
            return Ok(false);
        }
        let tag = *random.one_of(&tags);
        random.one_of(&active.devices).device.delete(tag)?;
        rest.inactive.remove(&tag);
        rest.depths.remove(&tag);
        Ok(true)
    }

    /// Back to an inactive or active snapshot, sometimes deleting it. False if it could not be.
    pub(super) fn roll_back(&self, random: &mut Random) -> Result<bool> {
        let mut active = self.active.write().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        if active.devices[0].device.state()?.rollback.is_some() {
            return Ok(false);
        }
        // One is always left: without any an origin can be unbound, which somebody tries to do.
        let left = rest.inactive.len() + active.devices[1..].len();
        let merge = random.once_in(3) && left > 1;
        let mut choice: Vec<(u32, Shadow)> = rest
            .inactive
            .iter()
            .map(|(&tag, shadow)| (tag, shadow.clone()))
            .collect();
        if !merge {
            choice.extend(active.devices[1..].iter().map(|d| (d.tag, d.shadow())));
        }
        if choice.is_empty() {
            return Ok(false);
        }
        let (tag, shadow) = random.one_of(&choice).clone();
        // Nobody may have the origin open.
        let Active { device, disk, .. } = active.devices.remove(0);
        drop(disk);
        let wait = random.once_in(4);
        let options = match (merge, wait) {
            (false, false) => " -b",
            (false, true) => "",
            (true, false) => " -b -d",
            (true, true) => " -d",
        };
        device.send(&format!("rs {tag}{options}"))?;
        if merge {
            rest.inactive.remove(&tag);
            rest.depths.remove(&tag);
        }
        active.devices.insert(0, Active::new(0, device, &shadow)?);
        Ok(true)
    }

    /// The tables that are printed are loaded again, with I/O under way, with a policy that may be
    /// another.
    pub(super) fn reload_tables(&self, random: &mut Random) -> Result<()> {
        let active = self.active.read().expect("no panic");
        for device in &active.devices {
            let printed = device.device.table()?;
            let line = printed.split(" -e ").next().unwrap_or_default();
            let policy = *random.one_of(&["", " -e invalidate", " -e error", " -e queue"]);
            let table = Table::new(SECTORS, TARGET, format!("{line}{policy}"));
            let how = *random.one_of(&[Suspend::Orderly, Suspend::NoFlush]);
            device
                .device
                .replace(how, &table)
                .with_context(|| format!("load {} again", device.name()))?;
        }
        Ok(())
    }

    /// A device is suspended for a moment, with I/O under way; sometimes a table that was loaded
    /// meanwhile is thrown away again.
    pub(super) fn pause(&self, random: &mut Random) -> Result<()> {
        let active = self.active.read().expect("no panic");
        let active = random.one_of(&active.devices);
        let how = *random.one_of(&[Suspend::Orderly, Suspend::NoFlush]);
        active.device.suspend(how).context("suspend")?;
        sleep(Duration::from_millis(random.pick(1..40)));
        if random.once_in(3) {
            let table = Table::new(SECTORS, TARGET, active.device.table()?);
            active.device.load(&table).context("load")?;
            active.device.clear().context("clear")?;
        }
        active.device.resume().context("resume")
    }

    /// All devices go and come again, perhaps after an error target took the place of each.
    pub(super) fn recreate(&self, killed: bool) -> Result<()> {
        let mut active = self.active.write().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        for device in active.devices.iter().filter(|_| killed) {
            let name = device.name();
            device
                .device
                .kill()
                .with_context(|| format!("kill {name}"))?;
        }
        let origin = self.put_away(&mut active, &mut rest)?;
        self.wake(&mut active, &origin)
    }

    /// Back to a snapshot when the origin's device is made anew, which is then done.
    pub(super) fn roll_back_later(&self, random: &mut Random) -> Result<bool> {
        let mut active = self.active.write().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        let origin = &active.devices[0].device;
        let tags: Vec<u32> = rest.inactive.keys().copied().collect();
        if tags.is_empty() || origin.state()?.rollback.is_some() {
            return Ok(false);
        }
        let tag = *random.one_of(&tags);
        // As for one that begins at once.
        let left = tags.len() + active.devices[1..].len();
        let merge = random.once_in(3) && left > 1;
        let options = if merge { " -d" } else { "" };
        origin.send(&format!("rs {tag} -l{options}"))?;
        self.put_away(&mut active, &mut rest)?;
        let shadow = rest.inactive[&tag].clone();
        if merge {
            rest.inactive.remove(&tag);
            rest.depths.remove(&tag);
        }
        self.wake(&mut active, &shadow)?;
        Ok(true)
    }
}
