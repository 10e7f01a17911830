// SPDX-License-Identifier: GPL-2.0

//! Everything that can be refused, and what is said then.

use core::ffi::CStr;
use core::fmt;

/// Error numbers a refusal can carry, as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
// The names of `errno.h`.
#[allow(clippy::upper_case_acronyms)]
pub enum Errno {
    /// No such thing.
    ENOENT = 2,
    /// I/O error.
    EIO = 5,
    /// Not now.
    EAGAIN = 11,
    /// Out of memory.
    ENOMEM = 12,
    /// In use.
    EBUSY = 16,
    /// There already.
    EEXIST = 17,
    /// No such device.
    ENODEV = 19,
    /// Invalid argument.
    EINVAL = 22,
    /// Too large.
    EFBIG = 27,
    /// No space left.
    ENOSPC = 28,
    /// Read-only.
    EROFS = 30,
    /// Beyond what can be counted.
    EOVERFLOW = 75,
    /// Interrupted by a signal.
    EINTR = 4,
    /// Not of a kind that is understood.
    EMEDIUMTYPE = 124,
}

impl Errno {
    /// The name, as in `errno.h`.
    pub const fn name(self) -> &'static str {
        match self {
            Errno::ENOENT => "ENOENT",
            Errno::EIO => "EIO",
            Errno::EAGAIN => "EAGAIN",
            Errno::ENOMEM => "ENOMEM",
            Errno::EBUSY => "EBUSY",
            Errno::EEXIST => "EEXIST",
            Errno::ENODEV => "ENODEV",
            Errno::EINVAL => "EINVAL",
            Errno::EFBIG => "EFBIG",
            Errno::ENOSPC => "ENOSPC",
            Errno::EROFS => "EROFS",
            Errno::EOVERFLOW => "EOVERFLOW",
            Errno::EINTR => "EINTR",
            Errno::EMEDIUMTYPE => "EMEDIUMTYPE",
        }
    }
}

macro_rules! refusals {
    ($( $(#[doc = $doc:literal])* $name:ident: $errno:ident, $text:literal; )*) => {
        /// A reason not to do what was asked. Its text is for people: in the kernel log, in a
        /// message's reply, in what `dms` prints.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Refusal {
            $( $(#[doc = $doc])* $name, )*
        }

        impl Refusal {
            /// Every refusal there is.
            pub const ALL: &'static [Refusal] = &[ $( Refusal::$name, )* ];

            /// The error number's enumerator.
            pub const fn error(self) -> Errno {
                match self {
                    $( Refusal::$name => Errno::$errno, )*
                }
            }

            /// What is said.
            pub const fn text(self) -> &'static CStr {
                match self {
                    $( Refusal::$name => $text, )*
                }
            }
        }
    };
}

refusals! {
    // Words of a table line or a message.

    /// A table line without a word.
    MissingCommand: EINVAL, c"missing command: co or cs";
    /// A table line that begins with another word.
    UnknownCommand: EINVAL, c"unknown command, not co or cs";
    /// A message without a word.
    MissingMessage: EINVAL, c"missing message: so, ss, do, ds, rs, label, list, delta or commit";
    /// A message that begins with another word.
    UnknownMessage: EINVAL, c"unknown message, not so, ss, do, ds, rs, label, list, delta or commit";
    /// `try` within `try`.
    NestedTry: EINVAL, c"try cannot be tried";
    /// The origin or COW device is missing.
    MissingDevice: EINVAL, c"missing argument: origin device and COW device are needed";
    /// The tag is missing.
    MissingTag: EINVAL, c"missing tag";
    /// More arguments than the command takes.
    ExtraArgument: EINVAL, c"too many arguments";
    /// An option letter that nothing knows.
    UnknownOption: EINVAL, c"unknown option";
    /// An option of the other command or of another message.
    MisplacedOption: EINVAL, c"option does not go with this command";
    /// An option given twice.
    DuplicateOption: EINVAL, c"option given twice";
    /// An option at the end that needs an argument.
    MissingOptionArgument: EINVAL, c"option needs an argument";
    /// A tag that is no number, or 0.
    BadTag: EINVAL, c"tag is not a number from 1 to 4294967295";
    /// A number in `list` or `delta` that is none.
    BadNumber: EINVAL, c"not a number from 0 to 4294967295";
    /// A chunk in `delta` that there cannot be.
    BadChunk: EINVAL, c"chunk is not a number from 0 to 1099511627775";
    /// A page of no rows.
    EmptyPage: EINVAL, c"a page cannot have 0 rows";
    /// `-f` and `-F` together.
    BothFormats: EINVAL, c"options -f and -F exclude each other";
    /// `-f` or `-F` without `-b`.
    FormatWithoutBind: EINVAL, c"options -f and -F need option -b";
    /// `-a` with `-b`.
    AcceptWithBind: EINVAL, c"option -a does not go with option -b";
    /// `-c` without `-f` or `-F`.
    ChunkSizeWithoutFormat: EINVAL, c"option -c needs option -f or -F";
    /// A chunk size that cannot be.
    ChunkSize: EINVAL, c"chunk size is not a power of two from 1 to 256 pages";
    /// A policy that there is not.
    BadPolicy: EINVAL, c"policy is not invalidate, error or queue";
    /// An empty origin id.
    EmptyId: EINVAL, c"origin id is empty";
    /// An origin id of more than 255 bytes.
    IdTooLong: EINVAL, c"origin id is longer than 255 bytes";
    /// An origin id with control characters.
    IdControl: EINVAL, c"origin id has control characters";
    /// A memo of more than 64 bytes.
    MemoTooLong: EINVAL, c"memo is longer than 64 bytes";
    /// A memo that is not UTF-8.
    MemoNotUtf8: EINVAL, c"memo is not valid UTF-8";
    /// A memo with control characters.
    MemoControl: EINVAL, c"memo has control characters";
    /// A name of more than 128 bytes.
    NameTooLong: EINVAL, c"name is longer than 128 bytes";
    /// A label's policy of more than 32 bytes.
    PolicyTooLong: EINVAL, c"label's policy is longer than 32 bytes";
    /// A name or a label's policy that is no plain text.
    LabelNotText: EINVAL, c"name or label's policy is not UTF-8 without control characters";
    /// A word that is no UUID.
    BadUuid: EINVAL, c"not a UUID of 8-4-4-4-12 hexadecimal digits";
    /// A time that is no number.
    BadTime: EINVAL, c"time is not a number of seconds since 1970";
    /// A state of data that there is not.
    BadConsistency: EINVAL, c"consistency is not crash, file-system or application";
    /// Where a version came from, not as it is written.
    BadProvenance: EINVAL, c"not a version elsewhere: UUID/ORIGIN/TAG";
    /// A device to be frozen that is none.
    BadDevice: EINVAL, c"device to be frozen is not given as MAJOR:MINOR";
    /// More devices to be frozen than a message can name.
    TooManyAbove: EINVAL, c"more than 32 devices to be frozen";
    /// A target that does not start at the device's first sector.
    NotAtStart: EINVAL, c"target does not begin at sector 0 of its device";

    // Devices.

    /// The origin device cannot be opened.
    NoOriginDevice: ENODEV, c"cannot open the origin device";
    /// The origin device is held by somebody else.
    OriginBusy: EBUSY, c"origin device is in use (is it mounted?)";
    /// The origin device cannot be written.
    OriginReadOnly: EROFS, c"origin device is read-only";
    /// The COW device is held by somebody else.
    CowBusy: EBUSY, c"COW device is in use (is it mounted?)";
    /// The COW device cannot be opened.
    NoCowDevice: ENODEV, c"cannot open the COW device";
    /// One device as both.
    SameDevice: EINVAL, c"origin device and COW device are the same";
    /// The origin device is itself a device of this target on the same store.
    OriginIsOurs: EINVAL, c"origin device is a dm-snap-mv device of the same store";
    /// The origin device is a COW device, of whatever store.
    OriginIsCow: EBUSY, c"origin device is the COW device of a store in use";
    /// The origin device is another origin, of whatever store.
    OriginIsOrigin: EBUSY, c"origin device is in use as another origin";
    /// The COW device is an origin, of whatever store.
    CowIsOrigin: EBUSY, c"COW device is in use as an origin";
    /// The origin device has a mapping of somebody else's on it.
    OriginMapped: EBUSY, c"origin device is in use by another device";
    /// The COW device has a mapping of somebody else's on it.
    CowMapped: EBUSY, c"COW device is in use by another device";
    /// The origin device is a piece of a device that has a role of its own.
    OriginOverlaps: EBUSY, c"origin device is a part of a device in use";
    /// The COW device is a piece of a device that has a role of its own.
    CowOverlaps: EBUSY, c"COW device is a part of a device in use";
    /// The origin device to be bound has a store on it.
    OriginIsStore: EINVAL, c"origin device holds a store";
    /// The store on the COW device is in use on another.
    StoreElsewhere: EBUSY, c"store is in use on another device";
    /// The origin device is written in zones.
    OriginZoned: EINVAL, c"origin device is zoned";
    /// The COW device is written in zones.
    CowZoned: EINVAL, c"COW device is zoned";
    /// The origin device has larger logical blocks than a chunk, so that no chunk of it can be copied.
    OriginBlockSize: EINVAL, c"origin device has blocks larger than a chunk";
    /// A COW device that holds fewer than 16 chunks.
    CowTooSmall: ENOSPC, c"COW device is too small";
    /// A metadata region asked for that does not fit or is below the least.
    MetadataSize: EINVAL, c"metadata region is too small or too large for the COW device";
    /// The COW device is smaller than the store on it says.
    CowShrunk: EINVAL, c"COW device is smaller than its store";
    /// The COW device cannot be written.
    CowReadOnly: EROFS, c"COW device is read-only";
    /// The COW device has larger logical blocks than the origin device.
    CowBlocksLarger: EINVAL, c"COW device has larger blocks than the origin device";
    /// The COW device has blocks of more than 4 KiB.
    CowBlockSize: EINVAL, c"COW device has blocks larger than 4 KiB";
    /// The origin has more chunks than there are numbers.
    OriginTooLarge: EFBIG, c"origin device is too large for this chunk size";
    /// An empty origin.
    OriginEmpty: EINVAL, c"origin device is empty";
    /// The origin device is another disk than it was.
    OriginAnother: EINVAL, c"origin device is not the disk that was bound (accept it with -a)";
    /// The origin has become smaller.
    OriginShrunk: EINVAL, c"origin device is smaller than when it was bound";
    /// A `co` table that does not cover the origin.
    TableNotOriginSize: EINVAL, c"table size is not the size of the origin";
    /// A `cs` table that does not cover the snapshot.
    TableNotSnapshotSize: EINVAL, c"table size is not the size of the snapshot";

    // The store.

    /// Block 0 is blank.
    NoStore: EMEDIUMTYPE, c"COW device holds no store (format it with -b -f)";
    /// Block 0 holds something else.
    ForeignData: EMEDIUMTYPE, c"COW device holds other data, not a store (format it with -b -F)";
    /// `-f` on a device that holds a store.
    StoreExists: EEXIST, c"COW device holds a store already (format it anew with -b -F)";
    /// `-f` on a device that holds other data.
    NotBlank: EEXIST, c"COW device holds other data (format it all the same with -b -F)";
    /// A format of a store that devices use.
    StoreInUse: EBUSY, c"store is in use and cannot be formatted";
    /// A signal came while others opened or closed the store.
    CowChanging: EINTR, c"interrupted while the COW device was being opened or closed";
    /// The superblock's checksum does not match.
    BadChecksum: EIO, c"superblock has a wrong checksum";
    /// The superblock's fields contradict each other.
    BadSuperblock: EIO, c"superblock is corrupt";
    /// A format version that is not known.
    UnknownVersion: EMEDIUMTYPE, c"store has an unknown format version";
    /// An incompatible feature that is not known.
    UnknownFeature: EMEDIUMTYPE, c"store needs a feature that this version does not have";
    /// A feature that is not known and forbids writing.
    ReadOnlyFeature: EROFS, c"store has a feature that allows this version only to read";
    /// A change asked of a store that is read-only.
    StoreReadOnly: EROFS, c"store is read-only";
    /// A store that failed earlier.
    StoreFailed: EIO, c"store has failed and takes no changes";
    /// A block of the journal cannot be read that may say what was changed last.
    JournalUnreadable: EIO, c"journal cannot be read to its end";
    /// The store wants a check.
    NeedsCheck: EIO, c"store needs a check before it can be changed";
    /// A chunk size given that is not the store's.
    ChunkSizeMismatch: EINVAL, c"chunk size is not that of the store";
    /// The store has handed out all origin numbers.
    TooManyOrigins: EOVERFLOW, c"store has no more origin numbers";

    // Origins and their devices.

    /// The origin id is not in the store.
    NotBound: ENOENT, c"origin is not bound to this COW device (bind it with -b)";
    /// `-b` for an origin that is bound.
    AlreadyBound: EEXIST, c"origin is already bound to this COW device";
    /// The store knows the origin by another device that is active.
    OriginDeviceDiffers: EBUSY, c"origin id is in use with another origin device";
    /// Two `co` devices of one origin.
    OriginActive: EBUSY, c"origin is already active in another device";
    /// Two `cs` devices of one snapshot.
    SnapshotActive: EBUSY, c"snapshot is already active in another device";
    /// The origin has been unbound under the device.
    Unbound: ENODEV, c"origin has been unbound";
    /// The snapshot has been deleted under the device.
    SnapshotGone: ENODEV, c"snapshot has been deleted";
    /// `do` while snapshots exist.
    SnapshotsExist: EBUSY, c"origin still has snapshots (delete them first)";
    /// `do` while bookmarks exist.
    BookmarksExist: EBUSY, c"origin still has bookmarks (delete them first)";
    /// `do` while deleted snapshots are being cleaned away.
    StillCleaning: EBUSY, c"deleted snapshots of the origin are still being cleaned away";
    /// `do` while another device uses the origin.
    OriginInUse: EBUSY, c"origin device is in use";
    /// `rs` without the origin's `co` device having been created or while it is suspended.
    OriginSuspended: EBUSY, c"origin device is suspended";
    /// `ds` while the snapshot's device is open.
    SnapshotInUse: EBUSY, c"snapshot device is in use";

    // Snapshots.

    /// No snapshot has this tag.
    UnknownTag: ENOENT, c"unknown tag";
    /// `label` of what has none.
    NoLabel: ENOENT, c"snapshot or bookmark has no label";
    /// The snapshot has lost data.
    InvalidSnapshot: EIO, c"snapshot is invalid";
    /// A bookmark where a snapshot is needed.
    IsBookmark: EINVAL, c"tag is that of a bookmark, which has no content";
    /// `ds -k` of a snapshot of a snapshot.
    NotOfOrigin: EINVAL, c"only a snapshot of the origin itself can be kept as a bookmark";
    /// `ds -k` of a snapshot that is not what the origin was.
    SnapshotWritten: EINVAL, c"snapshot was written to and cannot be kept as a bookmark";
    /// The bookmark has missed a change.
    InvalidBookmark: EIO, c"bookmark is invalid";
    /// No tag is left.
    NoMoreTags: EOVERFLOW, c"origin has no more tags";
    /// No epoch is left.
    NoMoreEpochs: EOVERFLOW, c"no more snapshots can be taken of this device";
    /// Snapshots of snapshots of snapshots, too many times.
    TooDeep: EINVAL, c"snapshots are nested too deeply";

    // Freezing.

    /// Freezing while the device is about to be suspended, or another is through with that soon.
    Suspending: EAGAIN, c"device is being suspended (try again)";
    /// Freezing a device that is suspended without its file system being frozen.
    Suspended: EAGAIN, c"device is suspended and its file system not frozen (resume it first)";
    /// A device on top that cannot be opened.
    NoDeviceAbove: ENODEV, c"cannot open a device to be frozen";
    /// The file system says no.
    NotFrozen: EIO, c"file system cannot be frozen";
    /// A signal before anything was done.
    InterruptedBefore: EINTR, c"interrupted before anything was done";

    // Rollback.

    /// A rollback while one runs.
    RollbackRunning: EBUSY, c"a rollback of the origin is already running";
    /// A command that has to wait for the rollback.
    DuringRollback: EBUSY, c"not while a rollback of the origin is running";
    /// The snapshot's size does not allow it.
    RollbackSize: EINVAL, c"snapshot is smaller than the origin and not a multiple of the chunk size";
    /// Nothing to be called off.
    NothingDeferred: ENOENT, c"no rollback of the origin is deferred";
    /// A wait for a rollback ended by a signal; the rollback goes on.
    Interrupted: EINTR, c"interrupted, the rollback goes on in the background";
    /// A wait for a rollback ended because its device is being suspended, or the origin's is: the
    /// rollback goes on when that is resumed, if not before.
    RollbackGoesOn: EINTR, c"device is suspended, the rollback goes on in the background";

    // What happens to it.

    /// No space for data.
    NoSpace: ENOSPC, c"COW device is full";
    /// No space for metadata.
    NoMetadataSpace: ENOSPC, c"metadata region of the COW device is full";
    /// What the journal holds takes more metadata blocks than are free.
    JournalNoSpace: ENOSPC, c"metadata region has no room for what the journal holds (run dms repair)";
    /// No memory.
    NoMemory: ENOMEM, c"out of memory";
    /// A read or write failed.
    Io: EIO, c"I/O error";
    /// What the store holds contradicts itself.
    Corrupt: EIO, c"metadata is corrupt";
    /// A reply that does not fit where it should go.
    ReplyTooLong: ENOSPC, c"reply does not fit the buffer";
}

impl Refusal {
    /// The error number, positive.
    pub const fn errno(self) -> i32 {
        self.error() as i32
    }

    /// The error number's name, as in `errno.h`.
    pub const fn name(self) -> &'static str {
        self.error().name()
    }

    /// The text as a string.
    pub fn as_str(self) -> &'static str {
        self.text().to_str().unwrap_or("")
    }

    /// Whether this can come up after the first change of a function, so that the transaction must
    /// be given up. All others come before any change.
    pub const fn is_fatal(self) -> bool {
        matches!(
            self,
            Refusal::Corrupt
                | Refusal::Io
                | Refusal::NoMemory
                | Refusal::NoSpace
                | Refusal::NoMetadataSpace
                | Refusal::StoreFailed
                | Refusal::JournalUnreadable
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
