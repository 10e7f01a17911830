// SPDX-License-Identifier: GPL-2.0

//! A store that fails and comes back while something is on its way: what was acknowledged is there,
//! and nobody reads another's data.
//!
//! Failures at every request are the business of `ioerrors`. Here are those that need something
//! else to be at a certain point at that moment, which a disk in a test's hand makes sure of.

mod bench;
mod doubt;
mod ends;
mod flight;
mod journal;
mod nodes;
mod standstill;
mod turn;

use crate::disks::Disks;
use crate::report::Subject;

/// Runs the cases.
pub fn run(subject: &mut Subject, _disks: &Disks) {
    subject.case(
        "a failure and a rescue in one turn: what was to be committed is not",
        turn::rescued,
    );
    for message in ["rs 1", "so"] {
        subject.case(
            &format!("{message:?} done and reported as failed, and nothing can be read"),
            || doubt::message(message),
        );
    }
    subject.case("a device that takes no writes for a while", doubt::in_vain);
    subject.case(
        "a snapshot's slow write in place ends where it began",
        flight::in_place,
    );
    subject.case(
        "a slow copy for a snapshot that is deleted meanwhile",
        flight::copy_of_deleted,
    );
    subject.case(
        "a slow read of a snapshot that becomes invalid",
        flight::read_of_invalid,
    );
    subject.case(
        "a slow read of what was preserved when the store fails",
        flight::read_of_preserved,
    );
    subject.case(
        "a leaf that is damaged after it was looked at",
        nodes::damaged_again,
    );
    for (name, case) in [
        ("behind its end", journal::behind_the_end as fn() -> _),
        ("of a store that was closed", journal::closed),
        ("that may have gone on", journal::at_the_end),
        ("in use", journal::in_use),
        ("in use, and nobody sees to it", journal::rescued),
    ] {
        subject.case(&format!("an unreadable journal: {name}"), case);
    }
    subject.case("a rollback when what is below has grown", ends::grown_below);
    subject.case("growing while rolling back", ends::grown_meanwhile);
    subject.case(
        "growing while the last chunk is being preserved",
        ends::grown_under_a_copy,
    );
    subject.case("a rollback that copies when its store fails", || {
        standstill::stands(standstill::At::Copying)
    });
    subject.case("a rollback that waits when its store fails", || {
        standstill::stands(standstill::At::Waiting)
    });
}
