// SPDX-License-Identifier: GPL-2.0
//! Who else has blocks of a device, by whatever way to them.
//!
//! The kernel's claims are on devices: it refuses who comes for a disk that is mounted. Of two mappings
//! of the same sectors it knows nothing, nor of what a loop device lies on.

use crate::devno::Devno;
use crate::dm::users;
use crate::failure::{Failure, Kind};
use crate::loops::Behind;
use crate::stack::{overlap, Extent, Stack};

/// What somebody does with a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is a loop device, which may be written at any time.
    Loop,
    /// A file system is mounted from it, there.
    Mounted(String),
    /// It is swap space.
    Swap,
    /// It is the origin device of that device.
    Origin(String),
    /// It is the COW device of that device.
    Cow(String),
}

/// A device that somebody uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Its number.
    pub device: Devno,
    /// What people call it.
    pub name: String,
    /// For what.
    pub what: What,
}

impl Use {
    /// What is said of a device that has something in common with it, behind "is in use: it ".
    pub fn phrase(&self) -> String {
        let name = &self.name;
        let shares = format!("has blocks in common with {name}");
        match &self.what {
            What::Loop => format!("has blocks in common with the loop device {name}"),
            What::Mounted(place) => format!("{shares}, which is mounted on {place}"),
            What::Swap => format!("{shares}, which is used as swap space"),
            What::Origin(by) => format!("{shares}, which is the origin device of {by}"),
            What::Cow(by) => format!("{shares}, which is the COW device of {by}"),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match &self.what {
            What::Loop => format!("detach it first: losetup -d /dev/{}", self.name),
            What::Mounted(place) => format!("umount {place}"),
            What::Swap => format!("swapoff /dev/{}", self.name),
            What::Origin(by) | What::Cow(by) => format!("dms remove {by}"),
        }
    }

    /// The failure of who wanted the device or file that is called so.
    pub fn failure(&self, wanted: &str) -> Failure {
        let what = format!("{wanted} is in use: it {}", self.phrase());
        Failure::new(Kind::Busy, what).hint(self.hint())
    }
}

/// All devices that somebody uses; loop devices first.
fn uses(stack: &Stack<'_>) -> Vec<Use> {
    let named = |device: Devno, what: What| Use {
        device,
        name: stack.sysfs().short_name(device),
        what,
    };
    let mut uses: Vec<_> = stack
        .loops()
        .iter()
        .map(|attached| named(attached.devno, What::Loop))
        .collect();
    let mounted = users::mounted().into_iter();
    uses.extend(mounted.map(|(dev, place)| named(dev, What::Mounted(place))));
    let swapping = users::swapping().into_iter();
    uses.extend(swapping.map(|dev| named(dev, What::Swap)));
    let mut roles: Vec<_> = stack.tables().filter_map(|table| table.ours()).collect();
    roles.sort_by(|a, b| a.name.cmp(&b.name));
    for ours in roles {
        uses.push(named(ours.line.origin, What::Origin(ours.name.clone())));
        uses.push(named(ours.line.cow, What::Cow(ours.name)));
    }
    uses
}

/// Who has blocks of a device or file, past that itself: it may be below what was asked for, above it, or
/// beside it. What the device itself is used for is not told, nor loop devices that it lies on.
pub fn with(stack: &Stack<'_>, of: Behind) -> Option<Use> {
    let own = stack.extents(of);
    let lies_on = |dev: Devno| own.iter().any(|part| part.of == Behind::Device(dev));
    uses(stack).into_iter().find(|by| {
        Behind::Device(by.device) != of
            && !(by.what == What::Loop && lies_on(by.device))
            && overlap(&own, &stack.extents(Behind::Device(by.device)))
    })
}

/// Whether two devices have something in common.
pub fn in_common(stack: &Stack<'_>, one: Devno, other: Devno) -> bool {
    let extents = |dev| -> Vec<Extent> { stack.extents(Behind::Device(dev)) };
    one != other && overlap(&extents(one), &extents(other))
}
