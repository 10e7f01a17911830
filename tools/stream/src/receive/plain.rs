// SPDX-License-Identifier: GPL-2.0
//! A block device, or a file.

use super::notes::{remove, sync_folder, with};
use super::target::Target;
use crate::frame::{PAYLOAD, SECTOR};
use nix::errno::Errno;
use nix::fcntl::{fallocate, FallocateFlags, Flock, FlockArg, OFlag};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Behind a file's name: what it held before.
const KEPT: &str = ".dms-kept";

/// The target.
pub struct Plain {
    path: PathBuf,
    device: bool,
    file: Option<File>,
    /// Nobody else receives into it.
    lock: Option<Flock<File>>,
}

impl Plain {
    /// Opens what is there, and makes nothing. Of a device nobody else may have anything, be it a
    /// mounted file system or another device; a file nobody else may be receiving into.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::ResourceBusy`]: somebody has. [`io::ErrorKind::InvalidInput`]: it is neither.
    /// Else it cannot be opened, or there is no folder for it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = match fs::canonicalize(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            other => other?,
        };
        let meta = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other?),
        };
        let device = meta
            .as_ref()
            .is_some_and(|meta| meta.file_type().is_block_device());
        if meta.as_ref().is_some_and(|meta| !meta.is_file() && !device) {
            let what = "it is neither a block device nor a file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let mut plain = Self {
            path,
            device,
            file: None,
            lock: None,
        };
        if meta.is_some() {
            plain.attach(false)?;
        } else {
            // Better now than after the first frame.
            sync_folder(&plain.path)?;
        }
        Ok(plain)
    }

    fn attach(&mut self, make: bool) -> io::Result<()> {
        let exclusive = match self.device {
            true => OFlag::O_EXCL,
            false => OFlag::empty(),
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(make)
            .custom_flags(exclusive.bits())
            .open(&self.path)?;
        if !self.device {
            let lock = Flock::lock(file.try_clone()?, FlockArg::LockExclusiveNonblock);
            self.lock = match lock {
                Ok(lock) => Some(lock),
                Err((_, Errno::EAGAIN)) => return Err(io::ErrorKind::ResourceBusy.into()),
                Err((_, error)) => return Err(error.into()),
            };
        }
        self.file = Some(file);
        Ok(())
    }

    /// Its path, with links followed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a device.
    pub fn is_device(&self) -> bool {
        self.device
    }

    /// If it is a file that is there: the number of the device that it is on, and of its inode.
    ///
    /// # Errors
    ///
    /// It cannot be told.
    pub fn inode(&self) -> io::Result<Option<(u64, u64)>> {
        match &self.file {
            Some(file) if !self.device => {
                let meta = file.metadata()?;
                Ok(Some((meta.dev(), meta.ino())))
            }
            _ => Ok(None),
        }
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or(io::ErrorKind::NotFound.into())
    }

    fn kept(&self) -> PathBuf {
        with(&self.path, KEPT)
    }
}

fn offset(sector: u64) -> io::Result<u64> {
    sector
        .checked_mul(SECTOR)
        .ok_or(io::ErrorKind::InvalidInput.into())
}

fn signed(bytes: u64) -> io::Result<i64> {
    bytes
        .try_into()
        .map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl Target for Plain {
    fn sectors(&self) -> io::Result<Option<u64>> {
        let Some(mut file) = self.file.as_ref() else {
            return Ok(None);
        };
        let bytes = match self.device {
            true => file.seek(SeekFrom::End(0))?,
            false => file.metadata()?.len(),
        };
        Ok(Some(bytes / SECTOR))
    }

    fn is_elastic(&self) -> bool {
        !self.device
    }

    fn read(&mut self, start: u64, into: &mut [u8]) -> io::Result<()> {
        self.file()?.read_exact_at(into, offset(start)?)
    }

    fn write(&mut self, start: u64, bytes: &[u8]) -> io::Result<()> {
        self.file()?.write_all_at(bytes, offset(start)?)
    }

    /// As a hole, where there can be one.
    fn zero(&mut self, start: u64, sectors: u64) -> io::Result<()> {
        let (at, len) = (offset(start)?, offset(sectors)?);
        let how = match self.device {
            true => FallocateFlags::FALLOC_FL_ZERO_RANGE,
            false => FallocateFlags::FALLOC_FL_PUNCH_HOLE,
        };
        let how = how | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(self.file()?, how, signed(at)?, signed(len)?) {
            Ok(()) => return Ok(()),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL | Errno::ENODEV) => {}
            Err(error) => return Err(error.into()),
        }
        let zeroes = vec![0; PAYLOAD];
        let end = at + len;
        let mut at = at;
        while at < end {
            let some = (end - at).min(PAYLOAD as u64);
            let bytes = zeroes.get(..some as usize).unwrap_or_default();
            self.file()?.write_all_at(bytes, at)?;
            at += some;
        }
        Ok(())
    }

    fn extend(&mut self, sectors: u64) -> io::Result<()> {
        if self.device {
            return Ok(());
        }
        if self.file.is_none() {
            self.attach(true)?;
            sync_folder(&self.path)?;
        }
        let bytes = offset(sectors)?;
        if self.file()?.metadata()?.len() < bytes {
            self.file()?.set_len(bytes)?;
        }
        self.file()?.sync_all()
    }

    fn fit(&mut self, sectors: u64) -> io::Result<()> {
        let bytes = offset(sectors)?;
        if self.device || self.file()?.metadata()?.len() == bytes {
            return Ok(());
        }
        self.file()?.set_len(bytes)?;
        self.file()?.sync_all()
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file()?.sync_data()
    }

    /// By a reflink, so that it takes no time and no space.
    fn keep(&mut self) -> io::Result<()> {
        if self.device {
            let what = "it is a device";
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        let path = self.kept();
        let kept = File::create(&path)?;
        // What has not been written yet is not cloned on every file system.
        self.file()?.sync_all()?;
        if let Err(error) = clone(self.file()?, &kept) {
            drop(remove(&path));
            return Err(error);
        }
        kept.sync_all()?;
        sync_folder(&path)
    }

    fn has_kept(&self) -> io::Result<bool> {
        Ok(!self.device && self.kept().try_exists()?)
    }

    fn restore(&mut self) -> io::Result<()> {
        let path = self.kept();
        match fs::rename(&path, &self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => sync_folder(&self.path)?,
        }
        (self.file, self.lock) = (None, None);
        self.attach(false)
    }

    fn drop_kept(&mut self) -> io::Result<()> {
        remove(&self.kept())
    }

    fn remove(&mut self) -> io::Result<()> {
        if self.device {
            return Ok(());
        }
        remove(&self.path)?;
        (self.file, self.lock) = (None, None);
        Ok(())
    }
}

mod request {
    // FICLONE, which has the number of a file for its argument.
    nix::ioctl_write_int!(clone, 0x94, 9);
}

/// Makes a file share all that another one holds.
fn clone(from: &File, to: &File) -> io::Result<()> {
    let source = from.as_raw_fd() as nix::sys::ioctl::ioctl_param_type;
    // SAFETY: Both are open for the time of the call, which takes no pointers.
    #[allow(unsafe_code)]
    unsafe { request::clone(to.as_raw_fd(), source) }?;
    Ok(())
}
