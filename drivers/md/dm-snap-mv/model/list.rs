// SPDX-License-Identifier: GPL-2.0

//! The reply to `list`: an origin and its snapshots, a page at a time.
//!
//! The first line tells of the store and the origin, the last one is `end`, or `next TAG` when the
//! page was full; between them a row for each version, the origin's own with tag 0 first:
//!
//! ```text
//! store <uuid> <usage> <state> <cleaning> <rollback> <origin number> <origin sectors> <origin id>
//! <tag> <parent> <base epoch> <flags> <unix time> <sectors> <chunks> <children> <memo>
//! ```
//!
//! with `-` for what there is not. Flags: `G` ghost, `I` invalid, `R` source of the rollback that
//! runs and so pinned, `B` bookmark, `L` it has a label; `.` for none.

use core::fmt::{self, Write};

use super::disk::origin_row::OriginRow;
use super::disk::snapshot_row::SnapshotRow;
use super::escape::{word, word_or_dash, Reader, Sink};
use super::ids::Tag;
use super::records::Metadata;
use super::refusal::Refusal;
use super::report::{Cleaning, OrDash, RollbackProgress, State, Usage};
use super::uuid::Uuid;

/// What the first line tells of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLine {
    /// What the store is known by.
    pub uuid: [u8; 16],
    /// How much of it is used.
    pub usage: Usage,
    /// How it is.
    pub state: State,
    /// What is left to clean.
    pub cleaning: Option<Cleaning>,
}

/// Room for `next 4294967295\n`, kept free while there may be more rows than fit.
const LAST_LINE: usize = 16;

/// Appends the page of `origin`'s versions from tag `start` on, of at most `max` rows, to `out`,
/// which has room for `room` bytes. [`Refusal::ReplyTooLong`] when not even one row fits, which
/// 2 KiB rule out.
pub fn list<M: Metadata>(
    m: &M,
    store: &StoreLine,
    origin: &OriginRow,
    start: u32,
    max: u32,
    room: usize,
    out: &mut dyn Sink,
) -> Result<(), M::Error> {
    let mut page = Page { out, room };
    if !page.line(&|out| first_line(out, store, origin))? {
        return Err(Refusal::ReplyTooLong.into());
    }
    let mut rows = 0;
    if start == 0 {
        page.need_line(&|out| origin_line(out, origin))?;
        rows = 1;
    }
    let mut next = Tag::new(start.max(1)).map(|tag| origin.timeline_of(tag));
    while let Some(from) = next {
        let row = m.snapshot_from(from)?;
        let Some((t, row)) = row.filter(|(t, _)| t.origin() == origin.number) else {
            break;
        };
        let labelled = m.label(t)?.is_some();
        let fits = rows < max && page.line(&|out| snapshot_line(out, origin, &row, labelled))?;
        if !fits {
            // Without a row a reader would ask for the same page for ever.
            if rows == 0 {
                return Err(Refusal::ReplyTooLong.into());
            }
            return Ok(writeln!(page.out, "next {}", row.tag).map_err(|_| Refusal::ReplyTooLong)?);
        }
        rows += 1;
        next = t.next();
    }
    Ok(page
        .out
        .write_bytes(b"end\n")
        .map_err(|_| Refusal::ReplyTooLong)?)
}

/// How a line is written.
type Line<'a> = &'a dyn Fn(&mut dyn Sink) -> fmt::Result;

struct Page<'a> {
    out: &'a mut dyn Sink,
    /// Bytes that are free.
    room: usize,
}

impl Page<'_> {
    /// Appends a line and a newline if a last line would still fit behind it.
    fn line(&mut self, write: Line<'_>) -> Result<bool, Refusal> {
        let mut length = Length(1);
        write(&mut length).map_err(|_| Refusal::ReplyTooLong)?;
        match self.room.checked_sub(length.0) {
            Some(left) if left >= LAST_LINE => self.room = left,
            _ => return Ok(false),
        }
        write(self.out)
            .and_then(|()| self.out.write_bytes(b"\n"))
            .map_err(|_| Refusal::ReplyTooLong)?;
        Ok(true)
    }

    /// Appends a line that must fit.
    fn need_line(&mut self, write: Line<'_>) -> Result<(), Refusal> {
        match self.line(write)? {
            true => Ok(()),
            false => Err(Refusal::ReplyTooLong),
        }
    }
}

/// Counts the bytes that a line would take.
struct Length(usize);

impl Write for Length {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.write_bytes(s.as_bytes())
    }
}

impl Sink for Length {
    fn write_bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(())
    }
}

fn first_line(out: &mut dyn Sink, store: &StoreLine, origin: &OriginRow) -> fmt::Result {
    out.write_str("store ")?;
    write!(
        out,
        "{} {} {} {} {} {} {} ",
        Uuid(&store.uuid),
        store.usage,
        store.state,
        OrDash(store.cleaning),
        OrDash(RollbackProgress::of(origin)),
        origin.number,
        origin.size
    )?;
    word(out, Reader::People, origin.id.as_bytes())
}

fn origin_line(out: &mut dyn Sink, origin: &OriginRow) -> fmt::Result {
    write!(
        out,
        "0 - - . {} {} {} {} -",
        origin.created, origin.size, origin.chunks, origin.snapshots
    )
}

fn snapshot_line(
    out: &mut dyn Sink,
    origin: &OriginRow,
    row: &SnapshotRow,
    labelled: bool,
) -> fmt::Result {
    write!(
        out,
        "{} {} {} {} {} {} {} {} ",
        row.tag,
        row.parent.map_or(0, Tag::get),
        row.base_epoch.get(),
        Flags {
            origin,
            row,
            labelled
        },
        row.created,
        row.size,
        row.chunks,
        row.children
    )?;
    word_or_dash(out, Reader::People, row.memo.as_bytes())
}

struct Flags<'a> {
    origin: &'a OriginRow,
    row: &'a SnapshotRow,
    labelled: bool,
}

impl fmt::Display for Flags<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rollback = self.origin.rollback;
        let invalid = match self.row.bookmark {
            true => self.origin.is_forgotten(self.row.tag),
            false => self.origin.is_invalid(self.row.tag),
        };
        let flags = [
            (self.row.ghost, "G"),
            (invalid, "I"),
            (
                rollback.is_some_and(|rollback| rollback.source == self.row.tag),
                "R",
            ),
            (self.row.bookmark, "B"),
            (self.labelled, "L"),
        ];
        let mut none = true;
        for (_, letter) in flags.iter().filter(|(set, _)| *set) {
            none = false;
            f.write_str(letter)?;
        }
        match none {
            true => f.write_str("."),
            false => Ok(()),
        }
    }
}
