// SPDX-License-Identifier: GPL-2.0

//! Instances of a target, in tables.
//!
//! C header: [`include/linux/device-mapper.h`](srctree/include/linux/device-mapper.h)

use super::{
    block_device::{BlockDevice, Dev},
    event::EventHandle,
    stack::Own,
    target::Target,
};
use crate::bindings;
use core::{marker::PhantomData, ops::Deref, ptr::NonNull};
use kernel::{error::to_result, prelude::*, sync::Arc};

/// A device that a table has opened, and the device itself.
struct Opened {
    dm_dev: NonNull<bindings::dm_dev>,
    bdev: *mut bindings::block_device,
}

/// What an instance has of its table. Its [`Base::release`] must be called before it goes.
pub(super) struct Base {
    ti: NonNull<bindings::dm_target>,
    /// Never changes once the instance has been constructed.
    devices: KVec<Opened>,
    events: EventHandle,
    /// Until all devices are closed.
    _own: Own,
}

// SAFETY: `ti` and `devices` are only read after construction.
unsafe impl Send for Base {}
// SAFETY: As above.
unsafe impl Sync for Base {}

impl Base {
    /// Where the instance begins on its device, in sectors.
    pub(super) fn begin(&self) -> u64 {
        // SAFETY: The instance is there for as long as its base, and the field does not change.
        unsafe { (*self.ti.as_ptr()).begin }
    }

    /// Whether the table has this device open, and so has it for as long as there are bios.
    #[inline]
    pub(super) fn has_device(&self, device: &BlockDevice) -> bool {
        let bdev = device.as_raw();
        self.devices.iter().any(|opened| opened.bdev == bdev)
    }

    /// Detaches all handles, then runs `f`, then closes the devices.
    fn release(self, f: impl FnOnce()) {
        self.events.detach();
        f();
        for opened in &self.devices {
            // SAFETY: `dm_get_device` gave it for this instance; it is put once.
            unsafe { bindings::dm_put_device(self.ti.as_ptr(), opened.dm_dev.as_ptr()) };
        }
    }
}

/// What `dm_target::private` points to.
pub(super) struct Private<T: Target> {
    pub(super) base: Base,
    pub(super) target: Arc<T>,
}

impl<T: Target> Private<T> {
    /// Gives up all that the instance has.
    pub(super) fn release(self) {
        let Self { base, target } = self;
        base.release(|| drop(target));
    }
}

/// A device of a table's: see [`Setup::get_device`].
///
/// Who holds it (or anything that shares it) when the table goes keeps it open, and claimed.
pub(crate) struct TableDevice {
    device: BlockDevice,
    /// Only to be compared with those that an instance has, unless it is one of them.
    dm_dev: NonNull<bindings::dm_dev>,
}

// SAFETY: `dm_dev` is an address that is compared.
unsafe impl Send for TableDevice {}
// SAFETY: As above.
unsafe impl Sync for TableDevice {}

impl Deref for TableDevice {
    type Target = BlockDevice;

    fn deref(&self) -> &BlockDevice {
        &self.device
    }
}

/// An instance that is being constructed. Process context, as the constructor is.
pub(crate) struct Setup<'a> {
    ti: NonNull<bindings::dm_target>,
    base: Option<Base>,
    _ti: PhantomData<&'a mut bindings::dm_target>,
}

impl Setup<'_> {
    /// # Safety
    ///
    /// `ti` must be an instance that is being constructed, and not go before this. What
    /// [`Setup::finish`] returns must be released before the instance goes.
    pub(super) unsafe fn new(ti: NonNull<bindings::dm_target>) -> Result<Self> {
        // SAFETY: Either `finish` is called, or `drop` releases the base, which detaches it.
        let events = unsafe { EventHandle::new(ti) }?;
        // SAFETY: The instance is being constructed, so its table is there.
        let own = Own::new(unsafe { Instance::new(ti) }.dev());
        let own = own.inspect_err(|_| events.detach())?;
        Ok(Self {
            ti,
            base: Some(Base {
                ti,
                devices: KVec::new(),
                events,
                _own: own,
            }),
            _ti: PhantomData,
        })
    }

    /// Construction has succeeded. `None` if that was said before.
    pub(super) fn finish(&mut self) -> Option<Base> {
        self.base.take()
    }

    fn ti(&mut self) -> &mut bindings::dm_target {
        // SAFETY: By the requirements of `new` it is there; nobody else uses it yet.
        unsafe { self.ti.as_mut() }
    }

    /// As an instance, to be asked what can be asked of one.
    pub(crate) fn instance(&self) -> Instance<'_> {
        Instance {
            ti: self.ti,
            _ti: PhantomData,
        }
    }

    /// Where the instance begins on its device, in sectors.
    pub(crate) fn begin(&self) -> u64 {
        self.instance().begin()
    }

    /// The length of the instance in sectors.
    pub(crate) fn len(&self) -> u64 {
        self.instance().len()
    }

    /// Whether the table may be written to.
    pub(crate) fn is_writeable(&self) -> bool {
        self.instance().is_writeable()
    }

    /// Says why the table is refused, and makes the error to return from the constructor.
    pub(crate) fn refuse(&mut self, why: &'static CStr, error: Error) -> Error {
        self.ti().error = why.as_char_ptr().cast_mut();
        error
    }

    /// Opens and claims a device for the table: nobody but device-mapper's tables can open it
    /// exclusively, nor mount it, while this or another table has it.
    ///
    /// It is opened for writing if the table is writeable, whether or not `write` is asked for.
    /// (Were one device opened first for reading and then for writing, device-mapper would
    /// exchange what the first call returned.)
    ///
    /// # Errors
    ///
    /// `EROFS` when `write` is asked for of a table that is read-only; `EBUSY` when somebody else
    /// has claimed the device, and those of [`Dev::from_path`] and [`BlockDevice::open`].
    pub(crate) fn get_device(&mut self, path: &CStr, write: bool) -> Result<TableDevice> {
        if write && !self.is_writeable() {
            return Err(EROFS);
        }
        let ti = self.ti.as_ptr();
        let base = self.base.as_mut().ok_or(EINVAL)?;
        base.devices.reserve(1, GFP_KERNEL)?;

        let mut dm_dev = core::ptr::null_mut();
        // SAFETY: The instance is being constructed, so its table is there.
        to_result(unsafe {
            let mode = bindings::dm_table_get_mode((*ti).table);
            bindings::dm_get_device(ti, path.as_char_ptr(), mode, &mut dm_dev)
        })?;
        let dm_dev = NonNull::new(dm_dev).ok_or(ENODEV)?;
        // SAFETY: `dm_get_device` has succeeded, so it is open and stays so until it is put.
        let (file, bdev) = unsafe { ((*dm_dev.as_ptr()).bdev_file, (*dm_dev.as_ptr()).bdev) };
        let Some(file) = NonNull::new(file) else {
            // SAFETY: It was got above.
            unsafe { bindings::dm_put_device(ti, dm_dev.as_ptr()) };
            return Err(ENODEV);
        };
        // There is room: it was reserved.
        base.devices
            .push_within_capacity(Opened { dm_dev, bdev })
            .map_err(|_| ENOMEM)?;
        Ok(TableDevice {
            // SAFETY: It is the file of a block device, and the table has a reference.
            device: unsafe { BlockDevice::from_file(file) },
            dm_dev,
        })
    }

    /// A handle to the table, for events.
    ///
    /// # Errors
    ///
    /// `EINVAL`, though not inside a constructor.
    pub(crate) fn event_handle(&self) -> Result<EventHandle> {
        Ok(self.base.as_ref().ok_or(EINVAL)?.events.clone())
    }

    /// How many bios a flush of the device becomes; 0 (as it is at first): none.
    pub(crate) fn set_num_flush_bios(&mut self, bios: u32) {
        self.ti().num_flush_bios = bios;
    }

    /// How many bios a discard becomes; 0 (as it is at first): they are refused.
    pub(crate) fn set_num_discard_bios(&mut self, bios: u32) {
        self.ti().num_discard_bios = bios;
    }

    /// How many bios a write-zeroes becomes; 0 (as it is at first): the block layer writes the
    /// zeroes itself.
    pub(crate) fn set_num_write_zeroes_bios(&mut self, bios: u32) {
        self.ti().num_write_zeroes_bios = bios;
    }

    /// Whether the target gets flushes even if no device below has a volatile cache.
    pub(crate) fn set_flush_supported(&mut self, supported: bool) {
        self.ti().set_flush_supported(supported);
    }

    /// Whether the target gets discards even if no device below supports them.
    pub(crate) fn set_discards_supported(&mut self, supported: bool) {
        self.ti().set_discards_supported(supported);
    }

    /// Whether discards are to be split at multiples of the most sectors that one can have.
    pub(crate) fn set_max_discard_granularity(&mut self, split: bool) {
        self.ti().set_max_discard_granularity(split);
    }

    /// The most sectors that a bio can have; it does not cross a multiple of them. 0 (as it is at
    /// first): no limit.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it does not fit 32 bits.
    pub(crate) fn set_max_io_len(&mut self, sectors: u64) -> Result {
        // SAFETY: By the requirements of `new` the instance is there; nobody else uses it yet.
        to_result(unsafe { bindings::dm_set_target_max_io_len(self.ti.as_ptr(), sectors) })
    }
}

impl Drop for Setup<'_> {
    fn drop(&mut self) {
        if let Some(base) = self.base.take() {
            base.release(|| {});
        }
    }
}

/// An instance of the target, while one of its callbacks runs.
#[derive(Clone, Copy)]
pub(crate) struct Instance<'a> {
    ti: NonNull<bindings::dm_target>,
    _ti: PhantomData<&'a bindings::dm_target>,
}

impl Instance<'_> {
    /// # Safety
    ///
    /// `ti` must be an instance whose table stays for as long as this is used.
    pub(super) unsafe fn new(ti: NonNull<bindings::dm_target>) -> Self {
        Self {
            ti,
            _ti: PhantomData,
        }
    }

    fn table(&self) -> *mut bindings::dm_table {
        // SAFETY: By the requirements of `new` it is there, and the field does not change.
        unsafe { (*self.ti.as_ptr()).table }
    }

    fn md(&self) -> *mut bindings::mapped_device {
        // SAFETY: The table is there.
        unsafe { bindings::dm_table_get_md(self.table()) }
    }

    /// Where it begins on its device, in sectors.
    pub(crate) fn begin(&self) -> u64 {
        // SAFETY: By the requirements of `new` it is there, and the field does not change.
        unsafe { (*self.ti.as_ptr()).begin }
    }

    /// Its length in sectors.
    pub(crate) fn len(&self) -> u64 {
        // SAFETY: By the requirements of `new` it is there, and the field does not change.
        unsafe { (*self.ti.as_ptr()).len }
    }

    /// Whether the table may be written to.
    pub(crate) fn is_writeable(&self) -> bool {
        // SAFETY: The table is there.
        let mode = unsafe { bindings::dm_table_get_mode(self.table()) };
        mode & bindings::DM_RS_OPEN_WRITE != 0
    }

    /// The mapped device: which one it is, and its number.
    pub(crate) fn mapped_device(&self) -> MappedDevice {
        let md = self.md();
        MappedDevice {
            id: md.addr(),
            // SAFETY: The device is there for as long as its table.
            dev: Dev::from_raw(unsafe { bindings::dm_rs_md_dev(md) }),
        }
    }

    /// The mapped device's identity: see [`MappedDevice::id`].
    pub(crate) fn md_id(&self) -> usize {
        self.mapped_device().id
    }

    /// The mapped device's number.
    pub(crate) fn dev(&self) -> Dev {
        self.mapped_device().dev
    }

    /// The mapped device's name, `MAJOR:MINOR`.
    pub(crate) fn device_name(&self) -> &CStr {
        // SAFETY: The device is there for as long as its table. Its name does not change.
        unsafe { CStr::from_char_ptr(bindings::dm_device_name(self.md())) }
    }

    /// Whether anybody has the mapped device open. It may be another answer the next moment.
    pub(crate) fn is_open(&self) -> bool {
        // SAFETY: The device is there for as long as its table.
        unsafe { bindings::dm_rs_md_openers(self.md()) > 0 }
    }

    /// Whether the mapped device is suspended.
    pub(crate) fn suspended(&self) -> bool {
        // SAFETY: By the requirements of `new` it is there.
        unsafe { bindings::dm_suspended(self.ti.as_ptr()) != 0 }
    }

    /// Whether it is just being suspended without flush, so that bios can be requeued.
    pub(crate) fn noflush_suspending(&self) -> bool {
        // SAFETY: By the requirements of `new` it is there.
        unsafe { bindings::dm_noflush_suspending(self.ti.as_ptr()) != 0 }
    }
}

/// Which mapped device it is. It may be gone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct MappedDevice {
    id: usize,
    dev: Dev,
}

impl MappedDevice {
    /// The same for all tables of one device, and not that of another device that is there at the
    /// same time.
    pub(crate) fn id(&self) -> usize {
        self.id
    }

    /// Its number.
    pub(crate) fn dev(&self) -> Dev {
        self.dev
    }
}

/// Visits the devices of an instance: see [`Target::iterate_devices`].
pub(crate) struct Visitor<'a> {
    ti: NonNull<bindings::dm_target>,
    base: &'a Base,
    visit: unsafe extern "C" fn(
        *mut bindings::dm_target,
        *mut bindings::dm_dev,
        u64,
        u64,
        *mut c_void,
    ) -> c_int,
    data: *mut c_void,
}

impl<'a> Visitor<'a> {
    /// # Safety
    ///
    /// `base` must be that of `ti`, and `visit` be fit to be called with `ti`, any of its devices,
    /// and `data`, for as long as this is used.
    pub(super) unsafe fn new(
        ti: NonNull<bindings::dm_target>,
        base: &'a Base,
        visit: unsafe extern "C" fn(
            *mut bindings::dm_target,
            *mut bindings::dm_dev,
            u64,
            u64,
            *mut c_void,
        ) -> c_int,
        data: *mut c_void,
    ) -> Self {
        Self {
            ti,
            base,
            visit,
            data,
        }
    }

    /// Visits `len` sectors of a device, from `start` on. When it returns anything but 0, that is
    /// what the callback is to return, at once. A device of another instance is passed over.
    pub(crate) fn visit(&mut self, device: &TableDevice, start: u64, len: u64) -> c_int {
        let ours = |opened: &&Opened| opened.dm_dev == device.dm_dev;
        let Some(opened) = self.base.devices.iter().find(ours) else {
            return 0;
        };
        // SAFETY: By the requirements of `new`. It is a device of this instance.
        unsafe {
            (self.visit)(
                self.ti.as_ptr(),
                opened.dm_dev.as_ptr(),
                start,
                len,
                self.data,
            )
        }
    }
}
