// SPDX-License-Identifier: GPL-2.0
//! Giving up what has been received in part.

use super::failure::{Failure, Refusal, Result};
use super::state::{Between, State, Whole};
use super::target::{Notes, Target};

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aborted {
    /// Nothing had been left unfinished.
    Nothing,
    /// The target is what it was before.
    Restored(Box<Whole>),
    /// The target was made for what was received, and has been removed.
    Removed,
    /// The target holds a mixture, and it is not noted any more what it holds.
    GivenUp,
}

/// Gives up what has been received in part. What the target held before comes back if it was put aside,
/// or if the target keeps it;
/// a file that was made for it is removed. Otherwise its content is lost, which has to be wanted
/// (`force`) if it had a version before. Can be interrupted and done again.
///
/// # Errors
///
/// [`Refusal::NotKept`]: it would be lost. Else something failed.
pub fn abort(target: &mut dyn Target, notes: &mut dyn Notes, force: bool) -> Result<Aborted> {
    let loaded = notes.load();
    let Some(note) = loaded.map_err(|error| Failure::Notes("read", error))? else {
        return Ok(Aborted::Nothing);
    };
    match State::decode(&note) {
        Ok(State::Whole(_)) => Ok(Aborted::Nothing),
        Ok(State::Restoring(base)) => restore(target, notes, base),
        Ok(State::Between(between)) => give_up(target, notes, between, force),
        Err(_) if force => {
            forget(notes)?;
            Ok(Aborted::GivenUp)
        }
        Err(what) => Err(Refusal::Notes(what).into()),
    }
}

fn give_up(
    target: &mut dyn Target,
    notes: &mut dyn Notes,
    between: Between,
    force: bool,
) -> Result<Aborted> {
    let kept = match between.base.as_ref().and_then(|base| base.local) {
        Some(local) => target.lost(&local).map(|why| why.is_none()),
        None => target.has_kept().map(|kept| kept && between.kept),
    };
    let kept = kept.map_err(|error| Failure::Target("look at", error))?;
    match &between.base {
        Some(base) if kept => {
            // From here on it can only be restored: it may be already, but for this note.
            note(notes, &State::Restoring(base.clone()))?;
            restore(target, notes, base.clone())
        }
        Some(_) if !force => Err(Refusal::NotKept(Box::new(between)).into()),
        None if between.made => {
            let removed = target.remove();
            removed.map_err(|error| Failure::Target("remove", error))?;
            forget(notes)?;
            Ok(Aborted::Removed)
        }
        _ => {
            forget(notes)?;
            Ok(Aborted::GivenUp)
        }
    }
}

fn restore(target: &mut dyn Target, notes: &mut dyn Notes, base: Whole) -> Result<Aborted> {
    let restored = match &base.local {
        Some(local) => target.go_back(local),
        None => target.restore(),
    };
    restored.map_err(|error| Failure::Target("restore", error))?;
    prove(target, &base)?;
    note(notes, &State::Whole(base.clone()))?;
    Ok(Aborted::Restored(Box::new(base)))
}

/// Whether it is what it was.
fn prove(target: &mut dyn Target, base: &Whole) -> Result<()> {
    if let Some(local) = base.local {
        let unlike = target.unlike(&local);
        return match unlike.map_err(|error| Failure::Target("look at", error))? {
            Some(why) => Err(Refusal::Unlike(local, why).into()),
            None => Ok(()),
        };
    }
    let still = base.samples.still(target, base.content.size);
    match still.map_err(|error| Failure::Target("read", error))? {
        true => Ok(()),
        false => Err(Refusal::Changed.into()),
    }
}

fn note(notes: &mut dyn Notes, state: &State) -> Result<()> {
    let stored = notes.store(&state.encode());
    stored.map_err(|error| Failure::Notes("note", error))
}

fn forget(notes: &mut dyn Notes) -> Result<()> {
    let removed = notes.remove();
    removed.map_err(|error| Failure::Notes("forget", error))
}
