// SPDX-License-Identifier: GPL-2.0

//! What is fuzzed: everything that takes apart bytes from outside. Each target is a function that
//! takes any bytes, and panics when something is wrong.
//!
//! Seeds, and inputs that found something, are in `seeds/`, a folder a target; the tests of this
//! crate go through them and through some changes of them. With coverage to guide it, libFuzzer
//! does that in `libfuzzer/`.

mod clients;
mod input;
mod journals;
mod rows;
mod stores;
mod streams;
mod texts;

// A store is made as the tests of the checker make theirs.
#[allow(dead_code)]
mod check {
    pub use crate::structure::{
        after_crash, all_content, all_deltas, content, nothing_for_invalid_ones,
    };

    pub fn structure(w: &crate::world::World) {
        crate::rich::look_at(&w.store);
    }
}
#[path = "../../check/tests/histories/changes.rs"]
mod changes;
#[allow(dead_code)]
#[path = "../../check/tests/histories/image.rs"]
mod image;
#[allow(dead_code)]
#[path = "../../model/tests/versions/ops.rs"]
mod ops;
#[path = "../../model/tests/versions/oracle.rs"]
mod oracle;
#[path = "../../model/tests/versions/random.rs"]
mod random;
#[path = "../../check/tests/histories/rich.rs"]
mod rich;
#[path = "../../model/tests/versions/store.rs"]
mod store;
#[allow(dead_code)]
#[path = "../../model/tests/versions/check.rs"]
mod structure;
#[path = "../../model/tests/versions/tree.rs"]
mod tree;
#[path = "../../model/tests/versions/world.rs"]
mod world;

/// A target.
pub type Target = fn(&[u8]);

/// All of them by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("superblock", rows::superblock),
    ("layout", rows::layout),
    ("origin_row", rows::origin_row),
    ("snapshot_row", rows::snapshot_row),
    ("cleaning_row", rows::cleaning_row),
    ("record", rows::record),
    ("journal", rows::journal),
    ("journal_blocks", journals::blocks),
    ("node", rows::node),
    ("space", rows::space),
    ("table", texts::table),
    ("message", texts::message),
    ("escape", texts::escape),
    ("list", texts::list),
    ("page", texts::page),
    ("status", texts::status),
    ("line", texts::line),
    ("store", stores::store),
    ("nbd", clients::client),
    ("stream", streams::stream),
    ("stream_merge", streams::merged),
    ("stream_receive", streams::received),
    ("stream_note", streams::noted),
];

/// The target called `name`.
pub fn target(name: &str) -> Option<Target> {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.map(|(_, target)| *target)
}
