// SPDX-License-Identifier: GPL-2.0

//! The target under test: a COW device, the origins bound to it, their devices.

use std::ops::Deref;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Context, Result};

use crate::disks::{Disks, Piece};
use crate::dm::{Mapped, Table};
use crate::io::Disk;
use crate::shadow::Shadow;
use crate::time::patience;
pub use crate::time::slowness;

/// The target's name.
pub const TARGET: &str = "dm-snap-mv";

/// Waits until something is so.
pub fn until(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    until_nothing(what, || Ok((!is()?).then_some(())))
}

/// Waits until nothing is left, as long as what is left changes: how much there is to do is no
/// matter, nor how slow the machine is.
pub fn until_nothing<T: PartialEq>(
    what: &str,
    mut left: impl FnMut() -> Result<Option<T>>,
) -> Result<()> {
    let mut last = None;
    let mut end = Instant::now();
    loop {
        let now = left()?;
        if now.is_none() {
            return Ok(());
        }
        if now != last {
            last = now;
            end = Instant::now() + patience();
        }
        ensure!(Instant::now() < end, "waited too long: {what}");
        sleep(Duration::from_millis(20));
    }
}

/// A COW device.
pub struct Store {
    /// Where it is.
    pub cow: Piece,
}

/// An origin, known to its store by its identity.
pub struct Origin {
    /// Where it is.
    pub piece: Piece,
    /// What it is called.
    pub id: String,
}

impl Origin {
    /// An origin on a new piece of a disk.
    pub fn new(disks: &Disks, id: &str, sectors: u64) -> Result<Self> {
        Ok(Self {
            piece: disks.piece(sectors)?,
            id: id.to_owned(),
        })
    }
}

/// The line of an origin device.
pub fn co_line(origin: &Path, cow: &Path, options: &str) -> String {
    format!("co {} {} {options}", origin.display(), cow.display())
        .trim_end()
        .to_owned()
}

/// The line of a snapshot device.
pub fn cs_line(origin: &Path, cow: &Path, tag: u32, options: &str) -> String {
    format!("cs {} {} {tag} {options}", origin.display(), cow.display())
        .trim_end()
        .to_owned()
}

impl Store {
    /// A COW device on a new piece of a disk, with nothing on it yet.
    pub fn new(disks: &Disks, sectors: u64) -> Result<Self> {
        let cow = disks.piece(sectors)?;
        Ok(Self { cow })
    }

    /// The table of an origin device, with more `options` than its identity.
    pub fn co_table(&self, origin: &Origin, options: &str) -> Table {
        let options = format!("-i {} {options}", origin.id);
        let line = co_line(&origin.piece.path(), &self.cow.path(), &options);
        let shown = origin.piece.open().map_or(0, |disk| disk.sectors());
        Table::new(shown, TARGET, line)
    }

    /// The table of a snapshot device of `sectors`.
    pub fn cs_table(&self, origin: &Origin, tag: u32, sectors: u64) -> Table {
        let options = format!("-i {}", origin.id);
        let line = cs_line(&origin.piece.path(), &self.cow.path(), tag, &options);
        Table::new(sectors, TARGET, line)
    }

    /// An origin device, with more `options` than its identity.
    pub fn co_with(&self, origin: &Origin, options: &str) -> Result<Device> {
        let table = self.co_table(origin, options);
        let mapped =
            Mapped::create("co", &table).with_context(|| format!("create: {}", table.arguments))?;
        Ok(Device(mapped))
    }

    /// The origin device of an origin that is bound.
    pub fn co(&self, origin: &Origin) -> Result<Device> {
        self.co_with(origin, "")
    }

    /// Formats, with chunks of `pages` pages, and binds the first origin.
    pub fn format(&self, origin: &Origin, pages: u32) -> Result<Device> {
        self.co_with(origin, &format!("-b -F -c {pages}"))
    }

    /// Binds one more origin.
    pub fn bind(&self, origin: &Origin) -> Result<Device> {
        self.co_with(origin, "-b")
    }

    /// A snapshot device as large as its origin.
    pub fn cs(&self, origin: &Origin, tag: u32) -> Result<Device> {
        self.cs_sized(origin, tag, origin.piece.sectors())
    }

    /// A snapshot device of `sectors`.
    pub fn cs_sized(&self, origin: &Origin, tag: u32, sectors: u64) -> Result<Device> {
        let table = self.cs_table(origin, tag, sectors);
        let mapped =
            Mapped::create("cs", &table).with_context(|| format!("create: {}", table.arguments))?;
        Ok(Device(mapped))
    }

    /// Compares a snapshot with what it must hold, by a device that is there for this only.
    pub fn check_snapshot(&self, origin: &Origin, tag: u32, shadow: &Shadow) -> Result<()> {
        let device = self.cs_sized(origin, tag, shadow.sectors())?;
        shadow
            .check(&device.open_read_only()?)
            .with_context(|| format!("snapshot {tag}"))?;
        device.remove()
    }
}

/// A device of the target.
#[derive(Debug)]
pub struct Device(pub Mapped);

impl Deref for Device {
    type Target = Mapped;

    fn deref(&self) -> &Mapped {
        &self.0
    }
}

impl Device {
    /// Opens it.
    pub fn open(&self) -> Result<Disk> {
        Disk::open(self.path()).with_context(|| format!("open {}", self.name()))
    }

    /// Opens it for reading.
    pub fn open_read_only(&self) -> Result<Disk> {
        Disk::open_read_only(self.path()).with_context(|| format!("open {}", self.name()))
    }

    /// Sends a message that must be obeyed.
    pub fn send(&self, message: &str) -> Result<String> {
        self.message(message)
            .with_context(|| format!("message {message:?} to {}", self.name()))
    }

    /// Sends a message that must be refused with this error, for a reason with `why` in it,
    /// and without that the kernel is asked for the reason.
    pub fn refused(&self, message: &str, errno: i32, why: &str) -> Result<()> {
        match self.message(message) {
            Ok(reply) => bail!("message {message:?} was obeyed: {reply:?}"),
            Err(e) if e.raw_os_error() == Some(errno) => {}
            Err(e) => bail!("message {message:?}: {e}"),
        }
        let reply = self.send(&format!("try {message}"))?;
        ensure!(
            reply.starts_with("refused ") && reply.contains(why),
            "message {message:?}: the reason is {reply:?}, not {why:?}"
        );
        Ok(())
    }

    /// Takes a snapshot of the origin.
    pub fn take(&self) -> Result<u32> {
        self.tag("so")
    }

    /// Takes a snapshot of a snapshot.
    pub fn take_of(&self, tag: u32) -> Result<u32> {
        self.tag(&format!("ss {tag}"))
    }

    /// Sends a message that is answered with a tag.
    pub fn tag(&self, message: &str) -> Result<u32> {
        let reply = self.send(message)?;
        reply
            .trim()
            .parse()
            .with_context(|| format!("message {message:?}: reply {reply:?}"))
    }

    /// Deletes a snapshot.
    pub fn delete(&self, tag: u32) -> Result<()> {
        self.send(&format!("ds {tag}")).map(drop)
    }

    /// The chunks of `to`, 0 the origin as it is, that are said to be changed since `from`, as (first, how
    /// many); asked for in pages of at most `max` runs.
    pub fn delta(&self, from: u32, to: u32, max: u32) -> Result<Vec<(u64, u64)>> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut start = 0;
        loop {
            let page = self.send(&format!("delta {from} {to} {start} {max}"))?;
            let next = add_runs(&mut runs, &page).with_context(|| format!("{page:?}"))?;
            match next {
                Some(next) => {
                    ensure!(next > start, "it does not go on: {page:?}");
                    start = next;
                }
                None => return Ok(runs),
            }
        }
    }

    /// Rolls back and waits for its end.
    pub fn rollback(&self, tag: u32) -> Result<()> {
        self.send(&format!("rs {tag}")).map(drop)
    }

    /// Its status, in parts.
    pub fn state(&self) -> Result<Status> {
        let text = self.status()?;
        Status::parse(&text).with_context(|| format!("status {text:?}"))
    }

    /// Waits until so many chunks of the store are used. Status is a little behind.
    pub fn wait_chunks(&self, count: u64) -> Result<()> {
        until(&format!("{count} used chunks"), || {
            Ok(self.state()?.chunks.0 == count)
        })
        .with_context(|| self.status().unwrap_or_default())
    }

    /// Waits for the end of cleaning.
    pub fn wait_clean(&self) -> Result<()> {
        until_nothing("cleaning", || Ok(self.state()?.cleaning))
    }

    /// Waits for the end of a rollback.
    pub fn wait_rollback(&self) -> Result<()> {
        until_nothing("rollback", || Ok(self.state()?.rollback))
    }

    /// Waits until a rollback has ended or stands still. Tells why it does.
    pub fn wait_rollback_or_stop(&self) -> Result<Option<String>> {
        let mut stopped = None;
        until_nothing("a rollback's end", || {
            let rollback = self.state()?.rollback;
            stopped = rollback.as_ref().and_then(|it| it.stopped.clone());
            Ok(rollback.filter(|_| stopped.is_none()))
        })
        .with_context(|| self.status().unwrap_or_default())?;
        Ok(stopped)
    }

    /// All versions, in as many pages as it takes.
    pub fn list(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        let mut start = 0;
        loop {
            let page = self.send(&format!("list {start}"))?;
            listing.pages += 1;
            match listing
                .add(&page)
                .with_context(|| format!("page {page:?}"))?
            {
                Some(next) => {
                    ensure!(next > start, "page from {start} leads to {next}");
                    start = next;
                }
                None => return Ok(listing),
            }
        }
    }

    /// Removes it.
    pub fn remove(self) -> Result<()> {
        let name = self.name().to_owned();
        self.0.remove().with_context(|| format!("remove {name}"))
    }
}

/// How far a rollback is.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollback {
    /// The snapshot that is rolled back to.
    pub tag: u32,
    /// Chunks done.
    pub done: u64,
    /// Of so many.
    pub chunks: u64,
    /// Why it stands still.
    pub stopped: Option<String>,
}

/// What `status` tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// `co` or `cs`.
    pub kind: String,
    /// The origin's number.
    pub origin: u32,
    /// A snapshot device's snapshot.
    pub tag: Option<u32>,
    /// `valid` and so on.
    pub state: String,
    /// Used and total metadata blocks.
    pub metadata: (u64, u64),
    /// Used and total chunks.
    pub chunks: (u64, u64),
    /// Sectors of a chunk.
    pub chunk_sectors: u64,
    /// Of an origin device: how many snapshots there are.
    pub snapshots: Option<u64>,
    /// Of a snapshot device: chunks of its own, and snapshots of it.
    pub own: Option<(u64, u64)>,
    /// What is being cleaned, as it is printed.
    pub cleaning: Option<String>,
    /// The rollback that is under way.
    pub rollback: Option<Rollback>,
    /// The snapshot that the origin goes back to at its next activation.
    pub deferred: Option<u32>,
    /// Of an origin device: how many bookmarks there are.
    pub bookmarks: Option<u64>,
}

impl Status {
    /// See [`Listing::lasting`].
    pub fn lasting(mut self) -> Self {
        self.metadata.0 = 0;
        self
    }

    /// Takes apart what device-mapper printed.
    pub fn parse(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let mut word = || words.next().ok_or_else(|| anyhow!("a word is missing"));
        let kind = word()?.to_owned();
        let is_co = match kind.as_str() {
            "co" => true,
            "cs" => false,
            _ => bail!("neither co nor cs"),
        };
        let origin = word()?.parse()?;
        let tag = if is_co { None } else { Some(word()?.parse()?) };
        let state = word()?.to_owned();
        let metadata = ratio(word()?)?;
        let chunks = ratio(word()?)?;
        let chunk_sectors = word()?.parse()?;
        let first: u64 = word()?.parse()?;
        let (snapshots, own) = if is_co {
            (Some(first), None)
        } else {
            (None, Some((first, word()?.parse()?)))
        };
        let cleaning = Some(word()?.to_owned()).filter(|w| w != "-");
        let (mut rollback, mut deferred) = (None, None);
        match word()? {
            "-" => {}
            text => {
                let (tag, rest) = text.split_once(':').context("rollback")?;
                let tag = tag.parse()?;
                if rest == "deferred" {
                    deferred = Some(tag);
                } else {
                    let (rest, stopped) = match rest.split_once(':') {
                        None => (rest, None),
                        Some((rest, why)) => (rest, Some(why.to_owned())),
                    };
                    let (done, chunks) = ratio(rest)?;
                    rollback = Some(Rollback {
                        tag,
                        done,
                        chunks,
                        stopped,
                    });
                }
            }
        }
        let bookmarks = match is_co {
            true => Some(words.next().context("bookmarks")?.parse()?),
            false => None,
        };
        ensure!(words.next().is_none(), "more words than known");
        Ok(Self {
            kind,
            origin,
            tag,
            state,
            metadata,
            chunks,
            chunk_sectors,
            snapshots,
            own,
            cleaning,
            rollback,
            deferred,
            bookmarks,
        })
    }
}

fn ratio(text: &str) -> Result<(u64, u64)> {
    let (a, b) = text.split_once('/').context("no / in it")?;
    Ok((a.parse()?, b.parse()?))
}

/// Takes in a page of what has changed; returns where the next one begins.
fn add_runs(runs: &mut Vec<(u64, u64)>, page: &str) -> Result<Option<u64>> {
    let mut lines = page.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    match lines.next().as_deref() {
        Some(["delta", chunk, chunks]) => {
            let (_, _): (u64, u64) = (chunk.parse()?, chunks.parse()?);
        }
        other => bail!("it begins with {other:?}"),
    }
    for line in lines {
        match line[..] {
            ["end"] => return Ok(None),
            ["next", chunk] => return Ok(Some(chunk.parse()?)),
            [first, len] => {
                let (first, len): (u64, u64) = (first.parse()?, len.parse()?);
                match runs.last_mut() {
                    Some((start, many)) if *start + *many == first => *many += len,
                    Some((start, many)) if *start + *many > first => bail!("not in order"),
                    _ => runs.push((first, len)),
                }
            }
            _ => bail!("line {line:?}"),
        }
    }
    bail!("it has no end")
}

/// A row of a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The snapshot; 0 is the origin.
    pub tag: u32,
    /// What it was taken of; 0 is the origin.
    pub parent: Option<u32>,
    /// The epoch that it is based on.
    pub base: Option<u32>,
    /// Letters, or `.`.
    pub flags: String,
    /// Seconds since 1970.
    pub time: u64,
    /// Its size in sectors.
    pub sectors: u64,
    /// Chunks of its own.
    pub chunks: u64,
    /// Snapshots of it.
    pub children: u64,
    /// What its maker wrote.
    pub memo: String,
}

/// What `list` tells, over all its pages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// The words of the line about the store.
    pub store: Vec<String>,
    /// The origin and its snapshots, ascending.
    pub rows: Vec<Row>,
    /// How many pages it took.
    pub pages: usize,
}

impl Listing {
    /// Takes in a page; returns where the next one begins.
    fn add(&mut self, page: &str) -> Result<Option<u32>> {
        let mut lines: Vec<&str> = page.lines().collect();
        let last = lines.pop().context("an empty page")?;
        ensure!(!lines.is_empty(), "no line about the store");
        self.store = words(lines.remove(0));
        ensure!(self.store.first().is_some_and(|w| w == "store"), "no store");
        for line in lines {
            let row = Row::parse(&words(line)).with_context(|| format!("row {line:?}"))?;
            if let Some(before) = self.rows.last() {
                ensure!(before.tag < row.tag, "{} before {}", before.tag, row.tag);
            }
            self.rows.push(row);
        }
        match words(last).as_slice() {
            [end] if end == "end" => Ok(None),
            [next, tag] if next == "next" => Ok(Some(tag.parse()?)),
            _ => bail!("last line {last:?}"),
        }
    }

    /// What another activation does not change: all but how many metadata blocks are in use, since
    /// what the journal stands for is given back then.
    pub fn lasting(mut self) -> Self {
        if let Some(metadata) = self.store.get_mut(2) {
            metadata.clear();
        }
        self
    }

    /// A snapshot's row.
    pub fn row(&self, tag: u32) -> Option<&Row> {
        self.rows.iter().find(|row| row.tag == tag)
    }

    /// The tags of all snapshots that can be used.
    pub fn tags(&self) -> Vec<u32> {
        let rows = self.rows.iter().filter(|row| row.tag != 0);
        rows.filter(|row| !row.flags.contains(['G', 'B']))
            .map(|row| row.tag)
            .collect()
    }

    /// The tags of all bookmarks, and whether each is valid.
    pub fn bookmarks(&self) -> Vec<(u32, bool)> {
        let rows = self.rows.iter().filter(|row| row.flags.contains('B'));
        rows.map(|row| (row.tag, !row.flags.contains('I')))
            .collect()
    }
}

impl Row {
    fn parse(words: &[String]) -> Result<Self> {
        let [tag, parent, base, flags, time, sectors, chunks, children, memo] = words else {
            bail!("{} words", words.len());
        };
        let optional = |word: &String| -> Result<Option<u32>> {
            match word.as_str() {
                "-" => Ok(None),
                word => Ok(Some(word.parse()?)),
            }
        };
        Ok(Self {
            tag: tag.parse()?,
            parent: optional(parent)?,
            base: optional(base)?,
            flags: flags.clone(),
            time: time.parse()?,
            sectors: sectors.parse()?,
            chunks: chunks.parse()?,
            children: children.parse()?,
            memo: match memo.as_str() {
                "-" => String::new(),
                "\\-" => "-".to_owned(),
                memo => memo.to_owned(),
            },
        })
    }
}

/// Splits a line as device-mapper does: a backslash takes the next character as it is.
/// The one word that is told apart by its backslash keeps it.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut any = false;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => {
                let next = characters.next().unwrap_or('\\');
                if next == '-' && !any {
                    word.push('\\');
                }
                word.push(next);
                any = true;
            }
            ' ' if any => {
                words.push(std::mem::take(&mut word));
                any = false;
            }
            ' ' => {}
            c => {
                word.push(c);
                any = true;
            }
        }
    }
    if any {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_at_bare_spaces() {
        assert_eq!(words(r"a\ b  c\\d \-"), [r"a b", r"c\d", r"\-"]);
    }

    #[test]
    fn status_of_both_kinds() {
        let co = Status::parse("co 1 valid 20/1024 3/900 8 2 - 7:10/20 5").unwrap();
        assert_eq!((co.snapshots, co.bookmarks), (Some(2), Some(5)));
        assert_eq!(co.rollback.unwrap().done, 10);
        let cs = Status::parse("cs 1 4 invalid 20/1024 3/900 8 5 1 2:50 -").unwrap();
        assert_eq!((cs.tag, cs.own), (Some(4), Some((5, 1))));
        assert_eq!(cs.cleaning.as_deref(), Some("2:50"));
        assert!(Status::parse("co 1 valid 20/1024 3/900 8 2 - - 0 more").is_err());
    }
}
