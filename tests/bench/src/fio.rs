// SPDX-License-Identifier: GPL-2.0

//! What fio measures.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::disks::MIB;

/// How much of a device is worked on, so that it takes a moment to prepare.
pub const AREA: u64 = 64 * MIB;

/// What to do.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// fio's word for it.
    pub rw: &'static str,
    /// Bytes of a request.
    pub block: u64,
    /// How many do it, each in a part of its own.
    pub jobs: u32,
    /// Goes on for so long, over and over; `None`: once over all of the area, or 3 s.
    pub seconds: Option<u32>,
    /// Bytes of the area.
    pub area: u64,
    /// On this.
    pub device: &'a Path,
}

impl Job<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new("fio");
        let part = self.area / u64::from(self.jobs);
        command
            .args(["--name=work", "--ioengine=io_uring", "--direct=1"])
            .args(["--iodepth=16", "--group_reporting", "--output-format=json"])
            // Each block once, in an order that costs nothing to find.
            .args(["--random_generator=lfsr", "--randrepeat=0"])
            .arg(format!("--filename={}", self.device.display()))
            .arg(format!("--rw={}", self.rw))
            .arg(format!("--bs={}", self.block))
            .arg(format!("--numjobs={}", self.jobs))
            .arg(format!("--size={part}"))
            .arg(format!("--offset_increment={part}"));
        match self.seconds {
            Some(seconds) => command.args(["--time_based", &format!("--runtime={seconds}")]),
            None => command.arg("--runtime=3"),
        };
        command
    }

    /// Runs it. Returns MB/s.
    pub fn run(&self) -> Result<f64> {
        Ok(finish(self.command())?.speed)
    }

    /// Runs it, and commands around it.
    pub fn run_between(&self, between: &Between<'_>) -> Result<Done> {
        let mut command = self.command();
        // It adds a redirection of its own to them, which goes for all only of a subshell.
        command
            .current_dir(between.folder)
            .arg(format!("--exec_prerun=({})", between.before))
            .arg(format!("--exec_postrun=({})", between.after));
        finish(command)
    }

    /// Has it run until what is returned goes out of scope.
    pub fn begin(&self) -> Result<Running> {
        let mut command = self.command();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Running(command.spawn().context("fio")?))
    }
}

/// Shell commands in a folder, for when fio has set all up and when it has done its work. With several
/// jobs each has them run.
pub struct Between<'a> {
    /// There.
    pub folder: &'a Path,
    /// First.
    pub before: String,
    /// Last.
    pub after: String,
}

/// What fio has done.
pub struct Done {
    /// MB/s.
    pub speed: f64,
    /// How many requests.
    pub requests: f64,
}

fn finish(mut command: Command) -> Result<Done> {
    let output = command.output().context("fio")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "fio: {text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Notes come before it.
    let start = text.find('{').context("fio printed no JSON")?;
    let value: Value = serde_json::from_str(&text[start..]).context("fio's JSON")?;
    let job = &value["jobs"][0];
    ensure!(job["error"] == 0, "fio: error {}", job["error"]);
    let sum = |what: &str| {
        let of = |kind: &str| job[kind][what].as_f64().unwrap_or(0.0);
        of("read") + of("write")
    };
    let (bytes, requests) = (sum("bw_bytes"), sum("total_ios"));
    ensure!(bytes > 0.0 && requests > 0.0, "fio did nothing");
    Ok(Done {
        speed: bytes / 1e6,
        requests,
    })
}

/// A job that goes on.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Its workers end with it.
        let _ = Command::new("kill")
            .arg("-INT")
            .arg(self.0.id().to_string())
            .status();
        let _ = self.0.wait();
    }
}

/// Random requests of 4 KiB of all of the area.
pub fn small<'a>(device: &'a Path, rw: &'static str) -> Job<'a> {
    Job {
        rw,
        block: 4096,
        jobs: 1,
        seconds: None,
        area: AREA,
        device,
    }
}

/// Requests of 1 MiB, one behind the other.
pub fn long<'a>(device: &'a Path, rw: &'static str) -> Job<'a> {
    Job {
        block: MIB,
        ..small(device, rw)
    }
}
