// SPDX-License-Identifier: GPL-2.0
//! Reading a store that the kernel may be changing, in batches.
//!
//! # What may be believed
//!
//! A metadata block that is in use is never overwritten, and one that comes free in a transaction
//! can be written again in the one after that. So a batch is believed if the superblock still
//! shows the same transaction when it has been read; one transaction later is too late. This is
//! so of errors, too: what looks damaged may only have been overwritten. What is not believed is
//! read again under the new roots, from the key where the last batch that was believed has ended,
//! and less of it: however fast transactions come, it gets on, as long as the ways to a few leaves
//! can be read between two of them.
//!
//! # Why several transactions make one picture
//!
//! A reader of *versions* need not see all of the store in one transaction. What a snapshot holds is
//! not changed by transactions that pass, only by writes to it:
//!
//! * on an origin's timeline, records between two epochs that living versions are based on are
//!   complete when the later one is taken: a write records at the newest living epoch, which is not
//!   before that any more. (A rollback does record below its boundary while it runs: of chunks that
//!   the versions before it read from the origin device until then, and with that content.)
//! * cleaning removes records that no living version finds, so none that a reader of living
//!   versions looks for;
//! * a snapshot's own records are added and replaced by writes to it, and those of what it is based on
//!   are as they are.
//!
//! So each batch is right for all versions that are alive in its transaction, and who reads a version
//! has to see in each batch, by its row, that it is: tags are not used twice, so a row that is there and
//! no ghost's is the same version's. What was deleted or has become invalid meanwhile is refused, by
//! [`crate::version::Version::of`].
//!
//! # The journal
//!
//! Durable is what the trees say and the journal adds to that. Who can have the journal folded into the
//! trees (the message `commit`, which replies the transaction's number) reads the trees alone from that
//! transaction on: they say what was durable when the message was sent, or later. Otherwise
//! each batch has the journal of its own transaction on top, as far as it was when that was first
//! read; it is read once a transaction, and grows only.

use crate::block::Blocks;
use crate::error::{Error, Result};
use crate::store::Store;
use dm_snap_mv_model::refusal::Refusal;

/// Leaves in a batch: of 4 KiB each, and of 252 entries of 16 bytes in memory.
const MOST: usize = 1024;

/// Leaves that any batch may read: the ways to so many are read between two transactions, or nothing is.
const LEAST: usize = 1;

/// A store that is being read.
pub struct Live<'a> {
    blocks: &'a dyn Blocks,
    /// The transaction that the journal has been folded into the trees for.
    folded: Option<u64>,
    /// As it was when the last batch ended, if it has been looked at since.
    store: Option<Store<'a>>,
    uuid: Option<[u8; 16]>,
    most: usize,
    /// Leaves in the next batch.
    leaves: usize,
    seen: Seen,
}

/// What was seen of a store while it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The transaction of the first batch that was believed.
    pub first: u64,
    /// Of the last one.
    pub last: u64,
    /// Batches that were believed.
    pub batches: u64,
    /// Batches that had to be read again.
    pub repeated: u64,
}

impl<'a> Live<'a> {
    /// A store on a device. `folded`: the journal has been folded into the trees, and this is the
    /// transaction; what the journal says from then on is not looked at.
    pub fn new(blocks: &'a dyn Blocks, folded: Option<u64>) -> Self {
        Self {
            blocks,
            folded,
            store: None,
            uuid: None,
            most: MOST,
            leaves: MOST,
            seen: Seen::default(),
        }
    }

    /// Reads at most so many leaves in a batch (at least 1): what is kept in memory of a tree at a time.
    pub fn at_most(mut self, leaves: usize) -> Self {
        self.most = leaves.max(LEAST);
        self.leaves = self.most;
        self
    }

    /// What was seen of it so far.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// Has `get` read a batch, until what it has read may be believed, and returns what that returned.
    /// It is given the store and how many leaves it is to read, of all trees together; it must keep
    /// nothing of a call that was not the last one, and a little more or less is no harm.
    ///
    /// # Errors
    ///
    /// Those of `get`, once they may be believed; and [`Error::Another`].
    pub fn batch<T>(&mut self, mut get: impl FnMut(&Store<'a>, usize) -> Result<T>) -> Result<T> {
        loop {
            let store = match self.store.take() {
                Some(store) => store,
                None => self.open()?,
            };
            let got = get(&store, self.leaves);
            let transaction = store.superblock().transaction;
            if Store::read_superblock(self.blocks)?.transaction != transaction {
                self.seen.repeated += 1;
                self.leaves = (self.leaves / 2).max(LEAST);
                continue;
            }
            self.leaves = (self.leaves * 2).min(self.most);
            self.store = Some(store);
            if self.seen.batches == 0 {
                self.seen.first = transaction;
            }
            self.seen.last = transaction;
            self.seen.batches += 1;
            return got;
        }
    }

    /// Looks at the store as it is now, with what the journal says, whether that has been folded before
    /// or not: for what must not have changed up to the end.
    pub fn now<T>(&self, get: impl Fn(&Store<'a>) -> Result<T>) -> Result<T> {
        let mut now = Live::new(self.blocks, None);
        now.uuid = self.uuid;
        now.batch(|store, _| get(store))
    }

    /// Looks at the superblock, and at the journal if need be.
    fn open(&mut self) -> Result<Store<'a>> {
        loop {
            let superblock = Store::read_superblock(self.blocks)?;
            let transaction = superblock.transaction;
            let same = *self.uuid.get_or_insert(superblock.uuid) == superblock.uuid;
            if !same || self.folded.is_some_and(|folded| transaction < folded) {
                return Err(Error::Another);
            }
            let opened = match self.folded {
                Some(_) => Ok(Store::without_journal(self.blocks, superblock)),
                None => Store::with_journal(self.blocks, superblock),
            };
            match opened {
                Ok(store) => return Ok(store),
                // The journal of another transaction is none of this one's.
                Err(_) if Store::read_superblock(self.blocks)?.transaction != transaction => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What a version that is there and cannot be read is refused with.
pub(crate) fn corrupt() -> Error {
    Refusal::Corrupt.into()
}
