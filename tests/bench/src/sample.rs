// SPDX-License-Identifier: GPL-2.0

//! One figure, measured once.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is measured; ordered as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Random reads of 4 KiB of the origin.
    Read,
    /// Random writes of 4 KiB, of what is preserved already.
    Rewrite,
    /// Sequential writes of 1 MiB, of what is preserved already.
    RewriteLong,
    /// Random writes of 4 KiB, each the first one there since the last snapshot.
    First,
    /// The same with chunks of 64 KiB.
    FirstLarge,
    /// Sequential writes of 1 MiB, each the first one there.
    FirstLong,
    /// Random reads of 4 KiB of the newest snapshot.
    SnapshotRead,
    /// The same of the oldest one.
    OldestRead,
    /// Random writes of 4 KiB of a snapshot, each the first one there.
    SnapshotWrite,
    /// Taking a snapshot, nothing else going on.
    Take,
    /// Taking a snapshot of an origin that is being written.
    TakeLoaded,
    /// Deleting a snapshot: until the command is back.
    Delete,
    /// Random writes of 4 KiB, of what is preserved, while deleted snapshots are cleaned away.
    RewriteCleaning,
    /// Rolling back.
    Rollback,
    /// Activating a store with few exceptions.
    ActivateFew,
    /// Activating a store with many exceptions.
    ActivateMany,
    /// The memory that is held after that, but for what is given up when memory is short.
    HoldMany,
}

impl Work {
    /// As it is shown.
    pub fn title(self) -> &'static str {
        match self {
            Self::Read => "read, random 4 KiB",
            Self::Rewrite => "rewrite, random 4 KiB",
            Self::RewriteLong => "rewrite, sequential 1 MiB",
            Self::First => "first write, random 4 KiB",
            Self::FirstLarge => "first write, random 4 KiB, chunks of 64 KiB",
            Self::FirstLong => "first write, sequential 1 MiB",
            Self::SnapshotRead => "snapshot read, random 4 KiB, newest",
            Self::OldestRead => "snapshot read, random 4 KiB, oldest",
            Self::SnapshotWrite => "snapshot first write, random 4 KiB",
            Self::Take => "take a snapshot",
            Self::TakeLoaded => "take a snapshot while writing",
            Self::Delete => "delete a snapshot",
            Self::RewriteCleaning => "rewrite, random 4 KiB, while cleaning",
            Self::Rollback => "rollback",
            Self::ActivateFew => "activate, 10 thousand exceptions",
            Self::ActivateMany => "activate, many exceptions",
            Self::HoldMany => "memory then",
        }
    }

    /// What its values are.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Take | Self::TakeLoaded | Self::Delete => "µs",
            Self::ActivateFew | Self::ActivateMany => "µs",
            Self::HoldMany => "MiB",
            _ => "MB/s",
        }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Peer {
    /// This target.
    #[serde(rename = "dm-snap-mv")]
    Ours,
    /// What device-mapper costs by itself.
    #[serde(rename = "dm-linear")]
    Linear,
    /// `snapshot-origin` and `snapshot`.
    #[serde(rename = "dm-snapshot")]
    Snapshot,
    /// `thin-pool` and `thin`.
    #[serde(rename = "dm-thin")]
    Thin,
    /// Copying with dd.
    #[serde(rename = "dd")]
    Dd,
}

impl Peer {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "dm-snap-mv",
            Self::Linear => "dm-linear",
            Self::Snapshot => "dm-snapshot",
            Self::Thin => "dm-thin",
            Self::Dd => "dd",
        }
    }
}

/// What was measured, but for how it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// Latency of the devices, in microseconds.
    pub latency: u32,
    /// The work.
    pub work: Work,
    /// Who does it.
    pub peer: Peer,
    /// How many snapshots there are.
    pub snapshots: u32,
    /// How many writers, each with 16 requests at a time.
    pub jobs: u32,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} µs: {}, {}, {} snapshots, {} jobs",
            self.latency,
            self.work.title(),
            self.peer.name(),
            self.snapshots,
            self.jobs
        )
    }
}

/// One figure.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// What was measured.
    #[serde(flatten)]
    pub setting: Setting,
    /// Which time.
    pub round: u32,
    /// In the unit of the work.
    pub value: f64,
}
