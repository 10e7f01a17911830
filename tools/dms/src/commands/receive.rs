// SPDX-License-Identifier: GPL-2.0
//! `dms receive`

use super::into::Into;
use super::print;
use super::stream::{decoder, nothing_follows};
use crate::cli::Receive;
use crate::failure::{Failure, Kind, Result};
use crate::progress::Progress;
use crate::replica::Replica;
use crate::show::stream::Noted;
use crate::streams::{name_of, refused, unopened, Input};
use dm_snap_mv_stream::receive::{
    abort, receive, Aborted, Failure as Stopped, Local, Notes, Options, Received, Receiver,
    Refusal, State, StateFile, Target, Whole,
};
use dm_snap_mv_stream::Decoder;
use std::path::Path;

pub fn run(args: &Receive) -> Result<()> {
    let into = Into::find(&args.target)?;
    let state = args.state.as_deref();
    let path = &into.path;
    let mut notes = into.notes(state)?;
    if args.status || args.position {
        return tell(args, path, &mut notes);
    }
    let input = match args.abort {
        true => None,
        false => Some(Input::standard()?),
    };
    let target = into.open()?;
    let replica = match (&into.dm, &into.origin) {
        (Some(dm), Some(origin)) => Some((dm, origin)),
        _ => None,
    };
    let Some((dm, origin)) = replica else {
        if input.is_some() {
            into.need_place(state)?;
        }
        return act(args, path, target, notes, input);
    };
    let target = Replica::new(dm, origin, target)?;
    if input.is_some() {
        target.need_rest()?;
        into.need_place(state)?;
    }
    act(args, path, target, notes, input)
}

/// Receives into a target, or gives up what was received.
fn act(
    args: &Receive,
    path: &Path,
    target: impl Target,
    notes: StateFile,
    input: Option<Input>,
) -> Result<()> {
    let Some(input) = input else {
        return give_up(args, path, target, notes);
    };
    let options = Options {
        force: args.force,
        keep: args.keep,
        digest: args.digest,
    };
    let mut receiver = Receiver::new(target, notes, options).map_err(|e| refused(path, e))?;
    let mut decoder = decoder(input)?;
    let done = take(&mut decoder, &mut receiver);
    told(receiver.taken())?;
    let received = match done {
        Ok(received) => received,
        Err(failure) => return Err(advised(path, failure, receiver.state())),
    };
    if received.segments == 0 {
        eprintln!("dms: {} holds that already", path.display());
        if let Some(State::Whole(whole)) = receiver.state() {
            told(whole.local.as_slice())?;
        }
    }
    // What has been received stays. But somebody may take what follows for received, too.
    nothing_follows(&mut decoder)
}

/// Receives a stream, which is shown.
fn take(
    decoder: &mut Decoder<Input>,
    receiver: &mut Receiver<impl Target, StateFile>,
) -> std::result::Result<Received, Stopped> {
    let mut progress = Progress::new();
    let done = receive(decoder, receiver, &mut |begin, counts| {
        let doing = format!("receiving {}", begin.to.tag);
        progress.part(&doing, counts.sectors, begin.sectors);
    });
    progress.done();
    done
}

/// Receives into an origin what another dms sends. Returns what it holds then.
pub(super) fn receive_from(
    path: &Path,
    target: Replica<'_>,
    notes: StateFile,
    input: Input,
) -> Result<Whole> {
    let failed = |failure| refused(path, failure);
    let mut receiver = Receiver::new(target, notes, Options::default()).map_err(failed)?;
    let done = take(&mut decoder(input)?, &mut receiver);
    match (done, receiver.state()) {
        (Ok(_), Some(State::Whole(whole))) => Ok(whole.clone()),
        (Ok(_), _) => Err(Failure::new(Kind::Refused, "nothing has been received")),
        (Err(failure), state) => Err(advised(path, failure, state)),
    }
}

/// Says which snapshots were taken.
fn told(taken: &[Local]) -> Result<()> {
    let tags = taken.iter().map(|local| format!("{}\n", local.tag));
    match taken {
        [] => Ok(()),
        _ => print(&tags.collect::<String>()),
    }
}

/// Why it has ended before the stream, and what to do about it where something has been received.
fn advised(path: &Path, stopped: Stopped, state: Option<&State>) -> Failure {
    let Some(State::Between(between)) = state else {
        return refused(path, stopped);
    };
    let to_target = matches!(stopped, Stopped::Target(..));
    let is_changed = matches!(stopped, Stopped::Refused(Refusal::Changed));
    let failure = refused(path, stopped);
    let mut hints: Vec<_> = failure.hint.iter().cloned().collect();
    let base = between.base.as_ref();
    let is_replica = base.is_some_and(|base| base.local.is_some());
    if is_changed && is_replica {
        let name = path.display();
        hints.push(format!(
            "or have it be what it was before: dms receive {name} --abort"
        ));
    } else if between.taking.is_some() {
        hints.push("all has been received: the same stream again has it taken".to_owned());
    } else if hints.is_empty() {
        let stays = "what was received up to the last mark stays: it can be gone on with";
        hints.push(stays.to_owned());
        if to_target && is_replica && failure.kind == Kind::NoSpace {
            let name = path.display();
            let short = path.strip_prefix("/dev/mapper").unwrap_or(path).display();
            hints.push(format!(
                "when there is space again: delete snapshots (dms delete {short} TAG) or enlarge the COW device\n\
                 or give it up: dms receive {name} --abort"
            ));
        }
    }
    Failure {
        hint: Some(hints.join("\n")),
        ..failure
    }
}

pub(crate) fn noted(path: &Path, notes: &mut StateFile) -> Result<Option<State>> {
    let at = notes.path().to_owned();
    let note = notes.load().map_err(|error| unopened(&at, &error))?;
    let state = note.map(|note| State::decode(&note)).transpose();
    state.map_err(|what| {
        let what = format!(
            "{}: what is noted of it makes no sense: {what}",
            path.display()
        );
        Failure::new(Kind::Damaged, what)
    })
}

fn tell(args: &Receive, path: &Path, notes: &mut StateFile) -> Result<()> {
    let state = noted(path, notes)?;
    if args.position {
        return match &state {
            Some(State::Between(between)) if between.position.mark > 0 => {
                print(&format!("{}\n", between.position))
            }
            _ => Ok(()),
        };
    }
    let noted = Noted::new(state.as_ref());
    print(&match args.json {
        true => noted.json()?,
        false => noted.text(),
    })
}

fn give_up(
    args: &Receive,
    path: &Path,
    mut target: impl Target,
    mut notes: StateFile,
) -> Result<()> {
    let aborted = abort(&mut target, &mut notes, args.force);
    let shown = path.display();
    match aborted.map_err(|failure| refused(path, failure))? {
        Aborted::Nothing => eprintln!("dms: nothing had been left off there"),
        Aborted::Restored(whole) => eprintln!("dms: {shown} is {} again", name_of(&whole)),
        Aborted::Removed => eprintln!("dms: {shown} has been removed"),
        Aborted::GivenUp => eprintln!("dms: {shown} holds a mixture, which is of no use"),
    }
    Ok(())
}
