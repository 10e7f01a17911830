// SPDX-License-Identifier: GPL-2.0
//! The rows of timelines that are being cleaned.

use crate::context::Context;
use crate::facts::{name, Facts};
use crate::journal::Level;
use crate::merged;
use crate::reached::Part;
use crate::report::Kind;
use crate::walk::Tree;
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::ids::TimelineId;
use dm_snap_mv_model::record_key::RecordKey;

fn decode(key: u64, value: &[u8]) -> Option<(TimelineId, CleaningRow)> {
    let t = TimelineId::new(key)?;
    let row = CleaningRow::decode(value.try_into().ok()?).ok()?;
    Some((t, row))
}

pub(crate) fn check(cx: &mut Context<'_>, facts: &mut Facts, changes: &mut Level) {
    let root = cx.superblock.roots.cleaning;
    let tree = Tree::new(Part::Cleanings, root, CleaningRow::SIZE);
    let mut readable = true;
    let whole = merged::walk(cx, Some(tree), changes, &mut |cx, key, value, _| {
        let Some((t, row)) = decode(key, value) else {
            readable = false;
            let what = format!("cleaning of timeline {key:#x}: its row is damaged");
            cx.found(Kind::Cleaning, None, what);
            return;
        };
        if let Some(what) = fault(cx, facts, t, &row) {
            cx.found(
                Kind::Cleaning,
                None,
                format!("cleaning of {}: {what}", name(t)),
            );
        }
        facts.cleaning.push((t, row));
    });
    facts.whole.cleaning = whole && readable;
}

fn fault(
    cx: &Context<'_>,
    facts: &Facts,
    t: TimelineId,
    row: &CleaningRow,
) -> Option<&'static str> {
    let origin = facts.origin(t.origin());
    if origin.is_none() && facts.whole.origins {
        return Some("there is no such origin");
    }
    let next_tag = origin.map(|origin| origin.row.next_tag);
    if t.snapshot()
        .is_some_and(|tag| next_tag.is_some_and(|next| tag >= next))
    {
        return Some("there has never been such a snapshot");
    }
    let lives = facts.snapshot(t).is_some_and(|s| !s.is_only_bookmark());
    if row.drop && (t.is_origin() || lives) {
        return Some("it says that the timeline is dead, and it is not");
    }
    if !row.drop && facts.is_rowless(t) {
        return Some("the timeline is dead, and it does not say so");
    }
    let last = row.cursor.checked_sub(1)?;
    let end = facts
        .size(t)
        .and_then(|size| cx.superblock.layout.chunk_size.end_of(size).ok());
    match RecordKey::decode(t, last) {
        Ok((chunk, _)) if end.is_none_or(|end| chunk < end) => None,
        _ => Some("it is at a record that there cannot be"),
    }
}
