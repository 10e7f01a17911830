// SPDX-License-Identifier: GPL-2.0

//! The fields of all structures of the format, as its document lists them.

/// What can stand in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    Number,
    /// The number of a metadata block.
    Pointer,
    /// A string, or what is reserved.
    Bytes,
    /// The checksum of its block.
    Checksum,
}

/// A field of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field {
    pub name: &'static str,
    /// Where in the structure it begins, and how many bytes it has.
    pub at: usize,
    pub size: usize,
    pub shape: Shape,
}

const fn field(name: &'static str, at: usize, size: usize, shape: Shape) -> Field {
    Field {
        name,
        at,
        size,
        shape,
    }
}

pub const fn number(name: &'static str, at: usize, size: usize) -> Field {
    field(name, at, size, Shape::Number)
}

const fn pointer(name: &'static str, at: usize) -> Field {
    field(name, at, 8, Shape::Pointer)
}

const fn bytes(name: &'static str, at: usize, size: usize) -> Field {
    field(name, at, size, Shape::Bytes)
}

const CHECKSUM: Field = field("checksum", 0, 4, Shape::Checksum);

pub const SUPERBLOCK: &[Field] = &[
    CHECKSUM,
    number("flags", 4, 4),
    number("block number", 8, 8),
    bytes("UUID", 16, 16),
    bytes("magic", 32, 8),
    number("version", 40, 4),
    number("compatible features", 44, 4),
    number("read-only features", 48, 4),
    number("incompatible features", 52, 4),
    number("sectors of a block", 56, 4),
    number("blocks of a chunk", 60, 4),
    number("first metadata block", 64, 8),
    number("metadata blocks", 72, 8),
    number("journal start", 80, 8),
    number("journal blocks", 88, 8),
    number("data start", 96, 8),
    number("data chunks", 104, 8),
    number("transaction", 112, 8),
    number("next origin", 120, 4),
    number("origins", 124, 4),
    pointer("records", 128),
    pointer("origins' rows", 136),
    pointer("identities", 144),
    pointer("snapshots' rows", 152),
    pointer("children", 160),
    pointer("marks", 168),
    pointer("cleanings", 176),
    pointer("labels", 184),
    bytes("strange", 192, 64),
    number("metadata map: blocks", 256, 8),
    number("metadata map: in use", 264, 8),
    pointer("metadata map: index", 272),
    pointer("metadata map: counts", 280),
    bytes("metadata map: padding", 288, 96),
    number("data map: chunks", 384, 8),
    number("data map: in use", 392, 8),
    pointer("data map: index", 400),
    pointer("data map: counts", 408),
    bytes("data map: padding", 416, 96),
    bytes("reserved", 512, 3584),
];

/// What stands in front of a node's entries.
pub const NODE: &[Field] = &[
    CHECKSUM,
    number("flags", 4, 4),
    number("block number", 8, 8),
    number("entries", 16, 4),
    number("room", 20, 4),
    number("value size", 24, 4),
    bytes("reserved", 28, 4),
];

pub const KEY: &[Field] = &[number("key", 0, 8)];
pub const CHILD_NODE: &[Field] = &[pointer("child", 0)];
pub const TREE: &[Field] = &[pointer("tree", 0)];
pub const VALUE: &[Field] = &[number("value", 0, 8)];
pub const COUNT: &[Field] = &[number("count", 0, 4)];

/// What stands in front of a bitmap's bits, or of the entries of the metadata space map's index.
pub const MAP: &[Field] = &[
    CHECKSUM,
    bytes("reserved", 4, 4),
    number("block number", 8, 8),
];

pub const INDEX_ENTRY: &[Field] = &[
    pointer("bitmap", 0),
    number("free", 8, 4),
    number("none free before", 12, 4),
];

/// Four entries of a bitmap.
pub const BITS: &[Field] = &[number("bits", 0, 1)];

pub const ORIGIN: &[Field] = &[
    number("size", 0, 8),
    number("number", 8, 4),
    number("flags", 12, 4),
    number("current epoch", 16, 4),
    number("next tag", 20, 4),
    number("snapshots", 24, 4),
    number("ghosts", 28, 4),
    number("bound at", 32, 8),
    number("chunks", 40, 8),
    number("invalid below", 48, 4),
    number("bookmarks", 52, 4),
    number("rollback: source", 56, 4),
    number("rollback: pin", 60, 4),
    number("rollback: boundary", 64, 4),
    number("rollback: flags", 68, 4),
    number("rollback: cursor", 72, 8),
    number("rollback: limit", 80, 8),
    number("rollback: merged", 88, 8),
    number("disk: what is known", 96, 4),
    bytes("disk: name", 100, 12),
    bytes("disk: samples", 112, 16),
    number("forgotten below", 128, 4),
    bytes("reserved", 132, 123),
    number("identity's length", 255, 1),
    bytes("identity", 256, 256),
];

pub const SNAPSHOT: &[Field] = &[
    number("tag", 0, 4),
    number("flags", 4, 4),
    number("parent", 8, 4),
    number("base", 12, 4),
    number("current epoch", 16, 4),
    number("children", 20, 4),
    number("size", 24, 8),
    number("taken at", 32, 8),
    number("chunks", 40, 8),
    number("memo's length", 48, 1),
    bytes("reserved", 49, 7),
    bytes("memo", 56, 64),
    bytes("reserved", 120, 8),
];

pub const CLEANING: &[Field] = &[
    number("cursor", 0, 8),
    number("flags", 8, 4),
    bytes("reserved", 12, 4),
    number("freed", 16, 8),
    bytes("reserved", 24, 8),
];

pub const LABEL: &[Field] = &[
    bytes("UUID", 0, 16),
    bytes("group", 16, 16),
    number("keep until", 32, 8),
    bytes("from: store", 40, 16),
    number("from: origin", 56, 4),
    number("from: tag", 60, 4),
    number("consistency", 64, 1),
    number("policy's length", 65, 1),
    number("name's length", 66, 1),
    bytes("reserved", 67, 5),
    bytes("policy", 72, 32),
    bytes("name", 104, 128),
    bytes("reserved", 232, 24),
];

/// What stands in front of a journal block's entries.
pub const JOURNAL: &[Field] = &[
    CHECKSUM,
    number("flags", 4, 4),
    number("block number", 8, 8),
    bytes("UUID", 16, 16),
    number("transaction", 32, 8),
    number("index", 40, 8),
    number("bytes in use", 48, 4),
    number("place in its batch", 52, 4),
    bytes("reserved", 56, 8),
];

/// A sort of entry of the journal: what it is called, how long it is, what stands in front of its row,
/// and that, if it has one.
type Entry = (
    &'static str,
    usize,
    &'static [Field],
    Option<&'static [Field]>,
);

/// The entries of the journal, by their first byte from 1 on.
pub const ENTRIES: &[Entry] = &[
    (
        "records",
        29,
        &[
            number("timeline", 1, 8),
            number("key", 9, 8),
            number("value", 17, 8),
            number("how many", 25, 4),
        ],
        None,
    ),
    (
        "use",
        17,
        &[number("first", 1, 8), number("how many", 9, 8)],
        None,
    ),
    ("origin", 513, &[], Some(ORIGIN)),
    ("snapshot", 133, &[number("origin", 1, 4)], Some(SNAPSHOT)),
    (
        "child",
        21,
        &[
            number("timeline", 1, 8),
            number("key", 9, 8),
            number("tag", 17, 4),
        ],
        None,
    ),
    (
        "marks",
        21,
        &[
            number("origin", 1, 4),
            number("first", 5, 8),
            number("how many", 13, 8),
        ],
        None,
    ),
    ("cleaning", 41, &[number("timeline", 1, 8)], Some(CLEANING)),
    ("no snapshot", 9, &[number("timeline", 1, 8)], None),
    (
        "no child",
        17,
        &[number("timeline", 1, 8), number("key", 9, 8)],
        None,
    ),
];

pub const SORT: Field = number("sort", 0, 1);
