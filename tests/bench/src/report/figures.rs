// SPDX-License-Identifier: GPL-2.0

//! The ratios that matter, and what is wanted of them.

use super::Results;
use crate::sample::{Peer, Setting, Work};

/// One side of a ratio: the work, who does it, how many snapshots and writers.
type Side = (Work, Peer, u32, u32);

/// What a ratio should be.
enum Wanted {
    Least(f64),
    Most(f64),
    Within(f64),
}

const LINEAR: Peer = Peer::Linear;
const OURS: Peer = Peer::Ours;
const CLASSIC: Peer = Peer::Snapshot;
const THIN: Peer = Peer::Thin;

const FIGURES: &[(Side, Side, Wanted)] = {
    use Wanted::{Least, Most, Within};
    use Work::*;
    &[
        ((Read, OURS, 64, 1), (Read, LINEAR, 0, 1), Least(0.95)),
        ((Rewrite, OURS, 64, 1), (Rewrite, LINEAR, 0, 1), Least(0.90)),
        (
            (RewriteLong, OURS, 64, 1),
            (RewriteLong, LINEAR, 0, 1),
            Least(0.95),
        ),
        ((First, OURS, 1, 1), (First, CLASSIC, 1, 1), Least(1.4)),
        ((First, OURS, 1, 1), (First, LINEAR, 0, 1), Least(0.28)),
        ((First, OURS, 1000, 1), (First, OURS, 1, 1), Least(0.95)),
        ((First, OURS, 1, 2), (First, CLASSIC, 1, 2), Least(1.4)),
        (
            (FirstLong, OURS, 1, 1),
            (FirstLong, CLASSIC, 1, 1),
            Least(5.0),
        ),
        ((FirstLong, OURS, 1, 1), (FirstLong, THIN, 1, 1), Least(2.0)),
        (
            (FirstLong, OURS, 1, 1),
            (FirstLong, LINEAR, 0, 1),
            Least(0.25),
        ),
        (
            (FirstLarge, OURS, 1, 1),
            (FirstLarge, THIN, 1, 1),
            Least(1.2),
        ),
        (
            (SnapshotRead, OURS, 1000, 1),
            (SnapshotRead, CLASSIC, 1, 1),
            Least(0.9),
        ),
        (
            (OldestRead, OURS, 1000, 1),
            (SnapshotRead, OURS, 1000, 1),
            Within(0.10),
        ),
        (
            (SnapshotWrite, OURS, 1, 1),
            (SnapshotWrite, CLASSIC, 1, 1),
            Least(2.0),
        ),
        ((Take, OURS, 10, 1), (Take, THIN, 10, 1), Most(1.0)),
        ((Take, OURS, 10_000, 1), (Take, THIN, 10_000, 1), Most(1.0)),
        ((Take, OURS, 10_000, 1), (Take, OURS, 10, 1), Within(0.20)),
        (
            (TakeLoaded, OURS, 10, 1),
            (TakeLoaded, THIN, 10, 1),
            Most(1.0),
        ),
        (
            (TakeLoaded, OURS, 10_000, 1),
            (TakeLoaded, THIN, 10_000, 1),
            Most(1.0),
        ),
        (
            (TakeLoaded, OURS, 10_000, 1),
            (TakeLoaded, OURS, 10, 1),
            Within(0.20),
        ),
        ((Delete, OURS, 10, 1), (Delete, THIN, 10, 1), Most(1.0)),
        (
            (Delete, OURS, 10_000, 1),
            (Delete, THIN, 10_000, 1),
            Most(1.0),
        ),
        (
            (Delete, OURS, 10_000, 1),
            (Delete, OURS, 10, 1),
            Within(0.20),
        ),
        (
            (RewriteCleaning, OURS, 13, 1),
            (Rewrite, OURS, 64, 1),
            Least(0.8),
        ),
        (
            (Rollback, OURS, 1, 1),
            (Rollback, Peer::Dd, 1, 1),
            Least(0.8),
        ),
        (
            (ActivateMany, OURS, 1, 1),
            (ActivateFew, OURS, 1, 1),
            Most(1.5),
        ),
        ((Rewrite, LINEAR, 0, 2), (Rewrite, LINEAR, 0, 1), Least(0.0)),
        ((Rewrite, OURS, 64, 2), (Rewrite, OURS, 64, 1), Least(0.0)),
    ]
};

impl Wanted {
    fn met(&self, ratio: f64) -> bool {
        match *self {
            Self::Least(least) => ratio >= least,
            Self::Most(most) => ratio <= most,
            Self::Within(part) => (ratio - 1.0).abs() <= part,
        }
    }

    fn text(&self) -> String {
        match *self {
            Self::Least(0.0) => "to be compared".to_owned(),
            Self::Least(least) => format!("at least {least:.2}"),
            Self::Most(most) => format!("at most {most:.2}"),
            Self::Within(part) => format!("1 ± {part:.2}"),
        }
    }
}

fn setting((work, peer, snapshots, jobs): Side, latency: u32) -> Setting {
    Setting {
        latency,
        work,
        peer,
        snapshots,
        jobs,
    }
}

fn text((work, peer, snapshots, jobs): Side) -> String {
    let writers = if jobs == 1 { "" } else { ", 2 writers" };
    match peer {
        Peer::Linear | Peer::Dd => format!("{}{writers}", peer.name()),
        _ => format!("{}: {}, {snapshots}{writers}", peer.name(), work.title()),
    }
}

/// Prints the ratios.
pub fn print(results: &Results) {
    println!(
        "{:>7}  {:>6} {:>15}  {:<15}",
        "latency", "ratio", "", "wanted"
    );
    for latency in [0, 100] {
        for &(this, other, ref wanted) in FIGURES {
            let ratio = results.ratio(&setting(this, latency), &setting(other, latency));
            let Some([middle, least, greatest]) = ratio else {
                continue;
            };
            println!(
                "{latency:>4} µs  {middle:>6.2} {:>15}  {:<15} {:<3} {} / {}",
                format!("({least:.2} to {greatest:.2})"),
                wanted.text(),
                if wanted.met(middle) { "" } else { "NOT" },
                text(this),
                text(other)
            );
        }
    }
}
