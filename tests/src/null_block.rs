// SPDX-License-Identifier: GPL-2.0

//! Disks in memory of a chosen kind, by the kernel's null block driver.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::kernel;

const CONFIG: &str = "/sys/kernel/config/nullb";

/// A disk in memory that can be switched off.
pub struct NullBlock {
    name: &'static str,
    config: PathBuf,
}

impl NullBlock {
    /// One of `mib` MiB, with more `settings` than that; `name` is not to be there twice.
    pub fn new(name: &'static str, mib: u64, settings: &[(&str, &str)]) -> Result<Self> {
        if !Path::new("/sys/module/null_blk").exists() {
            kernel::run("modprobe", &["null_blk", "nr_devices=0"])?;
        }
        let config = Path::new(CONFIG).join(name);
        fs::create_dir(&config).context("a null block device")?;
        let disk = Self { name, config };
        disk.set("memory_backed", "1")?;
        disk.set("size", &mib.to_string())?;
        for (key, value) in settings {
            disk.set(key, value)?;
        }
        disk.set("power", "1")?;
        Ok(disk)
    }

    /// Its node. It is called as its folder, or by its number in older kernels.
    pub fn node(&self) -> Result<PathBuf> {
        let node = Path::new("/dev").join(self.name);
        if node.exists() {
            return Ok(node);
        }
        let index = fs::read_to_string(self.config.join("index"))?;
        Ok(format!("/dev/nullb{}", index.trim()).into())
    }

    /// Takes it away, whoever uses it.
    pub fn switch_off(&self) -> Result<()> {
        self.set("power", "0")
    }

    fn set(&self, key: &str, value: &str) -> Result<()> {
        fs::write(self.config.join(key), value).with_context(|| format!("set {key}"))
    }
}

impl Drop for NullBlock {
    fn drop(&mut self) {
        let _ = self.switch_off();
        let _ = fs::remove_dir(&self.config);
    }
}
