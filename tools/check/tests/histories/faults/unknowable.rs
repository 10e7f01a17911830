// SPDX-License-Identifier: GPL-2.0

//! What stands in one place only, so that nothing tells when it is something else that makes sense. The
//! document of the format lists it.

use dm_snap_mv_model::disk::journal::CHECKSUM_XOR;

use super::judge::Excuse;
use super::places::Place;
use super::stores::Subject;

/// Fields, by what they are fields of: in the trees, and in the journal.
const FIELDS: &[(&str, &str)] = &[
    // A record is one of a COW chunk, or of zeroes, or a mark, which nothing counts.
    ("records", "timeline"),
    ("records", "key"),
    ("records", "value"),
    ("records", "entries"),
    ("records", "how many"),
    ("marks", "key"),
    ("marks", "entries"),
    ("marks", "first"),
    ("marks", "how many"),
    ("origins", "flags"),
    ("origins", "invalid below"),
    ("origins", "rollback: source"),
    ("origins", "rollback: boundary"),
    ("origins", "rollback: flags"),
    ("origins", "rollback: cursor"),
    ("snapshots", "size"),
];

/// Blocks, and what is the matter with them.
const BLOCKS: &[(&str, &str)] = &[
    // Another timeline's, with as many COW chunks.
    ("records", "exchanged"),
    // How far a rollback is, and what it is done with ahead of that.
    ("origins", "old"),
    ("marks", "old"),
    // Batches, or blocks of them, that say of themselves that they are others.
    ("journal", "exchanged"),
    ("journal", "cut"),
    ("journal", "left out"),
];

/// The same of the superblock, if it has no backup.
const WITHOUT_BACKUP: &[&str] = &["UUID", "transaction"];

/// What cannot be known of another value of a field.
pub fn of_field(subject: &Subject, place: &Place) -> Excuse {
    let field = place.field.name;
    // The journal has the same rows.
    let of = match place.of {
        "origin" => "origins",
        "snapshot" => "snapshots",
        of => of,
    };
    let bare = of == "superblock" && subject.image.superblock().backup().is_none();
    Excuse {
        unknowable: FIELDS.contains(&(of, field)) || (bare && WITHOUT_BACKUP.contains(&field)),
        earlier: place.xor == CHECKSUM_XOR,
    }
}

/// What cannot be known of blocks that are not what they were.
pub fn of_blocks(of: &[&str], sort: &str) -> Excuse {
    Excuse {
        unknowable: of.iter().any(|of| BLOCKS.contains(&(of, sort))),
        earlier: of.contains(&"journal") && sort != "hole",
    }
}
