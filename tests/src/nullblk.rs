// SPDX-License-Identifier: GPL-2.0

//! Disks in memory with a write cache whose power can be cut: what was not flushed is lost,
//! all of it or, where the cache ran over, some of it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::kernel;

const CONFIG: &str = "/sys/kernel/config/nullb";

/// A null block device. It goes, with its content, when it goes out of scope.
pub struct NullBlock {
    name: String,
}

impl NullBlock {
    /// A device of `mib` MiB with more settings of the driver's.
    pub fn new(name: &str, mib: u32, settings: &[(&str, &str)]) -> Result<Self> {
        if !PathBuf::from(CONFIG).exists() {
            kernel::run("modprobe", &["null_blk", "nr_devices=0"])?;
        }
        let name = format!("t-{name}");
        fs::create_dir(format!("{CONFIG}/{name}")).context("configure a null block device")?;
        let device = Self { name };
        device.set("size", &mib.to_string())?;
        device.set("memory_backed", "1")?;
        for (key, value) in settings {
            device.set(key, value)?;
        }
        device.set("power", "1")?;
        Ok(device)
    }

    fn set(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("{CONFIG}/{}/{key}", self.name);
        fs::write(&path, value).with_context(|| format!("{path} = {value}"))
    }

    /// Its node.
    pub fn path(&self) -> PathBuf {
        format!("/dev/{}", self.name).into()
    }

    /// Off and on again: what its cache held is gone. Nobody may have it open.
    pub fn cut_power(&self) -> Result<()> {
        self.set("power", "0")?;
        self.set("power", "1")
    }
}

impl Drop for NullBlock {
    fn drop(&mut self) {
        let _ = self.set("power", "0");
        let _ = fs::remove_dir(format!("{CONFIG}/{}", self.name));
    }
}
