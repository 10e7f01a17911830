// SPDX-License-Identifier: GPL-2.0
//! `dms diff`

use super::tag;
use crate::cli::Diff;
use crate::dm::Dm;
use crate::failure::{diff, Failure, Kind, Result};
use crate::progress::Progress;
use crate::reading::{self, Opened};
use crate::show::difference::{Form, Head, Total, Writer};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_store::delta::Versions;
use dm_snap_mv_store::Delta;
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

pub fn run(args: &Diff) -> Result<u8> {
    differs(args).map_err(Failure::as_diff)
}

fn differs(args: &Diff) -> Result<u8> {
    let (old, new) = (
        version(&args.old)?,
        version(args.new.as_deref().unwrap_or("now"))?,
    );
    let (opened, origin) = opened(args)?;
    let versions = Versions {
        origin: origin.number,
        old,
        new,
    };
    let delta = Delta::begin(opened.live(), versions);
    let delta = delta.map_err(|e| reading::failure(&e, opened.path.display()))?;
    let total = match args.bitmap.as_deref() {
        Some(path) if path != Path::new("-") => {
            let unwritten = |e: io::Error| unwritten(&e, &path.display().to_string());
            let mut file = File::create(path).map_err(unwritten)?;
            let is_file = file.metadata().is_ok_and(|meta| meta.is_file());
            let written = write(args, &opened, &origin, delta, &mut file);
            if written.is_err() && is_file {
                // Half of one is worse than none.
                let _ = fs::remove_file(path);
            }
            written?
        }
        _ => write(args, &opened, &origin, delta, &mut io::stdout().lock())?,
    };
    Ok(match total.bytes {
        0 => diff::SAME,
        _ => diff::DIFFER,
    })
}

/// A version as it was typed: the tag of a snapshot; none for the origin as it is.
fn version(word: &str) -> Result<Option<Tag>> {
    match word {
        "0" | "now" => Ok(None),
        word => Ok(Tag::new(tag(word)?)),
    }
}

fn opened(args: &Diff) -> Result<(Opened, OriginRow)> {
    if let Some(cow) = &args.cow {
        let opened = reading::of_cow(cow)?;
        let origin = opened.origin(&args.dm_dev)?;
        return Ok((opened, origin));
    }
    let dm = Dm::open()?;
    let device = dm.find(&args.dm_dev.to_string_lossy());
    let device = device.map_err(|failure| match failure.kind {
        Kind::NotFound => Failure {
            hint: Some(format!(
                "{}{}",
                failure.hint.map_or(String::new(), |hint| hint + "\n"),
                "with --cow COW, no device need be active"
            )),
            ..failure
        },
        _ => failure,
    })?;
    let opened = reading::of_device(&dm, &device)?;
    let origin = opened.own_origin()?;
    Ok((opened, origin))
}

fn form(args: &Diff) -> Form {
    match args {
        Diff {
            bitmap: Some(_), ..
        } => Form::Bitmap,
        Diff { borg_map: true, .. } => Form::BorgMap,
        Diff {
            count: true,
            json: true,
            ..
        } => Form::JsonCount,
        Diff { count: true, .. } => Form::Count,
        Diff { json: true, .. } => Form::Json,
        Diff { sectors, .. } => Form::Text { sectors: *sectors },
    }
}

/// Writes it to `out`. Who does not want to read on is not told the rest; that is no failure, and
/// something differs then.
fn write(
    args: &Diff,
    opened: &Opened,
    origin: &OriginRow,
    mut delta: Delta<'_>,
    out: &mut dyn Write,
) -> Result<Total> {
    let whose = opened.path.display();
    let sizes = delta.sizes();
    let uuid = opened.read(|store| Ok(u128::from_be_bytes(store.superblock().uuid)))?;
    let number = |word: &str| version(word).map(|tag| tag.map_or(0, Tag::get));
    let head = Head {
        store: format!("{uuid:032x}"),
        origin: String::from_utf8_lossy(origin.id.as_bytes()).into_owned(),
        origin_number: origin.number.get(),
        old: number(&args.old)?,
        new: number(args.new.as_deref().unwrap_or("now"))?,
        old_bytes: sizes.old.saturating_mul(512),
        new_bytes: sizes.new.saturating_mul(512),
        chunk_bytes: sizes.chunk.sectors() * 512,
    };
    // Ranges that run over it show that it goes on.
    let mut progress =
        Some(Progress::new()).filter(|progress| progress.is_seen() && !io::stdout().is_terminal());
    let mut out = BufWriter::new(out);
    let begun = Writer::begin(form(args), head, sizes, &mut out);
    let mut writer = begun.map_err(|e| unwritten(&e, "the output"))?;
    let mut differs = Total::default();
    loop {
        let more = delta.more();
        let Some(runs) = more.map_err(|e| reading::failure(&e, &whose))? else {
            break;
        };
        for changed in &runs {
            differs.bytes += changed.len;
            if let Err(e) = writer.range(changed) {
                return over(e, differs);
            }
        }
        if let Some(progress) = &mut progress {
            let (done, all) = delta.progress();
            progress.part("comparing", done, all);
        }
    }
    if let Some(progress) = &mut progress {
        progress.done();
    }
    let seen = delta.seen();
    writer
        .end([seen.first, seen.last])
        .or_else(|e| over(e, differs))
}

/// The output takes no more.
fn over(error: io::Error, differs: Total) -> Result<Total> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(differs),
        _ => Err(unwritten(&error, "the output")),
    }
}

fn unwritten(error: &io::Error, what: &str) -> Failure {
    Failure::new(Kind::Refused, format!("cannot write {what}: {error}"))
}
