// SPDX-License-Identifier: GPL-2.0

//! Reading: which blocks are the journal's, and what they say.

use super::super::super::refusal::Refusal;
use super::super::bytes::Reader;
use super::super::superblock::{Checksum, BLOCK_SIZE, CHECKED_FROM};
use super::entry::Entry;
use super::{Block, Place, BATCH_BLOCKS, HEADER, LAST, NTH_AT, USED_AT};

/// What a block turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// It ends a batch.
    pub last: bool,
    /// Which block of its batch it is, counted from 0.
    pub nth: u64,
}

/// What a block of a journal says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The block's number on the device.
    pub number: u64,
    /// The store's.
    pub uuid: [u8; 16],
    /// The transaction that its batch continues.
    pub transaction: u64,
    /// Its number within the journal.
    pub index: u64,
    /// Bytes in use, what stands before the entries included.
    pub used: usize,
    /// It ends a batch.
    pub last: bool,
    /// Which block of its batch it is, counted from 0.
    pub nth: u64,
}

/// Looks at a block of any journal. `None`: it is none.
pub fn header(block: &Block, checksum: Checksum) -> Option<Header> {
    let (stored, covered) = block.split_at(CHECKED_FROM);
    if stored != checksum(covered).to_le_bytes() {
        return None;
    }
    let mut r = Reader::new(covered);
    let flags = r.u32().ok()?;
    let number = r.u64().ok()?;
    let uuid = r.array().ok()?;
    let transaction = r.u64().ok()?;
    let index = r.u64().ok()?;
    let used = r.u32().ok()? as usize;
    let nth = u64::from(r.u32().ok()?);
    r.zeroes(HEADER - NTH_AT - 4).ok()?;
    let right = flags & !LAST == 0
        && (HEADER..=BLOCK_SIZE).contains(&used)
        && nth <= index
        && nth < BATCH_BLOCKS as u64;
    right.then_some(Header {
        number,
        uuid,
        transaction,
        index,
        used,
        last: flags & LAST != 0,
        nth,
    })
}

/// Looks at a block of the journal. `None`: it is not the one that belongs there.
pub fn look(block: &Block, place: &Place, checksum: Checksum) -> Option<Found> {
    let found = header(block, checksum)?;
    let right = place.first_block.checked_add(place.index) == Some(found.number)
        && found.uuid == place.uuid
        && found.transaction == place.transaction
        && found.index == place.index;
    right.then_some(Found {
        last: found.last,
        nth: found.nth,
    })
}

/// Gives the entries of a block that was found to be one to `each`, in their order.
///
/// # Errors
///
/// [`Refusal::Corrupt`] when it is not made of entries, and what `each` returns.
pub fn entries<E: From<Refusal>>(
    block: &Block,
    data_chunks: u64,
    mut each: impl FnMut(&Entry) -> Result<(), E>,
) -> Result<(), E> {
    let mut r = Reader::new(block.get(USED_AT..).ok_or(Refusal::Corrupt)?);
    let used = r.u32()? as usize;
    let bytes = block.get(HEADER..used).ok_or(Refusal::Corrupt)?;
    let mut r = Reader::new(bytes);
    while !r.is_empty() {
        each(&Entry::read(&mut r, data_chunks)?)?;
    }
    Ok(())
}

/// Gives the entries of the whole batches that `blocks` begin with to `each`, in their order; the first
/// block belongs at `place`. Returns how many blocks these batches take: 0 when there is none, which
/// with [`BATCH_BLOCKS`] blocks means that the journal ends there. See [`is_behind`] then.
///
/// # Errors
///
/// As for [`entries`].
pub fn batches<E: From<Refusal>>(
    blocks: &[Block],
    place: &Place,
    checksum: Checksum,
    data_chunks: u64,
    mut each: impl FnMut(&Entry) -> Result<(), E>,
) -> Result<usize, E> {
    let mut batch = 0;
    for (i, block) in blocks.iter().enumerate() {
        let found = match look(block, &place.plus(i), checksum) {
            Some(found) if found.nth == (i - batch) as u64 => found,
            _ => break,
        };
        if found.last {
            for block in blocks.get(batch..=i).unwrap_or_default() {
                entries(block, data_chunks, &mut each)?;
            }
            batch = i + 1;
        }
    }
    Ok(batch)
}

/// How many of `blocks` are of a batch that begins with the first of them, which belongs at `place`, one
/// behind the other. Where no whole batch begins, the block behind these decides that: if it is not the
/// right one, a batch was not written in whole there, or none was; if it cannot be read, this cannot be
/// known.
pub fn begun(blocks: &[Block], place: &Place, checksum: Checksum) -> usize {
    let of_it = |(i, block): &(usize, &Block)| {
        look(block, &place.plus(*i), checksum).is_some_and(|found| found.nth == *i as u64)
    };
    blocks.iter().enumerate().take_while(of_it).count()
}

/// Whether one of `blocks`, the first of which belongs at `place`, is of another batch than that which
/// would begin at block `end` of the journal. If no whole batch does, it was there, and is damaged.
pub fn is_behind(blocks: &[Block], place: &Place, end: u64, checksum: Checksum) -> bool {
    blocks.iter().enumerate().any(|(i, block)| {
        let place = place.plus(i);
        look(block, &place, checksum).is_some_and(|found| place.index - found.nth != end)
    })
}
