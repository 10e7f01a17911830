// SPDX-License-Identifier: GPL-2.0
//! Who holds chunks of the COW device on behalf of an origin.

use super::bytes;
use crate::list::Row;
use serde::Serialize;

/// So many snapshots are named, those that hold the most.
const NAMED: usize = 10;

/// What an origin and its snapshots hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Chunks in all.
    pub chunks: u64,
    /// Those of them that hold what was overwritten of the origin, for all of its snapshots together.
    pub preserved: u64,
    /// The snapshots that hold what was written to them, those with the most first.
    pub snapshots: Vec<HeldBy>,
}

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldBy {
    /// Which one; deleted ones that are kept for others have none to be used by, but hold as much.
    pub tag: u32,
    /// Chunks.
    pub chunks: u64,
    /// Whether it is invalid, so that its chunks are used when there are no others.
    pub invalid: bool,
}

impl Held {
    /// Of the rows of a list.
    pub fn of(rows: &[Row]) -> Self {
        let mut snapshots: Vec<_> = rows
            .iter()
            .filter(|row| row.tag != 0 && row.chunks > 0)
            .map(|row| HeldBy {
                tag: row.tag,
                chunks: row.chunks,
                invalid: row.flags.contains('I'),
            })
            .collect();
        snapshots.sort_by_key(|by| (std::cmp::Reverse(by.chunks), by.tag));
        let sum = |chunks: u64, row: &Row| chunks.saturating_add(row.chunks);
        Self {
            chunks: rows.iter().fold(0, sum),
            preserved: rows.iter().filter(|row| row.tag == 0).fold(0, sum),
            snapshots,
        }
    }

    /// In words, a line for each, with its label. `chunk`: bytes of a chunk.
    pub fn lines(&self, chunk: u64) -> Vec<(&'static str, String)> {
        let size = |chunks: u64| format!("{chunks} ({})", bytes(chunks.saturating_mul(chunk)));
        let mut lines = vec![
            ("held-chunks", size(self.chunks)),
            (
                "held-by",
                format!("the origin for its snapshots, {}", size(self.preserved)),
            ),
        ];
        let named = self.snapshots.iter().take(NAMED);
        lines.extend(named.map(|by| {
            let invalid = if by.invalid { ", invalid" } else { "" };
            let by = format!("snapshot {}, {}{invalid}", by.tag, size(by.chunks));
            ("held-by", by)
        }));
        if let Some(others @ [_, ..]) = self.snapshots.get(NAMED..) {
            let chunks = others
                .iter()
                .fold(0u64, |sum, by| sum.saturating_add(by.chunks));
            let more = format!("{} snapshots more, {}", others.len(), size(chunks));
            lines.push(("held-by", more));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tag: u32, flags: &str, chunks: u64) -> Row {
        Row {
            tag,
            parent: None,
            base_epoch: None,
            flags: flags.into(),
            created: 0,
            sectors: 8,
            chunks,
            children: 0,
            memo: String::new(),
            label: None,
        }
    }

    #[test]
    fn who_holds_how_much() {
        let rows = [
            row(0, "", 10),
            row(1, "", 3),
            row(2, "", 0),
            row(7, "I", 5),
            row(9, "G", 3),
        ];
        let held = Held::of(&rows);
        assert_eq!((held.chunks, held.preserved), (21, 10));
        let lines: Vec<_> = held.lines(4096).into_iter().map(|(_, text)| text).collect();
        assert_eq!(
            lines,
            [
                "21 (84 KiB)",
                "the origin for its snapshots, 10 (40 KiB)",
                "snapshot 7, 5 (20 KiB), invalid",
                "snapshot 1, 3 (12 KiB)",
                "snapshot 9, 3 (12 KiB)",
            ]
        );
    }

    #[test]
    fn those_with_little_are_summed_up() {
        let rows: Vec<_> = (1..=13)
            .map(|tag| row(tag, "", 20 - u64::from(tag)))
            .collect();
        let lines = Held::of(&rows).lines(4096);
        assert_eq!(lines.len(), 2 + NAMED + 1);
        let (_, last) = lines.last().expect("lines");
        assert_eq!(last, "3 snapshots more, 24 (96 KiB)");
    }
}
