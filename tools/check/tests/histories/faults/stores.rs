// SPDX-License-Identifier: GPL-2.0

//! The stores that faults are put into: a few that operations come to, each with something that others
//! lack, and what is in them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use dm_snap_mv_model::disk::journal::{Entry, Run};
use dm_snap_mv_model::resolve::Location;

use super::content::{content, Content};
use crate::changes;
use crate::damage::large;
use crate::image::Image;
use crate::store::Store;
use crate::world::World;

/// A store that is in order, and what it has to resolve to.
pub struct Subject {
    pub name: &'static str,
    pub image: Image,
    /// The same store at earlier times: what its blocks held before.
    pub earlier: Vec<Image>,
    pub expected: Content,
    /// What it was before each batch of its journal.
    pub before: Vec<Content>,
}

/// A moment of a history.
#[derive(Clone)]
struct Moment {
    store: Store,
    /// What each origin and each valid snapshot holds, by number and tag (0: the origin itself).
    held: BTreeMap<(u32, u32), Vec<u64>>,
    /// What the devices hold: the COW device, and each origin's own.
    cow: Vec<u64>,
    disks: BTreeMap<u32, Vec<u64>>,
}

thread_local! {
    static MOMENTS: RefCell<Option<Vec<Moment>>> = const { RefCell::new(None) };
}

/// To be called with each state that operations come to. True if that is all it is wanted for.
pub fn take(w: &World) -> bool {
    MOMENTS.with_borrow_mut(|moments| {
        let Some(moments) = moments else { return false };
        moments.push(Moment::of(w));
        true
    })
}

impl Moment {
    fn of(w: &World) -> Self {
        let mut held = BTreeMap::new();
        let mut disks = BTreeMap::new();
        for (disk, origin) in w.disks.iter().zip(&w.oracle.origins) {
            let Some(nr) = disk.nr else { continue };
            held.insert((nr.get(), 0), origin.head.clone());
            disks.insert(nr.get(), disk.content.clone());
            let valid = origin.snapshots.iter().filter(|(_, s)| s.valid);
            held.extend(valid.map(|(&tag, s)| ((nr.get(), tag), s.content.clone())));
        }
        Self {
            store: w.store.clone(),
            held,
            cow: w.cow.clone(),
            disks,
        }
    }

    /// Whether what an image resolves to is what the history put there.
    fn agrees(&self, found: &Content) {
        let mut versions = 0;
        for (nr, origin) in found {
            let at = |(chunk, location): (usize, &Location)| match *location {
                Location::Origin => self.disks[nr][chunk],
                Location::Cow(cow) => self.cow[cow.get() as usize],
                Location::Zero => 0,
            };
            let mut head: Vec<u64> = origin.head.iter().enumerate().map(at).collect();
            head.extend(&self.disks[nr][head.len()..]);
            assert_eq!(head[..], self.held[&(*nr, 0)][..head.len()]);
            for (tag, version) in &origin.snapshots {
                let Some(version) = version else {
                    assert!(!self.held.contains_key(&(*nr, *tag)));
                    continue;
                };
                let values: Vec<u64> = version.chunks.iter().enumerate().map(at).collect();
                assert_eq!(values, self.held[&(*nr, *tag)]);
                versions += 1;
            }
        }
        assert_eq!(versions + self.disks.len(), self.held.len());
    }
}

/// All moments of one history.
fn history(seed: u64) -> Vec<Moment> {
    MOMENTS.set(Some(Vec::new()));
    let (mut config, operations) = crate::ops::generate(seed, 400);
    config.check_every = 3;
    crate::ops::run(&config, &operations, &mut 0);
    MOMENTS.take().unwrap_or_default()
}

type Is = fn(&Store) -> bool;
type Make = fn(&Store) -> Image;

fn any_ghost(store: &Store) -> bool {
    store.snapshots.iter().any(|(_, row)| row.ghost)
}

fn rollback(store: &Store) -> bool {
    let rollbacks = store.origins.iter().filter_map(|(_, row)| row.rollback);
    let mut under_way = rollbacks.filter(|r| r.cursor.get() > 0 && r.cursor < r.limit);
    under_way.next().is_some() && store.done.iter().count() > 2
}

fn nested(store: &Store) -> bool {
    let deep = |parent| {
        store
            .snapshots
            .get(&parent)
            .is_some_and(|row| row.parent.is_some())
    };
    store.snapshots.iter().any(|(&t, row)| {
        let parent = row.parent.map_or(0, |tag| u64::from(tag.get()));
        row.chunks > 1 && deep(((t >> 32) << 32) | parent)
    })
}

fn cleaning(store: &Store) -> bool {
    store.cleaning.iter().any(|(_, row)| row.drop)
        && store
            .cleaning
            .iter()
            .any(|(_, row)| !row.drop && row.cursor > 0)
}

fn invalid(store: &Store) -> bool {
    let mut snapshots = store.snapshots.iter();
    let mut states = [false; 2];
    snapshots.all(|(&t, row)| {
        let origin = store.origins.get(&((t >> 32) as u32)).expect("an origin");
        states[usize::from(origin.is_invalid(row.tag))] = true;
        true
    });
    states == [true, true]
}

fn deferred(store: &Store) -> bool {
    store.origins.iter().any(|(_, row)| row.deferred.is_some())
}

/// Neither so few records that they say little, nor so many that all takes long.
fn is_handy(store: &Store) -> bool {
    (12..90).contains(&store.records.iter().count()) && store.snapshots.iter().count() > 2
}

const WANTED: [(&str, Is, Make); 7] = [
    ("a rollback", rollback, Image::of),
    ("snapshots of snapshots", nested, Image::of),
    ("ghosts", any_ghost, Image::of),
    ("a deferred rollback", deferred, Image::of),
    ("cleaning", cleaning, Image::of),
    ("invalid ones", invalid, Image::of),
    ("no journal", rollback, Image::without_journal),
];

const JOURNALS: [(&str, Make); 2] = [
    ("a journal", Image::of),
    ("a journal without a backup", Image::without_backup),
];

/// How many sorts of entries there are.
fn sorts(entries: &[Entry]) -> usize {
    let sort = |entry: &Entry| match entry {
        Entry::Run(Run::Records { .. }) => 0,
        Entry::Run(Run::Use { .. }) => 1,
        Entry::Run(Run::Done { .. }) => 2,
        Entry::Origin(_) => 3,
        Entry::Snapshot(..) => 4,
        Entry::Child { .. } => 5,
        Entry::Cleaning(..) => 6,
        Entry::NoSnapshot(_) => 7,
        Entry::NoChild { .. } => 8,
        Entry::Bookmark { .. } => 9,
        Entry::NoBookmark { .. } => 10,
    };
    let all: std::collections::BTreeSet<_> = entries.iter().map(sort).collect();
    all.len()
}

/// The batches by which the first of some moments becomes a later one, and which that is.
fn batches(moments: &[Moment]) -> (Vec<Vec<Entry>>, usize) {
    let mut all = Vec::new();
    let mut last = 0;
    for (i, pair) in moments.windows(2).enumerate().take(12) {
        let Some(entries) = changes::entries(&pair[0].store, &pair[1].store) else {
            break;
        };
        if !entries.is_empty() {
            all.push(entries);
            last = i + 1;
        }
    }
    (all, last)
}

fn subject(name: &'static str, moments: &[Moment], at: usize, make: Make) -> Subject {
    let image = make(&moments[at].store);
    let expected = content(&image).expect("a store in order");
    moments[at].agrees(&expected);
    let earlier = moments[..at].iter().rev().take(3);
    Subject {
        name,
        image,
        earlier: earlier.map(|moment| make(&moment.store)).collect(),
        expected,
        before: Vec::new(),
    }
}

fn with_journal(name: &'static str, moments: &[Moment], at: usize, make: Make) -> Subject {
    let (batches, last) = batches(&moments[at..]);
    let mut subject = subject(name, moments, at, make);
    let mut next = 0;
    for entries in &batches {
        next = subject.image.journal(next, entries);
        let after = content(&subject.image).expect("a store in order");
        subject
            .before
            .push(std::mem::replace(&mut subject.expected, after));
    }
    moments[at + last].agrees(&subject.expected);
    subject
}

/// One with so many records that their tree has several levels of nodes, most of them of chunks that no
/// snapshot has.
fn with_nodes(moments: &[Moment], at: usize) -> Subject {
    let large = |moment: &Moment| Image::of(&large(&moment.store, 700).0);
    let image = large(&moments[at]);
    Subject {
        name: "several levels",
        earlier: at
            .checked_sub(1)
            .map(|at| large(&moments[at]))
            .into_iter()
            .collect(),
        expected: content(&image).expect("a store in order"),
        before: Vec::new(),
        image,
    }
}

/// One of each.
pub fn subjects() -> Vec<Subject> {
    let mut all = Vec::new();
    let mut wanted = WANTED.to_vec();
    let mut journal = None;
    let mut seed = 0;
    while !wanted.is_empty() || journal.is_none() {
        seed += 1;
        let moments = history(seed);
        wanted.retain(|&(name, is, make)| {
            let fits = |moment: &Moment| is_handy(&moment.store) && is(&moment.store);
            let Some(at) = moments.iter().position(fits) else {
                return true;
            };
            all.push(subject(name, &moments, at, make));
            if name == "snapshots of snapshots" {
                all.push(with_nodes(&moments, at));
            }
            false
        });
        if journal.is_none() {
            let fits = |at: &usize| {
                let (batches, _) = batches(&moments[*at..]);
                is_handy(&moments[*at].store) && batches.len() > 3 && sorts(&batches.concat()) > 6
            };
            journal = (0..moments.len()).find(fits).map(|at| (moments, at));
        }
    }
    if let Some((moments, at)) = journal {
        all.extend(JOURNALS.map(|(name, make)| with_journal(name, &moments, at, make)));
    }
    all
}
