// SPDX-License-Identifier: GPL-2.0

//! Which writes are made durable together.
//!
//! First writes that come together have their chunks copied together. The copies end one after the
//! other, and if what the first of them has preserved were made durable at once, each would have
//! a write of the journal to itself, or nearly. So an origin's writes wait for those copies of it that
//! were under way when the first of them began to wait, but for none that began later: when the
//! devices take their time, that is not longer than one copy takes. No other origin's writes wait
//! for them, and whoever waits for a commit of anything else waits for no copy.

/// Copies of up to so many sectors are short, and waited for. Longer ones are few, so a write of the
/// journal is little beside them, and what waits would wait long.
const SHORT_SECTORS: u64 = 64;

/// Short copies of one origin's chunks for its writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Copies {
    begun: u64,
    ended: u64,
    /// The batch in which writes wait, and how many must have ended for it to be whole.
    awaited: (u64, u64),
}

/// What waits for the next commit, of all origins.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Counts them, from 1 on.
    number: u64,
    is_whole: bool,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// The first one, with nothing in it.
    pub const fn new() -> Self {
        Self {
            number: 1,
            is_whole: false,
        }
    }

    /// Whether something in it waits for no copy.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Something that waits for no copy is in it.
    pub fn must_go(&mut self) {
        self.is_whole = true;
    }

    /// What was in it waits no longer.
    pub fn end(&mut self) {
        self.number += 1;
        self.is_whole = false;
    }
}

impl Copies {
    /// A copy of so many sectors begins.
    pub fn begin(&mut self, sectors: u64) {
        if sectors <= SHORT_SECTORS {
            self.begun += 1;
        }
    }

    /// A copy of so many sectors, as many as when it began, has ended, in whatever way.
    pub fn end(&mut self, sectors: u64, batch: &mut Batch) {
        if sectors <= SHORT_SECTORS {
            self.ended += 1;
            if self.awaited == (batch.number, self.ended) {
                batch.must_go();
            }
        }
    }

    /// A write of the origin is in the batch from now on.
    pub fn join(&mut self, batch: &mut Batch) {
        if self.awaited.0 != batch.number {
            self.awaited = (batch.number, self.begun);
            if self.ended >= self.begun {
                batch.must_go();
            }
        }
    }
}
