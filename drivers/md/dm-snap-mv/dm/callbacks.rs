// SPDX-License-Identifier: GPL-2.0

//! What device-mapper calls, turned into calls on a [`Target`].

use super::{
    action::{EndAction, MapAction},
    bio::{PerBio, TargetBio},
    limits::Limits,
    noio::NoIo,
    shortcut::Glance,
    status::Status,
    table::{Instance, Private, Setup, Visitor},
    target::{StatusKind, Target},
    text::Text,
};
use crate::bindings;
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    error::from_result,
    prelude::*,
    sync::{rcu, Arc},
};

/// The callbacks of a target.
pub(super) struct Callbacks<T: Target>(PhantomData<T>);

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
        let (private, instance) =
            unsafe { (Self::private(ti), Instance::new(NonNull::new_unchecked(ti))) };
        f(&private.target, &instance)
    }

    /// Constructs an instance. Process context.
    ///
    /// # Safety
    ///
    /// `ti` must be an instance that device-mapper wants to be constructed; there must be `argc` C
    /// strings at `argv`.
    pub(super) unsafe extern "C" fn ctr(
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

    /// Gives up all that an instance has. Process context.
    ///
    /// # Safety
    ///
    /// As for [`Callbacks::private`]; there must be no bios of it, and no other callback running.
    pub(super) unsafe extern "C" fn dtr(ti: *mut bindings::dm_target) {
        // SAFETY: `ctr` has put it there, and nobody uses it any more: there are no bios, and no
        // other callback runs.
        let private = unsafe { KBox::from_raw((*ti).private.cast::<Private<T>>()) };
        T::dtr(&private.target);
        KBox::into_inner(private).release();
    }

    /// Maps a bio. Its submitter's context.
    ///
    /// # Safety
    ///
    /// As for [`Callbacks::private`], until the bio has ended and until this returns; `bio` must be
    /// a clone that device-mapper has made for it.
    pub(super) unsafe extern "C" fn map(
        ti: *mut bindings::dm_target,
        bio: *mut bindings::bio,
    ) -> c_int {
        // SAFETY: Neither is null.
        let (ti, raw) = unsafe { (NonNull::new_unchecked(ti), NonNull::new_unchecked(bio)) };
        // SAFETY: The instance is there until the call returns.
        let private = unsafe { Self::private(ti.as_ptr()) };
        // SAFETY: The bio is there, and device-mapper leaves it to us.
        let glance = unsafe { Glance::new(raw, private.base.begin()) };
        if let Some(shortcut) = T::shortcut(&private.target, &glance) {
            if private.base.has_device(shortcut.device) {
                // SAFETY: The bio is just being mapped.
                unsafe { PerBio::<T>::init_finished(raw, shortcut) };
                return bindings::DM_MAPIO_REMAPPED as c_int;
            }
        }
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

    /// A bio has ended. Any context.
    ///
    /// # Safety
    ///
    /// As for [`Callbacks::private`], until the bio has ended; `bio` must have been mapped by it;
    /// `error` must be valid.
    pub(super) unsafe extern "C" fn end_io(
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
        // Once the target has put the bio elsewhere it can end at any time, and with it the table
        // go. But device-mapper waits for a grace period between the two (`dm_sync_table`), so the
        // instance stays until this callback is through.
        let _rcu = rcu::read_lock();
        // SAFETY: The instance is there: the bio is not finished. For how long see above.
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

    /// # Safety
    ///
    /// As for [`Callbacks::private`].
    pub(super) unsafe extern "C" fn presuspend(ti: *mut bindings::dm_target) {
        // SAFETY: The instance has been constructed.
        unsafe { Self::with_instance(ti, T::presuspend) }
    }

    /// # Safety
    ///
    /// As for [`Callbacks::private`].
    pub(super) unsafe extern "C" fn presuspend_undo(ti: *mut bindings::dm_target) {
        // SAFETY: The instance has been constructed.
        unsafe { Self::with_instance(ti, T::presuspend_undo) }
    }

    /// # Safety
    ///
    /// As for [`Callbacks::private`].
    pub(super) unsafe extern "C" fn postsuspend(ti: *mut bindings::dm_target) {
        // SAFETY: The instance has been constructed.
        unsafe { Self::with_instance(ti, T::postsuspend) }
    }

    /// # Safety
    ///
    /// As for [`Callbacks::private`].
    pub(super) unsafe extern "C" fn preresume(ti: *mut bindings::dm_target) -> c_int {
        // SAFETY: The instance has been constructed.
        from_result(|| unsafe { Self::with_instance(ti, T::preresume) }.map(|()| 0))
    }

    /// # Safety
    ///
    /// As for [`Callbacks::private`].
    pub(super) unsafe extern "C" fn resume(ti: *mut bindings::dm_target) {
        // SAFETY: The instance has been constructed.
        unsafe { Self::with_instance(ti, T::resume) }
    }

    /// # Safety
    ///
    /// As for [`Callbacks::private`]; `result` must be valid for `maxlen` bytes.
    pub(super) unsafe extern "C" fn status(
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

    /// # Safety
    ///
    /// As for [`Callbacks::private`]; there must be `argc` C strings at `argv`, and `result` be valid
    /// for `maxlen` bytes.
    pub(super) unsafe extern "C" fn message(
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

    /// # Safety
    ///
    /// As for [`Callbacks::private`]; `visit` must be fit to be called with `ti`, its devices, and
    /// `data`.
    pub(super) unsafe extern "C" fn iterate_devices(
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

    /// # Safety
    ///
    /// As for [`Callbacks::private`]; `limits` must be valid, and nobody else use them.
    pub(super) unsafe extern "C" fn io_hints(
        ti: *mut bindings::dm_target,
        limits: *mut bindings::queue_limits,
    ) {
        // SAFETY: Device-mapper passes limits that nobody else uses.
        let mut limits = Limits::new(unsafe { &mut *limits });
        // SAFETY: The instance has been constructed.
        unsafe { Self::with_instance(ti, |this, _ti| T::io_hints(this, &mut limits)) }
    }
}
