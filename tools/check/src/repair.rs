// SPDX-License-Identifier: GPL-2.0
//! Repairs what can be made anew of what else there is: space maps, counts in rows of what others
//! know of, the way from identities to origins, flags. What contradicts that something is missing is
//! evidence, which is given up only when that is asked for.
//!
//! It works as the kernel's transactions do. All new blocks go where nothing is, neither of what
//! is kept nor of what is replaced; when they are on stable storage, the superblock leads to them.
//! Until then the store is as it was.

use crate::backup::{self, Backup};
use crate::build::{self, Entry};
use crate::facts::{Facts, OriginFacts, SnapshotFacts};
use crate::fold::{self, changed};
use crate::journal::Changes;
use crate::reached::Reached;
use crate::report::{Kind, Outcome, Report, Watch};
use crate::room::Room;
use crate::seen::Seen;
use crate::{examine, Examined, Options};
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::layout::{BLOCK_SECTORS, METADATA_MAX};
use dm_snap_mv_model::disk::origin_ids;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::disk::superblock::{Superblock, SPACE_MAP_ROOT_SIZE};
use dm_snap_mv_model::ids::TimelineId;
use dm_snap_mv_store::space::Root;
use dm_snap_mv_store::{Block, Blocks, WritableBlocks};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// What is done in a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// What the journal may say behind a block that cannot be read is given up.
    JournalEnd,
    /// The changes that the journal holds are made in the trees. They would undo what is done to
    /// rows else.
    Journal,
    /// The counts in rows of origins and snapshots are set right.
    Counts,
    /// The tree of identities is made of the rows of origins.
    Identities,
    /// Garbage that nothing would remove is left to be cleaned.
    Cleaning,
    /// The data space map is made of the records.
    DataSpace,
    /// The metadata space map is made of what is reachable.
    MetadataSpace,
    /// The flags of the superblock are set right.
    Flags,
    /// The superblock is brought back from its backup, as it was.
    Superblock,
}

impl Step {
    /// What is done, in words.
    pub const fn text(self) -> &'static str {
        match self {
            Step::JournalEnd => {
                "give up the end of the journal: what was changed last may be lost for good, and \
                 snapshots be wrong for it"
            }
            Step::Journal => "make the changes that are in the journal",
            Step::Counts => "set the counts of origins, snapshots and chunks right",
            Step::Identities => "make the tree of identities anew",
            Step::Cleaning => "have garbage removed in the background",
            Step::DataSpace => "make the data space map anew, and free leaked chunks",
            Step::MetadataSpace => "make the metadata space map anew, and free leaked blocks",
            Step::Flags => "mark the store as checked",
            Step::Superblock => "bring the superblock back from its backup",
        }
    }
}

/// A repair that is possible.
pub struct Plan {
    pub(crate) superblock: Superblock,
    facts: Facts,
    pub(crate) reached: Reached,
    changes: Changes,
    sectors: u64,
    /// What there was when the check began.
    seen: Seen,
    steps: BTreeSet<Step>,
    /// There is something in the journal that stays there.
    journaled: bool,
}

/// What the administrator asks for beyond what a repair does by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What is missing is given up: counts are set to what there is, and what nothing leads to is
    /// freed.
    pub give_up: bool,
    /// Where there is no superblock it is brought back from its backup, over whatever is there.
    pub superblock: bool,
}

/// As [`plan_for`], without anything beyond what takes no guessing.
pub fn plan(blocks: &dyn Blocks, sectors: u64, watch: &mut dyn Watch) -> (Report, Option<Plan>) {
    plan_for(blocks, sectors, Wanted::default(), watch)
}

/// Checks a store, and says how what is wrong can be repaired. There is no plan if nothing needs
/// to be done, or if not all of what is wrong can be repaired.
pub fn plan_for(
    blocks: &dyn Blocks,
    sectors: u64,
    wanted: Wanted,
    watch: &mut dyn Watch,
) -> (Report, Option<Plan>) {
    let before = Seen::of(blocks);
    let (mut report, examined) = examine(blocks, sectors, Options::default(), watch);
    if before.is_still(blocks).is_err() {
        report.outcome = Outcome::InUse;
        return (report, None);
    }
    report.look_instead(blocks);
    if report.has_lost_superblock() {
        let found = backup::search(blocks, sectors, wanted.superblock, watch);
        report.found = found;
        let plan = report
            .found
            .as_ref()
            .filter(|found| wanted.superblock && found.errors == 0)
            .map(|found| Plan::bring_back(found, sectors, before));
        return (report, plan);
    }
    let steps = steps(&report, wanted);
    let plan = match (examined, &report.superblock) {
        (Some(examined), Some(superblock)) if !steps.is_empty() => {
            let Examined {
                facts,
                reached,
                changes,
            } = examined;
            Some(Plan {
                superblock: superblock.clone(),
                facts,
                reached,
                changes,
                sectors,
                seen: before,
                journaled: report.statistics.journaled > 0 && !steps.contains(&Step::Journal),
                steps,
            })
        }
        _ => None,
    };
    (report, plan)
}

fn steps(report: &Report, wanted: Wanted) -> BTreeSet<Step> {
    let mut steps = BTreeSet::new();
    let given_up = wanted.give_up && report.can_be_given_up();
    if !report.is_clean() && !report.is_repairable() && !given_up {
        return steps;
    }
    if given_up && report.count(Kind::Missing) > 0 {
        steps.extend([Step::Counts, Step::DataSpace]);
    }
    for kind in report.counts.keys() {
        steps.extend(match kind {
            Kind::JournalSpace => Some(Step::Journal),
            Kind::JournalEnd => Some(Step::JournalEnd),
            Kind::Count => Some(Step::Counts),
            Kind::Identity => Some(Step::Identities),
            Kind::Garbage => Some(Step::Cleaning),
            Kind::DataSpace | Kind::LeakedChunk => Some(Step::DataSpace),
            Kind::MetadataSpace | Kind::LeakedBlock => Some(Step::MetadataSpace),
            _ => None,
        });
    }
    let rows = [
        Step::JournalEnd,
        Step::Journal,
        Step::Counts,
        Step::Cleaning,
    ];
    let rows = rows.iter().any(|step| steps.contains(step));
    if rows && report.statistics.journaled > 0 {
        // With the COW chunks that come into use by that.
        steps.extend([Step::Journal, Step::DataSpace]);
    }
    if steps
        .iter()
        .any(|&step| Step::JournalEnd < step && step < Step::MetadataSpace)
    {
        // It takes new blocks.
        steps.insert(Step::MetadataSpace);
    }
    // With something in the journal it is not clean.
    let unclean = report.superblock.as_ref().is_some_and(|s| !s.clean);
    let unclean = unclean && report.statistics.journaled == 0;
    if unclean || report.count(Kind::Flag) > 0 || !steps.is_empty() {
        steps.insert(Step::Flags);
    }
    steps
}

impl Plan {
    /// Has the superblock written that a backup is of.
    fn bring_back(found: &Backup, sectors: u64, seen: Seen) -> Self {
        Self {
            superblock: found.superblock.clone(),
            facts: Facts::default(),
            reached: Reached::new(0),
            changes: Changes::default(),
            sectors,
            seen,
            steps: BTreeSet::from([Step::Superblock]),
            journaled: true,
        }
    }

    /// What will be done, in order.
    pub fn steps(&self) -> impl Iterator<Item = Step> + '_ {
        self.steps.iter().copied()
    }

    pub(crate) fn has(&self, step: Step) -> bool {
        self.steps.contains(&step)
    }

    /// Does it, on the device that was checked and has not changed since. If it fails with
    /// [`io::ErrorKind::StorageFull`], or at all before the superblock is written, the store is
    /// as it was.
    pub fn carry_out<D: WritableBlocks>(&self, device: &D) -> io::Result<()> {
        self.seen.is_still(device)?;
        let mut superblock = self.superblock.clone();
        let roots = &mut superblock.roots;
        let mut room = Room::new(self, device);
        if self.has(Step::Journal) {
            roots.records = fold::trees(&mut room, device, roots.records, &self.changes.records)?;
            roots.children =
                fold::trees(&mut room, device, roots.children, &self.changes.children)?;
            roots.done = fold::trees(&mut room, device, roots.done, &self.changes.marks)?;
        }
        if self.has(Step::Counts) || self.has(Step::Journal) {
            let origins = self.origins(device)?;
            roots.origins = build::tree(&mut room, OriginRow::SIZE, &origins)?;
            let snapshots = self.snapshots(device)?;
            roots.snapshots = build::tree(&mut room, SnapshotRow::SIZE, &snapshots)?;
            superblock.nr_origins = u32::try_from(origins.len()).map_err(io::Error::other)?;
        }
        if self.has(Step::Identities) {
            roots.origin_ids = build::tree(&mut room, 8, &self.identities())?;
        }
        if self.has(Step::Cleaning) || self.has(Step::Journal) {
            let rows = self.cleaning();
            roots.cleaning = build::tree(&mut room, CleaningRow::SIZE, &rows)?;
        }
        if self.has(Step::DataSpace) {
            let chunks = superblock.layout.data_chunks;
            let made = self.has(Step::Journal);
            let used = |chunk| {
                self.facts.chunks.contains(chunk) || (made && self.changes.used.contains(chunk))
            };
            let root = build::data_map(&mut room, chunks, &used)?;
            superblock.data_space = encoded(root);
        }
        if self.has(Step::MetadataSpace) {
            let root = build::metadata_map(&mut room, self.metadata_blocks())?;
            superblock.metadata_space = encoded(root);
        }
        if self.has(Step::Superblock) {
            return self.write(device, &superblock);
        }
        superblock.needs_check = false;
        superblock.cow_full = false;
        // The journal belongs to a transaction: what it adds to the trees it adds to the repaired
        // ones.
        superblock.clean = !self.journaled;
        if !self.journaled {
            superblock.transaction = superblock.transaction.wrapping_add(1);
        }

        self.write(device, &superblock)
    }

    /// Makes all that was written before valid.
    fn write<D: WritableBlocks>(&self, device: &D, superblock: &Superblock) -> io::Result<()> {
        let mut block = Block::zeroed();
        superblock.encode(&mut block.0);
        Superblock::seal(&mut block.0, crate::superblock::sum);
        device.flush()?;
        // By now something has been written, where nothing was.
        self.seen.is_still(device).map_err(io::Error::other)?;
        device.write(0, &block)?;
        device.flush()?;
        // From here on it is repaired, whatever becomes of the backup.
        if let Some(number) = superblock.backup() {
            superblock.encode_at(&mut block.0, number);
            Superblock::seal(&mut block.0, crate::superblock::sum);
            let _ = device.write(number, &block).and_then(|()| device.flush());
        }
        Ok(())
    }

    /// How many blocks the metadata space map is for: as many as it was, if that could be.
    fn metadata_blocks(&self) -> u64 {
        let said = Root::decode(&self.superblock.metadata_space).blocks;
        let most = (self.sectors / BLOCK_SECTORS).min(METADATA_MAX);
        match said {
            blocks if blocks >= self.superblock.layout.metadata_blocks && blocks <= most => blocks,
            _ => most,
        }
    }

    fn origins(&self, device: &dyn Blocks) -> io::Result<Vec<Entry>> {
        let root = self.superblock.roots.origins;
        // If there are changes, they are made.
        let mut rows = fold::rows(device, root, OriginRow::SIZE, &self.changes.origins)?;
        for (key, value) in &mut rows {
            let place: &mut [u8; OriginRow::SIZE] = array(value)?;
            let mut row = OriginRow::decode(place).map_err(changed)?;
            let found = self.facts.origin(row.number);
            let found: &OriginFacts = found.ok_or_else(|| changed(*key))?;
            (row.snapshots, row.ghosts) = (found.snapshots, found.ghosts);
            row.bookmarks = found.bookmarks;
            row.chunks = found.chunks;
            row.encode(place);
        }
        Ok(rows)
    }

    fn snapshots(&self, device: &dyn Blocks) -> io::Result<Vec<Entry>> {
        let root = self.superblock.roots.snapshots;
        let mut rows = fold::rows(device, root, SnapshotRow::SIZE, &self.changes.snapshots)?;
        for (key, value) in &mut rows {
            let place: &mut [u8; SnapshotRow::SIZE] = array(value)?;
            let mut row = SnapshotRow::decode(place).map_err(changed)?;
            let found = TimelineId::new(*key).and_then(|t| self.facts.snapshot(t));
            let found: &SnapshotFacts = found.ok_or_else(|| changed(*key))?;
            (row.children, row.chunks) = (found.found_children, found.found_chunks);
            row.encode(place);
        }
        Ok(rows)
    }

    fn identities(&self) -> Vec<Entry> {
        let mut all = BTreeMap::new();
        for origin in &self.facts.origins {
            let crc = crc32c::crc32c(origin.row.id.as_bytes());
            let (first, last) = origin_ids::keys(crc);
            if let Some(key) = (first..=last).find(|key| !all.contains_key(key)) {
                let number = u64::from(origin.row.number.get());
                all.insert(key, number.to_le_bytes().to_vec());
            }
        }
        all.into_iter().collect()
    }

    /// As the module does when something is deleted.
    fn cleaning(&self) -> Vec<Entry> {
        let mut all: BTreeMap<TimelineId, CleaningRow> =
            self.facts.cleaning.iter().copied().collect();
        for &t in &self.facts.lost {
            let row = all.entry(t).or_default();
            row.again |= row.cursor > 0;
        }
        let encoded = |row: &CleaningRow| {
            let mut bytes = [0; CleaningRow::SIZE];
            row.encode(&mut bytes);
            bytes.to_vec()
        };
        all.iter().map(|(t, row)| (t.get(), encoded(row))).collect()
    }
}

fn array<const N: usize>(value: &mut [u8]) -> io::Result<&mut [u8; N]> {
    value.try_into().map_err(changed)
}

fn encoded(root: Root) -> [u8; SPACE_MAP_ROOT_SIZE] {
    let mut bytes = [0; SPACE_MAP_ROOT_SIZE];
    root.encode(&mut bytes);
    bytes
}
