// SPDX-License-Identifier: GPL-2.0

//! Cases and what became of them.

use std::any::Any;
use std::io::Write;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Instant;

use anyhow::{anyhow, Result};

use crate::effort::Part;
use crate::{checked, dm};

/// One subject's cases.
pub struct Subject {
    name: &'static str,
    only: Option<String>,
    part: Part,
    /// How many cases were met so far.
    met: u32,
    begin: Instant,
    passed: u32,
    failed: u32,
}

impl Subject {
    /// A subject; of its cases only those with `only` in their name are run.
    pub fn new(name: &'static str, only: Option<String>) -> Self {
        Self {
            name,
            only,
            part: Part::from_environment(),
            met: 0,
            begin: Instant::now(),
            passed: 0,
            failed: 0,
        }
    }

    /// Runs one case and prints what became of it. A case that panics has failed.
    pub fn case(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        self.counted_case(name, || run().map(|()| String::new()));
    }

    /// The same for one that tells how much it has tried.
    pub fn counted_case(&mut self, name: &str, run: impl FnOnce() -> Result<String>) {
        if !self.is_wanted(name) {
            return;
        }
        let begin = Instant::now();
        let before = dm::devices().unwrap_or_default();
        let result = catch_unwind(AssertUnwindSafe(run))
            .unwrap_or_else(|panic| Err(anyhow!("panic: {}", panic_text(&*panic))));
        let result = result.and_then(|tried| leftovers(&before).map(|()| tried));
        let complaints = checked::complaints();
        let result = result.and_then(|tried| complaints.map(|()| tried));
        let seconds = begin.elapsed().as_secs_f32();
        match result {
            Ok(tried) => {
                self.passed += 1;
                let tried = match tried.as_str() {
                    "" => String::new(),
                    tried => format!(" ({tried})"),
                };
                println!("ok {}: {name}{tried}", self.name);
            }
            Err(e) => {
                self.failed += 1;
                let why = format!("{e:#}").replace('\n', " | ");
                println!("not ok {}: {name}: {why}", self.name);
                if let Err(e) = sweep(&before) {
                    println!("# {e:#}");
                }
            }
        }
        if std::env::var_os("TEST_TIMES").is_some() {
            println!("# {seconds:.1} s");
        }
        let _ = std::io::stdout().flush();
    }

    fn is_wanted(&mut self, name: &str) -> bool {
        let only = self.only.as_deref();
        if only.is_some_and(|only| !name.contains(only)) {
            return false;
        }
        let number = self.met;
        self.met += 1;
        self.part.has(number)
    }

    /// Prints the sum; true if all is well.
    pub fn end(self) -> bool {
        println!(
            "# {}: {} of {} cases in {:.0} s",
            self.name,
            self.passed,
            self.passed + self.failed,
            self.begin.elapsed().as_secs_f32()
        );
        self.failed == 0
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("?")
}

/// Devices that there were not before.
fn more_than(before: &[String]) -> Result<Vec<String>> {
    let mut names = dm::devices()?;
    names.retain(|name| !before.contains(name));
    Ok(names)
}

/// A case that leaves devices behind would spoil the next one.
fn leftovers(before: &[String]) -> Result<()> {
    let left = more_than(before)?;
    anyhow::ensure!(left.is_empty(), "devices are left: {}", left.join(" "));
    Ok(())
}

/// Removes what a failed case has left. A device may stand on another, so it takes rounds.
fn sweep(before: &[String]) -> Result<()> {
    let mut left = more_than(before)?;
    while !left.is_empty() {
        for name in left.iter().rev() {
            let _ = dm::remove_once(name);
        }
        let now = more_than(before)?;
        anyhow::ensure!(
            now.len() < left.len(),
            "cannot be removed: {}",
            now.join(" ")
        );
        left = now;
    }
    Ok(())
}
