// SPDX-License-Identifier: GPL-2.0
//! What one tree says of a version's chunks.

use crate::entries::{Entries, Tree};
use crate::error::Result;
use crate::store::Store;
use dm_snap_mv_model::ids::{Chunk, Epoch, OriginNr, TimelineId};
use dm_snap_mv_model::record_key::{RecordKey, RecordValue, KEY_STEP};
use dm_snap_mv_model::resolve::Location;

/// A tree, and what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The records of a timeline, read at an epoch.
    Records(TimelineId, Epoch),
    /// The chunks that the rollback of an origin is done with, which are on the origin device: those
    /// below the cursor, those from the limit on, and those that are marked.
    Done {
        /// The origin.
        origin: OriginNr,
        /// Chunks below are done.
        cursor: Chunk,
        /// Chunks from this on are done.
        limit: Chunk,
    },
}

/// Where what a version has of a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There.
    At(Location),
    /// Nowhere: a mark says that it has changed since, and not what it was. Bookmarks have nothing else
    /// to say of what has changed, and no snapshot finds a mark.
    Gone,
}

impl From<RecordValue> for Place {
    fn from(value: RecordValue) -> Self {
        match value {
            RecordValue::Cow(cow) => Place::At(Location::Cow(cow)),
            RecordValue::Zero | RecordValue::Zeroes(_) => Place::At(Location::Zero),
            RecordValue::Mark => Place::Gone,
        }
    }
}

/// Chunks of a version, from `first` up to `end`, and where they are: one behind the other, if it is in
/// COW chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first chunk.
    pub first: u64,
    /// The first one behind them.
    pub end: u64,
    /// Where the first one is.
    pub at: Place,
}

/// Which tree it is that layers look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Records(TimelineId),
    Done(OriginNr),
}

impl Layer {
    /// Whether it is an origin's timeline.
    pub fn is_of_origin(&self) -> bool {
        matches!(self, Layer::Records(t, _) if t.is_origin())
    }

    pub(crate) fn source(&self) -> Source {
        match *self {
            Layer::Records(t, _) => Source::Records(t),
            Layer::Done { origin, .. } => Source::Done(origin),
        }
    }

    /// Whether any key from `from` on, and below `end`, is one whose place is looked for in the tree.
    pub(crate) fn wants(&self, from: u64, end: Option<u64>) -> bool {
        let Layer::Records(t, epoch) = *self else {
            return true;
        };
        let of_first_chunk = RecordKey::new(t, Chunk::ZERO, epoch).get();
        let key = from / KEY_STEP * KEY_STEP + of_first_chunk;
        let key = if key < from {
            key.saturating_add(KEY_STEP)
        } else {
            key
        };
        end.is_none_or(|end| key < end)
    }

    /// What the entries of the tree say, in the order of chunks; where they say nothing there is no
    /// span. `data_chunks`: of the COW device.
    pub(crate) fn spans(&self, entries: &Entries, data_chunks: u64) -> Result<Vec<Span>> {
        let mut spans = Spans::default();
        match *self {
            Layer::Done { cursor, limit, .. } => {
                let on_device = |first, end| Span {
                    first,
                    end,
                    at: Place::At(Location::Origin),
                };
                spans.put(on_device(0, cursor.get()));
                let marked = entries.iter().map(|&(chunk, _)| chunk);
                for chunk in marked.filter(|chunk| (cursor.get()..limit.get()).contains(chunk)) {
                    spans.put(on_device(chunk, chunk + 1));
                }
                spans.put(on_device(limit.get(), u64::MAX));
            }
            Layer::Records(t, epoch) => {
                let mut answered = None;
                for &(key, value) in entries {
                    let (chunk, of) = RecordKey::decode(t, key)?;
                    let value = RecordValue::decode(value, data_chunks)?;
                    let first = value.first_of(t, chunk)?;
                    // Keys are such that the record that answers for a chunk is the first that can.
                    let answers = match t.is_origin() {
                        true => of >= epoch,
                        false => of <= epoch,
                    };
                    if answers && answered != Some(chunk) {
                        answered = Some(chunk);
                        spans.put(Span {
                            first: first.get(),
                            end: chunk.get() + 1,
                            at: value.into(),
                        });
                    }
                }
            }
        }
        Ok(spans.all)
    }
}

impl Source {
    /// The tree.
    pub(crate) fn tree<'s>(&self, store: &'s Store<'_>) -> Result<Tree<'s>> {
        match *self {
            Source::Records(t) => store.records(t),
            Source::Done(origin) => store.done(origin),
        }
    }

    /// The first key of a chunk.
    pub(crate) fn key_of(&self, chunk: u64) -> u64 {
        match self {
            Source::Records(_) => chunk.saturating_mul(KEY_STEP),
            Source::Done(_) => chunk,
        }
    }

    /// All chunks below are known, if all keys below `next` are, the last one of which is `last`. A
    /// snapshot's record can be of many chunks before the one that it stands at.
    pub(crate) fn known_to(&self, next: u64, last: Option<u64>) -> u64 {
        match self {
            Source::Done(_) => next,
            Source::Records(t) if t.is_origin() => next / KEY_STEP,
            Source::Records(_) => last.map_or(0, |last| last / KEY_STEP),
        }
    }
}

/// Spans, those joined that follow one another.
#[derive(Default)]
struct Spans {
    all: Vec<Span>,
}

impl Spans {
    fn put(&mut self, span: Span) {
        if span.first >= span.end {
            return;
        }
        match self.all.last_mut() {
            Some(last) if last.end == span.first && last.place(span.first) == span.at => {
                last.end = span.end;
            }
            _ => self.all.push(span),
        }
    }
}

impl Span {
    /// Where one of its chunks is.
    fn place(&self, chunk: u64) -> Place {
        match self.at {
            Place::At(Location::Cow(cow)) => {
                let there = cow.checked_add(chunk - self.first);
                Place::At(there.map_or(Location::Zero, Location::Cow))
            }
            at => at,
        }
    }
}

/// A version's layers, gone through in the order of chunks.
pub(crate) struct Sweep<'s> {
    layers: Vec<std::iter::Peekable<std::slice::Iter<'s, Span>>>,
}

impl<'s> Sweep<'s> {
    /// Of the spans of each layer.
    pub(crate) fn new(layers: impl Iterator<Item = &'s [Span]>) -> Self {
        let layers = layers.map(|spans| spans.iter().peekable()).collect();
        Self { layers }
    }

    /// Where a chunk is, which is not before that of the last call; and to which chunk the same is true:
    /// that they follow one another there. It is behind this one, and at most `end`, if that is.
    pub(crate) fn at(&mut self, chunk: u64, end: u64) -> (Place, u64) {
        let mut end = end;
        for spans in &mut self.layers {
            while spans.next_if(|span| span.end <= chunk).is_some() {}
            match spans.peek() {
                Some(span) if span.first <= chunk => {
                    return (span.place(chunk), end.min(span.end));
                }
                Some(span) => end = end.min(span.first),
                None => {}
            }
        }
        (Place::At(Location::Origin), end)
    }
}
