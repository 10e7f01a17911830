// SPDX-License-Identifier: GPL-2.0

//! The timelines that a version's content is spread over.

use super::disk::origin_row::OriginRow;
use super::ids::{Epoch, OriginNr, Tag, TimelineId};
use super::records::Metadata;
use super::refusal::Refusal;

/// How deeply snapshots can be nested: a snapshot of the origin has depth 1.
pub const MAX_DEPTH: usize = 64;

/// A snapshot's timeline, then the one it is based on, and so on to the origin's.
///
/// It changes only when the snapshot goes, so that it can be kept for as long as that is in use. Of
/// about 0.5 KiB: pass it by reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    origin: OriginNr,
    /// Tags of the snapshots, the first one first, and the epoch at which each is read.
    levels: [(u32, Epoch); MAX_DEPTH],
    /// How many of these there are: at least one.
    depth: usize,
    /// The epoch at which the origin's timeline is read.
    base: Epoch,
}

impl Chain {
    /// The chain of snapshot `tag` as it is now; also of a ghost. [`Refusal::UnknownTag`] when
    /// there is no such snapshot, [`Refusal::Corrupt`] when a link is missing.
    pub fn of_snapshot<M: Metadata>(
        m: &M,
        origin: &OriginRow,
        tag: Tag,
    ) -> Result<Chain, M::Error> {
        let mut chain = Chain {
            origin: origin.number,
            levels: [(0, Epoch::MAX); MAX_DEPTH],
            depth: 0,
            base: Epoch::MAX,
        };
        let mut missing = Refusal::UnknownTag;
        let mut next = Some(tag);
        while let Some(tag) = next {
            let row = m.snapshot(origin.timeline_of(tag))?.ok_or(missing)?;
            let level = chain.levels.get_mut(chain.depth).ok_or(Refusal::Corrupt)?;
            *level = (tag.get(), chain.base);
            chain.depth += 1;
            chain.base = row.base_epoch;
            missing = Refusal::Corrupt;
            next = row.parent;
        }
        Ok(chain)
    }

    /// The chain of the same snapshot as it was at the end of `epoch`.
    pub fn at_epoch(mut self, epoch: Epoch) -> Chain {
        if let Some(level) = self.levels.first_mut() {
            level.1 = epoch;
        }
        self
    }

    /// How deeply the snapshot is nested: 1 for a snapshot of the origin.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The snapshots' timelines and the epochs at which they are read, the first one first.
    pub fn snapshots(&self) -> impl DoubleEndedIterator<Item = (TimelineId, Epoch)> + '_ {
        let levels = self.levels.get(..self.depth).unwrap_or_default();
        levels
            .iter()
            .map(|&(tag, epoch)| (TimelineId::of(self.origin, Tag::new(tag)), epoch))
    }

    /// The origin's timeline and the epoch at which it is read.
    pub fn origin(&self) -> (TimelineId, Epoch) {
        (TimelineId::of_origin(self.origin), self.base)
    }
}
