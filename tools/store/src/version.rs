// SPDX-License-Identifier: GPL-2.0
//! Where the content of a version is: in which trees to look for it, in which order.

use crate::error::Result;
use crate::layers::Layer;
use crate::live::corrupt;
use crate::store::Store;
use dm_snap_mv_model::chain::MAX_DEPTH;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::ids::{Epoch, Tag};
use dm_snap_mv_model::refusal::Refusal;

/// A version of an origin in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its size in sectors.
    pub sectors: u64,
    /// The first one that answers for a chunk says where that is; if none does, it is on the origin
    /// device.
    pub layers: Vec<Layer>,
}

impl Version {
    /// The snapshot with this tag, or the origin as it is.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownTag`]: there is no such snapshot, or no more. [`Refusal::IsBookmark`]: only a
    /// bookmark of it is left.
    /// [`Refusal::InvalidSnapshot`]: it has lost data. Both must be looked at in each transaction in
    /// which anything of the version is read: it is only as long as it is there that what it finds is
    /// kept.
    pub fn of(store: &Store<'_>, origin: &OriginRow, tag: Option<Tag>) -> Result<Self> {
        let Some(tag) = tag else {
            return Ok(Self {
                sectors: origin.size,
                layers: head(store, origin)?,
            });
        };
        match store.snapshot(origin.number, tag)? {
            Some(row) if row.is_whole() => {
                if origin.is_invalid(tag) {
                    return Err(Refusal::InvalidSnapshot.into());
                }
                let (layers, base) = chain(store, origin, tag, Epoch::MAX)?;
                Self::based(store, origin, &row, layers, base)
            }
            Some(row) if row.bookmark => Err(Refusal::IsBookmark.into()),
            _ => Err(Refusal::UnknownTag.into()),
        }
    }

    /// The same, or the bookmark with this tag: of that it is known what has changed since, and no more.
    ///
    /// # Errors
    ///
    /// Those of [`Version::of`]; [`Refusal::InvalidBookmark`]: it has missed changes.
    pub fn to_compare_with(
        store: &Store<'_>,
        origin: &OriginRow,
        tag: Option<Tag>,
    ) -> Result<Self> {
        if let Some(tag) = tag {
            let row = store.snapshot(origin.number, tag)?;
            if let Some(row) = row.filter(|row| row.bookmark) {
                if origin.is_forgotten(tag) {
                    return Err(Refusal::InvalidBookmark.into());
                }
                let layers = vec![Layer::Records(origin.timeline(), row.base_epoch)];
                return Self::based(store, origin, &row, layers, row.base_epoch);
            }
        }
        Self::of(store, origin, tag)
    }

    /// What comes to the origin's timeline at an epoch, by way of some layers.
    fn based(
        store: &Store<'_>,
        origin: &OriginRow,
        row: &SnapshotRow,
        mut layers: Vec<Layer>,
        base: Epoch,
    ) -> Result<Self> {
        // It was taken of the origin as that is while it is rolled back.
        if origin.rollback.is_some_and(|r| base > r.boundary) {
            layers.extend(head(store, origin)?);
        }
        Ok(Self {
            sectors: row.size,
            layers,
        })
    }
}

/// The timelines of a snapshot, which is read at an epoch of its own, up to the origin's; and
/// the epoch at which that is read.
fn chain(
    store: &Store<'_>,
    origin: &OriginRow,
    tag: Tag,
    epoch: Epoch,
) -> Result<(Vec<Layer>, Epoch)> {
    let mut layers = Vec::new();
    let mut epoch = epoch;
    let mut next = Some(tag);
    while let Some(tag) = next {
        if layers.len() == MAX_DEPTH {
            return Err(corrupt());
        }
        let row = store.snapshot(origin.number, tag)?.ok_or_else(corrupt)?;
        layers.push(Layer::Records(origin.timeline_of(tag), epoch));
        epoch = row.base_epoch;
        next = row.parent;
    }
    layers.push(Layer::Records(origin.timeline(), epoch));
    Ok((layers, epoch))
}

/// Where the origin as it is is not the origin device: where a rollback is not done.
fn head(store: &Store<'_>, origin: &OriginRow) -> Result<Vec<Layer>> {
    let Some(rollback) = &origin.rollback else {
        return Ok(Vec::new());
    };
    let mut layers = vec![Layer::Done {
        origin: origin.number,
        cursor: rollback.cursor,
        limit: rollback.limit,
    }];
    let (source, _) = chain(store, origin, rollback.source, rollback.source_epoch)?;
    layers.extend(source);
    Ok(layers)
}

/// Leaves out of both what answers the same for both, where that can be seen without looking: the
/// origin's timeline at the same epoch, which is most of what there is. It never says that a chunk is
/// zeroes, so that of a chunk that only one of them has above it, it is known without it that the other
/// one differs, and that it has data.
pub(crate) fn leave_out_common(old: &mut Version, new: &mut Version) {
    if old.layers == new.layers {
        old.layers.clear();
        new.layers.clear();
        return;
    }
    let last = |version: &Version| version.layers.last().copied();
    let same = last(old) == last(new) && last(old).is_some_and(|layer| layer.is_of_origin());
    if same && !old.rolls_back() && !new.rolls_back() {
        old.layers.pop();
        new.layers.pop();
    }
}

impl Version {
    /// Whether what a rollback does to the origin shows in it.
    fn rolls_back(&self) -> bool {
        let mut layers = self.layers.iter();
        layers.any(|layer| matches!(layer, Layer::Done { .. }))
    }
}
