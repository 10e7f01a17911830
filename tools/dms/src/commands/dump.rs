// SPDX-License-Identifier: GPL-2.0
//! `dms dump`

use crate::cli::Dump;
use crate::failure::{Failure, Kind, Result};
use crate::progress::Progress;
use crate::reading::{self, Opened};
use crate::show::dumped::{self, Line};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::ids::{OriginNr, Tag, TimelineId};
use dm_snap_mv_store::runs::Records;
use dm_snap_mv_store::Live;
use std::io::{self, BufWriter, IsTerminal, Write};

/// Rows in a batch.
const ROWS: usize = 1024;

pub fn run(args: &Dump) -> Result<()> {
    let opened = reading::of_either(&args.device)?;
    let origin = match &args.origin {
        Some(origin) => Some(opened.origin(origin)?.number),
        None => None,
    };
    let of = Of {
        origin,
        first: first(origin, args.snapshot),
        last: last(origin, args.snapshot),
    };
    if let (Some(origin), Some(tag)) = (origin, args.snapshot.and_then(Tag::new)) {
        let found = opened.read(|store| store.snapshot(origin, tag))?;
        found
            .ok_or_else(|| crate::hints::failure(dm_snap_mv_model::refusal::Refusal::UnknownTag))?;
    }
    let mut lines = Lines {
        json: args.json,
        out: BufWriter::new(io::stdout().lock()),
        count: 0,
        over: false,
    };
    let mut live = opened.live();
    all(args, &opened, &of, &mut live, &mut lines)?;
    lines.out.flush().or_else(|e| lines.failed(e))
}

/// Which timelines.
struct Of {
    origin: Option<OriginNr>,
    first: u64,
    last: u64,
}

fn first(origin: Option<OriginNr>, snapshot: Option<u32>) -> u64 {
    match origin {
        None => TimelineId::LOWEST.get(),
        Some(nr) => TimelineId::of(nr, snapshot.and_then(Tag::new)).get(),
    }
}

fn last(origin: Option<OriginNr>, snapshot: Option<u32>) -> u64 {
    match (origin, snapshot) {
        (None, _) => u64::MAX,
        (Some(_), Some(_)) => first(origin, snapshot),
        (Some(nr), None) => TimelineId::of_origin(nr).get() | u64::from(u32::MAX),
    }
}

/// Where lines go. Nobody need read all of them.
struct Lines<'o> {
    json: bool,
    out: BufWriter<io::StdoutLock<'o>>,
    count: u64,
    over: bool,
}

impl Lines<'_> {
    fn put(&mut self, line: &Line) -> Result<()> {
        if self.over {
            return Ok(());
        }
        self.count += 1;
        let text = if self.json { line.json() } else { line.text() };
        let written = self.out.write_all(text.as_bytes());
        written.or_else(|e| self.failed(e))
    }

    fn failed(&mut self, error: io::Error) -> Result<()> {
        match error.kind() {
            io::ErrorKind::BrokenPipe => {
                self.over = true;
                Ok(())
            }
            _ => Err(Failure::new(
                Kind::Refused,
                format!("cannot write the output: {error}"),
            )),
        }
    }
}

fn all(
    args: &Dump,
    opened: &Opened,
    of: &Of,
    live: &mut Live<'_>,
    lines: &mut Lines<'_>,
) -> Result<()> {
    let failed = |e| reading::failure(&e, opened.path.display());
    let superblock = live.batch(|store, _| Ok(store.superblock().clone()));
    lines.put(&dumped::superblock(&superblock.map_err(failed)?))?;
    let mut from = Some(of.first >> 32);
    let mut origins = Vec::new();
    while let Some(at) = from {
        let page = live.batch(|store, _| store.origins_from(at, ROWS));
        let page = page.map_err(failed)?;
        let rows = page.rows.into_iter().map(|(_, row)| row);
        let wanted = rows.filter(|row| of.origin.is_none_or(|origin| row.number == origin));
        origins.extend(wanted);
        from = page.next.filter(|&next| next <= of.last >> 32);
    }
    for row in &origins {
        lines.put(&dumped::origin(row))?;
        rollback(opened, row, live, lines)?;
    }
    let mut from = Some(of.first);
    while let Some(at) = from {
        let page = live.batch(|store, _| store.snapshots_from(at, of.last, ROWS));
        let page = page.map_err(failed)?;
        for (key, row) in &page.rows {
            let nr = (key >> 32) as u32;
            // One that was bound meanwhile has not been told of.
            let origin = origins.iter().find(|origin| origin.number.get() == nr);
            if let Some(origin) = origin {
                lines.put(&dumped::snapshot(origin, row))?;
            }
        }
        from = page.next;
    }
    let mut from = Some(of.first);
    while let Some(at) = from {
        let page = live.batch(|store, _| store.cleanings_from(at, of.last, ROWS));
        let page = page.map_err(failed)?;
        for (key, row) in &page.rows {
            if let Some(t) = TimelineId::new(*key) {
                lines.put(&dumped::cleaning(t, row))?;
            }
        }
        from = page.next;
    }
    if !args.skip_records {
        records(opened, of, live, lines, origins.iter())?;
    }
    let seen = live.seen();
    let end = dumped::end(lines.count, [seen.first, seen.last]);
    lines.put(&end)
}

/// What is being rolled back, and how far that is.
fn rollback(
    opened: &Opened,
    row: &OriginRow,
    live: &mut Live<'_>,
    lines: &mut Lines<'_>,
) -> Result<()> {
    if let Some(deferred) = &row.deferred {
        return lines.put(&dumped::deferred(row.number, deferred));
    }
    let Some(rollback) = &row.rollback else {
        return Ok(());
    };
    lines.put(&dumped::rollback(row.number, rollback))?;
    let mut from = Some(rollback.cursor.get());
    let mut run: Option<(u64, u64)> = None;
    while let Some(at) = from {
        let marks = live.batch(|store, leaves| {
            let tree = store.done(row.number)?;
            let part = tree.part(at, leaves, &|_, _| true)?;
            Ok((tree.entries(&part)?, part.next()))
        });
        let (marks, next) = marks.map_err(|e| reading::failure(&e, opened.path.display()))?;
        for (chunk, _) in marks {
            match &mut run {
                Some((first, len)) if *first + *len == chunk => *len += 1,
                run => {
                    if let Some((first, len)) = run.replace((chunk, 1)) {
                        lines.put(&dumped::done(row.number, first, len))?;
                    }
                }
            }
        }
        from = next;
    }
    match run {
        Some((first, len)) => lines.put(&dumped::done(row.number, first, len)),
        None => Ok(()),
    }
}

fn records<'r>(
    opened: &Opened,
    of: &Of,
    live: &mut Live<'_>,
    lines: &mut Lines<'_>,
    origins: impl Iterator<Item = &'r OriginRow>,
) -> Result<()> {
    let mut progress = Progress::new();
    let shown = progress.is_seen() && !io::stdout().is_terminal();
    // Those that hold COW chunks: about as many as there are.
    let all: u64 = origins.map(|origin| origin.chunks).sum();
    let mut told = 0;
    let mut walk = Records::of(of.first, of.last);
    while !lines.over {
        let more = walk.more(live);
        let Some(runs) = more.map_err(|e| reading::failure(&e, opened.path.display()))? else {
            break;
        };
        for run in &runs {
            lines.put(&dumped::records(run))?;
            told += run.len;
        }
        if shown {
            progress.part("reading", told, all.max(told));
        }
    }
    progress.done();
    Ok(())
}
