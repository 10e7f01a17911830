// SPDX-License-Identifier: GPL-2.0
//! `dms stream show`, `dms stream verify` and `dms stream merge`

use super::print;
use crate::cli::{StreamCommand, StreamMerge, StreamShow, StreamVerify};
use crate::failure::{Failure, Kind, Result};
use crate::progress::Progress;
use crate::show::stream::{json, Segment};
use crate::streams::{of_io, unopened, wrong, Input};
use dm_snap_mv_stream::frame::{Header, HEADER};
use dm_snap_mv_stream::merge::{self, Which};
use dm_snap_mv_stream::{Counts, Decoder, Encoder, Event, Options};
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::Path;

pub fn run(command: &StreamCommand) -> Result<()> {
    match command {
        StreamCommand::Show(args) => show(args),
        StreamCommand::Verify(args) => verify(args),
        StreamCommand::Merge(args) => merge(args),
    }
}

pub(super) fn decoder(input: Input) -> Result<Decoder<Input>> {
    let failed = |e: io::Error| Failure::new(Kind::Refused, format!("cannot begin: {e}"));
    Decoder::new(input).map_err(failed)
}

pub(super) fn encoder<W: Write>(to: W) -> Result<Encoder<W>> {
    let failed = |e: io::Error| Failure::new(Kind::Refused, format!("cannot begin: {e}"));
    Encoder::new(to, Options::default()).map_err(failed)
}

fn show(args: &StreamShow) -> Result<()> {
    let mut decoder = decoder(Input::open(&args.file)?)?;
    let mut segments: Vec<Segment> = Vec::new();
    let mut nr = 0u64;
    let print_last = |segments: &mut Vec<Segment>, nr: u64| {
        if args.json {
            return Ok(());
        }
        // They are not gathered: there can be any number.
        let between = if nr > 1 { "\n" } else { "" };
        let text = segments.pop().map(|segment| segment.text());
        print(&format!("{between}{}", text.unwrap_or_default()))
    };
    let whole = loop {
        match decoder.event().map_err(|error| wrong(&error))? {
            Event::Begin(begun) => segments.push(Segment::new(&begun.begin, None)),
            Event::Resume(begun, at) => segments.push(Segment::new(&begun.begin, Some(&at))),
            Event::End(ended) => {
                if let Some(segment) = segments.last_mut() {
                    segment.end(&ended);
                }
                nr += 1;
                print_last(&mut segments, nr)?;
            }
            Event::Last(_) => break true,
            _ => {}
        }
        if args.begin {
            print_last(&mut segments, 1)?;
            break false;
        }
    };
    match args.json {
        true => print(&json(&segments, whole, decoder.offset())?),
        false => Ok(()),
    }
}

/// Whether a stream that has ended was all that there is.
///
/// # Errors
///
/// Something follows, perhaps another stream; or it cannot be read.
pub(super) fn nothing_follows(decoder: &mut Decoder<Input>) -> Result<()> {
    let at = decoder.offset();
    let mut next = Vec::new();
    let more = decoder.reader().take(HEADER as u64).read_to_end(&mut next);
    more.map_err(|e| {
        Failure::new(
            of_io(&e),
            format!("cannot read what follows the stream: {e}"),
        )
    })?;
    let whole = next.first_chunk();
    let failure = |what| Failure::new(Kind::Damaged, format!("{what}, at byte {at}"));
    match next.is_empty() {
        true => Ok(()),
        false if whole.is_some_and(Header::begins_stream) => Err(failure(
            "another stream follows the end of the first one",
        )
        .hint("give them one after the other; what is one is made by dms send -R, or dms stream merge")),
        false => Err(failure("something follows the stream's end")),
    }
}

fn verify(args: &StreamVerify) -> Result<()> {
    let mut decoder = decoder(Input::open(&args.file)?)?;
    let mut progress = Progress::new();
    let (mut all, mut data) = (0, 0);
    let segments = loop {
        match decoder.event().map_err(|error| wrong(&error))? {
            Event::Begin(begun) | Event::Resume(begun, _) => all = begun.begin.size,
            Event::Data(start, _) => progress.part("verifying", start, all),
            Event::Zero(start, _) => progress.part("verifying", start, all),
            Event::End(ended) => data += ended.counts.sectors * 512,
            Event::Last(segments) => break segments,
            Event::Mark(_) | Event::Optional(..) => {}
        }
    };
    progress.done();
    let bytes = decoder.offset();
    nothing_follows(&mut decoder)?;
    if args.quiet {
        return Ok(());
    }
    let shown = args.file.display();
    let set = match segments {
        1 => "segment that sets",
        _ => "segments that set",
    };
    print(&format!(
        "{shown}: whole, {segments} {set} {data} bytes, in {bytes}\n"
    ))
}

fn merge(args: &StreamMerge) -> Result<()> {
    match &args.output {
        None if io::stdout().is_terminal() => {
            Err(Failure::usage("a stream is not written to a terminal")
                .hint("give the name of a file with -o, or put it behind \">\""))
        }
        None => merge_to(args, io::stdout().lock()),
        Some(path) => {
            // Beside its place, so that there is never half of one.
            let mut beside = path.clone().into_os_string();
            beside.push(".tmp");
            let beside = Path::new(&beside);
            let done = File::create(beside)
                .map_err(|e| unopened(beside, &e))
                .and_then(|file| {
                    merge_to(args, &file)?;
                    let synced = file.sync_all().and_then(|()| fs::rename(beside, path));
                    synced.map_err(|e| unopened(path, &e))
                });
            if done.is_err() {
                drop(fs::remove_file(beside));
            }
            done
        }
    }
}

fn merge_to(args: &StreamMerge, out: impl Write) -> Result<()> {
    let open = |path: &Path| match path == Path::new("-") || !path.is_file() && path.exists() {
        true => Err(Failure::usage(format!(
            "{} cannot be read twice: it is no file",
            path.display()
        ))),
        false => decoder(Input::open(path)?),
    };
    let failed = |failure: merge::Failure| match failure {
        merge::Failure::Stream(which, error) => wrong(&error).context(match which {
            Which::First => args.first.display().to_string(),
            Which::Second => args.second.display().to_string(),
            Which::Merged => "what comes of it".to_owned(),
        }),
        other => Failure::new(Kind::Refused, other.to_string()),
    };
    let begin = merge::plan(open(&args.first)?, open(&args.second)?).map_err(failed)?;
    let mut encoder = encoder(BufWriter::new(out))?;
    let mut progress = Progress::new();
    let (first, second) = (open(&args.first)?, open(&args.second)?);
    let mut watch = |counts: &Counts| progress.part("merging", counts.sectors, begin.sectors);
    merge::write(&begin, first, second, &mut encoder, &mut watch).map_err(failed)?;
    progress.done();
    let ended = encoder.finish();
    ended.map(drop).map_err(|error| wrong(&error))
}
