// SPDX-License-Identifier: GPL-2.0
//! What to do about a refusal.

use crate::failure::{Failure, Kind};
use dm_snap_mv_model::refusal::{Errno, Refusal};

/// The kind of failure that a refusal is. Where words of the command line are wrong it does
/// not matter who noticed.
pub fn kind(refusal: Refusal) -> Kind {
    use Refusal as R;
    match refusal {
        R::MissingCommand
        | R::UnknownCommand
        | R::MissingMessage
        | R::UnknownMessage
        | R::NestedTry
        | R::MissingDevice
        | R::MissingTag
        | R::ExtraArgument
        | R::UnknownOption
        | R::MisplacedOption
        | R::DuplicateOption
        | R::MissingOptionArgument
        | R::BadTag
        | R::BadNumber
        | R::EmptyPage
        | R::BothFormats
        | R::FormatWithoutBind
        | R::AcceptWithBind
        | R::ChunkSizeWithoutFormat
        | R::ChunkSize
        | R::BadPolicy
        | R::EmptyId
        | R::IdTooLong
        | R::IdControl
        | R::MemoTooLong
        | R::MemoNotUtf8
        | R::MemoControl
        | R::BadDevice
        | R::TooManyAbove => Kind::Usage,
        R::NoStore
        | R::NotBound
        | R::UnknownTag
        | R::SnapshotGone
        | R::Unbound
        | R::NothingDeferred => Kind::NotFound,
        R::BadChecksum
        | R::BadSuperblock
        | R::Corrupt
        | R::NeedsCheck
        | R::InvalidSnapshot
        | R::StoreFailed
        | R::JournalUnreadable => Kind::Damaged,
        R::Interrupted | R::InterruptedBefore | R::CowChanging => Kind::Interrupted,
        _ => match refusal.error() {
            Errno::EBUSY => Kind::Busy,
            Errno::ENOSPC => Kind::NoSpace,
            _ => Kind::Refused,
        },
    }
}

/// The failure that a refusal amounts to.
pub fn failure(refusal: Refusal) -> Failure {
    let failure = Failure::new(kind(refusal), refusal.as_str());
    match hint(refusal) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// What to do, where that is not plain from the reason itself.
pub fn hint(refusal: Refusal) -> Option<&'static str> {
    use Refusal as R;
    Some(match refusal {
        R::BadTag | R::UnknownTag | R::SnapshotGone => "dms list shows the tags there are",
        R::BadPolicy => "-e takes one of: invalidate, error, queue",
        R::ChunkSize => "-c takes one of: 1, 2, 4, 8, 16, 32, 64, 128, 256",
        R::MemoTooLong => "characters other than ASCII take two to four bytes each",
        R::SameDevice => "the COW device must be another one than the origin: what is on it is lost",
        R::OriginIsStore => "the origin comes first and then the COW device: is it the other way round?",
        R::OriginBlockSize => "a COW device formatted with larger chunks can have it: -c",
        R::StoreElsewhere => {
            "it is the same device by another way, or a copy of it; one of them at a time"
        }
        R::CowTooSmall => "a few MiB are the least; 10 to 20 % of the origin's size are usual",
        R::CowShrunk => "give it back its old size: parts of the store were beyond its end",
        R::OriginAnother => {
            "have disks changed their names? If it is a copy of the former disk: dms create --accept-device"
        }
        R::OriginShrunk => "give it back its old size; an origin may only grow",
        R::NoStore => "for its first use, format it and bind the origin: dms create -b -f ...",
        R::ForeignData | R::NotBlank => {
            "look twice: with -b -F all that is on the COW device is lost"
        }
        R::StoreExists => {
            "to bind a further origin to that store use -b alone; with -b -F all of its snapshots are lost"
        }
        R::StoreInUse => "remove all devices on it first; dms list shows them",
        R::BadChecksum | R::BadSuperblock => {
            "is it the right device? With -b -F it is formatted anew and its snapshots are lost"
        }
        R::UnknownVersion | R::UnknownFeature | R::ReadOnlyFeature => {
            "a newer dm-snap-mv made this store: use that"
        }
        R::NeedsCheck | R::Corrupt => {
            "remove the devices of the store, then look at it: dms check COW, dms repair COW"
        }
        R::JournalUnreadable => {
            "if it is the way to the device that fails, mend that; else see what is lost: dms check COW"
        }
        R::StoreFailed => "the kernel log (dmesg) says what failed; the origin itself is not affected",
        R::NotBound => {
            "add -b if this origin is new to the store; if its device has another name now, give the old one with -i"
        }
        R::AlreadyBound => "leave out -b",
        R::OriginDeviceDiffers => "give the second origin an identity of its own with -i",
        R::OriginActive | R::SnapshotActive => "dms list shows the device; use it, or remove it first",
        R::SnapshotsExist => "dms list shows them; delete each with: dms delete DM_DEV TAG",
        R::StillCleaning => "wait for it: dms wait DM_DEV --cleaning",
        R::InvalidSnapshot => {
            "the COW device was full when the origin was written; delete the snapshot with: dms delete DM_DEV TAG"
        }
        R::RollbackRunning | R::DuringRollback => "wait for it: dms wait DM_DEV --rollback",
        R::NotFrozen => {
            "the kernel log (dmesg) says why; dmsetup message DM_DEV 0 so takes one without freezing"
        }
        R::NoSpace | R::NoMetadataSpace => {
            "delete snapshots (dms delete DM_DEV TAG) or enlarge the COW device"
        }
        _ => return None,
    })
}
