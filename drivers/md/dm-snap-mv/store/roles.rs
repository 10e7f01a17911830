// SPDX-License-Identifier: GPL-2.0

//! What block devices are to the stores that are in use: one thing at a time.
//!
//! A device that two origins had, or that was an origin and a COW device, would be written by both, and
//! the snapshots of the one be wrong without a word. Device-mapper's claim does not keep them apart, nor
//! from LVM's or anybody's mappings: it is one claim for all of its tables. So it is noted here what a
//! device is, from before the first thing is read from it until its last table goes, and who comes first
//! for something looks at who has it.
//!
//! Process context; what looks at devices sleeps, and holds no lock of this module while it does.

use super::error::{Result, StoreError};
use crate::dm::block_device::{BlockDevice, BlockName, Dev};
use crate::dm::global::Global;
use crate::dm::stack::{self, MappedName};
use crate::model::refusal::Refusal;
use kernel::fmt;
use kernel::prelude::*;
use kernel::str::BStr;

/// What a device is.
enum Role {
    /// The COW device of a store.
    Cow {
        /// The UUID of that store, as soon as it is known.
        uuid: Option<[u8; 16]>,
    },
    /// An origin.
    Origin {
        /// As what its store knows it.
        id: KVec<u8>,
        /// The COW device of that store.
        cow: Dev,
        /// What that is called.
        cow_name: BlockName,
    },
}

impl Role {
    /// Whether it is one role.
    fn is(&self, other: &Role) -> bool {
        match (self, other) {
            (Role::Cow { .. }, Role::Cow { .. }) => true,
            (
                Role::Origin { id, cow, .. },
                Role::Origin {
                    id: other_id,
                    cow: other_cow,
                    ..
                },
            ) => cow == other_cow && id[..] == other_id[..],
            _ => false,
        }
    }

    /// Which of two refusals is meant.
    fn choose(&self, origin: Refusal, cow: Refusal) -> Refusal {
        match self {
            Role::Cow { .. } => cow,
            Role::Origin { .. } => origin,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Cow { .. } => f.write_str("the COW device of a store"),
            Role::Origin { id, cow_name, .. } => {
                f.write_str("origin ")?;
                fmt::Display::fmt(BStr::from_bytes(id), f)?;
                f.write_str(" of the store on ")?;
                fmt::Display::fmt(cow_name, f)
            }
        }
    }
}

/// A device with a role.
struct Entry {
    dev: Dev,
    name: BlockName,
    role: Role,
    /// Tables that use it as that, or are about to.
    users: usize,
    /// It was seen that nobody else has it.
    looked_at: bool,
}

/// All of them: a handful, so they are searched from the beginning.
struct Known(KVec<Entry>);

static KNOWN: Global<Known> = Global::new(Known(KVec::new()));

impl Known {
    fn entry(&self, dev: Dev) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.dev == dev)
    }

    fn entry_mut(&mut self, dev: Dev) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| entry.dev == dev)
    }
}

/// One table's share in what a device is.
pub(crate) struct Claim {
    dev: Dev,
    /// The mapped device that the table is for, as the kernel's log names it.
    by: Dev,
}

impl Claim {
    /// Claims an open device as COW device, for a table of the mapped device `by`.
    ///
    /// # Errors
    ///
    /// [`Refusal::CowIsOrigin`], [`Refusal::CowMapped`], [`Refusal::CowOverlaps`],
    /// [`Refusal::CowReadOnly`]: the log says who has it. `ENOMEM`.
    pub(crate) fn cow(by: Dev, device: &BlockDevice) -> Result<Self> {
        Self::new(by, device, Role::Cow { uuid: None })
    }

    /// Claims an open device as the origin `id` of the store on `cow`, as [`Claim::cow`] does.
    ///
    /// # Errors
    ///
    /// [`Refusal::OriginIsCow`], [`Refusal::OriginIsOrigin`], [`Refusal::OriginMapped`],
    /// [`Refusal::OriginOverlaps`], [`Refusal::OriginReadOnly`]; `ENOMEM`.
    pub(crate) fn origin(
        by: Dev,
        device: &BlockDevice,
        id: &[u8],
        cow: &BlockDevice,
    ) -> Result<Self> {
        let mut own = KVec::new();
        own.extend_from_slice(id, GFP_KERNEL)?;
        let role = Role::Origin {
            id: own,
            cow: cow.dev(),
            cow_name: cow.name(),
        };
        Self::new(by, device, role)
    }

    /// The mapped device that the table is for.
    pub(super) fn by(&self) -> Dev {
        self.by
    }

    fn new(by: Dev, device: &BlockDevice, role: Role) -> Result<Self> {
        let dev = device.dev();
        let mut known = KNOWN.lock();
        let looked_at = match known.entry_mut(dev) {
            Some(entry) if entry.role.is(&role) => {
                entry.users += 1;
                entry.looked_at
            }
            Some(entry) => {
                pr_err!("{}: {} is {}\n", by, entry.name, entry.role);
                let an_origin = role.choose(Refusal::OriginIsOrigin, Refusal::CowIsOrigin);
                return Err(entry.role.choose(an_origin, Refusal::OriginIsCow).into());
            }
            None => {
                let entry = Entry {
                    dev,
                    name: device.name(),
                    role,
                    users: 1,
                    looked_at: false,
                };
                known.0.push(entry, GFP_KERNEL)?;
                false
            }
        };
        drop(known);
        let claim = Self { dev, by };
        if !looked_at {
            claim.look(device)?;
        }
        Ok(claim)
    }

    /// Looks whether anybody else has the device, or something that it is a piece of. Others who come
    /// for that in the meantime see the claim.
    fn look(&self, device: &BlockDevice) -> Result<()> {
        if let Some(holder) = stranger_above(device)? {
            holder.tell(self.by, device);
            return Err(self
                .choose(Refusal::OriginMapped, Refusal::CowMapped)
                .into());
        }
        stack::look_below(device, |below| self.look_at(device, below))?;
        if let Some(entry) = KNOWN.lock().entry_mut(self.dev) {
            entry.looked_at = true;
        }
        Ok(())
    }

    /// Looks at what `device` lies on, or at itself. Returns whether what is below that matters, too.
    fn look_at(&self, device: &BlockDevice, below: &BlockDevice) -> Result<bool> {
        let is_itself = below.is_same(device);
        if below.read_only() {
            match is_itself {
                true => pr_err!("{}: {} is read-only\n", self.by, device.name()),
                false => pr_err!(
                    "{}: {} lies on {}, which is read-only\n",
                    self.by,
                    device.name(),
                    below.name()
                ),
            }
            return Err(self
                .choose(Refusal::OriginReadOnly, Refusal::CowReadOnly)
                .into());
        }
        if stack::is_own(below.dev()) {
            // What it shows is something of its own, wherever that is kept.
            return Ok(false);
        }
        let known = KNOWN.lock();
        match known.entry(below.dev()).filter(|_| !is_itself) {
            None => Ok(true),
            Some(entry) => {
                pr_err!(
                    "{}: {} lies on {}, which is {}\n",
                    self.by,
                    device.name(),
                    entry.name,
                    entry.role
                );
                drop(known);
                Err(self
                    .choose(Refusal::OriginOverlaps, Refusal::CowOverlaps)
                    .into())
            }
        }
    }

    /// Which of two refusals is meant.
    fn choose(&self, origin: Refusal, cow: Refusal) -> Refusal {
        match KNOWN.lock().entry(self.dev) {
            Some(entry) => entry.role.choose(origin, cow),
            None => cow,
        }
    }

    /// Notes which store a COW device holds.
    ///
    /// # Errors
    ///
    /// [`Refusal::StoreElsewhere`] when that store is in use on another device: it is the same one by
    /// another way, or a copy of it.
    pub(super) fn holds(&self, store: [u8; 16]) -> Result<()> {
        let mut known = KNOWN.lock();
        let has =
            |entry: &&Entry| matches!(&entry.role, Role::Cow { uuid } if *uuid == Some(store));
        if let Some(entry) = known.0.iter().filter(has).find(|e| e.dev != self.dev) {
            pr_err!("{}: the store is in use on {}\n", self.by, entry.name);
            return Err(Refusal::StoreElsewhere.into());
        }
        if let Some(Entry {
            role: Role::Cow { uuid },
            ..
        }) = known.entry_mut(self.dev)
        {
            *uuid = Some(store);
        }
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut known = KNOWN.lock();
        if let Some(entry) = known.entry_mut(self.dev) {
            entry.users -= 1;
        }
        known.0.retain(|entry| entry.users > 0);
        if known.0.is_empty() {
            known.0 = KVec::new();
        }
    }
}

/// A device above another that is not of this target.
struct Stranger(Dev);

impl Stranger {
    /// Says that it has a device that the mapped device `by` should get.
    fn tell(&self, by: Dev, device: &BlockDevice) {
        match MappedName::of(self.0) {
            Some(name) => pr_err!(
                "{}: {} is in use by {} ({})\n",
                by,
                device.name(),
                name,
                self.0
            ),
            None => pr_err!("{}: {} is in use by {}\n", by, device.name(), self.0),
        }
    }
}

/// A device that lies on this one, and is none of this target's.
fn stranger_above(device: &BlockDevice) -> Result<Option<Stranger>> {
    let holders = stack::holders(device)?;
    let stranger = holders.iter().find(|dev| !stack::is_own(**dev));
    Ok(stranger.map(|dev| Stranger(*dev)))
}

/// Refuses an origin that somebody else has a mapping on, who would see it change: for what writes to it
/// by itself. `by` is the mapped device that it is asked for.
pub(super) fn check_unmapped(by: Dev, origin: &BlockDevice) -> Result<()> {
    match stranger_above(origin)? {
        None => Ok(()),
        Some(stranger) => {
            stranger.tell(by, origin);
            Err(StoreError::Refused(Refusal::OriginMapped))
        }
    }
}
