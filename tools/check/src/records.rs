// SPDX-License-Identifier: GPL-2.0
//! Every record against its timeline.

use crate::context::Context;
use crate::facts::{name, Based, Facts};
use crate::journal::{Level, Levels};
use crate::merged;
use crate::reached::Part;
use crate::report::Kind;
use crate::timelines;
use crate::walk::Tree;
use dm_snap_mv_model::clean::{self, Kept};
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::superblock::INCOMPAT_ZEROES;
use dm_snap_mv_model::ids::{Chunk, Epoch, TimelineId};
use dm_snap_mv_model::record_key::{RecordKey, RecordValue};

pub(crate) fn check(cx: &mut Context<'_>, facts: &mut Facts, changes: &mut Levels) {
    let root = cx.superblock.roots.records;
    let tree = Tree::new(Part::Records, root, 8);
    let whole = timelines::walk(
        cx,
        tree,
        (Kind::Record, "records"),
        changes,
        &mut |cx, t, tree, level| check_timeline(cx, facts, t, tree, level),
    );
    facts.whole.records = whole;
}

/// What is known of the timeline whose records are looked at.
struct Timeline {
    t: TimelineId,
    /// The end of its chunks; none: not known.
    end: Option<Chunk>,
    /// Its current epoch; none if it has no row.
    current: Option<Epoch>,
    /// Where its own head reads: of snapshots that were not deleted.
    head: Option<Epoch>,
    /// The epochs that something is based on, ascending.
    based: Vec<Based>,
    /// Those that there are bookmarks of.
    marked: Vec<Based>,
    /// Snapshots with lower tags are invalid.
    invalid_below: u32,
    /// What is found and what is not is known.
    judged: bool,
    cleaning: Option<CleaningRow>,
    /// The record before the one that is looked at.
    before: Option<(Chunk, Epoch)>,
    /// That one is of several chunks.
    several: bool,
    /// COW chunks found.
    chunks: u64,
    /// Garbage that nothing is going to remove: how much, and where it begins.
    lost: Option<(u64, Chunk)>,
    readable: bool,
}

/// Which record is looked at.
struct At {
    t: TimelineId,
    chunk: Chunk,
    epoch: Epoch,
    /// It is the journal's.
    journaled: bool,
}

impl At {
    fn wrong(&self, cx: &mut Context<'_>, what: &str) {
        let (chunk, epoch) = (self.chunk.get(), self.epoch.get());
        let (kind, whose) = match self.journaled {
            true => (Kind::Journal, "journal: "),
            false => (Kind::Record, ""),
        };
        let what = format!(
            "{whose}records of {}: chunk {chunk}, epoch {epoch}: {what}",
            name(self.t)
        );
        cx.found(kind, Some(self.t), what);
    }
}

fn check_timeline(
    cx: &mut Context<'_>,
    facts: &mut Facts,
    t: TimelineId,
    tree: Option<Tree>,
    changes: &mut Level,
) -> bool {
    let dead = facts.is_dead(t);
    if !dead && facts.is_rowless(t) && facts.whole.cleaning {
        let what = format!("records of {}: there is no such thing", name(t));
        cx.found(Kind::Record, None, what);
    }
    let size = facts.size(t);
    let whole = &facts.whole;
    let mut timeline = Timeline {
        t,
        end: size.and_then(|size| cx.superblock.layout.chunk_size.end_of(size).ok()),
        current: facts.current(t),
        head: facts
            .snapshot(t)
            .filter(|s| !s.ghost && !s.bookmark)
            .map(|s| s.current),
        based: facts.based(t).to_vec(),
        marked: facts.marked(t).to_vec(),
        invalid_below: facts.origin(t.origin()).map_or(0, |o| o.row.invalid_below),
        judged: whole.snapshots && whole.children && whole.cleaning,
        cleaning: facts.cleaning(t).copied(),
        before: None,
        several: false,
        chunks: 0,
        lost: None,
        readable: true,
    };
    let whole = merged::walk(cx, tree, changes, &mut |cx, key, value, journaled| {
        timeline.record(cx, facts, (key, value), journaled);
    });
    // What records are of that others take the place of is not freed by that.
    let before = changes
        .values()
        .filter_map(|change| change.before.as_deref());
    for number in before.filter_map(|value| value.try_into().ok().map(u64::from_le_bytes)) {
        let value = RecordValue::decode(number, cx.superblock.layout.data_chunks);
        if let Ok(RecordValue::Cow(cow)) = value {
            facts.chunks.insert(cow.get());
        }
    }
    if let Some((count, first)) = timeline.lost {
        let what = format!(
            "records of {}: {count} from chunk {} on are needed by nothing, and nothing is going \
             to remove them",
            name(t),
            first.get()
        );
        cx.found(Kind::Garbage, None, what);
        facts.lost.push(t);
    }
    if let Some(snapshot) = facts.snapshot_mut(t) {
        snapshot.found_chunks = timeline.chunks;
    } else if t.is_origin() {
        if let Some(origin) = facts.origin_mut(t.origin()) {
            origin.chunks = timeline.chunks;
        }
    }
    whole && timeline.readable
}

impl Timeline {
    fn record(
        &mut self,
        cx: &mut Context<'_>,
        facts: &mut Facts,
        (key, value): (u64, &[u8]),
        journaled: bool,
    ) {
        let t = self.t;
        let Ok((chunk, epoch)) = RecordKey::decode(t, key) else {
            let what = format!("records of {}: there can be no record {key:#x}", name(t));
            cx.found(Kind::Record, Some(t), what);
            return;
        };
        cx.report.statistics.records += 1;
        let at = At {
            t,
            chunk,
            epoch,
            journaled,
        };
        if self.end.is_some_and(|end| chunk >= end) {
            at.wrong(cx, "it lies behind the end");
        }
        // The head of an origin is its device, so that an epoch has records when it has ended.
        let begun = self.current.is_none_or(|current| match t.is_origin() {
            true => epoch < current,
            false => epoch <= current,
        });
        if !begun {
            at.wrong(cx, "it is of a later epoch than there has been");
        }
        let number = value.try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX);
        let decoded = RecordValue::decode(number, cx.superblock.layout.data_chunks);
        self.alone(cx, &at, decoded.ok());
        match decoded {
            Err(_) => {
                self.readable = false;
                let what = format!(
                    "records of {}: chunk {}, epoch {}: there is no COW chunk {number:#x}",
                    name(t),
                    chunk.get(),
                    epoch.get()
                );
                cx.found(Kind::Record, Some(t), what);
            }
            Ok(RecordValue::Zero | RecordValue::Zeroes(_)) => {}
            Ok(RecordValue::Mark) => self.mark(cx, &at),
            Ok(RecordValue::Cow(cow)) => {
                self.chunks += 1;
                cx.report.statistics.chunks += 1;
                // What the journal's are of is looked at there.
                if !journaled && !facts.chunks.insert(cow.get()) {
                    let what = format!(
                        "records of {}: chunk {}, epoch {}: COW chunk {} belongs to another \
                         record as well",
                        name(t),
                        chunk.get(),
                        epoch.get(),
                        cow.get()
                    );
                    cx.found(Kind::SharedChunk, Some(t), what);
                }
            }
        }
        let is_mark = matches!(decoded, Ok(RecordValue::Mark));
        match self.kept(chunk, epoch, is_mark) {
            Kept::Whole => {}
            Kept::Mark if is_mark => {}
            _ => self.garbage(cx, key, chunk),
        }
        self.before = Some((chunk, epoch));
    }

    /// A mark says nothing to a snapshot: none that is valid finds one.
    fn mark(&self, cx: &mut Context<'_>, at: &At) {
        if !cx.superblock.has_versions() {
            at.wrong(
                cx,
                "it has no content, and the superblock says that there are none of that kind",
            );
        }
        let newest = newest(&self.based, at.epoch);
        let valid = newest.filter(|based| based.tag >= self.invalid_below);
        let live = valid.map(|based| based.epoch);
        if clean::origin_finds(live, self.before_of(at.chunk)) {
            at.wrong(cx, "it has no content, and a snapshot needs that");
        }
    }

    /// The epoch of the record before the one that is looked at, if it is one of the same chunk.
    fn before_of(&self, chunk: Chunk) -> Option<Epoch> {
        self.before.filter(|&(c, _)| c == chunk).map(|(_, e)| e)
    }

    /// What one record says of several chunks is of chunks that there are, and no other record is of any
    /// of them, whatever its epoch.
    fn alone(&mut self, cx: &mut Context<'_>, at: &At, value: Option<RecordValue>) {
        let several = matches!(value, Some(RecordValue::Zeroes(_)));
        if several && cx.superblock.incompat & INCOMPAT_ZEROES == 0 {
            at.wrong(
                cx,
                "it is of several chunks, of which the superblock says that there are none",
            );
        }
        let first = value.map_or(Ok(at.chunk), |value| value.first_of(self.t, at.chunk));
        let before = self.before.map(|(chunk, _)| chunk);
        match first {
            Err(_) => at.wrong(cx, "it is of chunks that there cannot be"),
            Ok(first) if several && before >= Some(first) => {
                at.wrong(cx, "it is of a chunk that another record is of, too");
            }
            Ok(_) if self.several && before == Some(at.chunk) => {
                at.wrong(cx, "it is of a chunk that another record is of, too");
            }
            Ok(_) => {}
        }
        self.several = several;
    }

    /// The newest epoch, not above `e`, that something is based on.
    fn newest_based(&self, e: Epoch) -> Option<Epoch> {
        newest(&self.based, e).map(|based| based.epoch)
    }

    /// What of the record any version needs.
    fn kept(&self, chunk: Chunk, epoch: Epoch, is_mark: bool) -> Kept {
        let before = self.before_of(chunk);
        let found = if self.cleaning.is_some_and(|row| row.drop) {
            false
        } else if self.t.is_origin() {
            let live = self.newest_based(epoch).filter(|_| !is_mark);
            let bookmark = newest(&self.marked, epoch).map(|based| based.epoch);
            if !clean::origin_finds(live, before) && clean::origin_finds(bookmark, before) {
                return Kept::Mark;
            }
            clean::origin_finds(live, before)
        } else {
            let last = match before {
                Some(next) => next.previous(),
                None => Some(Epoch::MAX),
            };
            last.is_some_and(|last| {
                clean::snapshot_finds(epoch, last, self.newest_based(last), self.head)
            })
        };
        match found {
            true => Kept::Whole,
            false => Kept::Nothing,
        }
    }

    /// Cleaning must come past a record that nothing finds, or that has more than what is needed of it.
    fn garbage(&mut self, cx: &mut Context<'_>, key: u64, chunk: Chunk) {
        let comes = self
            .cleaning
            .is_some_and(|row| row.drop || row.again || key >= row.cursor);
        if comes {
            cx.report.statistics.garbage += 1;
        } else if self.judged && self.current.is_some() {
            let lost = self.lost.get_or_insert((0, chunk));
            lost.0 += 1;
        }
    }
}

/// The newest one not above an epoch, of those of a timeline.
fn newest(all: &[Based], e: Epoch) -> Option<&Based> {
    let count = all.partition_point(|based| based.epoch <= e);
    count.checked_sub(1).and_then(|i| all.get(i))
}
