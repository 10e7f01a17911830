// SPDX-License-Identifier: GPL-2.0

//! The subjects.

mod badinput;
mod bookmarks;
mod check;
mod concurrency;
mod consistency;
mod crash;
mod full;
mod hostile;
mod iocounts;
mod ioerrors;
mod memory;
pub mod messages;
mod origin;
mod powercut;
mod race;
mod recovery;
mod replay;
mod roles;
mod rollback;
mod scale;
mod snapshots;
mod stalls;
mod stress;

use crate::disks::Disks;
use crate::report::Subject;

/// What runs a subject's cases.
pub type Run = fn(&mut Subject, &Disks);

/// All subjects by name.
pub const SUBJECTS: &[(&str, Run)] = &[
    ("origin", origin::run),
    ("snapshots", snapshots::run),
    ("race", race::run),
    ("consistency", consistency::run),
    ("messages", messages::run),
    ("badinput", badinput::run),
    ("bookmarks", bookmarks::run),
    ("roles", roles::run),
    ("hostile", hostile::run),
    ("rollback", rollback::run),
    ("concurrency", concurrency::run),
    ("stalls", stalls::run),
    ("full", full::run),
    ("minute", full::minute),
    ("iocounts", iocounts::run),
    ("ioerrors", ioerrors::run),
    ("recovery", recovery::run),
    ("scale", scale::run),
    ("powercut", powercut::run),
    ("check", check::run),
    ("replay", replay::run),
    ("crash-before", crash::before),
    ("crash-after", crash::after),
    ("stress", stress::run),
    ("memory", memory::run),
];
