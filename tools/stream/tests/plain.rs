// SPDX-License-Identifier: GPL-2.0
//! Receiving into files as they are.

mod common;

use common::{change, delta, disk, full, resumed, Random, Segment, S};
use dm_snap_mv_stream::receive::{
    abort, receive, Aborted, Failure, Options, Plain, Receiver, Refusal, State, StateFile,
};
use dm_snap_mv_stream::Decoder;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// With few marks: each takes a flush of the disk.
fn stream(segments: &[Segment]) -> Vec<u8> {
    let options = dm_snap_mv_stream::Options {
        mark_every: 1 << 18,
        frame: 1 << 16,
        ..Default::default()
    };
    resumed(segments, None, options)
}

/// A folder that goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dms-stream-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn take(path: &Path, bytes: &[u8], options: Options) -> Result<State, Failure> {
    let notes = StateFile::new(path.with_extension("state"));
    let target = Plain::open(path).unwrap();
    let mut decoder = Decoder::new(bytes).unwrap();
    let mut receiver = Receiver::new(target, notes, options)?;
    receive(&mut decoder, &mut receiver, &mut |_, _| {})?;
    Ok(receiver.state().unwrap().clone())
}

const PLAIN: Options = Options {
    force: false,
    keep: false,
    digest: true,
};

#[test]
fn a_file_becomes_what_was_sent() {
    let folder = Folder::new("becomes");
    let path = folder.file("copy");
    let random = &mut Random(17);
    let first = disk(random, 3000);
    for size in [3000, 5001, 700] {
        let (second, pieces) = change(random, &first, size);
        drop(fs::remove_file(&path));
        drop(fs::remove_file(path.with_extension("state")));
        take(&path, &stream(&[full(1, &first)]), PLAIN).unwrap();
        assert!(fs::read(&path).unwrap() == first);
        let next = stream(&[delta((1, &first), (2, &second), pieces)]);
        take(&path, &next, PLAIN).unwrap();
        assert!(fs::read(&path).unwrap() == second);
    }
    // What is not to be there, neither.
    let names: Vec<_> = fs::read_dir(&folder.0).unwrap().collect();
    assert_eq!(names.len(), 2);
}

#[test]
fn zeroes_are_holes() {
    let folder = Folder::new("holes");
    let path = folder.file("copy");
    let mut disk = vec![0; 4 << 20];
    disk[1 << 20..][..4096].fill(1);
    let bytes = stream(&[full(1, &disk)]);
    assert!(bytes.len() < 1000);
    take(&path, &bytes, PLAIN).unwrap();
    assert!(fs::read(&path).unwrap() == disk);
    let blocks = fs::metadata(&path).unwrap().blocks();
    assert!(blocks < 200, "{blocks}");
    // What was there before goes, too.
    let mut full_one = disk.clone();
    full_one.fill(7);
    let other = folder.file("other");
    take(&other, &stream(&[full(1, &full_one)]), PLAIN).unwrap();
    let piece = dm_snap_mv_stream::Piece {
        start: 0,
        sectors: (disk.len() / S) as u64,
        zero: true,
    };
    let zeroes = vec![0; disk.len()];
    let next = stream(&[delta((1, &full_one), (2, &zeroes), vec![piece])]);
    take(&other, &next, PLAIN).unwrap();
    assert!(fs::read(&other).unwrap() == zeroes);
    assert!(fs::metadata(&other).unwrap().blocks() < 200);
}

#[test]
fn who_else_has_it() {
    let folder = Folder::new("else");
    let path = folder.file("copy");
    fs::write(&path, b"").unwrap();
    let first = Plain::open(&path).unwrap();
    let second = Plain::open(&path).err().unwrap();
    assert_eq!(second.kind(), io::ErrorKind::ResourceBusy);
    drop(first);
    Plain::open(&path).unwrap();
    let folder_is_none = Plain::open(&folder.0).err().unwrap();
    assert_eq!(folder_is_none.kind(), io::ErrorKind::InvalidInput);
    assert!(Plain::open(&folder.file("no/where")).is_err());
    // What is only looked at is not made.
    Plain::open(&folder.file("new")).unwrap();
    assert!(!folder.file("new").exists());
}

#[test]
fn an_aborted_one_goes() {
    let folder = Folder::new("aborted");
    let path = folder.file("copy");
    let random = &mut Random(3);
    let disk = disk(random, 1500);
    let bytes = stream(&[full(1, &disk)]);
    let failure = take(&path, &bytes[..bytes.len() / 2], PLAIN).unwrap_err();
    assert!(matches!(failure, Failure::Stream(_)));
    let mut target = Plain::open(&path).unwrap();
    let mut notes = StateFile::new(path.with_extension("state"));
    let aborted = abort(&mut target, &mut notes, false).unwrap();
    assert_eq!(aborted, Aborted::Removed);
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
}

/// Where the file system has reflinks: elsewhere it is refused before anything is written.
#[test]
fn what_was_put_aside_comes_back() {
    let keep = Options {
        keep: true,
        ..PLAIN
    };
    let folder = Folder::new("kept");
    let path = folder.file("copy");
    let random = &mut Random(5);
    let first = disk(random, 1500);
    let (second, pieces) = change(random, &first, 1600);
    take(&path, &stream(&[full(1, &first)]), PLAIN).unwrap();
    let next = stream(&[delta((1, &first), (2, &second), pieces)]);
    let kept = folder.file("copy.dms-kept");
    match take(&path, &next[..next.len() / 2], keep).unwrap_err() {
        Failure::Refused(Refusal::CannotKeep(_)) => {
            assert!(fs::read(&path).unwrap() == first);
            assert!(!kept.exists());
        }
        Failure::Stream(_) => {
            assert!(kept.exists());
            let mut target = Plain::open(&path).unwrap();
            let mut notes = StateFile::new(path.with_extension("state"));
            let aborted = abort(&mut target, &mut notes, false).unwrap();
            assert!(matches!(aborted, Aborted::Restored(_)));
            assert!(fs::read(&path).unwrap() == first);
            drop(target);
            take(&path, &next, keep).unwrap();
            assert!(fs::read(&path).unwrap() == second);
            assert!(!kept.exists());
        }
        other => panic!("{other:?}"),
    }
}
