// SPDX-License-Identifier: GPL-2.0

//! The kernel around the tests: its log, its modules.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{bail, ensure, Context, Result};

/// The kernel's log from some moment on.
pub struct Log {
    file: File,
}

impl Log {
    /// From now on.
    pub fn from_now() -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file })
    }

    /// What was logged since, or since the last call.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut record = [0u8; 8192];
        loop {
            match self.file.read(&mut record) {
                Ok(0) => break,
                Ok(n) => {
                    let text = String::from_utf8_lossy(&record[..n]);
                    // "priority,number,time,flags;text\n key=value\n"
                    let text = text.split_once(';').map_or("", |(_, text)| text);
                    lines.push(text.lines().next().unwrap_or_default().to_owned());
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // Overwritten before it was read.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(lines)
    }
}

/// Runs a command that must succeed and returns what it prints.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Loads a module of the kernel's own.
pub fn modprobe(module: &str) -> Result<()> {
    run("modprobe", &[module]).map(drop)
}

const MODULE: &str = "/payload/dm-snap-mv.ko";

/// Takes the module out. There must be no device of it.
pub fn unload() -> Result<()> {
    run("rmmod", &["dm_snap_mv"])?;
    ensure!(
        !Path::new("/sys/module/dm_snap_mv").exists(),
        "the module is still there"
    );
    Ok(())
}

/// Brings the module back.
pub fn load() -> Result<()> {
    let path = std::env::var("TEST_MODULE").unwrap_or_else(|_| MODULE.to_owned());
    if !Path::new(&path).exists() {
        bail!("there is no {path}");
    }
    run("insmod", &[&path]).map(drop)
}

/// Out and in again: nothing that was only in memory is left.
pub fn reload() -> Result<()> {
    unload()?;
    load()
}
