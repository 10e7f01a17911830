// SPDX-License-Identifier: GPL-2.0
//! Whether there is anything on a target that one would be sorry for.

use super::target::Target;
use crate::frame::{PAYLOAD, SECTOR};
use std::io;

/// Whether it is not there, or empty, or begins and ends with zeroes: 1 MiB of them.
///
/// # Errors
///
/// It cannot be read.
pub fn is_blank(target: &mut dyn Target) -> io::Result<bool> {
    let Some(sectors) = target.sectors()? else {
        return Ok(true);
    };
    let most = sectors.min(PAYLOAD as u64 / SECTOR);
    let mut buffer = vec![0; (most * SECTOR) as usize];
    for start in [0, sectors - most] {
        target.read(start, &mut buffer)?;
        if buffer.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}
