// SPDX-License-Identifier: GPL-2.0
//! What differs between two versions of an origin.
//!
//! A chunk is the same in both if they read it from the same place, else it is said to have changed: no
//! less than what differs, in whole chunks. All trees concerned are gone through at once, in the order of
//! chunks, each once, whatever the number of versions; where both lead to the same point of the origin's
//! timeline, that is left out.
//!
//! What has changed between two snapshots is the same at all times, as long as both are there and nobody
//! writes to them (see [`crate::live`]); but that while a rollback runs, chunks of equal content come to
//! it. The origin as it is means: as it was when this began, or at any time later, chunk by chunk. So
//! what was written to it before is told, and what is written meanwhile, perhaps.

use crate::error::{Error, Result};
use crate::layers::{Layer, Place, Source, Span, Sweep};
use crate::live::{corrupt, Live, Seen};
use crate::store::Store;
use crate::version::{leave_out_common, Version};
use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::ids::{Epoch, OriginNr, Tag, TimelineId};
use dm_snap_mv_model::record_key::RecordKey;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::resolve::Location;

/// Leaves of each tree that are looked at, at least: for each epoch that a chunk is looked up at, the one
/// where the search begins and the next one.
const LEAST_OF_EACH: usize = 8;

/// Chunks that follow one another and have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The first one.
    pub first: u64,
    /// How many.
    pub len: u64,
    /// The newer version has zeroes there, and says so; else it has data, which may be zeroes too.
    pub zero: bool,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The number of the origin.
    pub origin: OriginNr,
    /// The older version: a snapshot, a bookmark, or the origin as it is.
    pub old: Option<Tag>,
    /// The newer one, which need not be newer.
    pub new: Option<Tag>,
}

/// The sizes of both, in sectors, and of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Of the older version.
    pub old: u64,
    /// Of the newer one.
    pub new: u64,
    /// Of a chunk.
    pub chunk: ChunkSize,
}

impl Sizes {
    /// Chunks from this one on are not in the older version, or not all of one.
    fn common(&self) -> u64 {
        match self.old < self.new {
            true => self.chunk.whole_chunks(self.old),
            false => u64::MAX,
        }
    }

    /// The chunks of the newer version.
    pub fn end(&self) -> Result<u64> {
        Ok(self.chunk.end_of(self.new)?.get())
    }

    /// Where chunks are in the newer version, the last one of which may be one in part: first sector and
    /// number of sectors.
    pub fn sectors(&self, changed: &Changed) -> (u64, u64) {
        let sector = |chunk: u64| chunk.saturating_mul(self.chunk.sectors()).min(self.new);
        let first = sector(changed.first);
        (
            first,
            sector(changed.first.saturating_add(changed.len)) - first,
        )
    }
}

/// What a difference is of.
#[derive(Clone, Copy)]
enum Between {
    Versions(Versions),
    /// Nothing, and a version.
    Nothing(OriginNr, Option<Tag>),
}

/// The difference, which is read in parts.
pub struct Delta<'a> {
    live: Live<'a>,
    between: Between,
    sizes: Sizes,
    /// Chunks before this one are through.
    at: u64,
    end: u64,
    /// What was found last, as far as it may go on.
    tail: Option<Changed>,
    over: bool,
}

impl<'a> Delta<'a> {
    /// Begins to read what differs between versions. What is refused at once: versions that there are not,
    /// and those that are invalid.
    pub fn begin(live: Live<'a>, versions: Versions) -> Result<Self> {
        Self::between(live, Between::Versions(versions))
    }

    /// Begins to read what a version differs in from a device of no size at all: all of it, with what of it is
    /// known to be zeroes. The errors are those of [`Delta::begin`].
    pub fn whole(live: Live<'a>, origin: OriginNr, version: Option<Tag>) -> Result<Self> {
        Self::between(live, Between::Nothing(origin, version))
    }

    fn between(mut live: Live<'a>, between: Between) -> Result<Self> {
        let sizes = live.batch(|store, _| {
            let (old, new) = look_up(store, &between)?;
            Ok(Sizes {
                old: old.sectors,
                new: new.sectors,
                chunk: store.superblock().layout.chunk_size,
            })
        })?;
        let end = sizes.end()?;
        Ok(Self {
            live,
            between,
            sizes,
            at: 0,
            end,
            tail: None,
            over: false,
        })
    }

    /// How large the versions are.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Chunks that are through, and all.
    pub fn progress(&self) -> (u64, u64) {
        (self.at.min(self.end), self.end)
    }

    /// What was seen of the store.
    pub fn seen(&self) -> Seen {
        self.live.seen()
    }

    /// What has changed, from where the last call has ended: runs that do not touch, but for those of
    /// which one is zeroes; perhaps none yet. `None`: that was all, and both versions are still there.
    ///
    /// # Errors
    ///
    /// A version has been deleted meanwhile, or has become invalid; then what was returned before is of no
    /// use, but for what is known to have changed.
    pub fn more(&mut self) -> Result<Option<Vec<Changed>>> {
        if self.over {
            return Ok(None);
        }
        let mut runs = Vec::new();
        if self.at < self.end {
            let (from, between, sizes) = (self.at, self.between, self.sizes);
            let (found, at) = self
                .live
                .batch(|store, leaves| part(store, &between, &sizes, from, leaves))?;
            self.at = at;
            for changed in found {
                self.join(changed, &mut runs);
            }
        }
        if self.at >= self.end {
            let between = self.between;
            self.live.now(|store| look_up(store, &between).map(drop))?;
            runs.extend(self.tail.take());
            self.over = true;
        }
        Ok(Some(runs))
    }

    fn join(&mut self, changed: Changed, runs: &mut Vec<Changed>) {
        match &mut self.tail {
            Some(tail) if tail.first + tail.len == changed.first && tail.zero == changed.zero => {
                tail.len += changed.len;
            }
            tail => runs.extend(tail.replace(changed)),
        }
    }
}

/// Where the versions are.
fn look_up(store: &Store<'_>, between: &Between) -> Result<(Version, Version)> {
    let origin =
        |number| -> Result<OriginRow> { Ok(store.origin(number)?.ok_or(Refusal::NotBound)?) };
    match *between {
        Between::Versions(versions) => {
            let origin = origin(versions.origin)?;
            let old = Version::to_compare_with(store, &origin, versions.old)?;
            Ok((old, Version::of(store, &origin, versions.new)?))
        }
        Between::Nothing(number, tag) => {
            let mut new = Version::of(store, &origin(number)?, tag)?;
            // An origin's timeline never says that a chunk is zeroes, and most of what there is is in it.
            if new.layers.last().is_some_and(Layer::is_of_origin) {
                new.layers.pop();
            }
            let nothing = Version {
                sectors: 0,
                layers: Vec::new(),
            };
            Ok((nothing, new))
        }
    }
}

/// What has changed from a chunk on, as far as some leaves tell; and up to which chunk that is.
fn part(
    store: &Store<'_>,
    versions: &Between,
    sizes: &Sizes,
    from: u64,
    leaves: usize,
) -> Result<(Vec<Changed>, u64)> {
    let (mut old, mut new) = look_up(store, versions)?;
    for layers in [&mut old.layers, &mut new.layers] {
        leave_out_absent(store, layers)?;
    }
    leave_out_common(&mut old, &mut new);
    if let (Some(between), true) = (between(&old, &new), sizes.common() >= sizes.end()?) {
        return recorded(store, between, sizes, from, leaves);
    }
    let (spans, upto) = known(store, &old, &new, from, leaves)?;
    let end = upto.min(sizes.end()?);
    let (of_old, of_new) = spans.split_at(old.layers.len().min(spans.len()));
    let mut old = Sweep::new(of_old.iter().map(Vec::as_slice));
    let mut new = Sweep::new(of_new.iter().map(Vec::as_slice));
    let common = sizes.common();
    let mut found = Vec::new();
    let mut chunk = from;
    while chunk < end {
        let until = if chunk < common { end.min(common) } else { end };
        let (was, until) = old.at(chunk, until);
        let (is, until) = new.at(chunk, until);
        let Place::At(location) = is else {
            return Err(corrupt());
        };
        if was != is || chunk >= common {
            found.push(Changed {
                first: chunk,
                len: until - chunk,
                zero: location == Location::Zero,
            });
        }
        chunk = until;
    }
    Ok((found, end.max(from)))
}

/// Leaves out timelines without records, as those of snapshots are that were not written to.
fn leave_out_absent(store: &Store<'_>, layers: &mut Vec<Layer>) -> Result<()> {
    let mut kept = Vec::with_capacity(layers.len());
    for layer in layers.drain(..) {
        let is_there = match layer {
            Layer::Records(t, _) => !store.records(t)?.is_absent(),
            Layer::Done { .. } => true,
        };
        if is_there {
            kept.push(layer);
        }
    }
    *layers = kept;
    Ok(())
}

/// The epochs, from one on and below another, whose records are all the difference: if both versions are
/// read from an origin's timeline alone, and one of them perhaps from the origin device.
fn between(old: &Version, new: &Version) -> Option<(TimelineId, Epoch, Option<Epoch>)> {
    let (t, a, b) = match (old.layers.as_slice(), new.layers.as_slice()) {
        (&[Layer::Records(t, a)], &[Layer::Records(other, b)]) if t == other => (t, a, Some(b)),
        (&[Layer::Records(t, a)], []) | ([], &[Layer::Records(t, a)]) => (t, a, None),
        _ => return None,
    };
    let first = b.map_or(a, |b| b.min(a));
    t.is_origin().then_some((t, first, b.map(|b| b.max(a))))
}

/// The chunks from one on that have a record between two epochs, and up to which chunk they are known:
/// what the earlier one finds there, the later one, or the origin as it is, does not.
fn recorded(
    store: &Store<'_>,
    (t, first, end): (TimelineId, Epoch, Option<Epoch>),
    sizes: &Sizes,
    from: u64,
    leaves: usize,
) -> Result<(Vec<Changed>, u64)> {
    let source = Source::Records(t);
    let layer = Layer::Records(t, first);
    let tree = source.tree(store)?;
    let most = sizes.end()?;
    let mut of_each = leaves.max(LEAST_OF_EACH);
    loop {
        let wanted = |from, end| layer.wants(from, end);
        let part = tree.part(source.key_of(from), of_each, &wanted)?;
        let upto = part.next().map_or(most, |next| source.known_to(next, None));
        if upto <= from {
            of_each = larger(store, of_each)?;
            continue;
        }
        let upto = upto.min(most);
        let mut found: Vec<Changed> = Vec::new();
        let mut wrong = None;
        tree.visit(&part, |key, _| match RecordKey::decode(t, key) {
            Ok((chunk, epoch)) => {
                let chunk = chunk.get();
                if epoch < first || end.is_some_and(|end| epoch >= end) || chunk >= upto {
                    return;
                }
                match found.last_mut() {
                    Some(last) if last.first + last.len > chunk => {}
                    Some(last) if last.first + last.len == chunk => last.len += 1,
                    _ => found.push(Changed {
                        first: chunk,
                        len: 1,
                        zero: false,
                    }),
                }
            }
            Err(refusal) => wrong = Some(refusal),
        })?;
        return match wrong {
            Some(refusal) => Err(refusal.into()),
            None => Ok((found, upto)),
        };
    }
}

/// More leaves, for there are so many records of one chunk; but not more than there can be.
fn larger(store: &Store<'_>, of_each: usize) -> Result<usize> {
    match of_each as u64 > store.superblock().layout.metadata_blocks {
        true => Err(Error::Refused(Refusal::Corrupt)),
        false => Ok(of_each * 2),
    }
}

/// The spans of each layer of both versions, from a chunk on, and up to which chunk they are known.
fn known(
    store: &Store<'_>,
    old: &Version,
    new: &Version,
    from: u64,
    leaves: usize,
) -> Result<(Vec<Vec<Span>>, u64)> {
    let layers: Vec<_> = old.layers.iter().chain(&new.layers).collect();
    let mut sources: Vec<Source> = Vec::new();
    for layer in &layers {
        if !sources.contains(&layer.source()) {
            sources.push(layer.source());
        }
    }
    let mut of_each = (leaves / sources.len().max(1)).max(LEAST_OF_EACH);
    loop {
        let (entries, upto) = read(store, &sources, from, of_each, &|source, from, end| {
            let mut of_source = layers.iter().filter(|layer| layer.source() == source);
            of_source.any(|layer| layer.wants(from, end))
        })?;
        if upto > from {
            let data_chunks = store.superblock().layout.data_chunks;
            let of = |source| sources.iter().position(|&s| s == source);
            let spans = layers.iter().map(|layer| {
                let entries = of(layer.source()).and_then(|i| entries.get(i));
                layer.spans(entries.unwrap_or(&Vec::new()), data_chunks)
            });
            return Ok((spans.collect::<Result<_>>()?, upto));
        }
        of_each = larger(store, of_each)?;
    }
}

/// Whether a key of a tree in a range is looked for.
type Wanted<'w> = &'w dyn Fn(Source, u64, Option<u64>) -> bool;

/// The entries of trees from a chunk on, and up to which chunk all of them are known. Which leaves there
/// are is known first, so that of no tree more are read than go as far as the others'.
fn read(
    store: &Store<'_>,
    sources: &[Source],
    from: u64,
    of_each: usize,
    wanted: Wanted<'_>,
) -> Result<(Vec<crate::entries::Entries>, u64)> {
    let mut parts = Vec::with_capacity(sources.len());
    let mut upto = u64::MAX;
    for source in sources {
        let tree = source.tree(store)?;
        let part = tree.part(source.key_of(from), of_each, &|from, end| {
            wanted(*source, from, end)
        })?;
        if let Some(next) = part.next() {
            upto = upto.min(source.known_to(next, Some(next)));
        }
        parts.push((tree, part));
    }
    let mut all = Vec::with_capacity(sources.len());
    let mut known = upto;
    for (source, (tree, part)) in sources.iter().zip(&mut parts) {
        if upto < u64::MAX {
            part.end_at(source.key_of(upto));
        }
        let entries = tree.entries(part)?;
        if let Some(next) = part.next() {
            let last = entries.last().map(|&(key, _)| key);
            known = known.min(source.known_to(next, last));
        }
        all.push(entries);
    }
    Ok((all, known))
}
