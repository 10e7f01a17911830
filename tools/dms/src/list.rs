// SPDX-License-Identifier: GPL-2.0
//! The `list` message's reply: an origin and its snapshots, in pages.

use crate::dm::{Dm, Mapped};
use crate::failure::{Failure, Kind};
use crate::fields::{next, unless_dash, Cleaning, Malformed, Part, Rollback};
use crate::label::Label;
use crate::words;
use serde::Serialize;

/// An origin with all of its snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The store it is in.
    pub store: Store,
    /// Itself first, then its snapshots, by tag.
    pub rows: Vec<Row>,
}

/// What stands in a page's first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Of the store.
    pub uuid: String,
    /// Blocks of 4 KiB for metadata.
    pub metadata_blocks: Part,
    /// Chunks for data.
    pub chunks: Part,
    /// Sectors of a chunk.
    pub chunk_sectors: u64,
    /// `valid`, `full` and so on.
    pub state: String,
    /// Cleaning under way.
    pub cleaning: Option<Cleaning>,
    /// Rollback under way.
    pub rollback: Option<Rollback>,
    /// The number of the origin.
    pub origin: u32,
    /// Its size in sectors.
    pub sectors: u64,
    /// How the store knows it.
    pub id: Vec<u8>,
}

/// One version: the origin, or a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// 0 is the origin.
    pub tag: u32,
    /// Of which version it was taken; the origin has none.
    pub parent: Option<u32>,
    /// The epoch of its parent that it shows.
    pub base_epoch: Option<u32>,
    /// Letters: G deleted but with children, I invalid, R what is rolled back to, B a bookmark, L it has a label.
    pub flags: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// Its size in sectors.
    pub sectors: u64,
    /// Chunks of the COW device that are its own.
    pub chunks: u64,
    /// Snapshots taken of it.
    pub children: u64,
    /// What was noted with it.
    pub memo: String,
    /// Its label, where it has been asked for.
    pub label: Option<Label>,
}

impl Row {
    /// What it is called, if its label says so.
    pub fn name(&self) -> Option<&str> {
        self.label.as_ref()?.name.as_deref()
    }

    /// Whether it was deleted and is kept for its children, and there is no bookmark of it.
    pub fn is_ghost(&self) -> bool {
        self.flags.contains('G') && !self.is_bookmark()
    }

    /// Whether it is a bookmark, which has no content.
    pub fn is_bookmark(&self) -> bool {
        self.flags.contains('B')
    }
}

/// One page.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// The first line.
    pub store: Store,
    /// The rows.
    pub rows: Vec<Row>,
    /// From which tag on there is more.
    pub next: Option<u32>,
}

impl Page {
    /// Takes a page apart.
    pub fn parse(reply: &[u8]) -> Result<Self, Malformed> {
        let mut lines = reply.split(|&b| b == b'\n').filter(|l| !l.is_empty());
        let store = Store::parse(lines.next().ok_or(Malformed)?)?;
        let mut rows = Vec::new();
        for line in lines {
            let mut words = words::split_raw(line).into_iter();
            match words.next().ok_or(Malformed)? {
                b"end" => {
                    return Ok(Self {
                        store,
                        rows,
                        next: None,
                    })
                }
                b"next" => {
                    let next = next(&mut words.map(text))?;
                    return Ok(Self {
                        store,
                        rows,
                        next: Some(next),
                    });
                }
                _ => rows.push(Row::parse(line)?),
            }
        }
        // It was cut short.
        Err(Malformed)
    }
}

fn text(word: &[u8]) -> &str {
    std::str::from_utf8(word).unwrap_or_default()
}

impl Store {
    fn parse(line: &[u8]) -> Result<Self, Malformed> {
        let words = words::split_raw(line);
        let mut fields = words.iter().map(|w| text(w));
        if fields.next() != Some("store") {
            return Err(Malformed);
        }
        Ok(Self {
            uuid: next(&mut fields)?,
            metadata_blocks: next(&mut fields)?,
            chunks: next(&mut fields)?,
            chunk_sectors: next(&mut fields)?,
            state: next(&mut fields)?,
            cleaning: unless_dash(fields.next().ok_or(Malformed)?)?,
            rollback: unless_dash(fields.next().ok_or(Malformed)?)?,
            origin: next(&mut fields)?,
            sectors: next(&mut fields)?,
            id: words::plain(words.get(10).ok_or(Malformed)?),
        })
    }
}

impl Row {
    fn parse(line: &[u8]) -> Result<Self, Malformed> {
        let words = words::split_raw(line);
        let mut fields = words.iter().map(|w| text(w));
        let tag = next(&mut fields)?;
        let number = |field: Option<&str>| match field.ok_or(Malformed)? {
            "-" => Ok(None),
            field => field.parse().map(Some).map_err(|_| Malformed),
        };
        let parent = number(fields.next())?;
        let base_epoch = number(fields.next())?;
        let flags: String = next(&mut fields)?;
        Ok(Self {
            tag,
            parent,
            base_epoch,
            flags: flags.replace('.', ""),
            created: next(&mut fields)?,
            sectors: next(&mut fields)?,
            chunks: next(&mut fields)?,
            children: next(&mut fields)?,
            memo: match words.get(8) {
                None => return Err(Malformed),
                Some(word) if words::is_dash(word) => String::new(),
                Some(word) => String::from_utf8_lossy(&words::plain(word)).into_owned(),
            },
            label: None,
        })
    }
}

impl List {
    /// Asks for the labels of those that have one.
    pub fn ask_for_labels(&mut self, dm: &Dm, device: &Mapped) -> Result<(), Failure> {
        for row in self.rows.iter_mut().filter(|row| row.flags.contains('L')) {
            // One that is being deleted meanwhile has none any more.
            row.label = match Label::of(dm, device, row.tag) {
                Err(failure) if failure.kind == Kind::NotFound => None,
                asked => asked?,
            };
        }
        Ok(())
    }

    /// Asks the device `name` for all pages.
    pub fn of(dm: &Dm, name: &str) -> Result<Self, Failure> {
        let first = page(dm, name, 0)?;
        let mut list = Self {
            store: first.store,
            rows: first.rows,
        };
        let mut next = first.next;
        while let Some(start) = next {
            let page = page(dm, name, start)?;
            list.rows.extend(page.rows);
            // One that does not get on would be asked for without end.
            next = page.next.filter(|&n| n > start);
        }
        Ok(list)
    }
}

/// The page that begins with the tag `start`, of the origin that device `name` belongs to.
pub fn page(dm: &Dm, name: &str, start: u32) -> Result<Page, Failure> {
    let reply = dm
        .tell(name, &["list", &start.to_string()])?
        .done(&format!("cannot list the snapshots of {name}"))?;
    Page::parse(&reply).map_err(|Malformed| {
        Malformed::failure(format!("this dms does not understand the list of {name}"))
    })
}

/// Whether a snapshot of the origin that a device belongs to has chunks of its own, as the kernel has it.
pub fn holds_chunks(dm: &Dm, device: &Mapped, tag: u32) -> Result<bool, Failure> {
    let page = page(dm, &device.name, tag)?;
    let row = page.rows.into_iter().find(|row| row.tag == tag);
    Ok(row.is_some_and(|row| row.chunks > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "store 0123-ab 12/1024 946/7865817 8 valid - - 1 2097152 /dev/my\\ disk\n";

    #[test]
    fn a_page() {
        let text = format!(
            "{HEAD}0 - - . 1287409117 2097152 0 2 -\n\
             1 0 1 . 1287409288 2097152 5 1 before\\ the\\ \\\\\\ \"upgrade\"\n\
             2 1 1 RG 1287409377 2097152 5 0 \\-\nnext 3\n"
        );
        let page = Page::parse(text.as_bytes()).unwrap();
        assert_eq!(page.next, Some(3));
        assert_eq!(page.store.id, b"/dev/my disk");
        assert_eq!(page.store.origin, 1);
        assert_eq!(page.rows.len(), 3);
        assert_eq!(page.rows[0].parent, None);
        assert_eq!(page.rows[0].memo, "");
        assert_eq!(page.rows[0].flags, "");
        assert_eq!(page.rows[1].memo, r#"before the \ "upgrade""#);
        assert_eq!(page.rows[2].memo, "-");
        assert!(page.rows[2].is_ghost());
        assert_eq!(page.rows[2].parent, Some(1));
    }

    #[test]
    fn the_last_page() {
        let text = format!("{HEAD}end\n");
        assert_eq!(Page::parse(text.as_bytes()).unwrap().next, None);
    }

    #[test]
    fn a_page_that_was_cut_short_is_noticed() {
        for text in [
            "",
            "end\n",
            HEAD,
            &format!("{HEAD}1 0 1 .\nend\n"),
            &format!("{HEAD}next\n"),
        ] {
            assert_eq!(Page::parse(text.as_bytes()), Err(Malformed), "{text}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_in_an_identity() {
        let mut text = b"store u 1/2 3/4 8 valid 1:5 2:0/8 1 8 \xff\\\xa0\nend\n".to_vec();
        let page = Page::parse(&text).unwrap();
        assert_eq!(page.store.id, b"\xff\xa0");
        assert_eq!(page.store.rollback.unwrap().tag, 2);
        text.truncate(8);
        assert!(Page::parse(&text).is_err());
    }
}
