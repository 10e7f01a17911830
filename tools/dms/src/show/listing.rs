// SPDX-License-Identifier: GPL-2.0
//! The listing of snapshots: a block for each origin, with the fields of the original `dms`.

use super::Shown;
use crate::fields::Part;
use crate::list::{List, Row};
use chrono::{Local, TimeZone};
use std::fmt::Write;

/// One block.
pub struct Block {
    /// The origin device.
    pub origin: Shown,
    /// The COW device.
    pub cow: Shown,
    /// What the store told.
    pub list: List,
    /// Active devices: the tag they show (0 is the origin) and their names.
    pub devices: Vec<(u32, String)>,
}

impl Block {
    /// The rows to show. A deleted snapshot that is kept for its children has lost its tag, so
    /// that only who asks for all sees it.
    pub fn rows(&self, all: bool) -> impl Iterator<Item = &Row> {
        self.list.rows.iter().filter(move |r| all || !r.is_ghost())
    }

    /// Versions there are, of those that could be.
    pub fn versions(&self) -> Part {
        Part {
            used: self.rows(false).count() as u64,
            total: u32::MAX.into(),
        }
    }

    /// The names of active devices that show `tag`.
    pub fn names(&self, tag: u32) -> Vec<&str> {
        self.devices
            .iter()
            .filter(|(t, _)| *t == tag)
            .map(|(_, name)| name.as_str())
            .collect()
    }
}

/// A time as people read it, where they are.
pub fn local_time(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|s| Local.timestamp_opt(s, 0).single())
        .map_or_else(
            || "-".to_owned(),
            |time| time.format("%Y/%m/%d %H:%M:%S").to_string(),
        )
}

/// A memo in quotation marks. Those within have a backslash before them.
fn quoted(memo: &str) -> String {
    format!("\"{}\"", memo.replace('\\', "\\\\").replace('"', "\\\""))
}

const HEADINGS: [&str; 7] = [
    "YYYY/MM/DD HH:MM:SS",
    "Tag",
    "R",
    "Chunks",
    "DM_Dev",
    "Name",
    "Memo",
];
/// Numbers stand at the right of their column.
const RIGHT: [bool; 7] = [false, true, false, true, false, false, false];
/// A column that there is only where there is something in it.
const NAME: usize = 5;

fn cells(block: &Block, row: &Row, time: impl Fn(u64) -> String) -> [String; 7] {
    let names = block.names(row.tag);
    let empty = |text: &str, instead: &str| {
        if text.is_empty() {
            instead.to_owned()
        } else {
            text.to_owned()
        }
    };
    [
        time(row.created),
        row.tag.to_string(),
        empty(&row.flags, "."),
        row.chunks.to_string(),
        empty(&names.join(","), "-"),
        row.name().map_or_else(|| "-".to_owned(), quoted),
        if row.tag == 0 {
            quoted("ORIGIN")
        } else {
            quoted(&row.memo)
        },
    ]
}

/// Writes a block.
pub fn format(block: &Block, all: bool, time: impl Fn(u64) -> String) -> String {
    let store = &block.list.store;
    let part = |p: Part| format!("{}% ({}/{})", p.percent(), p.used, p.total);
    let cleaning = store.cleaning.map_or_else(
        || "no".to_owned(),
        |c| format!("{}% ({} left)", c.percent, c.left),
    );
    let rollback = store.rollback.map_or_else(
        || "no".to_owned(),
        |r| match r.stopped.filter(|_| r.is_deferred()) {
            Some(why) => format!("to {}, {}", r.tag, why.words()),
            None => format!("to {}, {}", r.tag, part(r.chunks)),
        },
    );
    let mut out = String::new();
    for (label, value) in [
        ("origin-device", block.origin.to_string()),
        ("cow-device", block.cow.to_string()),
        ("chunk-size", format!("{} page(s)", store.chunk_sectors / 8)),
        ("used-versions", part(block.versions())),
        ("used-chunks", part(store.chunks)),
        ("cow-status", store.state.clone()),
        ("cleaning", cleaning),
        ("rollbacking", rollback),
    ] {
        let _ = writeln!(out, "{label:13} : {value}");
    }
    let mut table = vec![HEADINGS.map(str::to_owned)];
    table.extend(block.rows(all).map(|row| cells(block, row, &time)));
    let named = block.rows(all).any(|row| row.name().is_some());
    let mut widths = [0; 7];
    for row in &table {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &table {
        let mut line = String::new();
        let cells = row.iter().zip(widths).zip(RIGHT).enumerate();
        for (_, ((cell, width), right)) in cells.filter(|(i, _)| *i != NAME || named) {
            if !line.is_empty() {
                line.push(' ');
            }
            let _ = if right {
                write!(line, "{cell:>width$}")
            } else {
                write!(line, "{cell:width$}")
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::devno::Devno;
    use crate::label::Label;
    use crate::list::Page;

    pub fn block() -> Block {
        let page = Page::parse(
            b"store 5e6f 12/1024 946/7865817 8 valid - - 1 2097152 /dev/sdb1\n\
              0 - - . 1287409117 2097152 0 2 -\n\
              1 0 1 . 1287409288 2097152 5 1 snap1\n\
              2 1 1 . 1287409377 2097152 15 0 before\\ the\\ \"big\"\\ day\n\
              3 0 2 G 1287409378 2097152 0 1 gone\n\
              end\n",
        )
        .unwrap();
        let shown = |name: &str, minor| Shown {
            name: name.into(),
            devno: Devno { major: 8, minor },
        };
        Block {
            origin: shown("sdb1", 17),
            cow: shown("sdc1", 33),
            list: List {
                store: page.store,
                rows: page.rows,
            },
            devices: vec![(0, "orig".into()), (1, "snap1".into())],
        }
    }

    fn utc(seconds: u64) -> String {
        chrono::Utc
            .timestamp_opt(seconds as i64, 0)
            .unwrap()
            .format("%Y/%m/%d %H:%M:%S")
            .to_string()
    }

    #[test]
    fn golden() {
        assert_eq!(
            format(&block(), false, utc),
            r#"origin-device : sdb1 (8:17)
cow-device    : sdc1 (8:33)
chunk-size    : 1 page(s)
used-versions : 0% (3/4294967295)
used-chunks   : 0% (946/7865817)
cow-status    : valid
cleaning      : no
rollbacking   : no
YYYY/MM/DD HH:MM:SS Tag R Chunks DM_Dev Memo
2010/10/18 13:38:37   0 .      0 orig   "ORIGIN"
2010/10/18 13:41:28   1 .      5 snap1  "snap1"
2010/10/18 13:42:57   2 .     15 -      "before the \"big\" day"
"#
        );
    }

    #[test]
    fn golden_with_work_under_way() {
        let mut block = block();
        block.list.store.cleaning = "3:40".parse().ok();
        block.list.store.rollback = "2:5/10".parse().ok();
        block.list.store.state = "full".into();
        block.list.rows.truncate(1);
        let text = format(&block, true, utc);
        assert!(text.contains("\ncow-status    : full\n"), "{text}");
        assert!(text.contains("\ncleaning      : 40% (3 left)\n"), "{text}");
        assert!(
            text.contains("\nrollbacking   : to 2, 50% (5/10)\n"),
            "{text}"
        );
    }

    #[test]
    fn names_have_a_column_of_their_own() {
        let mut block = block();
        block.list.rows[2].label = Some(Label {
            uuid: "1".into(),
            group: None,
            consistency: "crash".into(),
            keep_until: None,
            policy: None,
            from: None,
            name: Some("monday".into()),
        });
        let text = format(&block, false, utc);
        assert!(text.contains("Chunks DM_Dev Name     Memo\n"), "{text}");
        assert!(
            text.contains("  0 .      0 orig   -        \"ORIGIN\"\n"),
            "{text}"
        );
        assert!(text.contains(" 15 -      \"monday\" \"before"), "{text}");
    }

    #[test]
    fn ghosts_are_for_who_asks() {
        assert!(!format(&block(), false, utc).contains("gone"));
        assert!(format(&block(), true, utc).contains("  3 G      0 -      \"gone\"\n"));
    }

    #[test]
    fn times() {
        assert_eq!(local_time(u64::MAX), "-");
        assert_eq!(local_time(1_287_409_117).len(), 19);
    }
}
