// SPDX-License-Identifier: GPL-2.0

//! Targets of device-mapper.
//!
//! C header: [`include/linux/device-mapper.h`](srctree/include/linux/device-mapper.h)

use super::{
    action::{EndAction, MapAction},
    bio::{PerBio, TargetBio},
    limits::Limits,
    noio::NoIo,
    status::Status,
    table::{Instance, Private, Setup, Visitor},
    text::Text,
};
use crate::bindings;
use core::{cell::UnsafeCell, convert::Infallible, marker::PhantomData, ptr::NonNull};
use kernel::{
    error::{from_result, to_result},
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Release},
        Arc,
    },
};

/// Any table with an instance of it has only one target.
pub(crate) const FEATURE_SINGLETON: u64 = bindings::DM_TARGET_SINGLETON as u64;
/// No table with an instance of it is read-only.
pub(crate) const FEATURE_ALWAYS_WRITEABLE: u64 = bindings::DM_TARGET_ALWAYS_WRITEABLE as u64;
/// A device that has had a table with an instance of it never gets one with another target.
pub(crate) const FEATURE_IMMUTABLE: u64 = bindings::DM_TARGET_IMMUTABLE as u64;
/// It honours `REQ_NOWAIT`: see [`TargetBio::is_nowait`].
pub(crate) const FEATURE_NOWAIT: u64 = bindings::DM_TARGET_NOWAIT as u64;

/// What of its status a target is to tell.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusKind {
    /// How it is (`dmsetup status`).
    Info,
    /// The arguments that would construct it (`dmsetup table`).
    Table,
    /// What is measured for remote attestation: `name=value,...;`.
    Ima,
}

/// A target. One value is one instance, in one table.
///
/// The table has a reference to it, from when [`Target::ctr`] returns until the table goes. No bio
/// outlives that, but the value may.
pub(crate) trait Target: Sized + Send + Sync + 'static {
    /// As it stands in tables.
    const NAME: &'static CStr;
    /// Major, minor, patch level.
    const VERSION: [u32; 3];
    /// Some of the `FEATURE_` constants.
    const FEATURES: u64 = 0;

    /// What the target keeps with each of its bios. It is made before [`Target::map`] sees the
    /// bio, and dropped when it ends, which may be in any context. It stays where it is.
    type BioData: Send + Sync + 'static;

    /// Makes the data of a bio. In the context of [`Target::map`]; must not sleep for long.
    fn bio_data() -> impl PinInit<Self::BioData, Infallible>;

    /// Makes an instance from the words of a table line. May sleep and allocate; there may be an
    /// older instance in use for the same device.
    ///
    /// # Errors
    ///
    /// Should say why with [`Setup::refuse`].
    fn ctr(ti: &mut Setup<'_>, args: &[&CStr]) -> Result<Arc<Self>>;

    /// The table is about to go, and drops its reference after this. There are no bios any more,
    /// nor will be. Process context; may sleep.
    fn dtr(_this: &Arc<Self>) {}

    /// Decides about a bio. In its submitter's context, many at once; may sleep, unless the bio
    /// says otherwise ([`TargetBio::is_nowait`]), but must not wait for I/O that it has sent in
    /// this call: that is held back until it returns.
    fn map(this: &Arc<Self>, bio: TargetBio<Self>) -> MapAction<Self>;

    /// A bio that was sent as a whole has ended. Any context, with interrupts off perhaps.
    fn end_io(_this: &Arc<Self>, bio: TargetBio<Self>, status: Status) -> EndAction<Self> {
        EndAction::Done(bio, status)
    }

    /// A part of a bio has ended: see [`TargetBio::submit_part`]. Any context, with interrupts off
    /// perhaps.
    fn part_done(bio: TargetBio<Self>, status: Status) {
        bio.end(match status {
            Status::OK => Status::IOERR,
            status => status,
        });
    }

    /// A copy on behalf of a bio has ended: see [`Kcopyd`](super::kcopyd::Kcopyd). Process context.
    fn copied(bio: TargetBio<Self>, result: Result) {
        bio.end(match result {
            Ok(()) => Status::IOERR,
            Err(error) => error.into(),
        });
    }

    /// Answers a message. Process context; may sleep, but while it does the table cannot be
    /// exchanged, nor the device be suspended or removed. What it allocates, it allocates without
    /// I/O. What is written to `reply` is returned to the user, unless it fails.
    ///
    /// # Errors
    ///
    /// Are the user's.
    fn message(
        _this: &Arc<Self>,
        _ti: &Instance<'_>,
        _args: &[&CStr],
        _reply: &mut Text<'_>,
    ) -> Result {
        Err(EINVAL)
    }

    /// Tells its status. Process context; should not wait for I/O. Allocates without I/O.
    fn status(this: &Arc<Self>, ti: &Instance<'_>, kind: StatusKind, out: &mut Text<'_>);

    /// The device is about to be suspended: no more bios are wanted, those that are there must
    /// end. (Or, with [`Instance::noflush_suspending`], may be requeued.) The callbacks from here
    /// to [`Target::resume`] are called one at a time for a device, in process context; they may
    /// sleep, and allocate without I/O.
    fn presuspend(_this: &Arc<Self>, _ti: &Instance<'_>) {}

    /// Suspending has failed.
    fn presuspend_undo(_this: &Arc<Self>, _ti: &Instance<'_>) {}

    /// The device is suspended: there are no bios any more.
    fn postsuspend(_this: &Arc<Self>, _ti: &Instance<'_>) {}

    /// The device is about to be resumed, with this table.
    ///
    /// # Errors
    ///
    /// Then it stays suspended.
    fn preresume(_this: &Arc<Self>, _ti: &Instance<'_>) -> Result {
        Ok(())
    }

    /// The device is resumed.
    fn resume(_this: &Arc<Self>, _ti: &Instance<'_>) {}

    /// Visits all devices that the instance is made of, until a visit returns anything but 0,
    /// and returns what the last one has. Process context.
    fn iterate_devices(this: &Arc<Self>, ti: &Instance<'_>, visit: &mut Visitor<'_>) -> c_int;

    /// Changes the limits of the device's queue, as stacked from those of the devices that
    /// [`Target::iterate_devices`] visits. Process context.
    fn io_hints(_this: &Arc<Self>, _limits: &mut Limits<'_>) {}
}

/// A type of target, as device-mapper knows it: to be put into a `static` and then registered.
///
/// ```ignore
/// static TARGET: TargetType<Linear> = TargetType::new();
/// ```
pub(crate) struct TargetType<T: Target> {
    inner: UnsafeCell<bindings::target_type>,
    registered: Atomic<bool>,
    _target: PhantomData<T>,
}

// SAFETY: `inner` is used by whoever has set `registered`, and by device-mapper.
unsafe impl<T: Target> Sync for TargetType<T> {}

impl<T: Target> TargetType<T> {
    /// One that is not registered.
    pub(crate) const fn new() -> Self {
        Self {
            inner: UnsafeCell::new(bindings::target_type {
                features: T::FEATURES,
                name: kernel::str::as_char_ptr_in_const_context(T::NAME),
                module: core::ptr::null_mut(),
                version: T::VERSION,
                ctr: Some(Callbacks::<T>::ctr),
                dtr: Some(Callbacks::<T>::dtr),
                map: Some(Callbacks::<T>::map),
                clone_and_map_rq: None,
                release_clone_rq: None,
                end_io: Some(Callbacks::<T>::end_io),
                rq_end_io: None,
                presuspend: Some(Callbacks::<T>::presuspend),
                presuspend_undo: Some(Callbacks::<T>::presuspend_undo),
                postsuspend: Some(Callbacks::<T>::postsuspend),
                preresume: Some(Callbacks::<T>::preresume),
                resume: Some(Callbacks::<T>::resume),
                status: Some(Callbacks::<T>::status),
                message: Some(Callbacks::<T>::message),
                prepare_ioctl: None,
                report_zones: None,
                busy: None,
                iterate_devices: Some(Callbacks::<T>::iterate_devices),
                io_hints: Some(Callbacks::<T>::io_hints),
                direct_access: None,
                dax_zero_page_range: None,
                dax_recovery_write: None,
                list: bindings::list_head {
                    next: core::ptr::null_mut(),
                    prev: core::ptr::null_mut(),
                },
            }),
            registered: Atomic::new(false),
            _target: PhantomData,
        }
    }
}

/// That a target is registered: tables can be made with it. Dropping it ends that; tables that are
/// there stay, and keep the module from being unloaded.
pub(crate) struct Registration<T: Target>(&'static TargetType<T>);

impl<T: Target> Registration<T> {
    /// Registers a target of `module`, which must be the one that its code is in. Process context;
    /// sleeps.
    ///
    /// # Errors
    ///
    /// `EBUSY` when it is registered, `EEXIST` when another of this name is.
    pub(crate) fn new(
        target: &'static TargetType<T>,
        module: &'static ThisModule,
    ) -> Result<Self> {
        if target.registered.xchg(true, Acquire) {
            return Err(EBUSY);
        }
        let inner = target.inner.get();
        // SAFETY: `registered` was not set, so nobody else writes to it. Who may read the field
        // are tables from an earlier registration: the same module then, and the same value.
        unsafe { (*inner).module = module.as_ptr() };
        // SAFETY: It is complete, and there for as long as the module. It is not on the list.
        let result = to_result(unsafe { bindings::dm_register_target(inner) });
        if let Err(error) = result {
            target.registered.store(false, Release);
            return Err(error);
        }
        Ok(Self(target))
    }
}

impl<T: Target> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: It was registered, and is unregistered once.
        unsafe { bindings::dm_unregister_target(self.0.inner.get()) };
        self.0.registered.store(false, Release);
    }
}

/// What C calls.
struct Callbacks<T: Target>(PhantomData<T>);

/// The words that C has: `argc` pointers at `argv`.
///
/// # Safety
///
/// They must be C strings, valid for `'a`.
unsafe fn words<'a>(argc: c_uint, argv: *mut *mut c_char) -> Result<KVec<&'a CStr>> {
    let argc = argc as usize;
    let mut words = KVec::with_capacity(argc, GFP_KERNEL)?;
    for i in 0..argc {
        // SAFETY: By the function's requirements.
        let word = unsafe { CStr::from_char_ptr(*argv.add(i)) };
        words.push(word, GFP_KERNEL)?;
    }
    Ok(words)
}

impl<T: Target> Callbacks<T> {
    /// The target of an instance that has been constructed.
    ///
    /// # Safety
    ///
    /// `ti` must be an instance of this target, constructed and not destructed, for `'a`.
    unsafe fn private<'a>(ti: *mut bindings::dm_target) -> &'a Private<T> {
        // SAFETY: By the function's requirements, and as `ctr` has set it.
        unsafe { &*(*ti).private.cast::<Private<T>>() }
    }

    /// # Safety
    ///
    /// As for [`Callbacks::private`].
    unsafe fn with_instance<R>(
        ti: *mut bindings::dm_target,
        f: impl FnOnce(&Arc<T>, &Instance<'_>) -> R,
    ) -> R {
        let _noio = NoIo::enter();
        // SAFETY: By the function's requirements.
        let (private, instance) = unsafe {
            (
                Self::private(ti),
                Instance::new(NonNull::new_unchecked(ti)),
            )
        };
        f(&private.target, &instance)
    }

    /// # Safety
    ///
    /// As device-mapper calls it, as is so for all that follow.
    unsafe extern "C" fn ctr(
        ti: *mut bindings::dm_target,
        argc: c_uint,
        argv: *mut *mut c_char,
    ) -> c_int {
        from_result(|| {
            let ti = NonNull::new(ti).ok_or(EINVAL)?;
            // SAFETY: The instance is being constructed. What it gets is put into `private`, and
            // `dtr` releases that; when construction fails, `setup` or `private` do.
            let mut setup = unsafe { Setup::new(ti) }?;
            // SAFETY: Device-mapper passes that many words, valid for the duration of the call.
            let args = unsafe { words(argc, argv) }?;
            let private = KBox::<Private<T>>::new_uninit(GFP_KERNEL)?;
            let target = T::ctr(&mut setup, &args)?;
            let base = setup.finish().ok_or(EINVAL)?;
            let private = private.write(Private { base, target });

            // SAFETY: The instance is being constructed; nobody else uses it yet.
            let raw = unsafe { &mut *ti.as_ptr() };
            raw.per_io_data_size = PerBio::<T>::SIZE;
            raw.set_accounts_remapped_io(true);
            raw.private = KBox::into_raw(private).cast();
            Ok(0)
        })
    }

    unsafe extern "C" fn dtr(ti: *mut bindings::dm_target) {
        // SAFETY: `ctr` has put it there, and nobody uses it any more: there are no bios, and no
        // other callback runs.
        let private = unsafe { KBox::from_raw((*ti).private.cast::<Private<T>>()) };
        T::dtr(&private.target);
        KBox::into_inner(private).release();
    }

    unsafe extern "C" fn map(ti: *mut bindings::dm_target, bio: *mut bindings::bio) -> c_int {
        // SAFETY: Neither is null.
        let (ti, raw) = unsafe { (NonNull::new_unchecked(ti), NonNull::new_unchecked(bio)) };
        // SAFETY: The instance is there until the call returns.
        let private = unsafe { Self::private(ti.as_ptr()) };
        // SAFETY: The bio is about to be mapped by this instance, which stays until it has ended.
        unsafe { PerBio::<T>::init(raw, NonNull::from(private)) };
        // SAFETY: The bio is ours from here on, and its `PerBio` is initialised.
        let bio = unsafe { TargetBio::from_raw(raw) };

        // For `DM_MAPIO_KILL` and `DM_MAPIO_REQUEUE` device-mapper does not call `end_io`, nor for
        // any bio that is finished.
        match T::map(&private.target, bio) {
            MapAction::Submitted => {}
            MapAction::Remapped(remapped) => {
                let bio = remapped.into_inner();
                if bio.as_raw() == raw {
                    // It is device-mapper's, and `end_io` takes it up again.
                    bio.into_raw();
                    return bindings::DM_MAPIO_REMAPPED as c_int;
                }
                bio.submit();
            }
            MapAction::Kill(bio) => {
                if bio.as_raw() == raw {
                    bio.finish();
                    return bindings::DM_MAPIO_KILL as c_int;
                }
                bio.end(Status::IOERR);
            }
            MapAction::Requeue(bio) => {
                if bio.as_raw() == raw {
                    bio.finish();
                    return bindings::DM_MAPIO_REQUEUE as c_int;
                }
                bio.end(Status::DM_REQUEUE);
            }
            MapAction::End(bio, status) => bio.end(status),
        }
        bindings::DM_MAPIO_SUBMITTED as c_int
    }

    unsafe extern "C" fn end_io(
        ti: *mut bindings::dm_target,
        bio: *mut bindings::bio,
        error: *mut bindings::blk_status_t,
    ) -> c_int {
        // SAFETY: It is not null.
        let raw = unsafe { NonNull::new_unchecked(bio) };
        // SAFETY: `map` has seen the bio, and device-mapper frees it later.
        if unsafe { PerBio::<T>::is_finished(raw) } {
            return bindings::DM_ENDIO_DONE as c_int;
        }
        // SAFETY: The instance is there until the bio, which is not finished, has ended.
        let private = unsafe { Self::private(ti) };
        // SAFETY: The bio was given away by `TargetBio::submit`, or by `map` to be sent, and is
        // ours again.
        let mut bio = unsafe { TargetBio::<T>::from_raw(raw) };
        bio.came_back();
        // SAFETY: Device-mapper passes a valid pointer.
        let status = Status::from_raw(unsafe { *error });

        match T::end_io(&private.target, bio, status) {
            EndAction::Done(bio, status) => {
                if bio.as_raw() == raw {
                    bio.finish();
                    // SAFETY: Device-mapper passes a valid pointer, to its own stack.
                    unsafe { *error = status.as_raw() };
                    return bindings::DM_ENDIO_DONE as c_int;
                }
                bio.end(status);
            }
            EndAction::Keep => {}
        }
        bindings::DM_ENDIO_INCOMPLETE as c_int
    }

    unsafe extern "C" fn presuspend(ti: *mut bindings::dm_target) {
        // SAFETY: The instance has been constructed.
        unsafe { Self::with_instance(ti, T::presuspend) }
    }

    unsafe extern "C" fn presuspend_undo(ti: *mut bindings::dm_target) {
        // SAFETY: The instance has been constructed.
        unsafe { Self::with_instance(ti, T::presuspend_undo) }
    }

    unsafe extern "C" fn postsuspend(ti: *mut bindings::dm_target) {
        // SAFETY: The instance has been constructed.
        unsafe { Self::with_instance(ti, T::postsuspend) }
    }

    unsafe extern "C" fn preresume(ti: *mut bindings::dm_target) -> c_int {
        // SAFETY: The instance has been constructed.
        from_result(|| unsafe { Self::with_instance(ti, T::preresume) }.map(|()| 0))
    }

    unsafe extern "C" fn resume(ti: *mut bindings::dm_target) {
        // SAFETY: The instance has been constructed.
        unsafe { Self::with_instance(ti, T::resume) }
    }

    unsafe extern "C" fn status(
        ti: *mut bindings::dm_target,
        kind: bindings::status_type_t,
        _flags: c_uint,
        result: *mut c_char,
        maxlen: c_uint,
    ) {
        // SAFETY: Device-mapper passes a buffer of that size.
        let mut out = unsafe { Text::new(result, maxlen as usize) };
        let kind = match kind {
            bindings::status_type_t_STATUSTYPE_INFO => StatusKind::Info,
            bindings::status_type_t_STATUSTYPE_TABLE => StatusKind::Table,
            _ => StatusKind::Ima,
        };
        // SAFETY: The instance has been constructed.
        unsafe { Self::with_instance(ti, |this, ti| T::status(this, ti, kind, &mut out)) }
    }

    unsafe extern "C" fn message(
        ti: *mut bindings::dm_target,
        argc: c_uint,
        argv: *mut *mut c_char,
        result: *mut c_char,
        maxlen: c_uint,
    ) -> c_int {
        // SAFETY: Device-mapper passes a buffer of that size.
        let mut reply = unsafe { Text::new(result, maxlen as usize) };
        let message = |this: &Arc<T>, ti: &Instance<'_>| {
            // SAFETY: Device-mapper passes that many words, valid for the duration of the call.
            let args = unsafe { words(argc, argv) }?;
            T::message(this, ti, &args, &mut reply)?;
            // 1 says that there is a reply.
            Ok(c_int::from(!reply.is_empty()))
        };
        // SAFETY: The instance has been constructed.
        from_result(|| unsafe { Self::with_instance(ti, message) })
    }

    unsafe extern "C" fn iterate_devices(
        ti: *mut bindings::dm_target,
        visit: bindings::iterate_devices_callout_fn,
        data: *mut c_void,
    ) -> c_int {
        let Some(visit) = visit else {
            return 0;
        };
        // SAFETY: The instance has been constructed.
        let base = unsafe { &Self::private(ti).base };
        // SAFETY: `ti` is not null. Device-mapper passes what goes together.
        let mut visitor = unsafe { Visitor::new(NonNull::new_unchecked(ti), base, visit, data) };
        // SAFETY: The instance has been constructed.
        unsafe { Self::with_instance(ti, |this, ti| T::iterate_devices(this, ti, &mut visitor)) }
    }

    unsafe extern "C" fn io_hints(
        ti: *mut bindings::dm_target,
        limits: *mut bindings::queue_limits,
    ) {
        // SAFETY: Device-mapper passes limits that nobody else uses.
        let mut limits = Limits::new(unsafe { &mut *limits });
        // SAFETY: The instance has been constructed.
        unsafe { Self::with_instance(ti, |this, _ti| T::io_hints(this, &mut limits)) }
    }
}
