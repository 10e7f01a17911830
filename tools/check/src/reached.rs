// SPDX-License-Identifier: GPL-2.0
//! What each metadata block belongs to.

use crate::report::Kind;

/// What a metadata block can belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Part {
    Superblock = 1,
    Records,
    Origins,
    Identities,
    Snapshots,
    Children,
    Marks,
    Cleanings,
    Labels,
    DataSpace,
    MetadataSpace,
}

impl Part {
    /// What it is called.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Part::Superblock => "superblock",
            Part::Records => "tree of records",
            Part::Origins => "tree of origins",
            Part::Identities => "tree of identities",
            Part::Snapshots => "tree of snapshots",
            Part::Children => "tree of children",
            Part::Marks => "tree of marks",
            Part::Cleanings => "tree of cleanings",
            Part::Labels => "tree of labels",
            Part::DataSpace => "data space map",
            Part::MetadataSpace => "metadata space map",
        }
    }

    /// What is wrong when its blocks are, if no content is lost with them: it can be made anew of what
    /// else there is, or is of labels.
    pub(crate) const fn damage(self) -> Option<Kind> {
        match self {
            Part::Identities => Some(Kind::Identity),
            // Nothing else leads by way of it, and nothing has it once more.
            Part::Labels => Some(Kind::Label),
            Part::DataSpace => Some(Kind::DataSpace),
            Part::MetadataSpace => Some(Kind::MetadataSpace),
            _ => None,
        }
    }
}

/// Set in addition when more than one thing leads to a block.
const TWICE: u8 = 0x80;

/// A byte for each metadata block.
pub(crate) struct Reached(Vec<u8>);

impl Reached {
    /// Of `blocks` blocks, at most 2^22, none but the superblock has been reached.
    pub(crate) fn new(blocks: u64) -> Self {
        let mut all = vec![0; usize::try_from(blocks).unwrap_or(0)];
        if let Some(first) = all.first_mut() {
            *first = Part::Superblock as u8;
        }
        Self(all)
    }

    /// Notes that `part` leads to block `nr`. Says what is wrong if it may not.
    pub(crate) fn add(&mut self, nr: u64, part: Part) -> Result<(), &'static str> {
        let place = usize::try_from(nr).ok().and_then(|nr| self.0.get_mut(nr));
        match place {
            None => Err("lies outside of the metadata"),
            Some(place) if *place == 0 => {
                *place = part as u8;
                Ok(())
            }
            Some(place) => {
                *place |= TWICE;
                Err(if nr == 0 {
                    "is the superblock"
                } else {
                    "is used twice"
                })
            }
        }
    }

    fn at(&self, nr: u64) -> u8 {
        let place = usize::try_from(nr).ok().and_then(|nr| self.0.get(nr));
        place.copied().unwrap_or(0)
    }

    /// How often something leads to block `nr`, as far as twice.
    pub(crate) fn count(&self, nr: u64) -> u32 {
        match self.at(nr) {
            0 => 0,
            reached => 1 + u32::from(reached & TWICE != 0),
        }
    }

    /// Whether block `nr` belongs to `part`.
    pub(crate) fn is_of(&self, nr: u64, part: Part) -> bool {
        self.at(nr) & !TWICE == part as u8
    }

    /// How many blocks were reached.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().filter(|&&reached| reached != 0).count() as u64
    }
}
