// SPDX-License-Identifier: GPL-2.0

//! What a target has decided about a bio.

use super::{bio::TargetBio, status::Status, target::Target};

/// What [`Target::map`] has decided.
///
/// That another bio is returned than the one that was to be mapped (which must then have gone
/// elsewhere) does no harm: it is dealt with as decided.
pub(crate) enum MapAction<T: Target> {
    /// The bio has gone elsewhere, and ends later (or has ended).
    Submitted,
    /// Device-mapper is to send it where it has been directed: see [`TargetBio::remap`].
    Remapped(Remapped<T>),
    /// The bio fails, with [`Status::IOERR`].
    Kill(TargetBio<T>),
    /// Device-mapper is to try again after the next resume: see [`Status::DM_REQUEUE`].
    Requeue(TargetBio<T>),
    /// The bio ends with this status.
    End(TargetBio<T>, Status),
}

/// A bio that has been directed to a device, and not been sent. Dropping it ends the bio with
/// [`Status::IOERR`].
pub(crate) struct Remapped<T: Target>(TargetBio<T>);

impl<T: Target> Remapped<T> {
    /// For [`TargetBio::remap`].
    pub(super) fn new(bio: TargetBio<T>) -> Self {
        Self(bio)
    }

    /// The bio itself.
    pub(super) fn into_inner(self) -> TargetBio<T> {
        self.0
    }
}

/// What [`Target::end_io`] has decided.
pub(crate) enum EndAction<T: Target> {
    /// The bio ends with this status.
    Done(TargetBio<T>, Status),
    /// The bio has gone elsewhere, and ends later (or has ended).
    Keep,
}
