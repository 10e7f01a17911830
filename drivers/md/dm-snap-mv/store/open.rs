// SPDX-License-Identifier: GPL-2.0

//! Opening and formatting a COW device.
//!
//! Process context, from a table load; may sleep and allocate with `GFP_KERNEL`.

use super::error::{Result, StoreError};
use super::journal::{End, Journal};
use super::metadata::{Meta, Trees};
use super::records::Records;
use crate::dm::block_device::BlockDevice;
use crate::dm::io::{DmIo, Durability};
use crate::dm::pdata::{checksum, BTree, DiskSpaceMap, Transaction};
use crate::dm::time;
use crate::model::disk::layout::{Layout, BLOCK_SECTORS};
use crate::model::disk::superblock::{Contents, Roots, Superblock, BLOCK_SIZE, STRANGE_SIZE};
use crate::model::refusal::Refusal;
use crate::model::table::Format;
use kernel::prelude::*;
use kernel::sync::Arc;

/// What must be blank on a device that is formatted without force: every file system, volume
/// manager and partition table in use has its first mark in here. In blocks of 4 KiB.
const BLANK_BLOCKS: u64 = 64;

type Block = KBox<[u8; BLOCK_SIZE]>;

fn read_block(io: &DmIo, cow: &BlockDevice, number: u64) -> Result<Block> {
    let mut block = KBox::new([0u8; BLOCK_SIZE], GFP_KERNEL)?;
    io.read(cow, number * BLOCK_SECTORS, &mut *block)?;
    Ok(block)
}

/// Refuses a COW device that no store can be on.
fn check_device(cow: &BlockDevice) -> Result<()> {
    if cow.read_only() {
        return Err(Refusal::CowReadOnly.into());
    }
    if cow.logical_block_size() as usize > BLOCK_SIZE {
        return Err(Refusal::CowBlockSize.into());
    }
    Ok(())
}

/// The superblock of the store on a COW device, where there is one that can be read: which store it is,
/// without doing anything about it.
pub(super) fn identify(io: &DmIo, cow: &BlockDevice) -> Option<KBox<Superblock>> {
    check_device(cow).ok()?;
    if cow.sectors() < BLOCK_SECTORS {
        return None;
    }
    let block = read_block(io, cow, 0).ok()?;
    let superblock = Superblock::decode(&block, checksum).ok()?;
    KBox::new(superblock, GFP_KERNEL).ok()
}

/// Refuses a device to be bound as an origin that has a store on it: it may be the COW device that was
/// meant, and would be written over.
///
/// # Errors
///
/// [`Refusal::OriginIsStore`], or what reading the device meets.
pub(crate) fn refuse_store(origin: &BlockDevice) -> Result<()> {
    let size = BLOCK_SIZE.max(origin.logical_block_size() as usize);
    if (origin.sectors() << 9) < size as u64 {
        return Ok(());
    }
    let mut start = KVec::from_elem(0, size, GFP_KERNEL)?;
    DmIo::new()?.read(origin, 0, &mut start)?;
    match start.first_chunk().map(Superblock::probe) {
        Some(Contents::Store) => Err(Refusal::OriginIsStore.into()),
        _ => Ok(()),
    }
}

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Purpose {
    /// To look only. What the journal holds is done in core.
    Look,
    /// To be changed, unless it needs a check: then to look.
    Change,
    /// To be changed, even if it needs a check.
    ChangeAnyway,
}

/// Opens the store on a COW device. What the device has become larger by is not taken into use: see
/// [`Store::grow`](super::store::Store::grow).
pub(super) fn open(io: &DmIo, cow: &Arc<BlockDevice>) -> Result<KBox<Meta>> {
    let meta = load(io, cow, Purpose::Change, None)?;
    if meta.superblock.needs_check {
        pr_warn!(
            "{}: store needs a check: it takes no changes until it is repaired\n",
            cow.name()
        );
    }
    Ok(meta)
}

/// Opens the store on a COW device. Reads the superblock, the roots of the trees and space maps, and
/// the journal with what it changes, however much is stored; after an orderly end, not the journal.
/// `known`: what of the journal counts, if that is known.
///
/// # Errors
///
/// What is wrong with the device or the store. [`Refusal::JournalUnreadable`] when it is not known whether
/// the journal says more: without that, snapshots would read what was written to their origins since.
/// [`Refusal::NeedsCheck`] when it needs a check, is not
/// to be changed even so, and there is something in its journal: that cannot be read without taking
/// blocks for it, of which the space map cannot be trusted to know.
pub(super) fn load(
    io: &DmIo,
    cow: &Arc<BlockDevice>,
    purpose: Purpose,
    known: Option<End>,
) -> Result<KBox<Meta>> {
    check_device(cow)?;
    if cow.sectors() < BLOCK_SECTORS {
        return Err(Refusal::NoStore.into());
    }
    // The superblock that is read may be in the device's cache only, if a commit failed at its end.
    // It is built upon from here on, so a power cut must not bring back the one before.
    io.flush(cow)?;
    let block = read_block(io, cow, 0)?;
    let superblock = match Superblock::decode(&block, checksum) {
        Err(Refusal::NoStore) => return Err(nothing_or_other(io, cow)),
        read => read?,
    };
    match superblock.check_writable() {
        // To be read only, which is the engine's business.
        Ok(()) | Err(Refusal::NeedsCheck) => {}
        Err(refusal) => return Err(refusal.into()),
    }
    superblock.layout.check_device(cow.sectors())?;
    let layout = &superblock.layout;
    let mut txn = Transaction::open(cow, &superblock.metadata_space, layout.metadata_blocks)?;
    let data = DiskSpaceMap::open(&mut txn, &superblock.data_space, layout.data_chunks)?;
    let roots = &superblock.roots;
    let trees = Trees {
        records: Records::new(BTree::open(&txn, roots.records)?)?,
        origins: BTree::open(&txn, roots.origins)?,
        origin_ids: BTree::open(&txn, roots.origin_ids)?,
        snapshots: BTree::open(&txn, roots.snapshots)?,
        children: BTree::open(&txn, roots.children)?,
        done: BTree::open(&txn, roots.done)?,
        cleaning: BTree::open(&txn, roots.cleaning)?,
        labels: match roots.labels {
            0 => None,
            root => Some(BTree::open(&txn, root)?),
        },
    };
    let mut meta = assemble(cow, txn, data, trees, superblock)?;
    catch_up(cow, &mut meta, purpose, known)?;
    Ok(meta)
}

/// Why there is no store on a device whose first block is blank. Other things have their first mark
/// further on, and are not formatted over by `-f`: then that is not to be the advice.
fn nothing_or_other(io: &DmIo, cow: &BlockDevice) -> StoreError {
    match check_blank(io, cow) {
        Ok(()) => Refusal::NoStore.into(),
        Err(StoreError::Refused(_)) => Refusal::ForeignData.into(),
        Err(error) => error,
    }
}

/// What is opened or made, as one. A function of its own for the sake of the stack.
#[inline(never)]
fn assemble(
    cow: &Arc<BlockDevice>,
    txn: Transaction,
    data: DiskSpaceMap,
    trees: Trees,
    superblock: Superblock,
) -> Result<KBox<Meta>> {
    let journal = Journal::new(cow, &superblock)?;
    let meta = Meta::new(txn, data, trees, superblock, journal)?;
    Ok(KBox::new(meta, GFP_KERNEL)?)
}

/// Does what is in the journal.
#[inline(never)]
fn catch_up(
    cow: &BlockDevice,
    meta: &mut Meta,
    purpose: Purpose,
    known: Option<End>,
) -> Result<()> {
    let distrusted = meta.superblock.needs_check && purpose != Purpose::ChangeAnyway;
    if distrusted && !meta.journal_is_empty(known)? {
        return Err(Refusal::NeedsCheck.into());
    }
    let changes = meta.replay(known).map_err(no_room)?;
    if meta.superblock.clean || distrusted || purpose == Purpose::Look {
        return Ok(());
    }
    // From here on the journal is written anew. What is in it must not be taken for a continuation,
    // nor blocks of a batch that was not written in whole, so this is done if nothing was found, too.
    meta.commit(false).map_err(no_room)?;
    if changes != 0 {
        pr_info!(
            "{}: {} changes of the journal are in place\n",
            cow.name(),
            changes
        );
    }
    Ok(())
}

/// What the journal has must be done before anything else, and there is no room for it. No store comes
/// to that by itself: see [`crate::model::room`].
fn no_room(error: StoreError) -> StoreError {
    match error {
        StoreError::Kernel(e) if e == ENOSPC => Refusal::JournalNoSpace.into(),
        error => error,
    }
}

/// Makes a new, empty store on a COW device.
///
/// The superblock is written last: a crash in between leaves a device without a store.
pub(super) fn format(io: &DmIo, cow: &Arc<BlockDevice>, format: &Format) -> Result<KBox<Meta>> {
    check_device(cow)?;
    let layout = Layout::new(cow.sectors(), format.chunk_size_or_default()?, None)?;
    if !format.force {
        check_blank(io, cow)?;
    }
    let blank = KBox::new([0u8; BLOCK_SIZE], GFP_KERNEL)?;
    io.write(cow, 0, &*blank, Durability::FlushFua)?;

    let mut txn = Transaction::create(cow, layout.metadata_blocks)?;
    let data = DiskSpaceMap::create(&mut txn, layout.data_chunks)?;
    let trees = Trees {
        records: Records::new(BTree::empty(&mut txn)?)?,
        origins: BTree::empty(&mut txn)?,
        origin_ids: BTree::empty(&mut txn)?,
        snapshots: BTree::empty(&mut txn)?,
        children: BTree::empty(&mut txn)?,
        done: BTree::empty(&mut txn)?,
        cleaning: BTree::empty(&mut txn)?,
        labels: None,
    };
    let superblock = Superblock {
        clean: true,
        needs_check: false,
        cow_full: false,
        uuid: time::random_uuid(),
        compat: Superblock::compat_of(&layout),
        ro_compat: 0,
        incompat: Superblock::incompat_of(&layout),
        layout,
        transaction: 0,
        next_origin: 1,
        nr_origins: 0,
        roots: Roots::default(),
        metadata_space: [0; 128],
        data_space: [0; 128],
        strange: [0; STRANGE_SIZE],
    };
    let mut meta = assemble(cow, txn, data, trees, superblock)?;
    meta.commit(true)?;
    Ok(meta)
}

/// Refuses a device that seems to hold something.
fn check_blank(io: &DmIo, cow: &BlockDevice) -> Result<()> {
    let blocks = BLANK_BLOCKS.min(cow.sectors() / BLOCK_SECTORS);
    for number in 0..blocks {
        let block = read_block(io, cow, number)?;
        match Superblock::probe(&block) {
            Contents::Blank => {}
            Contents::Store if number == 0 => return Err(Refusal::StoreExists.into()),
            _ => return Err(Refusal::NotBlank.into()),
        }
    }
    Ok(())
}
