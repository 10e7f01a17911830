// SPDX-License-Identifier: GPL-2.0
//! Receiving: what is refused, and what comes of power that fails at every step.

mod common;

use common::sim::{Note, Power, Sim};
use common::*;
use dm_snap_mv_stream::receive::{
    abort, receive, Aborted, Failure, Options, Received, Receiver, Refusal, State, Unlike,
};
use dm_snap_mv_stream::{Decoder, Position};

/// A target with its note.
#[derive(Clone)]
struct Bench {
    sim: Sim,
    note: Note,
    power: Power,
}

impl Bench {
    fn new(disk: Option<Disk>, elastic: bool) -> Self {
        let power = Power::default();
        Self {
            sim: Sim::with(disk, elastic, &power),
            note: Note {
                power: power.clone(),
                ..Note::default()
            },
            power,
        }
    }

    /// A target that keeps versions of itself.
    fn origin(disk: Disk) -> Self {
        let bench = Self::new(Some(disk), false);
        bench.sim.inner.borrow_mut().is_origin = true;
        bench
    }

    /// The tags of what it has taken of itself, if each is the version of the same number.
    fn taken(&self, disks: &[Disk]) -> Vec<u32> {
        let inner = self.sim.inner.borrow();
        let one = |(n, (tag, disk, _)): (usize, &(u32, Disk, String))| {
            assert!(disk.starts_with(&disks[n]), "snapshot {tag}");
            *tag
        };
        inner.taken.iter().enumerate().map(one).collect()
    }

    fn receive(&self, bytes: &[u8], options: Options) -> Result<Received, Failure> {
        let mut decoder = Decoder::new(bytes).unwrap();
        let mut receiver = Receiver::new(self.sim.clone(), self.note.clone(), options)?;
        receive(&mut decoder, &mut receiver, &mut |_, _| {})
    }

    /// It is refused, and nothing is written.
    fn refuses(&self, bytes: &[u8], options: Options) -> Refusal {
        let (disk, note) = (self.sim.now(), self.note.note.borrow().clone());
        let writes = self.sim.inner.borrow().writes;
        let refusal = match self.receive(bytes, options) {
            Err(Failure::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        };
        assert!(self.sim.now() == disk && *self.note.note.borrow() == note);
        assert_eq!(self.sim.inner.borrow().writes, writes);
        refusal
    }

    fn abort(&self, force: bool) -> Result<Aborted, Failure> {
        abort(&mut self.sim.clone(), &mut self.note.clone(), force)
    }

    fn state(&self) -> Option<State> {
        let note = self.note.note.borrow().clone();
        note.map(|note| State::decode(&note).unwrap())
    }

    fn position(&self) -> Option<Position> {
        match self.state()? {
            State::Between(between) => Some(between.position),
            _ => None,
        }
    }

    /// The machine stops and is started again.
    fn restart(&self, random: &mut Random) {
        self.power.holds();
        self.sim.inner.borrow_mut().lose(random);
    }
}

const PLAIN: Options = Options {
    force: false,
    keep: false,
    digest: false,
};
const KEEP: Options = Options {
    keep: true,
    ..PLAIN
};
const FORCE: Options = Options {
    force: true,
    ..PLAIN
};

/// Three versions, and what leads from each to the next.
fn story(random: &mut Random) -> (Vec<Disk>, Vec<Segment>) {
    let first = disk(random, 60 + random.0 % 40);
    let (second, pieces) = change(random, &first, 60 + random.0 % 80);
    let segments = vec![full(1, &first), delta((1, &first), (2, &second), pieces)];
    let (third, pieces) = change(random, &second, 60 + random.0 % 60);
    let last = delta((2, &second), (3, &third), pieces);
    (vec![first, second, third], [segments, vec![last]].concat())
}

/// A device is not made smaller.
fn is(target: &Option<Disk>, version: &Disk) -> bool {
    let target = target.as_ref();
    target.is_some_and(|target| target.starts_with(version))
}

#[test]
fn one_after_the_other_or_all_at_once() {
    for seed in 1..40 {
        let random = &mut Random(seed * 77);
        let (disks, segments) = story(random);
        let bench = Bench::new(None, true);
        for (disk, segment) in disks.iter().zip(&segments) {
            bench.receive(&stream(&[segment.clone()]), PLAIN).unwrap();
            assert!(bench.sim.now().as_ref() == Some(disk));
        }
        let all = stream(&segments);
        let other = Bench::new(None, true);
        assert_eq!(other.receive(&all, PLAIN).unwrap().segments, 3);
        assert!(other.sim.now().as_ref() == Some(&disks[2]));
        // What is there already is not written once more.
        let writes = other.sim.inner.borrow().writes;
        for segments in [&segments[..], &segments[1..], &segments[2..]] {
            let received = other.receive(&stream(segments), PLAIN).unwrap();
            assert_eq!(
                (received.segments, received.skipped as usize),
                (0, segments.len())
            );
        }
        assert_eq!(other.sim.inner.borrow().writes, writes);
        // But it does not become again what it was.
        let back = other.refuses(&stream(&segments[..2]), PLAIN);
        assert!(matches!(back, Refusal::Holds(_)));
        let device = Bench::new(Some(vec![0; 200 * S]), false);
        device.receive(&all, PLAIN).unwrap();
        assert!(is(&device.sim.now(), &disks[2]));
    }
}

#[test]
fn refusals_write_nothing() {
    let random = &mut Random(99);
    let (disks, segments) = story(random);
    let one = |nr: usize| stream(&[segments[nr].clone()]);
    let full_again = stream(&[full(9, &disks[1])]);

    let bench = Bench::new(None, true);
    assert!(matches!(bench.refuses(&one(1), PLAIN), Refusal::Unknown));
    let used = Bench::new(Some(disks[2].clone()), true);
    assert!(matches!(used.refuses(&one(0), PLAIN), Refusal::NotBlank));
    assert!(matches!(used.refuses(&one(1), FORCE), Refusal::Unknown));
    let small = Bench::new(Some(vec![0; disks[0].len() - S]), false);
    assert!(matches!(
        small.refuses(&one(0), PLAIN),
        Refusal::TooSmall(..)
    ));
    assert!(matches!(
        small.refuses(&one(0), FORCE),
        Refusal::TooSmall(..)
    ));

    bench.receive(&one(0), PLAIN).unwrap();
    assert!(matches!(
        bench.refuses(&one(2), PLAIN),
        Refusal::OtherBase(..)
    ));
    assert!(matches!(
        bench.refuses(&one(2), FORCE),
        Refusal::OtherBase(..)
    ));
    assert!(matches!(
        bench.refuses(&full_again, PLAIN),
        Refusal::Holds(_)
    ));
    let other = |change: fn(&mut Segment)| {
        let mut segment = segments[1].clone();
        change(&mut segment);
        bench.refuses(&stream(&[segment]), PLAIN)
    };
    assert!(matches!(
        other(|s| s.begin.store[0] = 1),
        Refusal::OtherBase(..)
    ));
    assert!(matches!(
        other(|s| s.begin.origin = 2),
        Refusal::OtherBase(..)
    ));
    // What was written to since.
    let changed = bench.sim.inner.borrow().now.clone().map(|mut disk| {
        disk[5] ^= 1;
        disk
    });
    let was = std::mem::replace(&mut bench.sim.inner.borrow_mut().now, changed);
    assert!(matches!(bench.refuses(&one(1), PLAIN), Refusal::Changed));
    assert!(matches!(bench.refuses(&one(1), FORCE), Refusal::Changed));
    bench.sim.inner.borrow_mut().now = was.map(|disk| [disk, vec![0; S]].concat());
    assert!(matches!(
        bench.refuses(&one(1), PLAIN),
        Refusal::OtherSize(..)
    ));

    // Something else that has been left off.
    let bench = Bench::new(None, true);
    bench.power.fails_after(12);
    bench.receive(&one(0), PLAIN).unwrap_err();
    bench.restart(random);
    assert!(matches!(
        bench.refuses(&one(1), PLAIN),
        Refusal::Unfinished(_)
    ));
    assert!(matches!(
        bench.refuses(&full_again, PLAIN),
        Refusal::Unfinished(_)
    ));
    bench.receive(&full_again, FORCE).unwrap();
    assert!(bench.sim.now().as_ref() == Some(&disks[1]));

    // A damaged note.
    let note = bench.note.note.borrow().clone().unwrap();
    for at in 0..note.len() {
        let mut other = note.clone();
        other[at] ^= 4;
        *bench.note.note.borrow_mut() = Some(other);
        assert!(matches!(bench.refuses(&one(0), PLAIN), Refusal::Notes(_)));
        *bench.note.note.borrow_mut() = Some(note[..at].to_vec());
        assert!(matches!(bench.refuses(&one(0), PLAIN), Refusal::Notes(_)));
    }
}

#[test]
fn all_that_was_read_is_proven_if_that_is_wanted() {
    let random = &mut Random(8);
    let old = disk(random, 4000);
    let (new, pieces) = change(random, &old, 4000);
    let digest = Options {
        digest: true,
        ..PLAIN
    };
    let mut unseen = 0;
    for byte in (0..old.len()).step_by(40_009) {
        let bench = Bench::new(None, true);
        bench.receive(&stream(&[full(1, &old)]), digest).unwrap();
        bench.sim.inner.borrow_mut().now.as_mut().unwrap()[byte] ^= 1;
        let next = stream(&[delta((1, &old), (2, &new), pieces.clone())]);
        assert!(matches!(bench.refuses(&next, digest), Refusal::Changed));
        unseen += u64::from(bench.receive(&next, PLAIN).is_ok());
    }
    // Samples are not all of it: that is what the option is for.
    assert!(unseen > 0);
}

/// Goes on in any of the ways there are until it is done.
fn go_on(bench: &Bench, segments: &[Segment], all: &[u8], random: &mut Random, options: Options) {
    // How it is compressed does not matter.
    let stored = dm_snap_mv_stream::Options { level: 0, ..SMALL };
    for _ in 0..100 {
        if random.flip() {
            bench.power.fails_after(random.below(120));
        }
        let from = bench.position().filter(|position| position.mark > 0);
        let nr = segments.iter().position(|segment| {
            let begin = segment.begin.encode().unwrap();
            let id = dm_snap_mv_stream::digest::of_begin(&begin);
            from.is_some_and(|from| from.segment == id)
        });
        let bytes = match nr.filter(|_| random.flip()) {
            Some(nr) => resumed(&segments[nr..], from.as_ref(), stored),
            None => all.to_vec(),
        };
        match bench.receive(&bytes, options) {
            Ok(_) => {
                bench.restart(random);
                return;
            }
            Err(Failure::Target(..) | Failure::Notes(..)) => bench.restart(random),
            Err(Failure::Refused(Refusal::CannotKeep(_))) => bench.restart(random),
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("it does not get done");
}

/// The power fails at every step there is. What is noted then is true, and it is gone on with, or
/// given up.
#[test]
fn power_fails_at_every_step() {
    let mut steps = 0;
    for seed in 1..10 {
        let random = &mut Random(seed * 1_000_003);
        let is_origin = seed > 6;
        let (disks, segments) = story(random);
        let all = stream(&segments);
        let elastic = seed % 3 != 0 && !is_origin;
        let options = if elastic && seed % 2 == 0 {
            KEEP
        } else {
            PLAIN
        };
        let start = (!elastic).then(|| vec![0; 220 * S]);
        let mut after = 0;
        loop {
            let bench = Bench::new(start.clone(), elastic);
            bench.sim.inner.borrow_mut().is_origin = is_origin;
            bench.power.fails_after(after);
            let received = bench.receive(&all, options);
            let done = received.is_ok();
            bench.restart(random);
            steps += 1;
            look(&bench, &disks);
            let other = Bench {
                sim: Sim {
                    inner: std::rc::Rc::new(bench.sim.inner.borrow().clone().into()),
                    power: bench.power.clone(),
                },
                note: Note {
                    note: std::rc::Rc::new(bench.note.note.borrow().clone().into()),
                    power: bench.power.clone(),
                },
                power: bench.power.clone(),
            };
            go_on(&bench, &segments, &all, random, options);
            assert!(is(&bench.sim.now(), &disks[2]), "seed {seed}, step {after}");
            let State::Whole(whole) = bench.state().unwrap() else {
                panic!("not whole")
            };
            assert_eq!(whole.content.version.tag, 3);
            if is_origin {
                assert_eq!(bench.taken(&disks), [1, 2, 3], "step {after}");
                assert_eq!(whole.local.unwrap().tag, 3);
            }
            give_up(&other, &disks, random);
            if done {
                break;
            }
            after += match std::env::var_os("TEST_LONG") {
                Some(_) => 1,
                None => 1 + random.below(3),
            };
        }
    }
    assert!(steps > 500, "{steps}");
}

/// What is noted is true.
fn look(bench: &Bench, disks: &[Disk]) {
    let now = bench.sim.now();
    match bench.state() {
        None => assert!(now.is_none() || now.is_some_and(|now| now.iter().all(|b| *b == 0))),
        Some(State::Whole(whole)) => {
            let tag = whole.content.version.tag as usize;
            assert!(is(&now, &disks[tag - 1]), "version {tag}");
            if let Some(local) = whole.local {
                let tags = bench.taken(disks);
                assert_eq!(tags.last(), Some(&local.tag), "version {tag}");
            }
        }
        Some(State::Between(between)) => {
            let tag = between.begin.to.tag as usize;
            // Up to the mark it is what it becomes.
            let done = between.position.sector as usize * S;
            let new = &disks[tag - 1];
            if done > 0 {
                assert!(now.as_ref().is_some_and(|now| now[..done] == new[..done]));
            }
            if between.taking.is_some() {
                assert!(is(&now, new));
            }
        }
        Some(State::Restoring(_)) => panic!("nothing is restored"),
    }
}

/// Aborts, again and again, with power that fails.
fn give_up(bench: &Bench, disks: &[Disk], random: &mut Random) {
    let before = bench.state();
    let aborted = loop {
        bench.power.fails_after(random.below(4));
        match bench.abort(false) {
            Err(Failure::Target(..) | Failure::Notes(..)) => bench.restart(random),
            other => break other,
        }
    };
    bench.restart(random);
    let now = bench.sim.now();
    match (before, aborted) {
        (Some(State::Between(between)), Err(Failure::Refused(Refusal::NotKept(_)))) => {
            let base = between.base.unwrap();
            assert!(!between.kept && base.local.is_none());
            assert_eq!(bench.abort(true).unwrap(), Aborted::GivenUp);
            assert!(bench.state().is_none());
        }
        (Some(State::Between(between)), Ok(aborted)) => match between.base {
            Some(base) => {
                assert!(between.kept || base.local.is_some());
                // Interrupted behind its last step, there is nothing left to be done.
                assert!(matches!(aborted, Aborted::Restored(_) | Aborted::Nothing));
                let tag = base.content.version.tag as usize;
                assert!(is(&now, &disks[tag - 1]));
                assert!(matches!(bench.state(), Some(State::Whole(w)) if w == base));
            }
            None => {
                assert!(bench.state().is_none());
                assert!(!between.made || now.is_none());
            }
        },
        (_, Ok(Aborted::Nothing)) => {}
        (before, aborted) => panic!("{before:?}: {aborted:?}"),
    }
}

#[test]
fn another_stream_does_not_go_on_with_it() {
    let random = &mut Random(21);
    let (disks, segments) = story(random);
    let first = stream(&segments[..1]);
    // As long, and with the same beginning, but of another content.
    let mut other_disk = disks[0].clone();
    other_disk[0] ^= 1;
    let other = Segment {
        disk: other_disk,
        ..segments[0].clone()
    };
    let other_stream = stream(&[other.clone()]);
    let bench = Bench::new(None, true);
    for after in 0.. {
        bench.power.fails_after(after);
        drop(bench.receive(&first, PLAIN));
        bench.restart(random);
        if bench.position().is_some_and(|position| position.mark > 1) {
            break;
        }
        assert!(after < 1000);
        *bench.note.note.borrow_mut() = None;
        *bench.sim.inner.borrow_mut() = Default::default();
        bench.sim.inner.borrow_mut().elastic = true;
    }
    let refused = bench.refuses(&other_stream, PLAIN);
    assert!(matches!(refused, Refusal::OtherStream), "{refused:?}");
    let position = bench.position().unwrap();
    for change in [
        (|p: &mut Position| p.digest[0] ^= 1) as fn(&mut Position),
        |p| p.frame += 1,
        |p| p.mark += 1,
    ] {
        let mut position = position;
        change(&mut position);
        let bytes = resumed(&segments[..1], Some(&position), SMALL);
        let refused = bench.refuses(&bytes, PLAIN);
        assert!(matches!(refused, Refusal::OtherPosition(Some(_))));
    }
    let bytes = resumed(&segments[..1], Some(&position), SMALL);
    let empty = Bench::new(None, true);
    assert!(matches!(
        empty.refuses(&bytes, PLAIN),
        Refusal::OtherPosition(None)
    ));
    // Nor is another target gone on with.
    let was = bench.sim.now();
    bench.sim.inner.borrow_mut().now = Some(vec![0; disks[0].len()]);
    assert!(matches!(bench.refuses(&bytes, PLAIN), Refusal::Changed));
    assert!(matches!(bench.refuses(&first, PLAIN), Refusal::Changed));
    bench.sim.inner.borrow_mut().now = was;
    let received = bench.receive(&bytes, PLAIN).unwrap();
    assert!(received.resumed);
    assert!(bench.sim.now().as_ref() == Some(&disks[0]));
}

#[test]
fn what_is_cut_off_is_not_whole() {
    let random = &mut Random(31);
    let (disks, segments) = story(random);
    let all = stream(&segments);
    for cut in (0..all.len()).step_by(97) {
        let bench = Bench::new(None, true);
        let failure = bench.receive(&all[..cut], PLAIN).unwrap_err();
        assert!(matches!(failure, Failure::Stream(_)));
        look(&bench, &disks);
        bench.receive(&all, PLAIN).unwrap();
        assert!(bench.sim.now().as_ref() == Some(&disks[2]));
    }
}

/// What keeps versions of itself is proven by them, to the last byte.
#[test]
fn an_origin_is_proven_by_its_snapshot() {
    let random = &mut Random(41);
    let (disks, segments) = story(random);
    let one = |nr: usize| stream(&[segments[nr].clone()]);
    let bench = Bench::origin(vec![0; 220 * S]);
    bench.receive(&one(0), PLAIN).unwrap();
    assert_eq!(bench.taken(&disks), [1]);
    // Whatever byte is changed, samples of it or none, behind the version or not.
    for at in (0..220 * S).step_by(1111) {
        bench.sim.inner.borrow_mut().now.as_mut().unwrap()[at] ^= 1;
        // Nor is it said to be that already.
        for nr in [0, 1] {
            let refusal = bench.refuses(&one(nr), PLAIN);
            assert!(matches!(refusal, Refusal::Unlike(local, Unlike::Changed) if local.tag == 1));
        }
        bench.sim.inner.borrow_mut().now.as_mut().unwrap()[at] ^= 1;
    }
    // The snapshot is gone, or the note is of another one, or of a plain device.
    let taken = std::mem::take(&mut bench.sim.inner.borrow_mut().taken);
    let refusal = bench.refuses(&one(1), PLAIN);
    assert!(matches!(refusal, Refusal::Unlike(_, Unlike::Gone)));
    bench.sim.inner.borrow_mut().taken = taken;
    bench.sim.inner.borrow_mut().is_origin = false;
    let refusal = bench.refuses(&one(1), PLAIN);
    assert!(matches!(refusal, Refusal::Unlike(_, Unlike::Another)));
    bench.sim.inner.borrow_mut().is_origin = true;
    let plain = Bench::new(Some(vec![0; 220 * S]), false);
    plain.receive(&one(0), PLAIN).unwrap();
    plain.sim.inner.borrow_mut().is_origin = true;
    assert!(matches!(plain.refuses(&one(1), PLAIN), Refusal::NoLocal));
    // A whole one is not received over it by mistake, and what was taken stays.
    let full_again = stream(&[full(9, &disks[1])]);
    let refusal = bench.refuses(&full_again, PLAIN);
    assert!(matches!(refusal, Refusal::Holds(_)));
    bench.receive(&one(1), PLAIN).unwrap();
    bench.receive(&full_again, FORCE).unwrap();
    assert_eq!(bench.sim.inner.borrow().taken.len(), 3);
}

/// All is received, and there is no space for a snapshot of it.
#[test]
fn what_is_to_be_taken_yet_is_taken_once() {
    let random = &mut Random(43);
    let (disks, segments) = story(random);
    let one = |nr: usize| stream(&[segments[nr].clone()]);
    let bench = Bench::origin(vec![0; 220 * S]);
    bench.receive(&one(0), PLAIN).unwrap();
    bench.sim.inner.borrow_mut().full = true;
    let failure = bench.receive(&one(1), PLAIN).unwrap_err();
    assert!(matches!(failure, Failure::Target("take a snapshot of", _)));
    let before = bench.note.note.borrow().clone();
    let writes = bench.sim.inner.borrow().writes;
    bench.receive(&one(1), PLAIN).unwrap_err();
    bench.sim.inner.borrow_mut().full = false;
    // Not for what has nothing to do with it, nor if it has been written to meanwhile.
    let refusal = bench.refuses(&stream(&[full(9, &disks[1])]), PLAIN);
    assert!(matches!(refusal, Refusal::Unfinished(_)));
    bench.sim.inner.borrow_mut().now.as_mut().unwrap()[0] ^= 1;
    assert!(matches!(bench.refuses(&one(1), PLAIN), Refusal::Changed));
    bench.sim.inner.borrow_mut().now.as_mut().unwrap()[0] ^= 1;
    // With the same, with what follows, with the rest: nothing is written again, and one taken, even if
    // that is not known afterwards.
    for again in [one(1), one(1), one(2)] {
        *bench.note.note.borrow_mut() = before.clone();
        bench.receive(&again, PLAIN).unwrap();
        if again == one(1) {
            assert_eq!(bench.sim.inner.borrow().writes, writes);
            assert_eq!(bench.taken(&disks), [1, 2]);
        }
    }
    assert_eq!(bench.taken(&disks), [1, 2, 3]);

    // Or it is given up.
    let bench = Bench::origin(vec![0; 220 * S]);
    bench.receive(&one(0), PLAIN).unwrap();
    bench.sim.inner.borrow_mut().full = true;
    bench.receive(&one(1), PLAIN).unwrap_err();
    assert!(matches!(bench.abort(false), Ok(Aborted::Restored(_))));
    assert!(is(&bench.sim.now(), &disks[0]));
    // But not for what is gone.
    bench.receive(&one(1), PLAIN).unwrap_err();
    bench.sim.inner.borrow_mut().taken.clear();
    let refused = bench.abort(false).unwrap_err();
    assert!(matches!(refused, Failure::Refused(Refusal::NotKept(_))));
    assert!(matches!(bench.abort(true), Ok(Aborted::GivenUp)));
}
