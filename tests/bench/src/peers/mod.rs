// SPDX-License-Identifier: GPL-2.0

//! Those that are measured, set up as their own documentation says.

pub mod classic;
pub mod linear;
pub mod ours;
pub mod thin;

use std::path::PathBuf;

use anyhow::{Context, Result};
use dms_tests::dm::Mapped;

/// Devices that stand on each other: the last one goes first.
#[derive(Default)]
pub struct Stack(Vec<Mapped>);

impl Stack {
    /// Puts one on top.
    pub fn push(&mut self, device: Mapped) -> &Mapped {
        self.0.push(device);
        &self.0[self.0.len() - 1]
    }

    /// The one that was put there as number `index`, from 0.
    pub fn get(&self, index: usize) -> Result<&Mapped> {
        self.0.get(index).context("no such device")
    }

    /// The path of that one.
    pub fn path(&self, index: usize) -> Result<PathBuf> {
        Ok(self.get(index)?.path())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        while let Some(device) = self.0.pop() {
            drop(device);
        }
    }
}
