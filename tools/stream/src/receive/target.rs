// SPDX-License-Identifier: GPL-2.0
//! What is received into, and where it is noted what that holds.

use super::local::{Local, Unlike};
use crate::version::{Content, Version};
use std::io;

/// A device, or a file that holds what one would.
///
/// What is written is on stable storage when [`Target::sync`] has returned, and before that may be
/// or not, in any part.
pub trait Target {
    /// Its size in sectors; none: it is not there yet, and is made by [`Target::extend`].
    ///
    /// # Errors
    ///
    /// It cannot be told.
    fn sectors(&self) -> io::Result<Option<u64>>;

    /// Whether it can be made larger and smaller.
    fn is_elastic(&self) -> bool;

    /// Reads whole sectors from the given one on, until the buffer is full.
    ///
    /// # Errors
    ///
    /// They cannot be read, or are not there.
    fn read(&mut self, start: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes whole sectors from the given one on.
    ///
    /// # Errors
    ///
    /// It failed; some of them may have been written.
    fn write(&mut self, start: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes so many sectors from the given one on zeroes.
    ///
    /// # Errors
    ///
    /// It failed; some of them may be.
    fn zero(&mut self, start: u64, sectors: u64) -> io::Result<()>;

    /// Makes it at least so large, if it is elastic, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be so large.
    fn extend(&mut self, sectors: u64) -> io::Result<()>;

    /// Makes it exactly so large, if it is elastic.
    ///
    /// # Errors
    ///
    /// It failed.
    fn fit(&mut self, sectors: u64) -> io::Result<()>;

    /// Has all that was done on stable storage.
    ///
    /// # Errors
    ///
    /// It is not, and cannot be relied on.
    fn sync(&mut self) -> io::Result<()>;

    /// Puts aside what it holds now, on stable storage, in the place of what was put aside before.
    ///
    /// # Errors
    ///
    /// That cannot be done with it.
    fn keep(&mut self) -> io::Result<()>;

    /// Whether anything is put aside.
    ///
    /// # Errors
    ///
    /// It cannot be told.
    fn has_kept(&self) -> io::Result<bool>;

    /// Makes it what was put aside, durably. If that is not there any more, it was done before.
    ///
    /// # Errors
    ///
    /// It failed.
    fn restore(&mut self) -> io::Result<()>;

    /// Gives up what was put aside, if anything was.
    ///
    /// # Errors
    ///
    /// It failed.
    fn drop_kept(&mut self) -> io::Result<()>;

    /// Removes the target itself, if it can be and is there.
    ///
    /// # Errors
    ///
    /// It failed.
    fn remove(&mut self) -> io::Result<()>;

    /// If it keeps versions of itself: as what the next one will be taken, or later.
    ///
    /// # Errors
    ///
    /// It cannot be told.
    fn next(&mut self) -> io::Result<Option<Local>> {
        Ok(None)
    }

    /// Whether it is what it was when this was taken, by all means: if not, why not.
    ///
    /// # Errors
    ///
    /// It cannot be told.
    fn unlike(&mut self, _local: &Local) -> io::Result<Option<Unlike>> {
        Ok(Some(Unlike::Another))
    }

    /// Whether this is still there, and has never been changed: if not, why not.
    ///
    /// # Errors
    ///
    /// It cannot be told.
    fn lost(&mut self, _local: &Local) -> io::Result<Option<Unlike>> {
        Ok(Some(Unlike::Another))
    }

    /// What was taken of it as it is now, as this or later, for a version that was received.
    ///
    /// # Errors
    ///
    /// It cannot be told.
    fn taken(&mut self, _next: &Local, _version: &Version) -> io::Result<Option<Local>> {
        Ok(None)
    }

    /// Takes one, durably, of a content that was received.
    ///
    /// # Errors
    ///
    /// It failed; it may have been taken.
    fn take(&mut self, _content: &Content) -> io::Result<Local> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes it again what it was when this was taken, durably. May have been done, or begun, before.
    ///
    /// # Errors
    ///
    /// It failed.
    fn go_back(&mut self, _local: &Local) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Where it is noted what a target holds.
pub trait Notes {
    /// What was noted last; none: nothing is.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    fn load(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// Notes this in the place of what was noted before. Durable when it returns; if it is
    /// interrupted, either the one or the other is there.
    ///
    /// # Errors
    ///
    /// It failed; either may be there.
    fn store(&mut self, note: &[u8]) -> io::Result<()>;

    /// Notes nothing any more.
    ///
    /// # Errors
    ///
    /// It failed.
    fn remove(&mut self) -> io::Result<()>;
}
