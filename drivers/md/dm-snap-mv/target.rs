// SPDX-License-Identifier: GPL-2.0

//! Device-mapper's callbacks, turned into calls on a device and its store.

use crate::device::{self, Device, OriginDevice, SnapshotDevice};
use crate::dm::action::{EndAction, MapAction};
use crate::dm::bio::TargetBio;
use crate::dm::block_device::BlockDevice;
use crate::dm::limits::Limits;
use crate::dm::noio::NoIo;
use crate::dm::shortcut::{Glance, Shortcut};
use crate::dm::status::Status;
use crate::dm::table::{Instance, MappedDevice, Setup, TableDevice, Visitor};
use crate::dm::target::{StatusKind, Target, FEATURE_NOWAIT, FEATURE_SINGLETON};
use crate::dm::text::Text;
use crate::model::delta::Page;
use crate::model::ids::Tag;
use crate::model::message::{is_tried, Freeze, Message, Request};
use crate::model::refusal::Refusal;
use crate::model::report::{DeviceNumber, OriginStatus, SnapshotStatus, TableLine};
use crate::model::table::{FullPolicy, Role, Table};
use crate::store::error::{Result as StoreResult, StoreError};
use crate::store::job::Job;
use crate::store::roles::Claim;
use crate::store::{refuse_store, InForce, OriginHandle, SnapshotHandle, StoreHandle};
use core::convert::Infallible;
use core::fmt::Write;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;

/// A bio of this target.
pub(crate) type Bio = TargetBio<SnapMv>;

/// The longest discard or write-zeroes that is taken at once, in sectors: each chunk of it has to be
/// looked at, or preserved, and nobody should have to wait for more than that.
const MAX_DISCARD_SECTORS: u32 = 128 * 1024;

/// One table of the target `dm-snap-mv`.
pub(crate) struct SnapMv {
    device: Device,
    origin_dev: TableDevice,
    cow_dev: TableDevice,
    /// The origin's id, as it must stand in a table line.
    id: KVec<u8>,
    tag: Option<Tag>,
    policy: Option<FullPolicy>,
    /// The origin may be another disk, which is to be noted.
    accept: Atomic<bool>,
    /// The line is in force, or has been.
    resumed: Atomic<bool>,
    /// What the origin knows this table by.
    ticket: u64,
    /// Whether it is being suspended, and how: [`ACTIVE`], [`ENDING`] or [`REQUEUEING`].
    suspending: Atomic<i32>,
}

/// It is not being suspended.
const ACTIVE: i32 = 0;
/// It is being suspended, which waits for all bios to end.
const ENDING: i32 = 1;
/// It is being suspended, and bios may be handed back.
const REQUEUEING: i32 = 2;

impl SnapMv {
    /// The device that the table is for.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// How bios end that would have to wait for space, if the device is being suspended: nothing
    /// would come of waiting.
    pub(crate) fn status_while_suspending(&self) -> Option<Status> {
        match self.suspending.load(Relaxed) {
            ENDING => Some(Status::NOSPC),
            REQUEUEING => Some(Status::DM_REQUEUE),
            _ => None,
        }
    }

    /// Whether the device is being suspended, or is suspended. Suspending it waits for messages, so one
    /// that waits for anything that may take long ends when this says so: [`Self::presuspend`] is where
    /// to wake it.
    pub(crate) fn is_suspending(&self) -> bool {
        self.suspending.load(Relaxed) != ACTIVE
    }

    fn build(ti: &mut Setup<'_>, words: &[&CStr]) -> StoreResult<Self> {
        let table = Table::parse(words.iter().map(|word| word.to_bytes()))?;
        if ti.begin() != 0 {
            return Err(Refusal::NotAtStart.into());
        }
        let mapped = ti.instance().mapped_device();
        let path = |wanted: &[u8]| words.iter().find(|word| word.to_bytes() == wanted).copied();
        let origin_path = path(table.origin_device).ok_or(Refusal::MissingDevice)?;
        let cow_path = path(table.cow_device).ok_or(Refusal::MissingDevice)?;
        let origin_dev = ti
            .get_device(origin_path, false)
            .map_err(|error| cannot_open(error, Refusal::NoOriginDevice, Refusal::OriginBusy))?;
        let cow_dev = ti
            .get_device(cow_path, false)
            .map_err(|error| cannot_open(error, Refusal::NoCowDevice, Refusal::CowBusy))?;
        if origin_dev.is_same(&cow_dev) {
            return Err(Refusal::SameDevice.into());
        }
        if origin_dev.is_zoned() {
            return Err(Refusal::OriginZoned.into());
        }
        if cow_dev.is_zoned() {
            return Err(Refusal::CowZoned.into());
        }
        let (bind, format, tag) = match table.role {
            Role::Origin { bind, format } => (bind, format, None),
            Role::Snapshot { tag } => (false, None, Some(tag)),
        };
        if tag.is_none() && ti.len() != origin_dev.sectors() {
            return Err(Refusal::TableNotOriginSize.into());
        }
        let mut id = KVec::new();
        id.extend_from_slice(table.origin_id(), GFP_KERNEL)?;
        let events = ti.event_handle()?;

        // Active devices of the store may need what is locked from here on to free memory.
        let _noio = NoIo::enter();
        let cow = writable(&cow_dev, Refusal::CowReadOnly)?;
        let origin = writable(&origin_dev, Refusal::OriginReadOnly)?;
        if cow.logical_block_size() > origin.logical_block_size() {
            // What is smaller than a block of the COW device could not be kept there.
            return Err(Refusal::CowBlocksLarger.into());
        }
        // All that speaks against the devices before anything is written to them.
        let claim = Claim::origin(mapped.dev(), &origin, &id, &cow)?;
        let cow_claim = Claim::cow(mapped.dev(), &cow)?;
        if bind {
            refuse_store(&origin)?;
        }
        let policy = table.policy.unwrap_or_default();
        let store = StoreHandle::attach(cow, cow_claim, &origin, format.as_ref(), policy)?;
        let origin = OriginHandle::attach(store, &id, origin, claim, bind, table.accept)?;
        let device = match tag {
            None => Device::Origin(OriginDevice::new(origin)),
            Some(tag) => {
                let snapshot = SnapshotHandle::attach(origin, tag, mapped.id())?;
                if ti.len() != snapshot.size {
                    return Err(Refusal::TableNotSnapshotSize.into());
                }
                Device::Snapshot(SnapshotDevice::new(snapshot))
            }
        };
        let ticket = device.origin().add_listener(&events, mapped, tag)?;
        Ok(Self {
            device,
            origin_dev,
            cow_dev,
            id,
            tag,
            policy: table.policy,
            accept: Atomic::new(table.accept),
            resumed: Atomic::new(false),
            ticket,
            suspending: Atomic::new(ACTIVE),
        })
    }

    /// Whether another disk is to be noted as the origin's: when the line comes into force, not whenever
    /// the device is resumed.
    fn accepts(&self) -> bool {
        self.accept.xchg(false, Relaxed)
    }

    /// Does something while the file system on the origin, or on snapshot `tag`, is frozen as `how`
    /// says; without that, does it at once.
    fn frozen<T>(
        &self,
        through: MappedDevice,
        tag: Option<Tag>,
        how: Option<&Freeze>,
        act: impl FnOnce() -> StoreResult<T>,
    ) -> StoreResult<T> {
        let frozen = match how {
            Some(how) => self.device.origin().freeze(through, tag, how)?,
            None => None,
        };
        let done = act();
        if let Some(frozen) = frozen {
            frozen.thaw();
        }
        done
    }

    /// Does what a message to the device `through` asks for. The reply, if any, is appended to
    /// `reply`.
    fn handle(
        &self,
        through: MappedDevice,
        message: &Message,
        reply: &mut Text<'_>,
    ) -> StoreResult<()> {
        let store = self.device.store();
        let origin = self.device.origin();
        match message {
            Message::TakeOfOrigin {
                memo,
                freeze,
                bookmark,
                label,
            } => {
                let tag = self.frozen(through, None, freeze.as_ref(), || {
                    store.take_origin_snapshot(origin, memo.as_bytes(), *bookmark, label)
                })?;
                let _ = write!(reply, "{tag}");
            }
            Message::TakeOfSnapshot {
                tag,
                memo,
                freeze,
                label,
            } => {
                let tag = self.frozen(through, Some(*tag), freeze.as_ref(), || {
                    store.take_snapshot_snapshot(origin, *tag, memo.as_bytes(), label)
                })?;
                let _ = write!(reply, "{tag}");
            }
            Message::Label { tag, change } if change.is_empty() => {
                store.label(origin, *tag, reply)?;
            }
            Message::Label { tag, change } => store.set_label(origin, *tag, change)?,
            Message::Unbind => store.unbind(origin)?,
            Message::Delete { tag, keep } => store.delete_snapshot(origin, *tag, *keep)?,
            Message::RollBack {
                tag,
                background,
                delete,
                later,
                freeze,
            } => {
                if *later {
                    return store.defer_roll_back(origin, *tag, *delete);
                }
                self.frozen(through, Some(*tag), freeze.as_ref(), || {
                    store.roll_back(origin, *tag, *delete)
                })?;
                if !background {
                    origin.wait_for_rollback(|| self.is_suspending())?;
                }
            }
            Message::CallOff => store.call_off_roll_back(origin)?,
            Message::List { start, max } => store.list(origin, *start, *max, reply)?,
            Message::Delta {
                from,
                to,
                start,
                max,
            } => {
                let page = Page::new(*start, *max, reply.remaining());
                store.delta(origin, *from, *to, page, reply, || self.is_suspending())?;
            }
            Message::Commit => {
                let _ = write!(reply, "{}", store.commit_all()?);
            }
        }
        Ok(())
    }
}

impl Drop for SnapMv {
    fn drop(&mut self) {
        self.device.origin().remove_listener(self.ticket);
        // A snapshot's device may be all that is left, and is in force.
        self.device.store().go_on();
    }
}

/// Why device-mapper does not get a device.
fn cannot_open(error: Error, missing: Refusal, busy: Refusal) -> Refusal {
    if error == EBUSY {
        busy
    } else {
        missing
    }
}

/// Opens a device of a table to be written: the store works on both even for a table that is
/// read-only.
fn writable(device: &TableDevice, read_only: Refusal) -> StoreResult<Arc<BlockDevice>> {
    let opened = BlockDevice::open(device.dev(), true).map_err(|error| match error {
        EROFS | EACCES | EPERM => StoreError::Refused(read_only),
        error => StoreError::Kernel(error),
    })?;
    // Not every driver says so when it is opened.
    if opened.read_only() {
        return Err(read_only.into());
    }
    Ok(Arc::new(opened, GFP_KERNEL)?)
}

fn number(device: &TableDevice) -> DeviceNumber {
    let dev = device.dev();
    DeviceNumber {
        major: dev.major(),
        minor: dev.minor(),
    }
}

impl Target for SnapMv {
    const NAME: &'static CStr = c"dm-snap-mv";
    const VERSION: [u32; 3] = [1, 0, 0];
    // The device is the origin or the snapshot, whole. Who submits a bio never waits: either it goes
    // straight on as it is, or the worker takes it, which waits for it.
    const FEATURES: u64 = FEATURE_SINGLETON | FEATURE_NOWAIT;

    type BioData = Job;

    fn bio_data() -> impl PinInit<Job, Infallible> {
        Job::new()
    }

    fn ctr(ti: &mut Setup<'_>, args: &[&CStr]) -> Result<Arc<Self>> {
        let built =
            Self::build(ti, args).map_err(|error| ti.refuse(error.text(), error.to_error()))?;
        ti.set_num_flush_bios(1);
        ti.set_flush_supported(true);
        ti.set_num_discard_bios(1);
        ti.set_num_write_zeroes_bios(1);
        if built.tag.is_some() {
            // A discard of a snapshot needs no device that can discard.
            ti.set_discards_supported(true);
        }
        Ok(Arc::new(built, GFP_KERNEL)?)
    }

    #[inline]
    fn shortcut<'a>(this: &'a Arc<Self>, bio: &Glance<'_>) -> Option<Shortcut<'a>> {
        this.device.shortcut(bio)
    }

    fn map(this: &Arc<Self>, bio: Bio) -> MapAction<Self> {
        this.device.map(bio)
    }

    fn end_io(_this: &Arc<Self>, bio: Bio, status: Status) -> EndAction<Self> {
        EndAction::Done(bio, status)
    }

    fn part_done(bio: Bio, status: Status) {
        device::part_done(bio, status);
    }

    fn copied(bio: Bio, result: Result) {
        device::copied(bio, result);
    }

    fn presuspend(this: &Arc<Self>, ti: &Instance<'_>) {
        let how = if ti.noflush_suspending() {
            REQUEUEING
        } else {
            ENDING
        };
        this.suspending.store(how, Relaxed);
        let origin = this.device.origin();
        origin.end_waits();
        origin.suspend_begins(this.ticket);
        // Those that look for space from here on see it, as the lock that is taken is theirs, too.
        let is_of = |bio: &Bio| Arc::ptr_eq(bio.target(), this);
        this.device.store().dismiss_hungry(is_of);
    }

    fn presuspend_undo(this: &Arc<Self>, _ti: &Instance<'_>) {
        this.suspending.store(ACTIVE, Relaxed);
        this.device.origin().suspend_ends(this.ticket);
    }

    fn postsuspend(this: &Arc<Self>, _ti: &Instance<'_>) {
        let origin = this.device.origin();
        origin.set_in_force(this.ticket, InForce::Suspended);
        this.device.store().rest(origin);
    }

    // What is durable is changed here and not by the constructor: who loads a table may think better of
    // it, and clear it. Only what the line says in so many words, formatting, and what a store needs to be
    // opened, is done there, as by dm-thin and dm-cache.
    fn preresume(this: &Arc<Self>, ti: &Instance<'_>) -> Result {
        let store = this.device.store();
        this.suspending.store(ACTIVE, Relaxed);
        // A line that does not speak of the policy leaves it as it is. One that does says what it is to
        // be when the line comes into force, not whenever the device is resumed.
        if let Some(policy) = this.policy {
            if !this.resumed.xchg(true, Relaxed) {
                store.set_policy(policy);
            }
        }
        if let Err(error) = store.revive() {
            pr_err!(
                "{}: the store stays as it is ({})\n",
                store.cow.name(),
                error.as_str()
            );
        }
        if let Err(error) = store.grow() {
            pr_err!(
                "{}: what the COW device has grown by is not in use ({})\n",
                store.cow.name(),
                error.as_str()
            );
        }
        if this.tag.is_some() {
            store.note_use(this.device.origin());
        } else {
            if let Err(error) = store.settle(this.device.origin(), ti.len(), this.accepts()) {
                pr_err!("{}: {}\n", ti.device_name(), error.as_str());
                return Err(error.to_error());
            }
            store.begin_deferred(this.device.origin());
        }
        Ok(())
    }

    fn resume(this: &Arc<Self>, _ti: &Instance<'_>) {
        let origin = this.device.origin();
        origin.suspend_ends(this.ticket);
        origin.set_in_force(this.ticket, InForce::Yes);
        this.device.store().go_on();
    }

    fn message(
        this: &Arc<Self>,
        ti: &Instance<'_>,
        args: &[&CStr],
        reply: &mut Text<'_>,
    ) -> Result {
        let words = || args.iter().map(|word| word.to_bytes());
        let tried = is_tried(words());
        let start = if tried {
            let _ = reply.write_str("ok");
            2
        } else {
            0
        };
        let result = Request::parse(words())
            .map_err(StoreError::from)
            .and_then(|request| {
                if tried {
                    let lines = matches!(
                        request.message,
                        Message::List { .. } | Message::Delta { .. }
                    );
                    let _ = reply.write_str(if lines { "\n" } else { " " });
                }
                this.handle(ti.mapped_device(), &request.message, reply)
            });
        match result {
            Ok(()) => {
                // An `ok` without a reply of its own stands alone.
                if tried && reply.len() == start + 1 {
                    reply.truncate(start);
                }
                Ok(())
            }
            Err(error) => {
                let name = ti.device_name();
                pr_err!("{}: {}\n", name, error.as_str());
                if !tried {
                    return Err(error.to_error());
                }
                reply.truncate(0);
                let _ = write!(reply, "refused {} {}", error.name(), error.as_str());
                Ok(())
            }
        }
    }

    fn status(this: &Arc<Self>, _ti: &Instance<'_>, kind: StatusKind, out: &mut Text<'_>) {
        let store = this.device.store().status();
        let origin = this.device.origin();
        let shared = origin.status();
        match (kind, &this.device) {
            (StatusKind::Info, Device::Origin(_)) => {
                let _ = write!(
                    out,
                    "{}",
                    OriginStatus {
                        number: origin.number,
                        state: shared.state,
                        usage: store.usage,
                        snapshots: shared.snapshots,
                        bookmarks: shared.bookmarks,
                        cleaning: store.cleaning,
                        rollback: shared.rollback,
                    }
                );
            }
            (StatusKind::Info, Device::Snapshot(device)) => {
                let snapshot = device.snapshot();
                let own = snapshot.status();
                let _ = write!(
                    out,
                    "{}",
                    SnapshotStatus {
                        number: origin.number,
                        tag: snapshot.tag,
                        state: own.state,
                        usage: store.usage,
                        chunks: own.chunks,
                        children: own.children,
                        cleaning: store.cleaning,
                        rollback: shared.rollback,
                    }
                );
            }
            (StatusKind::Table, _) => {
                let line = TableLine {
                    tag: this.tag,
                    origin_device: number(&this.origin_dev),
                    cow_device: number(&this.cow_dev),
                    id: &this.id,
                    policy: store.policy,
                };
                let _ = line.write(out);
            }
            (StatusKind::Ima, _) => {
                let _ = write!(out, "target_name=dm-snap-mv,target_version=1.0.0;");
            }
        }
    }

    fn iterate_devices(this: &Arc<Self>, _ti: &Instance<'_>, visit: &mut Visitor<'_>) -> c_int {
        let visited = visit.visit(&this.origin_dev, 0, this.origin_dev.sectors());
        // What is read and written of a snapshot is on either.
        match this.tag {
            Some(_) if visited == 0 => visit.visit(&this.cow_dev, 0, this.cow_dev.sectors()),
            _ => visited,
        }
    }

    fn io_hints(this: &Arc<Self>, limits: &mut Limits<'_>) {
        let chunk = this.device.store().geometry.chunk_sectors() << 9;
        if this.tag.is_some() {
            limits.set_max_discard_sectors(MAX_DISCARD_SECTORS);
            limits.set_discard_granularity(chunk as u32);
            if limits.max_write_zeroes_sectors() > 0 {
                limits.set_max_write_zeroes_sectors(MAX_DISCARD_SECTORS);
            }
        } else {
            if limits.max_discard_sectors() > MAX_DISCARD_SECTORS {
                limits.set_max_discard_sectors(MAX_DISCARD_SECTORS);
            }
            limits.bound_write_zeroes_sectors(MAX_DISCARD_SECTORS);
            // While a rollback runs it is read from there.
            limits.stack_memory(&this.cow_dev);
        }
    }
}
