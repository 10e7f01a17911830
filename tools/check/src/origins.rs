// SPDX-License-Identifier: GPL-2.0
//! The rows of origins.

use crate::context::Context;
use crate::facts::{Facts, OriginFacts};
use crate::journal::Level;
use crate::merged;
use crate::reached::Part;
use crate::report::Kind;
use crate::walk::Tree;
use dm_snap_mv_model::disk::identity::Identity;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::table::check_id;
use std::collections::HashMap;

fn decode(key: u64, value: &[u8]) -> Result<OriginRow, Refusal> {
    let value = value.try_into().map_err(|_| Refusal::Corrupt)?;
    let row = OriginRow::decode(value)?;
    match u64::from(row.number.get()) == key {
        true => Ok(row),
        false => Err(Refusal::Corrupt),
    }
}

/// What is wrong with a row by itself.
fn fault(cx: &Context<'_>, row: &OriginRow) -> Option<&'static str> {
    if row.number.get() >= cx.superblock.next_origin {
        return Some("its number has not been given to anybody yet");
    }
    if check_id(row.id.as_bytes()).is_err() {
        return Some("its identity has control characters");
    }
    if cx.superblock.layout.chunk_size.end_of(row.size).is_err() {
        return Some("it is larger than an origin can be");
    }
    if row.identity != Identity::UNKNOWN && !cx.superblock.has_identities() {
        return Some("it says what disk it is on, of which the superblock says that none does");
    }
    if (row.bookmarks, row.forgotten_below) != (0, 0) && !cx.superblock.has_versions() {
        return Some("it has bookmarks, of which the superblock says that there are none");
    }
    None
}

pub(crate) fn check(cx: &mut Context<'_>, facts: &mut Facts, changes: &mut Level) {
    let root = cx.superblock.roots.origins;
    let tree = Tree::new(Part::Origins, root, OriginRow::SIZE);
    let mut readable = true;
    let mut by_id = HashMap::new();
    let whole = merged::walk(cx, Some(tree), changes, &mut |cx, key, value, _| {
        let row = match decode(key, value) {
            Ok(row) => row,
            Err(_) => {
                readable = false;
                cx.found(
                    Kind::Origin,
                    None,
                    format!("origin {key}: its row is damaged"),
                );
                return;
            }
        };
        if let Some(what) = fault(cx, &row) {
            let what = format!("origin {key}: {what}");
            cx.found(Kind::Origin, Some(row.timeline()), what);
        }
        if let Some(twin) = by_id.insert(row.id.as_bytes().to_vec(), key) {
            let what = format!("origins {twin} and {key} have the same identity");
            cx.found(Kind::Origin, None, what);
        }
        facts.origins.push(OriginFacts {
            row,
            snapshots: 0,
            ghosts: 0,
            bookmarks: 0,
            chunks: 0,
            pinned: false,
            identified: false,
        });
    });
    facts.whole.origins = whole && readable;
}
