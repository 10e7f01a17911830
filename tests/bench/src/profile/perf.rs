// SPDX-License-Identifier: GPL-2.0

//! What the processors do while fio reads and writes, as perf samples it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

/// Samples of a processor in a second. Not a divisor of the tick's rate.
const RATE: u32 = 1999;

const PATIENCE: Duration = Duration::from_secs(20);

/// A sample stands for so many microseconds of a processor.
pub const SAMPLE_MICROS: f64 = 1e6 / RATE as f64;

/// perf, waiting to be told to begin.
pub struct Perf {
    child: Child,
    data: PathBuf,
    control: PathBuf,
}

impl Perf {
    /// Has perf wait for [`Perf::begin_command`], with its files in this folder.
    pub fn new(folder: &Path) -> Result<Self> {
        let data = folder.join("perf.data");
        let control = folder.join("control");
        let answer = folder.join("answer");
        for fifo in [&control, &answer] {
            if !fifo.exists() {
                let made = Command::new("mkfifo").arg(fifo).status()?;
                ensure!(made.success(), "mkfifo {}", fifo.display());
            }
        }
        let child = Command::new("perf")
            // Of all processors, from when it is told to.
            .args(["record", "--all-cpus", "--delay=-1", "--event=cpu-clock"])
            .arg(format!("--freq={RATE}"))
            .arg(format!(
                "--control=fifo:{},{}",
                control.display(),
                answer.display()
            ))
            .arg(format!("--output={}", data.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("perf")?;
        Ok(Self {
            child,
            data,
            control,
        })
    }

    /// The command by which it begins, for a shell; it is back when it has.
    pub fn begin_command(&self) -> String {
        self.tell("enable")
    }

    /// The command by which it ends.
    pub fn end_command(&self) -> String {
        self.tell("disable")
    }

    fn tell(&self, word: &str) -> String {
        let answer = self.control.with_file_name("answer");
        format!(
            "echo {word} >{}; read -r _ <{}",
            self.control.display(),
            answer.display()
        )
    }

    /// Ends it. Calls `each` with the address of each sample.
    pub fn finish(mut self, mut each: impl FnMut(u64)) -> Result<()> {
        let id = self.child.id().to_string();
        let _ = Command::new("kill").args(["-INT", &id]).status();
        let begin = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begin.elapsed() > PATIENCE {
                let _ = self.child.kill();
                bail!("perf does not end");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut script = Command::new("perf")
            .args(["script", "--fields=ip", "--input"])
            .arg(&self.data)
            .stderr(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("perf script")?;
        let lines = BufReader::new(script.stdout.take().context("perf script")?).lines();
        for line in lines {
            let line = line?;
            let word = line.trim();
            if !word.is_empty() {
                each(u64::from_str_radix(word, 16).with_context(|| line.clone())?);
            }
        }
        ensure!(script.wait()?.success(), "perf script has failed");
        let _ = fs::remove_file(&self.data);
        Ok(())
    }
}
