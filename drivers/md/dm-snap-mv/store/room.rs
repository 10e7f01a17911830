// SPDX-License-Identifier: GPL-2.0

//! Room for metadata: who may take it is for [`crate::model::room`] to say.
//!
//! Whoever is about to change metadata asks here first. When there is too little the trees are written,
//! as blocks that the running transaction has replaced come free with that; what there is too little for
//! even then is refused before anything is changed, so that no transaction ever meets the end.

use super::engine::Engine;
use super::error::{Result, StoreError};
use super::metadata::Meta;
use crate::model::refusal::Refusal;
use crate::model::room::{Blocks, For, Lack};

/// Changes that there is always room for, before they begin: those of a message, say.
const FEW: u64 = 4;

impl Engine {
    /// The metadata blocks, as they are.
    fn blocks(&self) -> Result<Blocks> {
        let (runs, run_chunks) = (self.alloc.runs(), self.alloc.held());
        let mut blocks = self.meta_ref()?.blocks()?;
        blocks.runs = runs;
        blocks.run_chunks = run_chunks;
        blocks.free_chunks = blocks.free_chunks.saturating_sub(run_chunks);
        Ok(blocks)
    }

    /// Whether there is enough, by what `enough` says, if need be after the trees have been written.
    fn have(&mut self, enough: impl Fn(&Blocks) -> bool) -> Result<bool> {
        if enough(&self.blocks()?) {
            return Ok(true);
        }
        if self.meta()?.changes() == 0 {
            return Ok(false);
        }
        self.commit_trees()?;
        Ok(enough(&self.blocks()?))
    }

    /// Whether there is room for a run of so many records more.
    pub(super) fn has_room_for(&mut self, purpose: For, records: u64) -> Result<bool> {
        self.have(|blocks| blocks.admit(purpose, records))
    }

    /// Refuses with [`Refusal::NoMetadataSpace`] what there is no room for.
    pub(super) fn want_room(&mut self, purpose: For, records: u64) -> Result<()> {
        match self.has_room_for(purpose, records)? {
            true => Ok(()),
            false => Err(Refusal::NoMetadataSpace.into()),
        }
    }

    /// How many records may be changed at once, at most `most`, by what must go on when metadata are
    /// full, or was let in before.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoMetadataSpace`] if there is no room for even one.
    pub(super) fn changes_at_once(&mut self, most: u64) -> Result<u64> {
        let most = most.max(1);
        if !self.have(|blocks| blocks.changes() >= most.min(FEW))? {
            // Any is better than none.
            if self.blocks()?.changes() == 0 {
                return Err(Refusal::NoMetadataSpace.into());
            }
        }
        Ok(self.blocks()?.changes().min(most))
    }

    /// Makes changes of `len` chunks, each of which is one of `each` records, in as many steps as need
    /// be: `change` gets the number of the first one and how many. Between two steps the trees may be
    /// written, so each must leave the metadata whole. Returns for how many chunks it was done; if not
    /// for all there is no room for more.
    pub(super) fn alter_by_parts(
        &mut self,
        len: u64,
        each: u64,
        mut change: impl FnMut(&mut Meta, u64, u64) -> Result<()>,
    ) -> Result<u64> {
        let mut done = 0;
        while done < len {
            let wanted = (len - done).saturating_mul(each);
            let part = match self.changes_at_once(wanted) {
                Ok(records) => (records / each).clamp(1, len - done),
                Err(StoreError::Refused(Refusal::NoMetadataSpace)) => break,
                Err(error) => return Err(error),
            };
            self.alter(|meta| change(meta, done, part))?;
            done += part;
        }
        Ok(done)
    }

    /// What there is none of to preserve one chunk more with, if so.
    pub(super) fn lacks(&self) -> Option<Lack> {
        let blocks = self.blocks().ok()?;
        match blocks {
            _ if blocks.free_chunks == 0 => Some(Lack::Chunks),
            _ if !blocks.admit(For::Preserving, 1) => Some(Lack::Metadata),
            _ => None,
        }
    }
}
