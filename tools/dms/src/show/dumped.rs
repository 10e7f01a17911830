// SPDX-License-Identifier: GPL-2.0
//! What a store holds, a line for each thing: a word that says what it is, and fields with names. The same
//! as text, and as JSON.

use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::origin_row::{Deferred, OriginRow, Rollback};
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::disk::superblock::Superblock;
use dm_snap_mv_model::ids::{OriginNr, Tag, TimelineId};
use dm_snap_mv_model::record_key::RecordValue;
use dm_snap_mv_store::runs::RecordRun;
use std::fmt::Write;

/// A line.
pub struct Line {
    kind: &'static str,
    fields: Vec<(&'static str, Value)>,
}

/// The value of a field.
pub enum Value {
    /// A number.
    Number(u64),
    /// Yes or no.
    Truth(bool),
    /// A text.
    Text(String),
    /// There is none.
    None,
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Truth(truth)
    }
}

impl From<&[u8]> for Value {
    fn from(text: &[u8]) -> Self {
        Self::Text(String::from_utf8_lossy(text).into_owned())
    }
}

impl From<Option<u64>> for Value {
    fn from(number: Option<u64>) -> Self {
        number.map_or(Self::None, Self::Number)
    }
}

impl Line {
    fn new(kind: &'static str) -> Self {
        let fields = Vec::new();
        Self { kind, fields }
    }

    fn field(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// As text: fields as `name=value`, `-` where there is no value, texts as in JSON.
    pub fn text(&self) -> String {
        let mut line = self.kind.to_owned();
        for (name, value) in &self.fields {
            let value = match value {
                Value::None => "-".to_owned(),
                value => value.json(),
            };
            // To a string.
            let _ = write!(line, " {name}={value}");
        }
        line + "\n"
    }

    /// As an object of JSON, whose field `kind` is the word.
    pub fn json(&self) -> String {
        let mut line = format!("{{\"kind\":\"{}\"", self.kind);
        for (name, value) in &self.fields {
            let _ = write!(line, ",\"{name}\":{}", value.json());
        }
        line + "}\n"
    }
}

impl Value {
    fn json(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Truth(truth) => truth.to_string(),
            Self::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
            Self::None => "null".to_owned(),
        }
    }
}

/// The superblock.
pub fn superblock(superblock: &Superblock) -> Line {
    let layout = &superblock.layout;
    let uuid = format!("{:032x}", u128::from_be_bytes(superblock.uuid));
    Line::new("superblock")
        .field("uuid", Value::Text(uuid))
        .field("transaction", superblock.transaction)
        .field("clean", superblock.clean)
        .field("needs_check", superblock.needs_check)
        .field("compat", superblock.compat)
        .field("ro_compat", superblock.ro_compat)
        .field("incompat", superblock.incompat)
        .field("chunk_sectors", layout.chunk_size.sectors())
        .field("metadata_blocks", layout.metadata_blocks)
        .field("journal_start", layout.journal_start)
        .field("journal_blocks", layout.journal_blocks)
        .field("data_start_sector", layout.data_start)
        .field("data_chunks", layout.data_chunks)
        .field("origins", superblock.nr_origins)
        .field("next_origin", superblock.next_origin)
}

/// An origin.
pub fn origin(row: &OriginRow) -> Line {
    Line::new("origin")
        .field("origin", row.number.get())
        .field("id", row.id.as_bytes())
        .field("sectors", row.size)
        .field("epoch", row.current_epoch.get())
        .field("next_tag", row.next_tag.get())
        .field("snapshots", row.snapshots)
        .field("ghosts", row.ghosts)
        .field("created", row.created)
        .field("chunks", row.chunks)
        .field("invalid_below", row.invalid_below)
        .field("bookmarks", row.bookmarks)
        .field("forgotten_below", row.forgotten_below)
}

/// The rollback that runs on an origin.
pub fn rollback(origin: OriginNr, rollback: &Rollback) -> Line {
    Line::new("rollback")
        .field("origin", origin.get())
        .field("source", rollback.source.get())
        .field("source_epoch", rollback.source_epoch.get())
        .field("boundary", rollback.boundary.get())
        .field("delete_source", rollback.delete_source)
        .field("cursor", rollback.cursor.get())
        .field("limit", rollback.limit.get())
        .field("merged", rollback.merged)
}

/// The rollback that is to come.
pub fn deferred(origin: OriginNr, deferred: &Deferred) -> Line {
    Line::new("deferred")
        .field("origin", origin.get())
        .field("source", deferred.source.get())
        .field("delete_source", deferred.delete_source)
}

/// Chunks from the cursor on that a rollback is done with.
pub fn done(origin: OriginNr, chunk: u64, len: u64) -> Line {
    Line::new("done")
        .field("origin", origin.get())
        .field("chunk", chunk)
        .field("length", len)
}

/// A snapshot.
pub fn snapshot(origin: &OriginRow, row: &SnapshotRow) -> Line {
    Line::new("snapshot")
        .field("origin", origin.number.get())
        .field("snapshot", row.tag.get())
        .field("parent", row.parent.map_or(0, Tag::get))
        .field("base_epoch", row.base_epoch.get())
        .field("epoch", row.current_epoch.get())
        .field("sectors", row.size)
        .field("created", row.created)
        .field("chunks", row.chunks)
        .field("children", row.children)
        .field("ghost", row.ghost)
        .field("bookmark", row.bookmark)
        .field(
            "invalid",
            match row.bookmark {
                true => origin.is_forgotten(row.tag),
                false => origin.is_invalid(row.tag),
            },
        )
        .field("memo", row.memo.as_bytes())
}

fn of(line: Line, t: TimelineId) -> Line {
    line.field("origin", t.origin().get())
        .field("snapshot", t.snapshot().map_or(0, Tag::get))
}

/// The cleaning of a timeline.
pub fn cleaning(t: TimelineId, row: &CleaningRow) -> Line {
    of(Line::new("cleaning"), t)
        .field("cursor", row.cursor)
        .field("freed", row.freed)
        .field("again", row.again)
        .field("dead", row.drop)
}

/// Records of chunks that follow one another.
pub fn records(run: &RecordRun) -> Line {
    let (content, cow) = match run.value {
        RecordValue::Cow(cow) => ("cow", Some(cow.get())),
        RecordValue::Zero | RecordValue::Zeroes(_) => ("zero", None),
        RecordValue::Mark => ("mark", None),
    };
    of(Line::new("records"), run.timeline)
        .field("chunk", run.chunk.get())
        .field("length", run.len)
        .field("epoch", run.epoch.get())
        .field("content", Value::Text(content.to_owned()))
        .field("cow", cow)
}

/// What comes last.
pub fn end(lines: u64, transactions: [u64; 2]) -> Line {
    let [first, last] = transactions;
    Line::new("end")
        .field("lines", lines)
        .field("first_transaction", first)
        .field("last_transaction", last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dm_snap_mv_model::ids::{Chunk, CowChunk, Epoch};

    #[test]
    fn the_same_in_both_forms() {
        let run = |value| RecordRun {
            timeline: TimelineId::of_origin(OriginNr::new(3).unwrap()),
            chunk: Chunk::new(7).unwrap(),
            epoch: Epoch::FIRST,
            value,
            len: 2,
        };
        let cow = records(&run(RecordValue::Cow(CowChunk::new(9).unwrap())));
        assert_eq!(
            cow.text(),
            "records origin=3 snapshot=0 chunk=7 length=2 epoch=1 content=\"cow\" cow=9\n"
        );
        assert_eq!(
            cow.json(),
            "{\"kind\":\"records\",\"origin\":3,\"snapshot\":0,\"chunk\":7,\"length\":2,\
             \"epoch\":1,\"content\":\"cow\",\"cow\":9}\n"
        );
        let zero = records(&run(RecordValue::Zeroes(1)));
        assert!(zero.text().ends_with(" content=\"zero\" cow=-\n"));
        assert!(zero
            .json()
            .ends_with(",\"content\":\"zero\",\"cow\":null}\n"));
        let text = Line::new("x").field("memo", &b"say \"\xc3\xa0\"\n"[..]);
        assert_eq!(text.text(), "x memo=\"say \\\"à\\\"\\n\"\n");
        let value: serde_json::Value = serde_json::from_str(&text.json()).unwrap();
        assert_eq!(value["memo"], "say \"à\"\n");
    }
}
