// SPDX-License-Identifier: GPL-2.0

//! What differs between two versions of an origin.
//!
//! A chunk is unchanged if both have it in the same place. That is seen without looking at either's
//! place: versions go back to one timeline in the end, the origin's or that of a snapshot that both were
//! taken of, and what stands in the timelines before that is of one of them only. In the common one the
//! chunk is the same unless it has a record between both epochs. And what a rollback of the origin has
//! yet to replace differs between what was before it and what came after.
//!
//! While both versions are there the set does not change, but for chunks that a write of the origin, or
//! of one of them, is about to change. So it can be read in pieces, and gone on with at a chunk.

use super::chain::Chain;
use super::chunk_size::ChunkSize;
use super::disk::origin_row::OriginRow;
use super::escape::Sink;
use super::ids::{Chunk, Epoch, Tag, TimelineId};
use super::lookup::{find_run, Found};
use super::records::Metadata;
use super::refusal::Refusal;
use super::rollback::{Pending, RollbackView};

/// One of the versions. Of about 0.5 KiB: pass it by reference.
#[derive(Clone, Debug)]
pub struct Version {
    /// The origin's timeline, and the epoch at the end of which it is what was then; the last: now.
    base: (TimelineId, Epoch),
    /// Of a snapshot, what it may have of its own.
    chain: Option<Chain>,
    /// In sectors.
    size: u64,
}

impl Version {
    /// The version with a tag, a snapshot or a bookmark; none: the origin as it is now.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownTag`], [`Refusal::InvalidSnapshot`], [`Refusal::InvalidBookmark`].
    pub fn find<M: Metadata>(
        m: &M,
        origin: &OriginRow,
        tag: Option<Tag>,
    ) -> Result<Version, M::Error> {
        let t = origin.timeline();
        let Some(tag) = tag else {
            return Ok(Version {
                base: (t, Epoch::MAX),
                chain: None,
                size: origin.size,
            });
        };
        match m.snapshot(origin.timeline_of(tag))? {
            Some(row) if row.bookmark => match origin.is_forgotten(tag) {
                true => Err(Refusal::InvalidBookmark.into()),
                false => Ok(Version {
                    base: (t, row.base_epoch),
                    chain: None,
                    size: row.size,
                }),
            },
            Some(row) if !row.ghost => match origin.is_invalid(tag) {
                true => Err(Refusal::InvalidSnapshot.into()),
                false => {
                    let chain = Chain::of_snapshot(m, origin, tag)?;
                    Ok(Version {
                        base: chain.origin(),
                        chain: Some(chain),
                        size: row.size,
                    })
                }
            },
            _ => Err(Refusal::UnknownTag.into()),
        }
    }

    /// The timelines of snapshots that it goes through, the origin's own last but one first.
    fn on_origin(&self) -> impl Iterator<Item = (TimelineId, Epoch)> + '_ {
        let chain = self.chain.iter();
        chain.flat_map(|chain| chain.snapshots().rev())
    }

    /// How many these are.
    fn depth(&self) -> usize {
        self.chain.as_ref().map_or(0, Chain::depth)
    }

    /// The first `many` of the others, from its own on.
    fn own(&self, many: usize) -> impl Iterator<Item = (TimelineId, Epoch)> + '_ {
        let chain = self.chain.iter();
        chain.flat_map(move |chain| chain.snapshots().take(many))
    }
}

/// A run of chunks that are all changed or all unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// They are changed.
    pub changed: bool,
    /// Chunks in the run.
    pub len: u64,
}

/// Two versions, to be compared.
#[derive(Clone, Debug)]
pub struct Delta<'a> {
    versions: [&'a Version; 2],
    /// How many timelines each of them has for itself.
    own: [usize; 2],
    /// The timeline that both have, and the earlier and the later of the epochs.
    common: (TimelineId, Epoch, Epoch),
    /// Chunks from this on are not, or not as a whole, in the first version.
    whole: Chunk,
    /// The end of the second version's chunks.
    pub end: Chunk,
}

impl<'a> Delta<'a> {
    /// What differs in `to` from what is in `from`: chunks of `to`, and those among them that `from` has
    /// not, or in part only.
    pub fn new(
        from: &'a Version,
        to: &'a Version,
        chunk_size: ChunkSize,
    ) -> Result<Delta<'a>, Refusal> {
        let (mut t, mut epochs) = (from.base.0, [from.base.1, to.base.1]);
        let mut shared = 0;
        // Below the last timeline that both have, both have the same.
        let pairs = from.on_origin().zip(to.on_origin());
        for ((timeline, one), (other, two)) in pairs {
            if timeline != other {
                break;
            }
            (t, epochs) = (timeline, [one, two]);
            shared += 1;
        }
        let end = chunk_size.end_of(to.size)?;
        let whole = match from.size < to.size {
            true => Chunk::saturating(chunk_size.whole_chunks(from.size)),
            false => end,
        };
        let [one, two] = epochs;
        Ok(Delta {
            own: [from.depth() - shared, to.depth() - shared],
            versions: [from, to],
            common: (t, one.min(two), one.max(two)),
            whole,
            end,
        })
    }

    /// Chunks from this on count as changed because the first version has not, or not as a whole, any.
    pub fn whole(&self) -> Chunk {
        self.whole
    }

    /// Whether the chunks from `start` on, at least one of them and at most `max` (at least 1), are changed.
    /// `rollback` is the one that runs on the origin. Takes two searches for each level of nesting at most.
    pub fn part<M: Metadata>(
        &self,
        m: &M,
        rollback: Option<&RollbackView>,
        start: Chunk,
        max: u64,
    ) -> Result<Part, M::Error> {
        if start >= self.whole {
            return Ok(Part {
                changed: true,
                len: max,
            });
        }
        let mut len = max.min(self.whole.since(start));
        let [from, to] = self.versions;
        let own = from.own(self.own[0]).chain(to.own(self.own[1]));
        for (t, epoch) in own {
            let (found, of) = find_run(m, t, epoch, start, len)?;
            len = of;
            if !matches!(found, Found::Nothing { .. }) {
                return Ok(Part { changed: true, len });
            }
        }
        let (t, earlier, later) = self.common;
        if earlier == later {
            return Ok(Part {
                changed: false,
                len,
            });
        }
        let (found, of) = match t.is_origin() {
            true => find_run(m, t, earlier, start, len)?,
            false => find_run(m, t, later, start, len)?,
        };
        len = of;
        let between = |epoch: Epoch| match t.is_origin() {
            true => epoch < later,
            false => epoch > earlier,
        };
        let changed = match found {
            Found::Record(epoch, _) => between(epoch),
            Found::Zeroes(zeroes) => between(zeroes.epoch),
            Found::Nothing { .. } => false,
        };
        match rollback {
            Some(view) if !changed && t.is_origin() && self.crosses(view) => {
                Ok(match view.pending_at(m, start, len)? {
                    Pending::Copy { len, .. } => Part { changed: true, len },
                    Pending::Same { len } | Pending::Done { len } => Part {
                        changed: false,
                        len,
                    },
                })
            }
            _ => Ok(Part { changed, len }),
        }
    }

    /// Whether the rollback began between both.
    fn crosses(&self, view: &RollbackView) -> bool {
        let (_, earlier, later) = self.common;
        earlier <= view.boundary && view.boundary < later
    }
}

/// Room for `1099511627775 1099511627775\n`.
const LINE: usize = 28;

/// Room for `next 1099511627775\n`, which is kept free.
const LAST_LINE: usize = 19;

/// A page of a reply: a line that says how large a chunk is, in sectors, and how many `to` has; a line for
/// each run of changed chunks, in ascending order, with the first one and how many; and `end`, or `next
/// CHUNK` if the page ends before that.
///
/// ```text
/// delta <chunk size> <chunks>
/// <first> <len>
/// ```
///
/// Made in steps, between which the metadata may change.
#[derive(Debug)]
pub struct Page {
    /// What was looked at so far ends here.
    at: Chunk,
    /// A run that is not written yet.
    run: Option<(Chunk, u64)>,
    /// Runs that it may have.
    left: u32,
    /// Bytes that it may have.
    room: usize,
    begun: bool,
}

impl Page {
    /// A page of what is from chunk `start` on, of at most `max` runs (at least 1) and `room` bytes.
    pub fn new(start: Chunk, max: u32, room: usize) -> Page {
        Page {
            at: start,
            run: None,
            left: max,
            room,
            begun: false,
        }
    }

    /// Takes `budget` looks at most. Returns whether there is more to be done for this page.
    /// [`Refusal::ReplyTooLong`] when not even one line fits, which 128 bytes rule out.
    pub fn step<M: Metadata>(
        &mut self,
        m: &M,
        delta: &Delta<'_>,
        rollback: Option<&RollbackView>,
        chunk_size: ChunkSize,
        budget: u32,
        out: &mut dyn Sink,
    ) -> Result<bool, M::Error> {
        if !core::mem::replace(&mut self.begun, true) {
            self.line(
                out,
                format_args!("delta {} {}\n", chunk_size.sectors(), delta.end.get()),
            )?;
            if !self.has_room() {
                return Err(Refusal::ReplyTooLong.into());
            }
        }
        for _ in 0..budget {
            if self.at >= delta.end {
                return Ok(false);
            }
            let part = delta.part(m, rollback, self.at, delta.end.since(self.at))?;
            match (self.run, part.changed) {
                (Some((first, len)), true) => self.run = Some((first, len + part.len)),
                (None, true) if !self.has_room() => return Ok(false),
                (None, true) => self.run = Some((self.at, part.len)),
                (_, false) => self.write_run(out)?,
            }
            self.at = self.at.plus(part.len);
        }
        Ok(self.at < delta.end)
    }

    /// Ends it.
    pub fn finish(mut self, delta_end: Chunk, out: &mut dyn Sink) -> Result<(), Refusal> {
        self.write_run(out)?;
        match self.at >= delta_end {
            true => self.line(out, format_args!("end\n")),
            false => self.line(out, format_args!("next {}\n", self.at.get())),
        }
    }

    fn has_room(&self) -> bool {
        self.left > 0 && self.room >= LINE + LAST_LINE
    }

    fn write_run(&mut self, out: &mut dyn Sink) -> Result<(), Refusal> {
        let Some((first, len)) = self.run.take() else {
            return Ok(());
        };
        self.left = self.left.saturating_sub(1);
        self.line(out, format_args!("{} {len}\n", first.get()))
    }

    fn line(&mut self, out: &mut dyn Sink, line: core::fmt::Arguments<'_>) -> Result<(), Refusal> {
        let mut counted = Counted {
            out,
            room: self.room,
        };
        core::fmt::write(&mut counted, line).map_err(|_| Refusal::ReplyTooLong)?;
        self.room = counted.room;
        Ok(())
    }
}

/// What writes no more than fits.
struct Counted<'a> {
    out: &'a mut dyn Sink,
    room: usize,
}

impl core::fmt::Write for Counted<'_> {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        self.room = self.room.checked_sub(s.len()).ok_or(core::fmt::Error)?;
        self.out.write_str(s)
    }
}
