// SPDX-License-Identifier: GPL-2.0

//! Makes a run that fails as short as it gets.

use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;
use std::time::{Duration, Instant};

use crate::ops::{run, Config, Op, Stats};

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What went wrong, after how many operations.
pub struct Failure {
    pub message: String,
    pub done: usize,
}

/// Runs operations, and catches what is wrong.
pub fn attempt(config: &Config, ops: &[Op]) -> Result<Stats, Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    let mut done = 0;
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| run(config, ops, &mut done)));
    QUIET.set(false);
    result.map_err(|panic| Failure {
        message: match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(message), _) => message.clone(),
            (None, Some(message)) => message.to_string(),
            (None, None) => "a panic".to_string(),
        },
        done,
    })
}

/// How long to look for a shorter run.
const PATIENCE: Duration = Duration::from_secs(60);

/// The shortest run that can be found in a while which fails too, for whatever reason.
pub fn shrink(config: &Config, ops: &[Op]) -> (Config, Vec<Op>, Failure) {
    let mut config = config.clone();
    let mut ops = ops.to_vec();
    let Err(mut failure) = attempt(&config, &ops) else {
        panic!("it does not fail again");
    };
    let begin = Instant::now();
    let mut improved = true;
    while improved {
        improved = false;
        ops.truncate(failure.done + 1);
        if ops.len() < 500 {
            config.check_every = 1;
        }
        let mut size = ops.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < ops.len() && begin.elapsed() < PATIENCE {
                let mut fewer = ops.clone();
                fewer.drain(at..(at + size).min(ops.len()));
                if let Err(new) = attempt(&config, &fewer) {
                    fewer.truncate(new.done + 1);
                    (ops, failure) = (fewer, new);
                    improved = true;
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
        let mut at = 0;
        while at < ops.len() && begin.elapsed() < PATIENCE {
            for simpler in simpler(&ops[at]) {
                let mut changed = ops.clone();
                changed[at] = simpler;
                if simpler != ops[at] {
                    if let Err(new) = attempt(&config, &changed) {
                        (ops, failure) = (changed, new);
                    }
                }
            }
            at += 1;
        }
    }
    (config, ops, failure)
}

fn simpler(op: &Op) -> [Op; 6] {
    [
        Op { crash: 0, ..*op },
        Op { len: 0, ..*op },
        Op {
            extra: 0x700,
            ..*op
        },
        Op { pick: 0, ..*op },
        Op { origin: 0, ..*op },
        Op { start: 0, ..*op },
    ]
}
