// SPDX-License-Identifier: GPL-2.0

//! What disk an origin is on: noted when it is bound and whenever it comes to rest in order, and looked at
//! when it is activated.
//!
//! As long as an origin is in use its samples are not known: they are struck out, durably, before the first
//! write can pass, and taken anew when the last of its devices goes. After a crash only the name of the disk
//! and its size count.

use super::engine::Engine;
use super::error::Result;
use super::origin::Origin;
use super::store::Store;
use crate::dm::block_device::{BlockDevice, Dev};
use crate::dm::io::DmIo;
use crate::dm::pdata::checksum_with;
use crate::model::disk::identity::{
    name_of, places, sample_of, Identity, Likeness, Name, BLANK, SAMPLES, SAMPLE_SECTORS,
};
use crate::model::disk::origin_row::OriginRow;
use crate::model::disk::telling::{telling, LATE_SECTOR};
use crate::model::ids::OriginNr;
use crate::model::records::Metadata;
use crate::model::refusal::Refusal;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Room for what a disk is called.
const CALLED: usize = 192;

/// What is known of a disk by its name alone.
pub(super) fn name(disk: &BlockDevice) -> Result<Option<Name>> {
    let mut text = KVec::from_elem(0, CALLED, GFP_KERNEL)?;
    let len = disk.called(&mut text);
    let text = text.get(..len).unwrap_or_default();
    Ok((!text.is_empty()).then(|| name_of(text)))
}

/// What the samples of an origin of `size` sectors hold; `None` if they cannot be read. Process context,
/// no locks held; waits for the disk.
fn samples(io: &DmIo, disk: &BlockDevice, size: u64) -> Result<Option<[u32; SAMPLES]>> {
    let Some(places) = places(size) else {
        return Ok(None);
    };
    let bytes = (SAMPLE_SECTORS << 9) as usize;
    let mut block = KVec::from_elem(0, bytes.max(disk.logical_block_size() as usize), GFP_KERNEL)?;
    let mut samples = [0; SAMPLES];
    for (nr, (sample, place)) in samples.iter_mut().zip(places).enumerate() {
        let is_first = nr == 0;
        let late = (is_first && size >= 2 * LATE_SECTOR).then_some(LATE_SECTOR);
        for sector in [Some(place), late].into_iter().flatten() {
            if io.read(disk, sector, &mut block).is_err() {
                return Ok(None);
            }
            let whole = block.get(..bytes).unwrap_or_default();
            let part = if is_first { telling(whole) } else { whole };
            *sample = sample_of(whole, checksum_with(part, 0));
            if *sample != BLANK {
                break;
            }
        }
    }
    Ok(Some(samples))
}

/// What is found of an origin as `noted` has it, or of a new one: whether it is the same disk.
///
/// # Errors
///
/// [`Refusal::OriginAnother`], unless that is to be accepted; `ENOMEM`.
pub(super) fn compare(
    io: &DmIo,
    by: Dev,
    disk: &BlockDevice,
    noted: &OriginRow,
    accept: bool,
) -> Result<()> {
    let found = Identity {
        name: name(disk)?,
        samples: match noted.identity.samples {
            Some(_) => samples(io, disk, noted.size)?,
            None => None,
        },
    };
    match noted.identity.of_found(&found) {
        Likeness::Same => Ok(()),
        Likeness::Written => {
            pr_warn!(
                "{}: {} was written by others since it was last used: its snapshots may be wrong where it was\n",
                by,
                disk.name()
            );
            Ok(())
        }
        Likeness::Another if accept => {
            pr_warn!(
                "{}: {} is another disk than the origin was on, and is accepted: its snapshots show it where nothing was preserved\n",
                by,
                disk.name()
            );
            Ok(())
        }
        Likeness::Another => {
            pr_err!(
                "{}: {} is not the disk that the origin was on, or all that is known of it has changed\n",
                by,
                disk.name()
            );
            Err(Refusal::OriginAnother.into())
        }
    }
}

impl Engine {
    /// Notes what disk an origin is on, durably, as it comes into use. `anew`: it has just been bound, or
    /// the disk is another one that was accepted; else only what is not known yet, and that the samples are
    /// not known any more.
    pub(super) fn note_disk(&mut self, cx: &Arc<Store>, nr: OriginNr, anew: bool) -> Result<()> {
        let disk = self.origin_state(nr)?.shared.dev.clone();
        let row = self.meta_ref()?.origin_row(nr)?;
        if !anew && !self.meta_ref()?.superblock.has_identities() {
            // Formatted before there was such a thing: it takes the step when something is bound.
            return Ok(());
        }
        let found = name(&disk)?;
        let identity = Identity {
            name: if anew {
                found
            } else {
                row.identity.name.or(found)
            },
            samples: None,
        };
        if !anew && identity == row.identity {
            return Ok(());
        }
        self.alter(|meta| {
            meta.use_identities();
            let mut row = row;
            row.identity = identity;
            meta.put_origin(&row)
        })?;
        self.commit(cx)
    }

    /// Whether the samples of an origin are to be taken, as its last device goes; its size. Not if another
    /// one came meanwhile, which may have written.
    fn wants_samples(&self, nr: OriginNr) -> Option<u64> {
        let state = self.origin_state(nr).ok()?;
        let meta = self.meta_ref().ok()?;
        let row = meta.origin_row(nr).ok()?;
        let wanted = state.bound
            && state.users == 1
            && state.leaving
            && !self.is_failed()
            && meta.superblock.has_identities()
            && row.identity.samples.is_none();
        wanted.then_some(row.size)
    }
}

impl Store {
    /// A device of a snapshot comes into use: if a rollback runs the origin is written by it.
    pub(crate) fn note_use(self: &Arc<Self>, origin: &Origin) {
        let mut engine = self.engine.lock();
        let row = engine
            .meta_ref()
            .and_then(|meta| meta.origin_row(origin.number));
        if row.is_ok_and(|row| row.rollback.is_some()) {
            let _ = engine.note_disk(self, origin.number, false);
        }
    }

    /// Notes what an origin's disk holds, when its last device is about to go and nothing is on its way to
    /// it. What fails is not noted. Process context, no locks held; waits for the disk.
    pub(super) fn note_samples(self: &Arc<Self>, nr: OriginNr, disk: &BlockDevice) {
        let wanted = self.engine.lock().wants_samples(nr);
        let Some(size) = wanted else {
            return;
        };
        // What is noted must not be gone after a power cut.
        let io = &self.machinery.io;
        if io.flush(disk).is_err() {
            return;
        }
        let Ok(samples) = samples(io, disk, size) else {
            return;
        };
        let mut engine = self.engine.lock();
        if engine.wants_samples(nr) != Some(size) {
            return;
        }
        let _ = engine.alter(|meta| {
            let mut row = meta.origin_row(nr)?;
            row.identity.samples = samples;
            meta.put_origin(&row)
        });
    }
}
