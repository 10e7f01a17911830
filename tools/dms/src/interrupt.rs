// SPDX-License-Identifier: GPL-2.0
//! Signals that ask the program to end, noted rather than obeyed at once: a device that was
//! suspended must be resumed first.

use crate::failure::{Failure, Kind, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static CAME: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The signals by which people and systems end a program.
const NOTED: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// Signals are noted, from the first time somebody watches for them to the program's end.
#[derive(Clone)]
pub struct Interrupt {
    came: Arc<AtomicBool>,
}

impl Interrupt {
    /// Begins to note.
    pub fn watch() -> Result<Self> {
        if let Some(came) = CAME.get() {
            return Ok(Self { came: came.clone() });
        }
        let came = CAME.get_or_init(Arc::default).clone();
        for signal in NOTED {
            signal_hook::flag::register(signal as i32, came.clone())
                .and_then(|_| end_calls(signal).map_err(Into::into))
                .map_err(|e| Failure::new(Kind::Refused, format!("cannot catch signals: {e}")))?;
        }
        Ok(Self { came })
    }

    /// One for tests, which no signal reaches: others of the same process may raise some.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self {
            came: Arc::default(),
        }
    }

    /// Whether one has come.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    /// What becomes readable when one comes, after which [`Interrupt::came`] says so, and its other end, by
    /// which others can do the same. What is written there must not wait.
    pub fn pair(&self) -> Result<(UnixStream, UnixStream)> {
        let made = || {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            write.set_nonblocking(true)?;
            for signal in NOTED {
                signal_hook::low_level::pipe::register(signal as i32, write.try_clone()?)?;
            }
            std::io::Result::Ok((read, write))
        };
        made().map_err(|e| Failure::new(Kind::Refused, format!("cannot catch signals: {e}")))
    }

    /// Has all other signals wait, too, that would end or stop the program, as far as the
    /// kernel lets them.
    ///
    /// Those that are noted do not wait: they do no harm, and suspending a device that does
    /// not become still, or waiting for udev, has to end when they come.
    pub fn hold(&self) -> Result<Held> {
        let mut all = SigSet::all();
        for signal in NOTED {
            all.remove(signal);
        }
        match all.thread_swap_mask(SigmaskHow::SIG_BLOCK) {
            Ok(before) => Ok(Held { before }),
            Err(e) => Err(cannot_hold(e)),
        }
    }
}

/// Has a call of the kernel that waits end when the signal comes that a handler is there for.
///
/// Handlers are set up so that such calls begin anew, where the kernel leaves that to the program
/// (SA_RESTART). dm_suspend() does since it gives -ERESTARTSYS for -EINTR: a device that does not
/// become still would be waited for again and again.
fn end_calls(signal: Signal) -> std::result::Result<(), Errno> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: The pointer leads to room for one, which is filled in where the call succeeds.
    #[allow(unsafe_code)]
    let mut action = unsafe {
        Errno::result(libc::sigaction(signal as i32, null(), action.as_mut_ptr()))?;
        action.assume_init()
    };
    action.sa_flags &= !libc::SA_RESTART;
    // SAFETY: The handler is the one that was in force already, with nothing about it changed
    // that it could see.
    #[allow(unsafe_code)]
    let result = unsafe { libc::sigaction(signal as i32, &action, null_mut()) };
    Errno::result(result).map(drop)
}

fn cannot_hold(e: Errno) -> Failure {
    let what = format!("cannot hold signals off: {}", e.desc());
    Failure::new(Kind::Refused, what)
}

/// While there is one of these, signals wait.
pub struct Held {
    before: SigSet,
}

impl Drop for Held {
    fn drop(&mut self) {
        // A mask that was in force can be put in force.
        let _ = self.before.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::raise;

    #[test]
    fn all_signals_wait_but_those_that_are_noted() {
        let blocked = || SigSet::thread_get_mask().unwrap();
        let before = blocked();
        let interrupt = Interrupt::watch().unwrap();
        let held = interrupt.hold().unwrap();
        for signal in Signal::iterator() {
            let waits =
                !NOTED.contains(&signal) && ![Signal::SIGKILL, Signal::SIGSTOP].contains(&signal);
            assert_eq!(blocked().contains(signal), waits, "{signal}");
        }
        assert!(!interrupt.came());
        raise(Signal::SIGTERM).unwrap();
        assert!(interrupt.came());
        drop(held);
        assert_eq!(blocked(), before);
    }
}
