// SPDX-License-Identifier: GPL-2.0

//! Damage that can be repaired.

use anyhow::Result;
use dm_snap_mv_check::Kind;
use dm_snap_mv_store::space::Root;

use crate::damage::{Patient, INDEX, NODE};

/// A kind of damage: its name, a kind of what is found, what it does.
pub type Damage = (&'static str, Kind, fn(&Patient) -> Result<()>);

/// All of them.
pub const DAMAGE: &[Damage] = &[
    (
        "chunks in use are marked as free",
        Kind::DataSpace,
        |patient| patient.set_counts(patient.data_bitmap()?, 0, &[0; 500]),
    ),
    ("chunks are marked as used", Kind::LeakedChunk, |patient| {
        patient.set_counts(patient.data_bitmap()?, 1000, &[0xaa; 50])
    }),
    (
        "a bitmap of the data is damaged",
        Kind::DataSpace,
        |patient| patient.edit(patient.data_bitmap()?, None, |block| block[77] ^= 0x10),
    ),
    (
        "a bitmap's block is another's",
        Kind::DataSpace,
        |patient| {
            let index = patient.first_leaf(patient.data_root()?.index)?;
            let records = patient.superblock()?.roots.records;
            let at = patient.value_at(index, 0)?;
            patient.edit(index, Some(NODE), |block| {
                block[at..at + 8].copy_from_slice(&records.to_le_bytes());
            })
        },
    ),
    (
        "the data space map counts wrongly",
        Kind::DataSpace,
        |patient| {
            let mut root = patient.data_root()?;
            root.allocated += 5;
            patient.set_superblock(|superblock| root.encode(&mut superblock.data_space))
        },
    ),
    ("the data space map is gone", Kind::DataSpace, |patient| {
        let root = Root::default();
        patient.set_superblock(|superblock| root.encode(&mut superblock.data_space))
    }),
    (
        "metadata blocks in use are marked as free",
        Kind::MetadataSpace,
        |patient| patient.set_counts(patient.metadata_bitmap()?, 0, &[0; 4]),
    ),
    (
        "metadata blocks are marked as used",
        Kind::LeakedBlock,
        |patient| patient.set_counts(patient.metadata_bitmap()?, 225, &[0xaa; 20]),
    ),
    (
        "a bitmap of the metadata is damaged",
        Kind::MetadataSpace,
        |patient| patient.edit(patient.metadata_bitmap()?, None, |block| block[300] ^= 1),
    ),
    (
        "the index of the metadata is damaged",
        Kind::MetadataSpace,
        |patient| {
            let index = patient.metadata_root()?.index;
            patient.edit(index, Some(INDEX), |block| block[16..32].fill(0xff))
        },
    ),
    ("identities are gone", Kind::Identity, |patient| {
        let root = patient.superblock()?.roots.origin_ids;
        patient.edit(root, None, |block| block.fill(0))
    }),
    ("a check is said to be needed", Kind::Flag, |patient| {
        patient.set_superblock(|superblock| superblock.needs_check = true)
    }),
];

/// Rows count less than there is: a snapshot its children, and an origin its snapshots.
pub fn miscount(patient: &Patient) -> Result<()> {
    let leaf = patient.first_leaf(patient.superblock()?.roots.snapshots)?;
    let at = patient.value_at(leaf, 0)?;
    patient.edit(leaf, Some(NODE), |block| block[at + 20..at + 24].fill(0))?;
    let leaf = patient.first_leaf(patient.superblock()?.roots.origins)?;
    let at = patient.value_at(leaf, 0)?;
    patient.edit(leaf, Some(NODE), |block| {
        block[at + 24..at + 28].fill(0);
    })
}
