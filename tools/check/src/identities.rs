// SPDX-License-Identifier: GPL-2.0
//! The way from identities to origins.

use crate::context::Context;
use crate::facts::Facts;
use crate::reached::Part;
use crate::report::Kind;
use crate::walk::{walk, Tree};
use dm_snap_mv_model::disk::origin_ids;
use dm_snap_mv_model::ids::{OriginNr, TimelineId};

pub(crate) fn check(cx: &mut Context<'_>, facts: &mut Facts) {
    let root = cx.superblock.roots.origin_ids;
    let tree = Tree::new(Part::Identities, root, 8);
    let mut others = Vec::new();
    let whole = walk(cx, tree, &mut |cx, key, value| {
        let number = value.try_into().map(u64::from_le_bytes).ok();
        let nr = number
            .and_then(|n| u32::try_from(n).ok())
            .and_then(OriginNr::new);
        let mut wrong = |what: String| {
            cx.found(
                Kind::Identity,
                None,
                format!("identities: entry {key:#x}: {what}"),
            );
        };
        let Some(nr) = nr else {
            return wrong("there can be no such origin".to_owned());
        };
        let unknown = !facts.whole.origins;
        let Some(origin) = facts.origin_mut(nr) else {
            if !unknown {
                wrong(format!("there is no origin {nr}"));
            }
            return;
        };
        let id = origin.row.id;
        let (first, last) = origin_ids::keys(crc32c::crc32c(id.as_bytes()));
        if key < first || key > last {
            wrong(format!("origin {nr} has another identity"));
            others.push(nr);
            return;
        }
        if origin.identified {
            return wrong(format!("origin {nr} has one already"));
        }
        origin.identified = true;
    });
    facts.whole.identities = whole;
    for nr in others {
        // Which of the two it had cannot be told.
        if facts.origin(nr).is_some_and(|origin| !origin.identified) {
            let what = format!("origin {nr}: its row and the identities disagree about who it is");
            cx.found(Kind::Missing, Some(TimelineId::of_origin(nr)), what);
        }
    }
}
