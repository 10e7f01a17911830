// SPDX-License-Identifier: GPL-2.0

//! Allocations that fail on demand: the kernel's failslab and fail_page_alloc.
//!
//! Only those count that have the module among their callers, or what of the kernel's device-mapper
//! works for it in threads of its own.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{ensure, Context, Result};

use crate::kernel::Log;

/// What fails allocations, each a folder of debugfs.
const KINDS: [&str; 2] = ["failslab", "fail_page_alloc"];

/// Which allocations fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plan {
    /// None.
    Nothing,
    /// The one with this number, counted from 1, that the calling thread makes.
    Caller(u32),
    /// One in so many that the store's worker makes, once: of small pieces, or of whole pages. If
    /// the same was the plan before and an allocation failed, it is the one with this number.
    Worker {
        /// Whole pages.
        pages: bool,
        /// In how many.
        nth: u32,
    },
    /// So many percent of all.
    Random(u32),
    /// So many percent of those that the kernel's code makes which the module has copy and read
    /// and write for it.
    Beneath(Helper, u32),
}

/// Code of the kernel's that works for the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Helper {
    /// dm-io and dm-kcopyd.
    Copies,
    /// dm-bufio.
    Buffers,
}

/// The kernel's switches.
pub struct Faults {
    /// `None`: nothing can be planned.
    switches: Option<Switches>,
    plan: Plan,
    log: Log,
    /// Whether the last [`Faults::run`] met an allocation that failed.
    pub hit: bool,
    /// Where that was, under [`Plan::Caller`] and [`Plan::Worker`]: the calls that led to it.
    pub site: Option<String>,
    /// How many it met, of random ones.
    pub struck: u32,
    /// How many allocations of the caller's there were in the last run, if it was under
    /// [`Plan::Caller`] and none failed.
    pub counted: u32,
}

/// Where the code is from the function `first` to the end of the function `last`, which the kernel
/// has from one source file, or from two that follow one another.
fn code_between(first: &str, last: &str) -> Result<Range<u64>> {
    /// More than these have.
    const LARGEST: u64 = 256 << 10;
    let text = fs::read_to_string("/proc/kallsyms")?;
    let mut symbols: Vec<(u64, &str)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let at = u64::from_str_radix(words.next()?, 16).ok()?;
            let kind = words.next()?;
            matches!(kind, "t" | "T").then_some((at, words.next()?))
        })
        .collect();
    symbols.sort_unstable();
    let find = |name: &str| symbols.iter().find(|s| s.1 == name).map(|s| s.0);
    let (start, last) = find(first).zip(find(last)).context("no such functions")?;
    let end = symbols.iter().map(|s| s.0).find(|&at| at > last);
    let end = end.context("nothing behind it")?;
    ensure!(
        start < end && end - start < LARGEST,
        "{first} is at {start:#x}, and what is behind it at {end:#x}"
    );
    Ok(start..end)
}

/// Where the code of functions with `word` in their names is; all of the module's without.
fn code(word: &str) -> Result<Range<u64>> {
    let text = fs::read_to_string("/proc/kallsyms")?;
    let mut symbols: Vec<(u64, bool)> = text
        .lines()
        .filter(|line| line.ends_with("[dm_snap_mv]"))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let at = u64::from_str_radix(words.next()?, 16).ok()?;
            let kind = words.next()?;
            let name = words.next()?;
            matches!(kind, "t" | "T").then(|| (at, name.contains(word)))
        })
        .collect();
    symbols.sort_unstable();
    let first = symbols.iter().position(|s| s.1);
    let last = symbols.iter().rposition(|s| s.1);
    let (first, last) = first.zip(last).context("no such function of the module")?;
    let end = symbols
        .get(last + 1)
        .map_or(symbols[last].0 + 4096, |s| s.0);
    Ok(symbols[first].0..end)
}

fn set(kind: &str, name: &str, value: impl std::fmt::Display) -> Result<()> {
    let path = format!("/sys/kernel/debug/{kind}/{name}");
    fs::write(&path, value.to_string()).with_context(|| format!("{path} = {value}"))
}

fn get(kind: &str, name: &str) -> Result<i64> {
    let path = format!("/sys/kernel/debug/{kind}/{name}");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    text.trim().parse().with_context(|| path)
}

/// What the kernel has for it, and where the code is whose allocations count.
struct Switches {
    nth: File,
    module: Range<u64>,
    worker: Range<u64>,
    copies: Range<u64>,
    buffers: Range<u64>,
}

impl Faults {
    /// Whether this kernel can have allocations fail.
    pub fn are_possible() -> bool {
        KINDS
            .iter()
            .all(|kind| Path::new(&format!("/sys/kernel/debug/{kind}")).exists())
    }

    /// For a kernel that cannot: nothing ever fails.
    pub fn none() -> Result<Self> {
        Ok(Self {
            switches: None,
            plan: Plan::Nothing,
            log: Log::from_now()?,
            hit: false,
            site: None,
            struck: 0,
            counted: 0,
        })
    }

    /// The switches, all off.
    pub fn new() -> Result<Self> {
        for kind in KINDS {
            let folder = format!("/sys/kernel/debug/{kind}");
            ensure!(
                Path::new(&folder).exists(),
                "the kernel has no {folder}: it wants to be the debug kernel"
            );
            for (name, value) in [
                ("verbose", "0"),
                ("verbose_ratelimit_interval_ms", "0"),
                ("probability", "0"),
                ("space", "0"),
                ("task-filter", "N"),
                ("ignore-gfp-wait", "N"),
            ] {
                set(kind, name, value)?;
            }
        }
        set("fail_page_alloc", "min-order", 0)?;
        let switches = Switches {
            nth: OpenOptions::new()
                .read(true)
                .write(true)
                .open("/proc/thread-self/fail-nth")?,
            module: code("")?,
            worker: code("WorkItem3run")?,
            copies: code_between("dm_io_client_create", "kcopyd_put_pages")?,
            buffers: code_between("dm_bufio_get", "dm_bufio_set_sector_offset")?,
        };
        Ok(Self {
            switches: Some(switches),
            plan: Plan::Nothing,
            log: Log::from_now()?,
            hit: false,
            site: None,
            struck: 0,
            counted: 0,
        })
    }

    fn callers(range: &Range<u64>) -> Result<()> {
        for kind in KINDS {
            set(kind, "require-start", format!("{:#x}", range.start))?;
            set(kind, "require-end", format!("{:#x}", range.end))?;
        }
        Ok(())
    }

    /// What is to fail in the next runs.
    pub fn plan(&mut self, plan: Plan) -> Result<()> {
        self.plan = plan;
        let Some(switches) = &self.switches else {
            ensure!(plan == Plan::Nothing, "this kernel cannot do {plan:?}");
            return Ok(());
        };
        // With all calls, of the one that fails.
        let one = matches!(plan, Plan::Caller(_) | Plan::Worker { .. });
        for kind in KINDS {
            set(kind, "verbose", if one { 2 } else { 0 })?;
        }
        match plan {
            Plan::Worker { .. } => Self::callers(&switches.worker),
            Plan::Beneath(Helper::Copies, _) => Self::callers(&switches.copies),
            Plan::Beneath(Helper::Buffers, _) => Self::callers(&switches.buffers),
            _ => Self::callers(&switches.module),
        }
    }

    /// Runs something with allocations failing as planned. Only for the thread that made this.
    pub fn run<R>(&mut self, run: impl FnOnce() -> R) -> Result<R> {
        self.log.lines()?;
        let result = self.run_planned(run)?;
        let lines = self.log.lines()?;
        self.site = site(&lines);
        Ok(result)
    }

    fn run_planned<R>(&mut self, run: impl FnOnce() -> R) -> Result<R> {
        /// More than will.
        const MANY: i64 = 1 << 30;
        self.hit = false;
        self.struck = 0;
        let Some(switches) = &self.switches else {
            return Ok(run());
        };
        match self.plan {
            Plan::Nothing => Ok(run()),
            Plan::Caller(number) => {
                // Nothing but the run itself may come between the two.
                switches.nth.write_at(number.to_string().as_bytes(), 0)?;
                let result = run();
                let mut left = [0u8; 16];
                let n = switches.nth.read_at(&mut left, 0)?;
                switches.nth.write_at(b"0", 0)?;
                let left: u32 = String::from_utf8_lossy(&left[..n]).trim().parse()?;
                self.hit = left == 0;
                self.counted = number - left;
                Ok(result)
            }
            Plan::Worker { pages, nth } => {
                let kind = KINDS[usize::from(pages)];
                set(kind, "interval", nth)?;
                set(kind, "times", 1)?;
                set(kind, "probability", 100)?;
                let result = run();
                set(kind, "probability", 0)?;
                self.hit = get(kind, "times")? == 0;
                Ok(result)
            }
            Plan::Random(percent) | Plan::Beneath(_, percent) => {
                for kind in KINDS {
                    set(kind, "interval", 1)?;
                    set(kind, "times", MANY)?;
                    set(kind, "probability", percent)?;
                }
                let result = run();
                for kind in KINDS {
                    set(kind, "probability", 0)?;
                    self.struck += (MANY - get(kind, "times")?) as u32;
                }
                self.hit = self.struck > 0;
                Ok(result)
            }
        }
    }
}

/// The calls that led to the allocation that failed last, innermost first, as the kernel logs them.
fn site(lines: &[String]) -> Option<String> {
    let last = lines
        .iter()
        .rposition(|line| line.contains("FAULT_INJECTION: forcing a failure"))?;
    let calls = lines[last..]
        .iter()
        .take_while(|line| !line.contains("</TASK>"))
        .map(|line| line.trim())
        // What it is not sure of has a question mark.
        .filter(|line| line.contains("+0x") && !line.starts_with('?'));
    Some(calls.collect::<Vec<_>>().join("\n"))
}

impl Drop for Faults {
    fn drop(&mut self) {
        let Some(switches) = &self.switches else {
            return;
        };
        let _ = switches.nth.write_at(b"0", 0);
        for kind in KINDS {
            let _ = set(kind, "probability", 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::site;

    #[test]
    fn calls_of_the_last_failure() {
        let log = "FAULT_INJECTION: forcing a failure.\n old+0x1/0x2\n </TASK>\n\
                   FAULT_INJECTION: forcing a failure.\nname failslab, interval 1\n\
                   CPU: 0 UID: 0 PID: 1\nCall Trace:\n <TASK>\n dump_stack_lvl+0x6f/0xb0\n \
                   ? maybe+0x1/0x2\n mempool_init_node+0x1/0x2\n RIP: 0033:0x7f\n </TASK>\n\
                   after+0x1/0x2";
        let lines: Vec<String> = log.lines().map(str::to_owned).collect();
        let expected = "dump_stack_lvl+0x6f/0xb0\nmempool_init_node+0x1/0x2";
        assert_eq!(site(&lines).as_deref(), Some(expected));
        assert_eq!(site(&[]), None);
    }
}
