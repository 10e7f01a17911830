// SPDX-License-Identifier: GPL-2.0

//! Messages: what they answer, what they refuse, what they leave behind.

use std::sync::mpsc;
use std::thread;

use anyhow::{ensure, Context, Result};

use crate::disks::{Disks, MIB};
use crate::dm::Mapped;
use crate::report::Subject;
use crate::store::{until, Device};
use crate::time::patience;
use crate::world::World;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    subject.case("so and ss answer with the tag", || replies(disks));
    subject.case("memos", || memos(disks));
    subject.case("the words of try", || tries(disks));
    subject.case("a tag is never used twice", || tags(disks));
    subject.case("list in pages", || pages(disks));
    subject.case("list tells what there is", || listed(disks));
    subject.case("ds returns at once and the space comes back", || {
        space(disks)
    });
    subject.case("ds in any order gives back everything", || any_order(disks));
    subject.case("ds is refused while the snapshot's device is open", || {
        delete_open(disks)
    });
    subject.case("a device whose snapshot was deleted", || {
        delete_active(disks)
    });
    subject.case("a deleted snapshot that has snapshots", || ghosts(disks));
    subject.case("deleting while the origin is written", || {
        delete_under_load(disks)
    });
    subject.case("cleaning goes on after remove and create", || {
        cleaning_resumes(disks)
    });
    subject.case(
        "do is refused while there are snapshots, then unbinds",
        || unbind(disks),
    );
    subject.case("messages to a snapshot device", || {
        by_snapshot_device(disks)
    });
    subject.case("the end of cleaning is an event", || event(disks));
    subject.case("status tells what there is", || status(disks));
}

fn replies(disks: &Disks) -> Result<()> {
    let (_world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    for (message, reply) in [
        ("so", "1"),
        ("so", "2"),
        ("ss 1", "3"),
        ("ss 3 -m deep", "4"),
        ("so -m again", "5"),
        ("ss -m first 2", "6"),
        ("so -mjoined", "7"),
    ] {
        let got = co.send(message)?;
        ensure!(
            got.trim_end_matches('\n') == reply,
            "{message:?}: {got:?}, not {reply:?}"
        );
    }
    let parents: Vec<_> = co.list()?.rows.iter().map(|row| row.parent).collect();
    ensure!(
        parents
            == [
                None,
                Some(0),
                Some(0),
                Some(1),
                Some(3),
                Some(0),
                Some(2),
                Some(0)
            ],
        "{parents:?}"
    );
    let memos: Vec<_> = co.list()?.rows.into_iter().map(|row| row.memo).collect();
    ensure!(
        memos == ["", "", "", "", "deep", "again", "first", "joined"],
        "{memos:?}"
    );
    co.remove()
}

/// A word as device-mapper wants it: a backslash before what it would take for itself.
fn escaped(memo: &str) -> String {
    memo.replace('\\', "\\\\").replace(' ', "\\ ")
}

fn memos(disks: &Disks) -> Result<()> {
    let (_world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let good = [
        "x".to_owned(),
        "x".repeat(64),
        "é".repeat(32),
        "雪".repeat(21) + "x",
        "🦀".repeat(16),
        "two words".to_owned(),
        "  leading and trailing  ".to_owned(),
        "it's \"quoted\"".to_owned(),
        "back\\slash \\ and \\\\".to_owned(),
        "-".to_owned(),
        "--".to_owned(),
        "-m".to_owned(),
        "-x".to_owned(),
        "end".to_owned(),
        "%s%n$(reboot)`'\";|&*?[]{}<>#~!".to_owned(),
        "e\u{301} and \u{202e}more".to_owned(),
    ];
    for memo in &good {
        let tag = co.tag(&format!("so -m {}", escaped(memo)))?;
        let listing = co.list()?;
        let row = listing.row(tag).context("the new snapshot is not listed")?;
        ensure!(row.memo == *memo, "{memo:?} became {:?}", row.memo);
    }
    let tag = co.tag("ss 1 -m of\\ a\\ snapshot")?;
    ensure!(
        co.list()?
            .row(tag)
            .is_some_and(|row| row.memo == "of a snapshot"),
        "ss"
    );
    let count = co.list()?.rows.len();
    for memo in ["x".repeat(65), "é".repeat(32) + "x", "🦀".repeat(17)] {
        co.refused(
            &format!("so -m {memo}"),
            libc::EINVAL,
            "memo is longer than 64 bytes",
        )?;
        co.refused(
            &format!("ss 1 -m {memo}"),
            libc::EINVAL,
            "memo is longer than 64 bytes",
        )?;
    }
    for memo in ["bell\u{7}", "del\u{7f}", "\u{85}"] {
        co.refused(
            &format!("so -m {memo}"),
            libc::EINVAL,
            "memo has control characters",
        )?;
    }
    for memo in [&b"\xff"[..], b"\xc3", b"cut \xe9\x9b", b"\xed\xa0\x80"] {
        let message = [&b"try so -m "[..], &memo.replace_spaces()].concat();
        let reply = co.message_bytes(&message, 4096)?;
        ensure!(
            reply.contains("memo is not valid UTF-8"),
            "{memo:?}: {reply:?}"
        );
    }
    ensure!(
        co.list()?.rows.len() == count,
        "a refused memo made a snapshot"
    );
    co.remove()
}

trait ReplaceSpaces {
    fn replace_spaces(&self) -> Vec<u8>;
}

impl ReplaceSpaces for [u8] {
    fn replace_spaces(&self) -> Vec<u8> {
        self.iter()
            .map(|&b| if b == b' ' { b'_' } else { b })
            .collect()
    }
}

fn tries(disks: &Disks) -> Result<()> {
    let (_world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    for (message, reply) in [
        ("try so", "ok 1"),
        ("try ss 1", "ok 2"),
        ("try ds 2", "ok"),
        ("try ds 2", "refused ENOENT unknown tag"),
        ("try so -m", "refused EINVAL option needs an argument"),
        (
            "try",
            "refused EINVAL missing message: so, ss, do, ds, rs, label, list, delta or commit",
        ),
    ] {
        let got = co.send(message)?;
        ensure!(
            got.trim_end() == reply,
            "{message:?}: {got:?}, not {reply:?}"
        );
    }
    // Two lists are alike only when nothing goes on in the background.
    co.wait_clean()?;
    let listing = co.send("try list")?;
    let plain = co.send("list")?;
    ensure!(listing == format!("ok\n{plain}"), "{listing:?}");
    co.remove()
}

fn tags(disks: &Disks) -> Result<()> {
    let (mut world, mut co) = World::new(disks, 4 * MIB, 32, 1)?;
    for tag in 1..=5 {
        ensure!(world.take(&co)? == tag);
        world.delete(&co, tag)?;
    }
    co.wait_clean()?;
    co.remove()?;
    crate::kernel::reload()?;
    co = world.co()?;
    ensure!(world.take(&co)? == 6, "a tag came again");
    co.remove()
}

fn pages(disks: &Disks) -> Result<()> {
    let (_world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let memo = "m".repeat(64);
    for _ in 0..150 {
        co.tag(&format!("so -m {memo}"))?;
    }
    let all = co.list()?;
    ensure!(all.rows.len() == 151, "{} rows", all.rows.len());
    ensure!(all.tags() == (1..=150).collect::<Vec<_>>());
    ensure!(all.rows[1..].iter().all(|row| row.memo == memo), "memos");
    // Limits of the caller's.
    for (message, rows, last) in [
        ("list 0 1", 1, "next 1"),
        ("list 1 10", 10, "next 11"),
        ("list 141 10", 10, "end"),
        ("list 150", 1, "end"),
        ("list 151", 0, "end"),
        ("list 4294967295", 0, "end"),
    ] {
        let page = co.send(message)?;
        let lines: Vec<_> = page.lines().collect();
        ensure!(
            lines.len() == rows + 2,
            "{message:?}: {} lines",
            lines.len()
        );
        ensure!(
            lines[rows + 1] == last,
            "{message:?}: {:?}",
            lines[rows + 1]
        );
    }
    // A page fits whatever the caller has room for.
    for room in [700, 1000, 4096, 9000, 16384] {
        let mut start = 0;
        let mut tags = Vec::new();
        loop {
            let page = co
                .message_in(&format!("list {start}"), room)
                .with_context(|| format!("room of {room} bytes"))?;
            ensure!(
                page.len() < room,
                "{} bytes in a room of {room}",
                page.len()
            );
            let lines: Vec<_> = page.lines().collect();
            for line in &lines[1..lines.len() - 1] {
                tags.push(line.split(' ').next().unwrap_or_default().parse::<u32>()?);
            }
            match lines[lines.len() - 1].strip_prefix("next ") {
                Some(next) => start = next.parse()?,
                None => break,
            }
        }
        ensure!(
            tags == (0..=150).collect::<Vec<_>>(),
            "room of {room} bytes: {tags:?}"
        );
    }
    co.remove()
}

fn listed(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 4)?;
    let first = world.take(&co)?;
    let disk = co.open()?;
    world.now.write(&disk, 0, 320)?;
    let child = co.tag(&format!("ss {first} -m child"))?;
    let cs = world.store.cs(&world.origin, child)?;
    let mut shadow = world.snapshots[&first].clone();
    shadow.write(&cs.open()?, 0, 64)?;
    world.snapshots.insert(child, shadow);
    cs.remove()?;

    let listing = co.list()?;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    ensure!(
        listing.store[4] == "32",
        "chunk sectors: {:?}",
        listing.store
    );
    ensure!(
        listing.store[8..] == ["1".to_owned(), (4 * MIB).to_string(), "origin".to_owned()],
        "{:?}",
        listing.store
    );
    let rows = &listing.rows;
    ensure!(rows.len() == 3, "{rows:?}");
    ensure!(
        rows.iter().all(|row| now - row.time < 300),
        "times of {rows:?}, now {now}"
    );
    ensure!(
        rows.iter().all(|row| row.sectors == 4 * MIB),
        "sizes of {rows:?}"
    );
    // 320 sectors are 10 chunks, which the origin's timeline holds; 64 are 2 of the child.
    ensure!(
        [rows[0].chunks, rows[1].chunks, rows[2].chunks] == [10, 0, 2],
        "chunks of {rows:?}"
    );
    // Of the origin it is all that there are.
    ensure!(
        [rows[0].children, rows[1].children, rows[2].children] == [2, 1, 0],
        "{rows:?}"
    );
    ensure!(
        rows[2].memo == "child" && rows[1].memo.is_empty(),
        "{rows:?}"
    );
    drop(disk);
    world.check(&co)?;
    co.remove()
}

fn space(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 24 * MIB, 64, 1)?;
    let tag = world.take(&co)?;
    world.now.write(&co.open()?, 0, 24 * MIB)?;
    co.wait_chunks(6144)?;
    let metadata = co.state()?.metadata.0;
    // It does not wait for the cleaning, which takes some more writes and so can be seen.
    world.store.cow.slow_writes(500)?;
    world.delete(&co, tag)?;
    ensure!(co.state()?.cleaning.is_some(), "{}", co.status()?);
    world.store.cow.slow_writes(0)?;
    co.refused(&format!("ds {tag}"), libc::ENOENT, "unknown tag")?;
    co.wait_chunks(0)?;
    co.wait_clean()?;
    ensure!(
        co.state()?.metadata.0 < metadata,
        "metadata: {metadata}, then {}",
        co.status()?
    );
    ensure!(co.list()?.rows.len() == 1, "{:?}", co.list()?.rows);
    // What came back can be used again, and again.
    for _ in 0..2 {
        let tag = world.take(&co)?;
        world.now.write(&co.open()?, 0, 24 * MIB)?;
        world.check(&co)?;
        world.delete(&co, tag)?;
        co.wait_chunks(0)?;
    }
    co.remove()
}

fn any_order(disks: &Disks) -> Result<()> {
    for order in [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [3, 1, 5, 2, 4]] {
        let (mut world, co) = World::new(disks, 4 * MIB, 48, 1)?;
        let disk = co.open()?;
        for step in 0..5 {
            world.take(&co)?;
            // What is written in one epoch, in several and in all.
            for epoch in 0..=step {
                world.now.write(&disk, epoch * 512, 256)?;
            }
        }
        for tag in order {
            world.delete(&co, tag)?;
            world.check(&co)?;
        }
        co.wait_clean()?;
        world.now.write(&disk, 0, 4 * MIB)?;
        co.wait_chunks(0)?;
        drop(disk);
        co.remove()?;
    }
    Ok(())
}

fn delete_open(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let open = cs.open()?;
    for device in [&co, &cs] {
        device.refused(
            &format!("ds {tag}"),
            libc::EBUSY,
            "snapshot device is in use",
        )?;
    }
    world.now.write(&co.open()?, 0, 64)?;
    world.snapshots[&tag].check(&open)?;
    drop(open);
    cs.remove()?;
    world.delete(&co, tag)?;
    co.remove()
}

/// Whether it is refused or the device dies: no read of it brings anything wrong.
fn delete_active(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    if co.message(&format!("ds {tag}")).is_ok() {
        world.now.write(&co.open()?, 0, 64)?;
        // Nobody keeps its chunks any more.
        if let Ok(disk) = cs.open() {
            ensure!(disk.read(0, 8).is_err(), "a deleted snapshot can be read");
            ensure!(disk.read(MIB, 8).is_err(), "a deleted snapshot can be read");
            ensure!(
                disk.zero_out(0, 8).is_err(),
                "a deleted snapshot can be written"
            );
        }
        ensure!(cs.status().is_ok(), "no status");
        world.snapshots.clear();
    }
    cs.remove()?;
    world.check(&co)?;
    co.remove()
}

fn ghosts(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 96, 1)?;
    // 1 of the origin; 2 of 1; 3 of 2; 4 of 1
    world.take(&co)?;
    let mut at = 0;
    for parent in [1, 2, 1] {
        let tag = world.take_of(&co, parent)?;
        for tag in [parent, tag] {
            let cs = world.cs(tag)?;
            world.shadow(tag).write(&cs.open()?, at, 300)?;
            at += 200;
            cs.remove()?;
        }
        world.now.write(&co.open()?, at, 1000)?;
    }
    world.check(&co)?;
    for (tag, left) in [(1, [2, 3, 4].as_slice()), (2, &[3, 4]), (4, &[3])] {
        world.delete(&co, tag)?;
        ensure!(co.list()?.tags() == left, "{:?}", co.list()?.tags());
        co.refused(&format!("ss {tag}"), libc::ENOENT, "unknown tag")?;
        world.check(&co)?;
        world.now.write(&co.open()?, at, 1000)?;
        co.wait_clean()?;
        world.check(&co)?;
    }
    world.delete(&co, 3)?;
    co.wait_clean()?;
    co.wait_chunks(0)?;
    ensure!(
        co.list()?.rows.len() == 1,
        "ghosts are left: {:?}",
        co.list()?.rows
    );
    co.remove()
}

fn delete_under_load(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 128, 1)?;
    let mut random = crate::random::Random::new(17);
    let disk = co.open()?;
    for round in 0..30 {
        world.take(&co)?;
        for _ in 0..6 {
            let (start, count) = random.extent(8 * MIB);
            world.now.write(&disk, start, count)?;
        }
        if round > 3 {
            let tags: Vec<u32> = world.snapshots.keys().copied().collect();
            let tag = *random.one_of(&tags);
            world.delete(&co, tag)?;
        }
    }
    world.check(&co)?;
    for tag in world.snapshots.keys().copied().collect::<Vec<_>>() {
        world.delete(&co, tag)?;
        world.now.write(&disk, random.pick(0..4000), 2000)?;
    }
    co.wait_clean()?;
    co.wait_chunks(0)?;
    drop(disk);
    world.check(&co)?;
    co.remove()
}

fn cleaning_resumes(disks: &Disks) -> Result<()> {
    let (mut world, mut co) = World::new(disks, 24 * MIB, 96, 1)?;
    for _ in 0..2 {
        world.take(&co)?;
        world.now.write(&co.open()?, 0, 20 * MIB)?;
    }
    for tag in [2, 1] {
        world.delete(&co, tag)?;
        // Its cleaning has hardly begun.
        co.remove()?;
        crate::kernel::reload()?;
        co = world.co()?;
        world.check(&co)?;
    }
    co.wait_clean()?;
    co.wait_chunks(0)?;
    co.remove()
}

fn unbind(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let tag = world.take(&co)?;
    world.now.write(&co.open()?, 0, 512)?;
    co.refused("do", libc::EBUSY, "origin still has snapshots")?;
    world.delete(&co, tag)?;
    co.wait_clean()?;
    co.send("do")?;
    ensure!(co.state()?.state == "unbound", "{}", co.status()?);
    ensure!(co.message("so").is_err(), "a snapshot of an unbound origin");
    co.remove()?;
    world.check_below()?;
    let mut log = crate::kernel::Log::from_now()?;
    ensure!(world.co().is_err(), "an unbound origin was found");
    let lines = log.lines()?;
    ensure!(
        lines
            .iter()
            .any(|line| line.contains("origin is not bound to this COW device")),
        "{lines:?}"
    );
    let co = world.store.bind(&world.origin)?;
    ensure!(co.list()?.rows.len() == 1, "old snapshots came back");
    world.take(&co)?;
    world.now.write(&co.open()?, 100, 512)?;
    world.check(&co)?;
    co.remove()
}

fn by_snapshot_device(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 48, 1)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let second = world.take(&cs)?;
    world.now.write(&co.open()?, 0, 512)?;
    let third = world.take_of(&cs, second)?;
    world.now.write(&co.open()?, 0, 512)?;
    ensure!(cs.list()? == co.list()?, "two devices, two lists");
    world.delete(&cs, second)?;
    cs.refused("do", libc::EBUSY, "origin still has snapshots")?;
    ensure!(cs.list()?.tags() == [tag, third], "{:?}", cs.list()?.tags());
    cs.remove()?;
    world.check(&co)?;
    co.remove()
}

/// Waits in a thread for an event of a device, from before something is done.
pub fn event_waiter(device: &Device) -> Result<mpsc::Receiver<()>> {
    let last = device.event()?;
    let name = device.name().to_owned();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        if Mapped::wait_event(&name, last).is_ok() {
            let _ = sender.send(());
        }
    });
    Ok(receiver)
}

fn event(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 32, 1)?;
    let tag = world.take(&co)?;
    world.now.write(&co.open()?, 0, 4 * MIB)?;
    let before = co.event()?;
    let waiter = event_waiter(&co)?;
    world.delete(&co, tag)?;
    waiter.recv_timeout(patience()).context("no event came")?;
    co.wait_clean()?;
    ensure!(co.event()? > before, "event {}", co.event()?);
    co.remove()
}

fn status(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 4)?;
    let state = co.state()?;
    ensure!(
        state.kind == "co" && state.origin == 1 && state.state == "valid",
        "{state:?}"
    );
    ensure!(
        state.chunk_sectors == 32 && state.snapshots == Some(0),
        "{state:?}"
    );
    // 4 MiB of the 32 are metadata, at least.
    let total = state.chunks.1 * 32 + state.metadata.1 * 8;
    ensure!(
        state.metadata.1 >= 1024 && total <= 32 * MIB && total > 31 * MIB,
        "{state:?}"
    );
    let tag = world.take(&co)?;
    let child = world.take_of(&co, tag)?;
    world.now.write(&co.open()?, 0, 320)?;
    ensure!(co.state()?.snapshots == Some(2), "{}", co.status()?);
    let cs = world.cs(tag)?;
    world.shadow(tag).write(&cs.open()?, 0, 64)?;
    // What a write takes is told a moment after the write.
    until("what was written is told", || {
        let state = cs.state()?;
        Ok(state.own == Some((2, 1)) && state.chunks.0 == 12)
    })?;
    let state = cs.state()?;
    ensure!(
        state.kind == "cs" && state.tag == Some(tag) && state.origin == 1,
        "{state:?}"
    );
    ensure!(
        state.cleaning.is_none() && state.rollback.is_none(),
        "{state:?}"
    );
    let table = cs.table()?;
    ensure!(
        table.starts_with("cs ") && table.ends_with(&format!(" {tag} -i origin")),
        "{table}"
    );
    ensure!(co.table()?.ends_with(" -i origin"), "{}", co.table()?);
    cs.remove()?;
    ensure!(world.snapshots.contains_key(&child));
    world.check(&co)?;
    co.remove()
}
