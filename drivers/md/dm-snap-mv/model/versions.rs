// SPDX-License-Identifier: GPL-2.0

//! Origins and snapshots come and go.
//!
//! All of these are to be made durable before anybody is told. A snapshot is taken while no write
//! to what it is taken of is on its way.

use super::chain::{Chain, MAX_DEPTH};
use super::chunk_size::ChunkSize;
use super::disk::cleaning_row::CleaningRow;
use super::disk::identity::Identity;
use super::disk::origin_row::{OriginId, OriginRow};
use super::disk::snapshot_row::{Memo, SnapshotRow};
use super::ids::{Epoch, OriginNr, Tag, TimelineId};
use super::message::parse_memo;
use super::records::Metadata;
use super::refusal::Refusal;
use super::table::check_id;

/// Whether a device of `size` sectors can be made known to the store as `id`: why not, if not.
pub fn check_bind<M: Metadata>(
    m: &M,
    id: &[u8],
    size: u64,
    chunk_size: ChunkSize,
) -> Result<OriginId, M::Error> {
    let id = OriginId::new(check_id(id)?).ok_or(Refusal::IdTooLong)?;
    if size == 0 {
        return Err(Refusal::OriginEmpty.into());
    }
    chunk_size.end_of(size)?;
    if m.origin_by_id(id.as_bytes())?.is_some() {
        return Err(Refusal::AlreadyBound.into());
    }
    Ok(id)
}

/// Makes a device of `size` sectors known to the store as `id`; `now` in seconds since 1970.
pub fn bind<M: Metadata>(
    m: &mut M,
    id: &[u8],
    size: u64,
    chunk_size: ChunkSize,
    now: u64,
) -> Result<OriginNr, M::Error> {
    let number = m.next_origin_nr()?;
    bind_as(m, number, id, size, chunk_size, now)?;
    Ok(number)
}

/// As [`bind`], with a number that no origin has had: it was promised earlier.
pub fn bind_as<M: Metadata>(
    m: &mut M,
    number: OriginNr,
    id: &[u8],
    size: u64,
    chunk_size: ChunkSize,
    now: u64,
) -> Result<(), M::Error> {
    let id = check_bind(m, id, size, chunk_size)?;
    if m.origin(number)?.is_some() {
        return Err(Refusal::Corrupt.into());
    }
    m.use_origin_nr(number)?;
    m.insert_origin_id(id.as_bytes(), number)?;
    m.put_origin(&OriginRow {
        size,
        number,
        current_epoch: Epoch::FIRST,
        next_tag: Tag::FIRST,
        snapshots: 0,
        ghosts: 0,
        created: now,
        chunks: 0,
        invalid_below: 0,
        bookmarks: 0,
        forgotten_below: 0,
        rollback: None,
        deferred: None,
        identity: Identity::UNKNOWN,
        id,
    })
}

/// Whether an origin may have only `size` sectors: it had more once, but no snapshot of it does, no
/// rollback runs, and nothing that was preserved for what has been deleted, which may be of chunks behind
/// the new end, waits for its removal. [`Refusal::OriginShrunk`] if not.
pub fn check_shrink<M: Metadata>(m: &M, row: &OriginRow, size: u64) -> Result<(), M::Error> {
    if size == 0 || row.rollback.is_some() || m.cleaning(row.timeline())?.is_some() {
        return Err(Refusal::OriginShrunk.into());
    }
    let mut from = row.timeline().next();
    while let Some(t) = from {
        match m.snapshot_from(t)? {
            Some((found, _)) if found < t => return Err(Refusal::Corrupt.into()),
            Some((found, snapshot)) if found.origin() == row.number => {
                if snapshot.size > size {
                    return Err(Refusal::OriginShrunk.into());
                }
                from = found.next();
            }
            _ => break,
        }
    }
    Ok(())
}

/// Notes that the origin has `size` sectors now. It may only have grown.
pub fn grow<M: Metadata>(
    m: &mut M,
    row: &mut OriginRow,
    size: u64,
    chunk_size: ChunkSize,
) -> Result<(), M::Error> {
    if size < row.size {
        return Err(Refusal::OriginShrunk.into());
    }
    chunk_size.end_of(size)?;
    if size > row.size {
        row.size = size;
        m.put_origin(row)?;
    }
    Ok(())
}

/// Forgets an origin that has no snapshots and no bookmarks, and of whose former ones nothing is left to
/// clean.
pub fn unbind<M: Metadata>(m: &mut M, nr: OriginNr) -> Result<(), M::Error> {
    let row = m.origin(nr)?.ok_or(Refusal::NotBound)?;
    if row.rollback.is_some() {
        return Err(Refusal::DuringRollback.into());
    }
    if row.snapshots > 0 {
        return Err(Refusal::SnapshotsExist.into());
    }
    if row.bookmarks > 0 {
        return Err(Refusal::BookmarksExist.into());
    }
    let cleaning = m.cleaning_from(row.timeline())?;
    if row.ghosts > 0 || cleaning.is_some_and(|(t, _)| t.origin() == nr) {
        return Err(Refusal::StillCleaning.into());
    }
    if row.chunks > 0 {
        return Err(Refusal::Corrupt.into());
    }
    m.drop_timeline(row.timeline())?;
    m.remove_origin_id(row.id.as_bytes())?;
    m.remove_origin(nr)
}

/// The row of a snapshot that can be used: not of a ghost, nor of a bookmark. It may be invalid.
pub fn find_snapshot<M: Metadata>(
    m: &M,
    row: &OriginRow,
    tag: Tag,
) -> Result<SnapshotRow, M::Error> {
    match m.snapshot(row.timeline_of(tag))? {
        Some(snapshot) if snapshot.is_whole() => Ok(snapshot),
        Some(snapshot) if snapshot.bookmark => Err(Refusal::IsBookmark.into()),
        _ => Err(Refusal::UnknownTag.into()),
    }
}

/// Takes a snapshot of the origin as it is now; `now` in seconds since 1970.
pub fn take_origin_snapshot<M: Metadata>(
    m: &mut M,
    row: &mut OriginRow,
    memo: &[u8],
    now: u64,
) -> Result<Tag, M::Error> {
    let next = row.current_epoch.next().ok_or(Refusal::NoMoreEpochs)?;
    let (base, size) = (row.current_epoch, row.size);
    let tag = take(m, row, None, base, size, memo, now)?;
    row.current_epoch = next;
    m.put_origin(row)?;
    Ok(tag)
}

/// Takes a bookmark of the origin as it is now; `now` in seconds since 1970.
pub fn take_bookmark<M: Metadata>(
    m: &mut M,
    row: &mut OriginRow,
    memo: &[u8],
    now: u64,
) -> Result<Tag, M::Error> {
    let memo: Memo = parse_memo(memo)?;
    let next = row.current_epoch.next().ok_or(Refusal::NoMoreEpochs)?;
    let (tag, next_tag) = next_tag(row)?;
    let bookmarks = row.bookmarks.checked_add(1).ok_or(Refusal::Corrupt)?;
    let snapshot = SnapshotRow {
        bookmark: true,
        ..new_row(tag, None, row.current_epoch, row.size, memo, now)
    };
    m.insert_bookmark(row.timeline(), row.current_epoch, tag.get())?;
    m.put_snapshot(row.number, &snapshot)?;
    row.next_tag = next_tag;
    row.bookmarks = bookmarks;
    row.current_epoch = next;
    m.put_origin(row)?;
    Ok(tag)
}

/// Takes a snapshot of the snapshot `parent` as it is now; `now` in seconds since 1970.
pub fn take_snapshot_snapshot<M: Metadata>(
    m: &mut M,
    row: &mut OriginRow,
    parent: &mut SnapshotRow,
    memo: &[u8],
    now: u64,
) -> Result<Tag, M::Error> {
    if parent.bookmark {
        return Err(Refusal::IsBookmark.into());
    }
    if parent.ghost {
        return Err(Refusal::UnknownTag.into());
    }
    if row.is_invalid(parent.tag) {
        return Err(Refusal::InvalidSnapshot.into());
    }
    if Chain::of_snapshot(m, row, parent.tag)?.depth() >= MAX_DEPTH {
        return Err(Refusal::TooDeep.into());
    }
    let next = parent.current_epoch.next().ok_or(Refusal::NoMoreEpochs)?;
    let children = parent.children.checked_add(1).ok_or(Refusal::Corrupt)?;
    let (base, size) = (parent.current_epoch, parent.size);
    let tag = take(m, row, Some(parent.tag), base, size, memo, now)?;
    m.put_origin(row)?;
    parent.current_epoch = next;
    parent.children = children;
    m.put_snapshot(row.number, parent)?;
    Ok(tag)
}

/// What taking a snapshot of either kind has in common. The caller puts the origin's row.
fn take<M: Metadata>(
    m: &mut M,
    row: &mut OriginRow,
    parent: Option<Tag>,
    base_epoch: Epoch,
    size: u64,
    memo: &[u8],
    now: u64,
) -> Result<Tag, M::Error> {
    let memo: Memo = parse_memo(memo)?;
    let (tag, next_tag) = next_tag(row)?;
    let snapshots = row.snapshots.checked_add(1).ok_or(Refusal::Corrupt)?;
    m.insert_child(TimelineId::of(row.number, parent), base_epoch, tag.get())?;
    let snapshot = new_row(tag, parent, base_epoch, size, memo, now);
    m.put_snapshot(row.number, &snapshot)?;
    row.next_tag = next_tag;
    row.snapshots = snapshots;
    Ok(tag)
}

/// The tag that comes next, and the one behind it.
fn next_tag(row: &OriginRow) -> Result<(Tag, Tag), Refusal> {
    let tag = row.next_tag;
    let next_tag = tag.get().checked_add(1).and_then(Tag::new);
    Ok((tag, next_tag.ok_or(Refusal::NoMoreTags)?))
}

/// The row of a snapshot that nobody has done anything with.
fn new_row(
    tag: Tag,
    parent: Option<Tag>,
    base_epoch: Epoch,
    size: u64,
    memo: Memo,
    now: u64,
) -> SnapshotRow {
    SnapshotRow {
        tag,
        ghost: false,
        bookmark: false,
        parent,
        base_epoch,
        current_epoch: Epoch::FIRST,
        children: 0,
        size,
        created: now,
        chunks: 0,
        memo,
    }
}

/// Deletes a snapshot; nobody may be using it. Its tag ends at once; if others are based on it, or
/// a rollback reads it, it stays as a ghost until they go. What only it needed is queued for
/// cleaning. A rollback to it that has not begun does not take place.
///
/// A bookmark is deleted in the same way.
pub fn delete_snapshot<M: Metadata>(
    m: &mut M,
    row: &mut OriginRow,
    tag: Tag,
) -> Result<(), M::Error> {
    match m.snapshot(row.timeline_of(tag))? {
        Some(bookmark) if bookmark.bookmark => delete_bookmark(m, row, bookmark),
        Some(snapshot) if snapshot.is_whole() => end_snapshot(m, row, snapshot),
        _ => Err(Refusal::UnknownTag.into()),
    }
}

/// Deletes a snapshot, as [`delete_snapshot`] does, and keeps a bookmark of it. Only what the origin held
/// can be one: a snapshot of the origin itself that nobody has written to.
pub fn keep_bookmark<M: Metadata>(
    m: &mut M,
    row: &mut OriginRow,
    tag: Tag,
) -> Result<(), M::Error> {
    let mut snapshot = find_snapshot(m, row, tag)?;
    if snapshot.parent.is_some() {
        return Err(Refusal::NotOfOrigin.into());
    }
    if row.is_invalid(tag) {
        return Err(Refusal::InvalidSnapshot.into());
    }
    if m.record_from(row.timeline_of(tag), 0)?.is_some() {
        return Err(Refusal::SnapshotWritten.into());
    }
    row.bookmarks = row.bookmarks.checked_add(1).ok_or(Refusal::Corrupt)?;
    snapshot.bookmark = true;
    m.insert_bookmark(row.timeline(), snapshot.base_epoch, tag.get())?;
    end_snapshot(m, row, snapshot)
}

/// Deletes a bookmark. What it was of may be there as a ghost.
fn delete_bookmark<M: Metadata>(
    m: &mut M,
    row: &mut OriginRow,
    mut bookmark: SnapshotRow,
) -> Result<(), M::Error> {
    row.bookmarks = row.bookmarks.checked_sub(1).ok_or(Refusal::Corrupt)?;
    m.remove_bookmark(row.timeline(), bookmark.base_epoch)?;
    match bookmark.ghost {
        true => {
            bookmark.bookmark = false;
            m.put_snapshot(row.number, &bookmark)?;
        }
        false => m.remove_snapshot(bookmark.timeline(row.number))?,
    }
    m.remove_label(bookmark.timeline(row.number))?;
    m.put_origin(row)?;
    queue_cleaning(m, row.timeline())
}

/// Ends a snapshot's tag, or has it go on as that of a bookmark.
fn end_snapshot<M: Metadata>(
    m: &mut M,
    row: &mut OriginRow,
    mut snapshot: SnapshotRow,
) -> Result<(), M::Error> {
    let tag = snapshot.tag;
    row.snapshots = row.snapshots.checked_sub(1).ok_or(Refusal::Corrupt)?;
    row.ghosts = row.ghosts.checked_add(1).ok_or(Refusal::Corrupt)?;
    snapshot.ghost = true;
    if !snapshot.bookmark {
        m.remove_label(snapshot.timeline(row.number))?;
    }
    if row.deferred.is_some_and(|deferred| deferred.source == tag) {
        row.deferred = None;
    }
    if snapshot.children == 0 {
        return reap(m, row, snapshot);
    }
    m.put_snapshot(row.number, &snapshot)?;
    m.put_origin(row)?;
    queue_cleaning(m, snapshot.timeline(row.number))
}

/// Removes a ghost that nothing is based on any more, and those ghosts that have lost their last
/// child by that. What there is a bookmark of goes on as that.
pub(super) fn reap<M: Metadata>(
    m: &mut M,
    row: &mut OriginRow,
    mut ghost: SnapshotRow,
) -> Result<(), M::Error> {
    loop {
        let parent_timeline = ghost.parent_timeline(row.number);
        row.ghosts = row.ghosts.checked_sub(1).ok_or(Refusal::Corrupt)?;
        m.remove_child(parent_timeline, ghost.base_epoch)?;
        match ghost.bookmark {
            true => {
                ghost.ghost = false;
                m.put_snapshot(row.number, &ghost)?;
            }
            false => m.remove_snapshot(ghost.timeline(row.number))?,
        }
        queue_drop(m, ghost.timeline(row.number))?;
        if ghost.parent.is_some() {
            // Each is older than the one before, so this ends.
            let parent = m.snapshot(parent_timeline)?;
            let parent = parent.filter(|parent| ghost.parent == Some(parent.tag));
            let mut parent = parent.ok_or(Refusal::Corrupt)?;
            parent.children = parent.children.checked_sub(1).ok_or(Refusal::Corrupt)?;
            if parent.ghost && parent.children == 0 {
                ghost = parent;
                continue;
            }
            m.put_snapshot(row.number, &parent)?;
        }
        m.put_origin(row)?;
        return queue_cleaning(m, parent_timeline);
    }
}

/// Has a timeline cleaned because something that was based on it is gone, or its head.
pub(super) fn queue_cleaning<M: Metadata>(m: &mut M, t: TimelineId) -> Result<(), M::Error> {
    let row = match m.cleaning(t)? {
        None => CleaningRow::default(),
        // What the pass has been over may be garbage now. It is not begun anew at once, or frequent
        // deletions would keep it from ever reaching the end.
        Some(row) if row.cursor > 0 && !row.drop => CleaningRow { again: true, ..row },
        Some(_) => return Ok(()),
    };
    m.put_cleaning(t, &row)
}

/// Has all of a timeline removed. A pass that is on its way begins anew, to take what it left.
fn queue_drop<M: Metadata>(m: &mut M, t: TimelineId) -> Result<(), M::Error> {
    let freed = m.cleaning(t)?.map_or(0, |row| row.freed);
    let row = CleaningRow {
        drop: true,
        freed,
        ..CleaningRow::default()
    };
    m.put_cleaning(t, &row)
}

/// What a write that goes ahead without being preserved leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// There is no room for what is overwritten, but for saying that it was: snapshots are lost.
    Content,
    /// There is none for that either: bookmarks are lost, too.
    Everything,
}

/// Makes all snapshots of the origin invalid, because something they need could not be preserved, and
/// perhaps all bookmarks. To be made durable before the write that overwrites it.
pub fn invalidate<M: Metadata>(m: &mut M, row: &mut OriginRow, loss: Loss) -> Result<(), M::Error> {
    row.invalid_below = row.next_tag.get();
    // A store that has never had bookmarks has nothing to say of them.
    if loss == Loss::Everything && row.bookmarks > 0 {
        row.forgotten_below = row.invalid_below;
    }
    m.put_origin(row)
}
