// SPDX-License-Identifier: GPL-2.0
//! What the target writes, as its own code writes it, is what dms reads.

mod common;

use common::Text;
use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::ids::{OriginNr, Tag};
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::report::{
    self, Cleaning, DeviceNumber, OriginStatus, RollbackProgress, SnapshotStatus, State, TableLine,
    Usage,
};
use dm_snap_mv_model::table::FullPolicy;
use dms::failure::Kind;
use dms::fields::Part;
use dms::reply::Reply;
use dms::status::{Own, Status};
use dms::target::{Line, Role};

fn usage() -> Usage {
    Usage {
        used_metadata: 12,
        total_metadata: 1024,
        used_chunks: 946,
        total_chunks: 7_865_817,
        chunk_size: ChunkSize::from_pages(4).unwrap(),
    }
}

#[test]
fn status_of_an_origin() {
    let status = OriginStatus {
        number: OriginNr::new(3).unwrap(),
        state: State::Full,
        usage: usage(),
        snapshots: 7,
        cleaning: Some(Cleaning {
            timelines: 2,
            percent: 40,
        }),
        rollback: None,
        bookmarks: 2,
    };
    let read = Status::parse(status.to_string().as_bytes()).unwrap();
    assert_eq!(read.origin, 3);
    assert_eq!(read.state, "full");
    assert_eq!(
        read.metadata_blocks,
        Part {
            used: 12,
            total: 1024
        }
    );
    assert_eq!(read.chunks.used, 946);
    assert_eq!(read.chunk_sectors, 32);
    assert_eq!(
        read.own,
        Own::Origin {
            snapshots: 7,
            bookmarks: 2
        }
    );
    assert_eq!(read.cleaning.unwrap().percent, 40);
    assert_eq!(read.rollback, None);
}

#[test]
fn status_of_a_snapshot() {
    let status = SnapshotStatus {
        number: OriginNr::new(3).unwrap(),
        tag: Tag::new(9).unwrap(),
        state: State::Invalid,
        usage: usage(),
        chunks: 5,
        children: 1,
        cleaning: None,
        rollback: Some(RollbackProgress {
            tag: Tag::new(8).unwrap(),
            done: 10,
            chunks: 100,
            stopped: None,
        }),
    };
    let read = Status::parse(status.to_string().as_bytes()).unwrap();
    assert_eq!(
        read.own,
        Own::Snapshot {
            tag: 9,
            own_chunks: 5,
            children: 1
        }
    );
    let rollback = read.rollback.unwrap();
    assert_eq!((rollback.tag, rollback.chunks.percent()), (8, 10));
}

#[test]
fn table_lines() {
    for id in ["/dev/sdb1", "with space", r"back\slash", "à", "-"] {
        for policy in [FullPolicy::Invalidate, FullPolicy::Error] {
            for tag in [None, Tag::new(7)] {
                let mut text = Text::default();
                TableLine {
                    tag,
                    origin_device: DeviceNumber {
                        major: 8,
                        minor: 17,
                    },
                    cow_device: DeviceNumber {
                        major: 8,
                        minor: 33,
                    },
                    id: id.as_bytes(),
                    policy,
                }
                .write(&mut text)
                .unwrap();
                let line = Line::parse(&text.0).unwrap();
                assert_eq!(
                    line.role,
                    tag.map_or(Role::Origin, |t| Role::Snapshot(t.get()))
                );
                assert_eq!(line.origin.to_string(), "8:17");
                assert_eq!(line.cow.to_string(), "8:33");
                assert_eq!(line.id, id.as_bytes());
                let said = line.policy.unwrap_or("invalidate".to_owned());
                assert_eq!(said, policy.name());
            }
        }
    }
}

#[test]
fn every_refusal_comes_through() {
    for &refusal in Refusal::ALL {
        let mut text = Text::default();
        report::refused(&mut text, refusal).unwrap();
        let reply = Reply::parse(&text.0).unwrap();
        assert!(reply.is(refusal));
        let failure = reply.done("cannot").unwrap_err();
        assert_eq!(failure.what, format!("cannot: {refusal}"));
        // A signal came to the message, and to nothing else.
        let signal = [
            Refusal::Interrupted,
            Refusal::InterruptedBefore,
            Refusal::CowChanging,
        ];
        assert_eq!(
            failure.kind == Kind::Interrupted,
            signal.contains(&refusal),
            "{refusal}"
        );
    }
}
