// SPDX-License-Identifier: GPL-2.0
//! Device-mapper: the devices of our target, and what can be done with them.

pub mod clone;
pub mod freeze;
pub mod kmsg;
pub mod node;
mod raw;
mod udev;
pub mod users;

pub use raw::{Info, Target};

use crate::devno::Devno;
use crate::failure::{Failure, Kind, Result};
use crate::fields::Malformed;
use crate::reply::Reply;
use crate::sysfs::Sysfs;
use crate::target::{Line, Role, TARGET};
use crate::words;
use devicemapper::DmUdevFlags;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

/// A device of our target.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// Its name.
    pub name: String,
    /// Its number.
    pub devno: Devno,
    /// Its size in sectors.
    pub sectors: u64,
    /// Its table line.
    pub line: Line,
}

impl Mapped {
    /// Whether both belong to one origin on one COW device.
    pub fn same_origin(&self, other: &Self) -> bool {
        self.line.cow == other.line.cow && self.line.id == other.line.id
    }
}

/// A device of any target, with its table.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// Its number.
    pub devno: Devno,
    /// The lines of its table.
    pub lines: Vec<Target>,
}

impl Loaded {
    /// The same if it is one of our target.
    pub fn ours(&self) -> Option<Mapped> {
        ours(&self.name, self.devno, &self.lines)
    }
}

/// The way to device-mapper.
pub struct Dm {
    control: File,
    /// What the kernel tells of block devices.
    pub sysfs: Sysfs,
}

impl Dm {
    /// Opens device-mapper, loading it if it is not there.
    pub fn open() -> Result<Self> {
        if node::make_control().is_err() {
            modprobe("dm-mod");
            // What is wrong is told by the attempt to open it.
            let _ = node::make_control();
        }
        let control = File::open(node::CONTROL).map_err(|e| {
            let failure = Failure::new(Kind::Unable, format!("cannot use device-mapper: {e}"));
            if nix::unistd::geteuid().is_root() {
                failure.hint("load the kernel's part of it: modprobe dm-mod")
            } else {
                failure.hint("this needs root: try sudo")
            }
        })?;
        Ok(Self {
            control,
            sysfs: Sysfs::default(),
        })
    }

    /// Opens device-mapper if it is there, and whoever asks may. Where it is not it is not loaded: there
    /// are no devices then.
    pub fn if_there() -> Option<Self> {
        // What comes of it is told by the attempt to open it.
        let _ = node::make_control();
        Some(Self {
            control: File::open(node::CONTROL).ok()?,
            sysfs: Sysfs::default(),
        })
    }

    /// The tables of all devices, of whatever target: the active one, or one that was loaded and not
    /// used yet. What goes meanwhile, or cannot be read, is left out.
    pub fn tables(&self) -> Vec<Loaded> {
        let names = raw::devices(&self.control).unwrap_or_default();
        let table = |name: String| {
            let active = raw::lines(&self.control, &name, raw::Ask::Table);
            let (devno, lines) = match active {
                Ok((_, lines)) if lines.is_empty() => {
                    raw::first_table(&self.control, &name).ok()?
                }
                other => other.ok()?,
            };
            Some(Loaded { name, devno, lines })
        };
        names.into_iter().filter_map(table).collect()
    }

    /// Sees to it that the kernel knows our target.
    pub fn need_target(&self) -> Result<()> {
        if self.knows_target() {
            return Ok(());
        }
        modprobe(TARGET);
        if self.knows_target() {
            return Ok(());
        }
        Err(
            Failure::new(Kind::Unable, "the kernel has no dm-snap-mv target").hint(
                "load the module: modprobe dm-snap-mv, or insmod with the path of dm-snap-mv.ko",
            ),
        )
    }

    fn knows_target(&self) -> bool {
        raw::target_types(&self.control).is_ok_and(|all| all.iter().any(|name| name == TARGET))
    }

    /// The devices of our target, by name.
    pub fn devices(&self) -> Result<Vec<Mapped>> {
        let all = raw::devices(&self.control).map_err(|e| refused("list the devices", e))?;
        let mut ours = Vec::new();
        for name in all {
            // One that has gone in the meantime is not wanted.
            if let Ok(Some(mapped)) = self.mapped(&name) {
                ours.push(mapped);
            }
        }
        ours.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(ours)
    }

    /// The device `name` if it is one of our target, `None` if it is another's or has no table.
    fn mapped(&self, name: &str) -> std::result::Result<Option<Mapped>, Errno> {
        let (devno, targets) = raw::lines(&self.control, name, raw::Ask::Table)?;
        Ok(ours(name, devno, &targets))
    }

    /// The device `arg` if it was created, was given a table of our target, and never got to
    /// use it: whoever created it was killed. One that somebody creates just now is the same.
    pub fn half_made(&self, arg: &str) -> Option<Mapped> {
        let name = crate::names::dm_name(arg).ok()?;
        let (devno, targets) = raw::first_table(&self.control, name).ok()?;
        ours(name, devno, &targets)
    }

    /// The device of our target that is called `arg`, or has that number.
    pub fn find(&self, arg: &str) -> Result<Mapped> {
        if let Some(devno) = crate::names::devno_at(arg) {
            let mut devices = self.devices()?.into_iter();
            return devices.find(|device| device.devno == devno).ok_or_else(|| {
                let what = format!("{arg} is not on a dm-snap-mv device");
                Failure::new(Kind::NotFound, what).hint(self.offer())
            });
        }
        let name = match arg.strip_prefix("/dev/dm-") {
            Some(_) => arg.trim_start_matches("/dev/"),
            None => crate::names::dm_name(arg)?,
        };
        match self.mapped(name) {
            Ok(Some(mapped)) => Ok(mapped),
            Ok(None) => Err(Failure::new(
                Kind::NotFound,
                format!("{name} is no dm-snap-mv device"),
            )
            .hint(format!("dmsetup table {name} shows what it is"))),
            Err(Errno::ENXIO) => self.find_number(name),
            Err(e) => Err(refused(&format!("look at {name}"), e)),
        }
    }

    /// The device with the kernel's name `name`, as `dm-3`.
    fn find_number(&self, name: &str) -> Result<Mapped> {
        let minor = name.strip_prefix("dm-").and_then(|m| m.parse().ok());
        self.devices()?
            .into_iter()
            .find(|device| Some(device.devno.minor) == minor)
            .ok_or_else(|| {
                Failure::new(Kind::NotFound, format!("there is no device {name}"))
                    .hint(self.offer())
            })
    }

    /// Which devices there are to choose from.
    fn offer(&self) -> String {
        match self.devices() {
            Ok(all) if !all.is_empty() => {
                let names: Vec<_> = all.into_iter().map(|d| d.name).collect();
                format!("active are: {}", names.join(", "))
            }
            _ => "none is active: dms create makes one".to_owned(),
        }
    }

    /// The active device that shows the origin of `of` as it is now.
    pub fn origin_of(&self, of: &Mapped) -> Result<Option<Mapped>> {
        self.relative(of, Role::Origin)
    }

    /// The active device that shows a snapshot of the origin of `of`.
    pub fn snapshot_of(&self, of: &Mapped, tag: u32) -> Result<Option<Mapped>> {
        self.relative(of, Role::Snapshot(tag))
    }

    fn relative(&self, of: &Mapped, role: Role) -> Result<Option<Mapped>> {
        Ok(self
            .devices()?
            .into_iter()
            .find(|d| d.same_origin(of) && d.line.role == role))
    }

    /// The policy of the store on the COW device `cow`, if a table line says anything of it.
    pub fn policy(&self, cow: Devno) -> Result<Option<String>> {
        let mut devices = self.devices()?.into_iter();
        Ok(devices.find_map(|device| device.line.policy.filter(|_| device.line.cow == cow)))
    }

    /// How a device is used.
    pub fn info(&self, name: &str) -> Result<Info> {
        raw::info(&self.control, name).map_err(|e| refused(&format!("look at {name}"), e))
    }

    /// Creates a device without a table; with a UUID, if it is known.
    pub fn create(&self, name: &str, uuid: Option<&str>) -> Result<()> {
        let made = match raw::create(&self.control, name, uuid.unwrap_or_default()) {
            // Another device may have the UUID: of a copy of the COW device.
            Err(Errno::EBUSY) if uuid.is_some() => raw::create(&self.control, name, ""),
            made => made,
        };
        match made {
            Err(Errno::EBUSY) => Err(Failure::new(
                Kind::Busy,
                format!("there is a device {name} already"),
            )
            .hint(match (self.mapped(name), self.half_made(name)) {
                (Ok(Some(_)), _) | (_, Some(_)) => {
                    format!("remove it first (dms remove {name}) or take another name")
                }
                _ => "take another name".to_owned(),
            })),
            other => other.map_err(|e| refused(&format!("create {name}"), e)),
        }
    }

    /// Loads a table of one line, and on refusal asks the kernel's log for the reason.
    pub fn load(
        &self,
        name: &str,
        sectors: u64,
        params: Vec<u8>,
    ) -> std::result::Result<Devno, kmsg::Reason> {
        let target = raw::Target {
            start: 0,
            sectors,
            kind: TARGET.as_bytes().to_vec(),
            params,
        };
        let log = kmsg::Log::mark();
        raw::load(&self.control, name, &target).map_err(|e| {
            let errno = format!("{e:?}");
            let found = self
                .info(name)
                .ok()
                .and_then(|info| kmsg::table_refused(&log.since(), info.devno, TARGET));
            match found {
                Some(reason) => kmsg::Reason {
                    errno: reason.errno.or(Some(errno)),
                    ..reason
                },
                None => kmsg::Reason {
                    text: e.desc().to_owned(),
                    errno: Some(errno),
                    detail: None,
                },
            }
        })
    }

    /// Gives a device a UUID that was created without one. It can be used without.
    pub fn set_uuid(&self, name: &str, uuid: &str) {
        let set = udev::runs().then(|| udev::set_uuid(name, uuid)).flatten();
        if set.is_none() {
            let _ = raw::set_uuid(&self.control, name, uuid);
        }
    }

    /// Resumes a device, with the table that was loaded last, and on refusal asks the kernel's log for
    /// the reason. `is_copy`: it shows what another device holds, too.
    pub fn resume(&self, name: &str, is_copy: bool) -> Result<()> {
        self.resume_with(name, udev::flags(is_copy))
    }

    fn resume_with(&self, name: &str, flags: DmUdevFlags) -> Result<()> {
        let log = kmsg::Log::mark();
        loop {
            let resumed = udev::runs().then(|| udev::resume(name, flags)).flatten();
            // Does nothing if that has been done.
            match resumed.unwrap_or_else(|| raw::resume(&self.control, name, flags.bits())) {
                Err(Errno::EINTR) => {}
                Ok(()) => return Ok(()),
                Err(e) => {
                    let failure = refused(&format!("resume {name}"), e);
                    let told = self.info(name).ok();
                    let told = told.and_then(|info| kmsg::told(&log.since(), info.devno));
                    return Err(match told {
                        Some(told) => failure.hint(told),
                        None => failure,
                    });
                }
            }
        }
    }

    /// The same for a device that is nobody else's business: udev's rules do not look at what is on it.
    pub fn resume_private(&self, name: &str) -> Result<()> {
        self.resume_with(name, udev::private())
    }

    /// Has a device removed as soon as nobody has it open any more; somebody has it open now.
    pub fn remove_when_closed(&self, name: &str) -> Result<()> {
        raw::remove_when_closed(&self.control, name)
            .map_err(|e| refused(&format!("remove {name}"), e))
    }

    /// Removes a device, and its node.
    pub fn remove(&self, name: &str, devno: Devno) -> Result<()> {
        let removed = match udev::runs() {
            false => raw::remove(&self.control, name),
            true => udev::remove(name).unwrap_or_else(|| {
                // It may be gone already.
                match raw::remove(&self.control, name) {
                    Err(Errno::ENXIO) => Ok(()),
                    other => other,
                }
            }),
        };
        match removed {
            Ok(()) => {
                node::remove(name, devno);
                Ok(())
            }
            Err(Errno::EBUSY) => Err(self.in_use(name, devno)),
            Err(e) => Err(refused(&format!("remove {name}"), e)),
        }
    }

    /// Whether a device is in use. One that is merely open in a process is given a little time.
    pub fn is_in_use(&self, device: &Mapped) -> bool {
        for _ in 0..5 {
            match self.info(&device.name) {
                Ok(info) if info.opened > 0 => {}
                _ => return false,
            }
            let users = users::of(device.devno, &self.sysfs);
            if !users.iter().all(users::User::is_passing) {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        true
    }

    /// Says that a device is in use, and by whom.
    pub fn in_use(&self, name: &str, devno: Devno) -> Failure {
        let users = users::of(devno, &self.sysfs);
        let failure = Failure::new(
            Kind::Busy,
            format!("{name} is in use: {}", users::phrase(&users)),
        );
        match users::unmount(&users) {
            Some(unmount) => failure.hint(unmount),
            None => failure,
        }
    }

    /// The status of a device, as the target wrote it.
    pub fn status(&self, name: &str) -> Result<Vec<u8>> {
        match raw::lines(&self.control, name, raw::Ask::Status) {
            Ok((_, targets)) => match targets.into_iter().next() {
                Some(target) => Ok(target.params),
                None => Err(Failure::new(Kind::NotFound, format!("{name} has no table"))),
            },
            Err(Errno::ENXIO) => Err(Failure::new(Kind::NotFound, format!("{name} is gone"))),
            Err(e) => Err(refused(&format!("read the status of {name}"), e)),
        }
    }

    /// Sends a message so that a refusal comes with its reason.
    pub fn tell<W: AsRef<[u8]>>(&self, name: &str, message: &[W]) -> Result<Reply> {
        let mut text = b"try".to_vec();
        for word in message {
            words::push(&mut text, word.as_ref());
        }
        match raw::message(&self.control, name, &text) {
            Ok(reply) => Reply::parse(&reply.unwrap_or_default()).ok_or_else(|| {
                Malformed::failure(format!(
                    "{name} answered in a way this dms does not understand"
                ))
            }),
            Err(Errno::ENXIO) => Err(Failure::new(Kind::NotFound, format!("{name} is gone"))),
            Err(e) => Err(refused(&format!("send a message to {name}"), e)),
        }
    }

    /// Begins to note events, so that [`Self::wait_event`] misses none from here on.
    pub fn arm(&self) {
        // An old kernel has no such thing; then waiting is polling.
        let _ = raw::arm(&self.control);
    }

    /// Waits until some device has had an event, a signal comes, or `millis` are over.
    pub fn wait_event(&self, millis: u16) {
        let mut fds = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(millis));
    }
}

/// The device `name` with these lines in its table, if they are one of our target.
fn ours(name: &str, devno: Devno, targets: &[raw::Target]) -> Option<Mapped> {
    match targets {
        [target] if target.kind == TARGET.as_bytes() => {
            Line::parse(&target.params).map(|line| Mapped {
                name: name.to_owned(),
                devno,
                sectors: target.sectors,
                line,
            })
        }
        _ => None,
    }
}

fn refused(doing: &str, e: Errno) -> Failure {
    let kind = Kind::of_errno(&format!("{e:?}"));
    let failure = Failure::new(kind, format!("cannot {doing}: {}", e.desc()));
    match e {
        Errno::EPERM | Errno::EACCES => failure.hint("this needs root: try sudo"),
        _ => failure,
    }
}

/// Has the kernel let nobody write to a device.
pub fn make_read_only(device: &File) -> Result<()> {
    raw::set_read_only(device, true).map_err(|e| refused("make a device read-only", e))
}

/// Has it let whoever may.
pub fn make_writable(device: &File) -> Result<()> {
    raw::set_read_only(device, false).map_err(|e| refused("make a device writable", e))
}

/// Loads a module, as well as that goes.
fn modprobe(module: &str) {
    let _ = Command::new("modprobe")
        .arg("-q")
        .arg(module)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}
