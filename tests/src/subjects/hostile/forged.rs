// SPDX-License-Identifier: GPL-2.0

//! Stores with metadata of which no checksum tells that they are wrong: they are used for anything,
//! whatever comes of it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::dm::{Mapped, Table};
use crate::random::Random;
use crate::shadow;
use crate::store::{co_line, Device, TARGET};

use super::image::Kind;
use super::stage::{SECTORS, SMALL};
use super::tally::Outcome;
use super::{mutate, Place};

impl Place {
    pub(super) fn try_forged(
        &mut self,
        kind: Kind,
        random: &mut Random,
        name: &str,
    ) -> Result<Outcome> {
        let state = self.stage.with(kind, random);
        let image = &mut self.image;
        image.become_like(&self.stage.states[state].image);
        let done = mutate::forge(image, &self.stage.old, kind, random);
        let what = format!("{name}: {done}");
        self.watch.begin(&what);
        // Data are of no matter here, and not put back: one store does for all states.
        self.stage.beds[0].put_metadata(&self.image)?;
        let mut outcome = Outcome::Refused;
        if let Ok(co) = self.calm().co() {
            let errors = self.use_it(&co, random);
            co.remove().with_context(|| what.clone())?;
            outcome = Outcome::Failed;
            if errors == 0 {
                outcome = Outcome::Unnoticed;
                if random.once_in(4) {
                    // What has been made of it, once more.
                    if let Ok(co) = self.calm().co() {
                        self.use_it(&co, random);
                        co.remove().with_context(|| what.clone())?;
                    }
                }
            }
        }
        self.judge(&what)?;
        Ok(outcome)
    }

    /// Does a bit of this and that, whatever comes of it. Returns how many errors there were.
    fn use_it(&self, co: &Device, random: &mut Random) -> u32 {
        let mut errors = 0;
        let mut note = |good: bool| errors += u32::from(!good);
        note(co.status().is_ok());
        let tags = match co.list() {
            Ok(list) => list.tags(),
            Err(_) => {
                note(false);
                self.calm().snapshots.keys().copied().collect()
            }
        };
        for _ in 0..random.pick(3..7) {
            let tag = match tags.is_empty() {
                true => 1,
                false => *random.one_of(&tags),
            };
            match random.pick(0..16) {
                0..=4 => note(some_io(co, random)),
                5..=7 => match self.calm().store.cs(&self.calm().origin, tag) {
                    Ok(cs) => {
                        note(some_io(&cs, random));
                        note(cs.status().is_ok());
                        note(cs.remove().is_ok());
                    }
                    Err(_) => note(false),
                },
                8 | 9 => note(co.message("so -m hostile").is_ok()),
                10 => note(co.message(&format!("ss {tag}")).is_ok()),
                11 | 12 => note(co.message(&format!("ds {tag}")).is_ok()),
                13 => {
                    let merge = if random.once_in(2) { " -d" } else { "" };
                    note(co.message(&format!("rs {tag} -b{merge}")).is_ok());
                }
                14 => note(self.use_another(random)),
                _ => note(Self::wait_for_background(co, random)),
            }
        }
        note(Self::wait_for_background(co, random));
        note(co.state().is_ok_and(|state| state.state == "valid"));
        errors
    }

    /// Activates, binds or unbinds another origin.
    fn use_another(&self, random: &mut Random) -> bool {
        let other = random.pick(0..16);
        let bind = if random.once_in(2) { "" } else { "-b " };
        let line = co_line(
            &self.stage.small.path(),
            &self.calm().store.cow.path(),
            &format!("{bind}-i other{other}"),
        );
        let Ok(other) = Mapped::create("co", &Table::new(SMALL, TARGET, line)) else {
            return false;
        };
        other.message("so").is_ok() && (random.once_in(2) || other.message("do").is_ok())
    }

    /// What runs in the background gets a while.
    fn wait_for_background(co: &Device, random: &mut Random) -> bool {
        let end = Instant::now() + Duration::from_millis(random.pick(0..40));
        while Instant::now() < end {
            match co.state() {
                Ok(state) if state.cleaning.is_none() && state.rollback.is_none() => break,
                Ok(_) => sleep(Duration::from_millis(5)),
                Err(_) => return false,
            }
        }
        true
    }
}

/// Reads and writes a little. False if there was an error.
fn some_io(device: &Device, random: &mut Random) -> bool {
    let Ok(disk) = device.open() else {
        return false;
    };
    let mut good = true;
    for _ in 0..2 {
        let (at, count) = random.extent(SECTORS);
        good &= disk.read(at, count.min(64)).is_ok();
        let (at, count) = random.extent(SECTORS);
        good &= shadow::write(&disk, at, count.min(64)).is_ok();
    }
    if random.once_in(8) {
        let (at, count) = random.extent(SECTORS);
        good &= disk.discard(at, count).is_ok();
    }
    good & disk.flush().is_ok()
}
