// SPDX-License-Identifier: GPL-2.0
//! What a check finds.

use crate::backup::{Backup, State};
use dm_snap_mv_model::disk::superblock::Superblock;
use dm_snap_mv_model::ids::TimelineId;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_store::{signature, Blocks};
use std::collections::BTreeMap;
use std::fmt;

/// Kinds of what can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The superblock is damaged, or does not fit its device.
    Superblock,
    /// A flag in the superblock is set and need not be.
    Flag,
    /// A block of a tree cannot be read.
    Unreadable,
    /// A block of a tree is damaged, or is where it does not belong.
    Block,
    /// The journal cannot be read, or does not fit the trees.
    Journal,
    /// The journal is in order, but its changes take more metadata blocks than are free.
    JournalSpace,
    /// A block of the journal cannot be read, and may say what was changed last.
    JournalEnd,
    /// A row of an origin contradicts itself or others.
    Origin,
    /// A row of a snapshot contradicts itself or others.
    Snapshot,
    /// A row counts fewer of something than there are, each of which others know of.
    Count,
    /// Something that there was, by what is counted or marked elsewhere, is not there, or is
    /// another's. What it said is not known, so that counts and marks are not wrong, but evidence.
    Missing,
    /// The tree of children and the rows contradict each other.
    Child,
    /// The tree of identities and the rows contradict each other.
    Identity,
    /// A rollback's fields, its pin or its marks are wrong.
    Rollback,
    /// A cleaning row is wrong.
    Cleaning,
    /// A label is damaged, or is of nothing.
    Label,
    /// A record is wrong, or is of nothing.
    Record,
    /// COW chunks that belong to two records.
    SharedChunk,
    /// Records that nothing can find, and that nothing is going to remove: they, or what could find
    /// them, may be from another time.
    Garbage,
    /// The data space map is damaged, or wrong about COW chunks in use.
    DataSpace,
    /// COW chunks that are marked as used, and are not.
    LeakedChunk,
    /// The metadata space map is damaged, or wrong about metadata blocks in use.
    MetadataSpace,
    /// Metadata blocks that are marked as used, and are not.
    LeakedBlock,
}

impl Kind {
    /// All kinds.
    pub const ALL: &'static [Kind] = &[
        Kind::Superblock,
        Kind::Flag,
        Kind::Unreadable,
        Kind::Block,
        Kind::Journal,
        Kind::JournalSpace,
        Kind::JournalEnd,
        Kind::Origin,
        Kind::Snapshot,
        Kind::Count,
        Kind::Missing,
        Kind::Child,
        Kind::Identity,
        Kind::Rollback,
        Kind::Cleaning,
        Kind::Label,
        Kind::Record,
        Kind::SharedChunk,
        Kind::Garbage,
        Kind::DataSpace,
        Kind::LeakedChunk,
        Kind::MetadataSpace,
        Kind::LeakedBlock,
    ];

    /// What it is called where programs read it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Superblock => "superblock",
            Kind::Flag => "flag",
            Kind::Unreadable => "unreadable",
            Kind::Block => "block",
            Kind::Journal => "journal",
            Kind::JournalSpace => "journal-space",
            Kind::JournalEnd => "journal-end",
            Kind::Origin => "origin",
            Kind::Snapshot => "snapshot",
            Kind::Count => "count",
            Kind::Missing => "missing",
            Kind::Child => "child",
            Kind::Identity => "identity",
            Kind::Rollback => "rollback",
            Kind::Cleaning => "cleaning",
            Kind::Label => "label",
            Kind::Record => "record",
            Kind::SharedChunk => "shared-chunk",
            Kind::Garbage => "garbage",
            Kind::DataSpace => "data-space",
            Kind::LeakedChunk => "leaked-chunk",
            Kind::MetadataSpace => "metadata-space",
            Kind::LeakedBlock => "leaked-block",
        }
    }

    /// Whether it is evidence that there was something else, so that to put it right is to give that
    /// up.
    pub const fn is_evidence(self) -> bool {
        matches!(
            self,
            Kind::Count | Kind::Missing | Kind::Garbage | Kind::JournalEnd
        )
    }

    /// Whether it can be put right from what else there is, without guessing.
    pub const fn is_repairable(self) -> bool {
        matches!(
            self,
            Kind::Flag
                | Kind::JournalSpace
                | Kind::Identity
                | Kind::DataSpace
                | Kind::LeakedChunk
                | Kind::MetadataSpace
                | Kind::LeakedBlock
        )
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What sort of thing.
    pub kind: Kind,
    /// In words, without a full stop.
    pub what: String,
    /// The version whose content it concerns. The timeline of an origin stands for the origin
    /// and for all of its snapshots.
    pub concerns: Option<TimelineId>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Who is told while a check goes on.
pub trait Watch {
    /// Something is wrong. Not called any more after very many of one kind.
    fn finding(&mut self, finding: &Finding);

    /// So many of so many metadata blocks have been read; the latter as the store says.
    fn progress(&mut self, done: u64, all: u64) {
        let _ = (done, all);
    }
}

/// Nobody is told: the report says enough.
pub struct Quiet;

impl Watch for Quiet {
    fn finding(&mut self, _: &Finding) {}
}

/// Keeps the findings.
impl Watch for Vec<Finding> {
    fn finding(&mut self, finding: &Finding) {
        self.push(finding.clone());
    }
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The store was looked at.
    Checked,
    /// There is no store, or none that this program can check.
    Refused(Refusal),
    /// The superblock cannot be read.
    Unreadable(String),
    /// It changed while it was looked at, so that what was found means nothing.
    InUse,
}

/// What there is in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Metadata blocks that were reached, the superblock among them.
    pub metadata_blocks: u64,
    /// Origins.
    pub origins: u64,
    /// Snapshots that can be used.
    pub snapshots: u64,
    /// Deleted snapshots that stay for others.
    pub ghosts: u64,
    /// Bookmarks, also of snapshots that stay for others.
    pub bookmarks: u64,
    /// Records.
    pub records: u64,
    /// COW chunks that belong to records.
    pub chunks: u64,
    /// Of these records, those that cleaning is going to remove.
    pub garbage: u64,
    /// Timelines that are being cleaned.
    pub cleaning: u64,
    /// Rollbacks under way.
    pub rollbacks: u64,
    /// Changes in the journal, which are made in what the trees show for all that is above: a row,
    /// a record, a mark, COW chunks one behind the other.
    pub journaled: u64,
}

/// What came of a check.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The superblock, if it can be read.
    pub superblock: Option<Superblock>,
    /// What there is.
    pub statistics: Statistics,
    /// How the backup of the superblock compares with it, if there is to be one.
    pub backup: Option<State>,
    /// Where there is no superblock: a backup of one.
    pub found: Option<Backup>,
    /// Where there is none, nor a damaged one: what else is there, with its article, if that is
    /// known.
    pub instead: Option<&'static str>,
    /// How many findings there are of each kind.
    pub counts: BTreeMap<Kind, u64>,
}

impl Report {
    pub(crate) fn new(outcome: Outcome, superblock: Option<Superblock>) -> Self {
        Self {
            outcome,
            superblock,
            statistics: Statistics::default(),
            backup: None,
            found: None,
            instead: None,
            counts: BTreeMap::new(),
        }
    }

    /// Whether there is no superblock, rather than one of a later version.
    pub(crate) fn has_lost_superblock(&self) -> bool {
        let lost = match self.outcome {
            Outcome::Checked | Outcome::Unreadable(_) => true,
            Outcome::InUse => false,
            Outcome::Refused(refusal) => {
                matches!(refusal, Refusal::NoStore | Refusal::ForeignData)
            }
        };
        lost && self.superblock.is_none()
    }

    /// Looks for what has taken the place of a superblock.
    pub(crate) fn look_instead(&mut self, blocks: &dyn Blocks) {
        if matches!(
            self.outcome,
            Outcome::Refused(Refusal::NoStore | Refusal::ForeignData)
        ) {
            self.instead = signature::of(blocks);
        }
    }

    /// Whether the store was checked and nothing is wrong with it.
    pub fn is_clean(&self) -> bool {
        self.outcome == Outcome::Checked && self.counts.is_empty()
    }

    /// How many findings there are.
    pub fn errors(&self) -> u64 {
        self.counts.values().sum()
    }

    /// How many there are of a kind.
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// Whether something is missing, and all else can be put right when that is given up.
    pub fn can_be_given_up(&self) -> bool {
        self.outcome == Outcome::Checked
            && self.counts.keys().any(|kind| kind.is_evidence())
            && self
                .counts
                .keys()
                .all(|kind| kind.is_repairable() || kind.is_evidence())
    }

    /// Whether there is something wrong, and all of it can be put right.
    pub fn is_repairable(&self) -> bool {
        self.outcome == Outcome::Checked
            && !self.counts.is_empty()
            && self.counts.keys().all(|kind| kind.is_repairable())
    }
}
