// SPDX-License-Identifier: GPL-2.0
//! How block devices lie on one another, sector by sector: through partitions, the tables of
//! device-mapper, and loop devices, which the kernel does not know as such.
//!
//! That one device is below two others says nothing: two logical volumes have a disk in common, and
//! no sector of it.

use crate::devno::Devno;
use crate::dm::{Dm, Loaded, Target};
use crate::loops::{Attached, Behind, Loops};
use crate::sysfs::Sysfs;
use std::collections::HashMap;

/// Deeper than anybody builds.
const DEEPEST: usize = 64;

/// Sectors of something that has sectors; all of those numbers are of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Of which device or file.
    pub of: Behind,
    /// The first one.
    pub start: u64,
    /// The one behind the last.
    pub end: u64,
}

impl Extent {
    /// All that there is.
    pub fn whole(of: Behind) -> Self {
        Self {
            of,
            start: 0,
            end: u64::MAX,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.of == other.of && self.start < other.end && other.start < self.end
    }
}

/// Whether two devices have a sector in common, by what [`Stack::extents`] says of each.
pub fn overlap(some: &[Extent], others: &[Extent]) -> bool {
    some.iter()
        .any(|one| others.iter().any(|other| one.overlaps(other)))
}

/// Some of a device's sectors, and what they are below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// The first one.
    start: u64,
    /// How many.
    sectors: u64,
    /// What they are.
    below: Extent,
    /// Each is the one there that stands in the same place. If not, any of them may be any.
    in_order: bool,
}

impl Piece {
    /// `sectors` sectors from `start` on, which are those of `of` from `at` on.
    fn linear(start: u64, sectors: u64, of: Behind, at: u64) -> Self {
        let end = at.saturating_add(sectors);
        let below = Extent { of, start: at, end };
        Self {
            start,
            sectors,
            below,
            in_order: true,
        }
    }

    /// What `extent` of the upper device is below, as far as it is in this piece.
    fn below(&self, extent: &Extent) -> Option<Extent> {
        let start = extent.start.max(self.start);
        let end = extent.end.min(self.start.saturating_add(self.sectors));
        if start >= end {
            return None;
        }
        let place = |sector: u64| self.below.start.saturating_add(sector - self.start);
        Some(match self.in_order {
            false => self.below,
            true => Extent {
                of: self.below.of,
                start: place(start),
                end: place(end),
            },
        })
    }
}

/// How the block devices of this machine lie on one another now.
pub struct Stack<'a> {
    sysfs: &'a Sysfs,
    tables: HashMap<Devno, Loaded>,
    loops: Vec<Attached>,
}

impl<'a> Stack<'a> {
    /// Looks at all of them. Without device-mapper there are none of its devices.
    pub fn look(sysfs: &'a Sysfs, dm: Option<&Dm>) -> Self {
        let tables = dm.map(Dm::tables).unwrap_or_default();
        Self::of(sysfs, tables, Loops::default().all())
    }

    fn of(sysfs: &'a Sysfs, tables: Vec<Loaded>, loops: Vec<Attached>) -> Self {
        let by_number = tables.into_iter().map(|table| (table.devno, table));
        Self {
            sysfs,
            tables: by_number.collect(),
            loops,
        }
    }

    /// What devices are called.
    pub fn sysfs(&self) -> &Sysfs {
        self.sysfs
    }

    /// All loop devices with something behind them.
    pub fn loops(&self) -> &[Attached] {
        &self.loops
    }

    /// The tables of all devices of device-mapper.
    pub fn tables(&self) -> impl Iterator<Item = &Loaded> {
        self.tables.values()
    }

    /// The sectors of a device or a file, and what they are on all levels below it. What a device has
    /// to itself, wherever that is kept, ends it: a snapshot's, a thin volume's.
    pub fn extents(&self, of: Behind) -> Vec<Extent> {
        let mut found = Vec::new();
        self.descend(Extent::whole(of), DEEPEST, &mut found);
        found
    }

    fn descend(&self, extent: Extent, deepest: usize, found: &mut Vec<Extent>) {
        if found.contains(&extent) {
            return;
        }
        found.push(extent);
        let (Behind::Device(dev), Some(deepest)) = (extent.of, deepest.checked_sub(1)) else {
            return;
        };
        for below in self.pieces(dev).iter().filter_map(|p| p.below(&extent)) {
            self.descend(below, deepest, found);
        }
    }

    /// What a device's sectors are on the level below.
    fn pieces(&self, dev: Devno) -> Vec<Piece> {
        let sectors = || self.sysfs.sectors(dev).unwrap_or(u64::MAX);
        if let Some((disk, start)) = self.sysfs.partition_of(dev) {
            let disk = Behind::Device(disk);
            return vec![Piece::linear(0, sectors(), disk, start)];
        }
        if let Some(attached) = self.loops.iter().find(|a| a.devno == dev) {
            // One that begins within a sector ends within one, too.
            let sectors = sectors().saturating_add(u64::from(attached.offset % 512 != 0));
            let at = attached.offset / 512;
            return vec![Piece::linear(0, sectors, attached.behind, at)];
        }
        if let Some(table) = self.tables.get(&dev) {
            return table.lines.iter().flat_map(mapped).collect();
        }
        // A RAID.
        let any = |slave| Piece {
            start: 0,
            sectors: u64::MAX,
            below: Extent::whole(Behind::Device(slave)),
            in_order: false,
        };
        self.sysfs.slaves(dev).into_iter().map(any).collect()
    }
}

/// What the sectors of a target are below.
fn mapped(target: &Target) -> Vec<Piece> {
    let params = String::from_utf8_lossy(&target.params);
    let words: Vec<_> = params.split_ascii_whitespace().collect();
    let known = match target.kind.as_slice() {
        b"linear" | b"flakey" | b"dust" => linear(target, &words, 0).map(|piece| vec![piece]),
        // For reads, for writes and for flushes.
        b"delay" => (0..words.len())
            .step_by(3)
            .map(|at| linear(target, &words, at))
            .collect(),
        b"crypt" => linear(target, &words, 3).map(|piece| vec![piece]),
        b"striped" => striped(target, &words),
        // It is somewhere there.
        b"multipath" | b"mirror" | b"raid" | b"cache" | b"writecache" | b"snapshot-origin"
        | b"snapshot-merge" | b"era" | b"log-writes" | b"integrity" | b"verity" | b"clone"
        | b"ebs" | b"unstriped" | b"switch" => None,
        // It is its own: a snapshot, a thin volume.
        _ => Some(Vec::new()),
    };
    let somewhere = |word: &&str| {
        Some(Piece {
            start: target.start,
            sectors: target.sectors,
            below: Extent::whole(Behind::Device(word.parse().ok()?)),
            in_order: false,
        })
    };
    known.unwrap_or_else(|| words.iter().filter_map(somewhere).collect())
}

/// All of a target, one sector after the other, where two of its words say: a device, and a sector of it.
fn linear(target: &Target, words: &[&str], at: usize) -> Option<Piece> {
    let dev = Behind::Device(words.get(at)?.parse().ok()?);
    let start = words.get(at.checked_add(1)?)?.parse().ok()?;
    Some(Piece::linear(target.start, target.sectors, dev, start))
}

/// The number of stripes, the size of their pieces, and each stripe's device and first sector.
fn striped(target: &Target, words: &[&str]) -> Option<Vec<Piece>> {
    let stripes: u64 = words.first()?.parse().ok()?;
    let each = target.sectors.checked_div(stripes)?;
    let pairs = words.get(2..)?.chunks_exact(2);
    let stripe = |pair: &[&str]| {
        let &[dev, start] = pair else { return None };
        let dev = Behind::Device(dev.parse().ok()?);
        let below = Piece::linear(0, each, dev, start.parse().ok()?).below;
        Some(Piece {
            start: target.start,
            sectors: target.sectors,
            below,
            in_order: false,
        })
    };
    pairs.map(stripe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn dev(minor: u32) -> Devno {
        Devno { major: 253, minor }
    }

    fn table(minor: u32, lines: &[(u64, u64, &str, &str)]) -> Loaded {
        let line = |&(start, sectors, kind, params): &(u64, u64, &str, &str)| Target {
            start,
            sectors,
            kind: kind.into(),
            params: params.into(),
        };
        Loaded {
            name: format!("name{minor}"),
            devno: dev(minor),
            lines: lines.iter().map(line).collect(),
        }
    }

    /// Whether two devices with these tables have something in common.
    fn in_common(tables: Vec<Loaded>, one: Behind, other: Behind) -> bool {
        let sysfs = Sysfs::at("/nowhere");
        let loops = vec![Attached {
            name: "loop1".into(),
            devno: Devno { major: 7, minor: 1 },
            behind: Behind::File(1, 2),
            offset: 0,
        }];
        let stack = Stack::of(&sysfs, tables, loops);
        overlap(&stack.extents(one), &stack.extents(other))
    }

    fn of_tables(tables: Vec<Loaded>) -> bool {
        in_common(tables, Behind::Device(dev(1)), Behind::Device(dev(2)))
    }

    #[test]
    fn volumes_side_by_side_have_nothing_in_common() {
        let linear = |minor, at: &str| table(minor, &[(0, 100, "linear", at)]);
        let second = |at| vec![linear(1, "8:0 100"), linear(2, at)];
        assert!(!of_tables(second("8:0 0")));
        assert!(!of_tables(second("8:0 200")));
        assert!(!of_tables(second("8:16 100")));
        assert!(of_tables(second("8:0 1")));
        assert!(of_tables(second("8:0 199")));
        let two = |at| table(2, &[(0, 8, "linear", "8:16 0"), (8, 8, "linear", at)]);
        assert!(!of_tables(vec![linear(1, "8:0 100"), two("8:0 92")]));
        assert!(of_tables(vec![linear(1, "8:0 100"), two("8:0 93")]));
        let stripes = |minor, at: &str| {
            let params = format!("2 8 8:0 {at} 8:16 {at}");
            table(minor, &[(0, 100, "striped", &params)])
        };
        assert!(!of_tables(vec![stripes(1, "0"), stripes(2, "50")]));
        assert!(of_tables(vec![stripes(1, "0"), stripes(2, "49")]));
    }

    #[test]
    fn layers_are_looked_through() {
        let upper = |kind, params| table(2, &[(0, 10, kind, params)]);
        let lower = || table(3, &[(0, 100, "linear", "8:0 100")]);
        let is_in = |kind, params, at| {
            let below = table(1, &[(0, 10, "linear", at)]);
            of_tables(vec![below, upper(kind, params), lower()])
        };
        assert!(is_in("linear", "253:3 20", "8:0 129"));
        assert!(!is_in("linear", "253:3 20", "8:0 130"));
        assert!(is_in("crypt", "aes - 0 253:3 20", "8:0 120"));
        assert!(!is_in("crypt", "aes - 0 253:3 20", "8:0 100"));
        assert!(is_in("delay", "8:16 0 1 253:3 20 1", "8:0 120"));
        // Wherever it is there.
        let paths = "0 0 1 1 service-time 0 2 1 8:16 1 253:3 1";
        assert!(is_in("multipath", paths, "8:0 199"));
        // What is a device's own.
        assert!(!is_in("dm-snap-mv", "cs 253:3 8:16 1", "8:0 120"));
        assert!(!is_in("thin", "253:3 1", "8:0 120"));
        // What cannot be is no harm.
        assert!(!is_in("striped", "0 8", "8:0 120"));
        assert!(of_tables(vec![
            table(1, &[(0, 10, "linear", "253:2 0")]),
            table(2, &[(0, 10, "linear", "253:1 0")]),
        ]));
    }

    #[test]
    fn loops_and_files() {
        let looped = Behind::Device(Devno { major: 7, minor: 1 });
        let file = Behind::File(1, 2);
        assert!(in_common(Vec::new(), looped, file));
        assert!(!in_common(Vec::new(), looped, Behind::File(1, 3)));
        let above = table(1, &[(0, 10, "linear", "7:1 20")]);
        assert!(in_common(vec![above], Behind::Device(dev(1)), file));
    }

    #[test]
    fn partitions() {
        let root = std::env::temp_dir().join(format!("dms-parts-{}", std::process::id()));
        let disk = root.join("dev/block/disk");
        for (name, start) in [("part1", "8"), ("part2", "16")] {
            fs::create_dir_all(disk.join(name)).unwrap();
            fs::write(disk.join(name).join("partition"), "1\n").unwrap();
            fs::write(disk.join(name).join("start"), format!("{start}\n")).unwrap();
            fs::write(disk.join(name).join("size"), "8\n").unwrap();
        }
        fs::write(disk.join("dev"), "8:0\n").unwrap();
        for (number, place) in [
            ("8:0", "disk"),
            ("8:1", "disk/part1"),
            ("8:2", "disk/part2"),
        ] {
            let link = root.join("dev/block").join(number);
            std::os::unix::fs::symlink(place, link).unwrap();
        }
        let sysfs = Sysfs::at(&root);
        let stack = Stack::of(&sysfs, Vec::new(), Vec::new());
        let extents = |minor| stack.extents(Behind::Device(Devno { major: 8, minor }));
        assert!(overlap(&extents(0), &extents(1)));
        assert!(overlap(&extents(2), &extents(0)));
        assert!(!overlap(&extents(1), &extents(2)));
        fs::remove_dir_all(root).unwrap();
    }
}
