// SPDX-License-Identifier: GPL-2.0
//! Clients, as they come and go.

use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use dm_snap_mv_nbd::{negotiate, transmit, Error, Export};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Clients at once. Others wait until one goes.
const CLIENTS: usize = 32;

/// Requests of a client that are under way at once: each of them takes up to 1 MiB.
const REQUESTS: usize = 8;

/// How often it is looked whether what is served is still what it was, while somebody reads it.
const LOOK: Duration = Duration::from_secs(1);

/// How long a client may take to receive what it has asked for, when the server ends.
const LAST: Duration = Duration::from_secs(5);

/// Serves an export until it is told to end.
pub struct Server<'a> {
    /// Where clients come from; accepting one must not wait.
    pub listener: &'a UnixListener,
    /// What they read.
    pub export: &'a dyn Export,
    /// It is over when the last client that has read has gone.
    pub once: bool,
    /// It is over when a signal comes.
    pub interrupt: &'a Interrupt,
}

/// Those that are there.
#[derive(Default)]
struct Clients {
    /// To hang up, each by its place.
    all: Mutex<Vec<Option<Arc<UnixStream>>>>,
    fewer: Condvar,
    /// One of them has got as far as reading.
    served: AtomicBool,
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, Vec<Option<Arc<UnixStream>>>> {
        // It is in order between any two changes of it.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn many(&self) -> usize {
        self.lock().iter().flatten().count()
    }

    fn add(&self, client: Arc<UnixStream>) -> usize {
        let mut all = self.lock();
        let free = all.iter().position(Option::is_none);
        let place = free.unwrap_or(all.len());
        match all.get_mut(place) {
            Some(free) => *free = Some(client),
            None => all.push(Some(client)),
        }
        place
    }

    fn remove(&self, place: usize) {
        if let Some(client) = self.lock().get_mut(place) {
            *client = None;
        }
        self.fewer.notify_all();
    }

    /// Hears no more from them; what they have asked for goes out, for a while.
    fn hang_up(&self) {
        let shut = |clients: &[Option<Arc<UnixStream>>], how| {
            for client in clients.iter().flatten() {
                // It may have gone already.
                let _ = client.shutdown(how);
            }
        };
        let clients = self.lock();
        shut(&clients, Shutdown::Read);
        let any = |clients: &mut Vec<Option<Arc<UnixStream>>>| clients.iter().any(Option::is_some);
        let waited = self.fewer.wait_timeout_while(clients, LAST, any);
        let (clients, _) = waited.unwrap_or_else(PoisonError::into_inner);
        shut(&clients, Shutdown::Both);
    }
}

impl Server<'_> {
    /// Serves. `look` tells whether what is served is still what it was; if not, all clients are hung up.
    ///
    /// # Errors
    ///
    /// Those of `look`; [`Kind::Refused`] if clients cannot be waited for.
    pub fn run(&self, look: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let (told, tell) = self.interrupt.pair()?;
        let clients = Clients::default();
        thread::scope(|scope| {
            let mut begin = |client: UnixStream| {
                let (client, mut tell, clients) = (Arc::new(client), &tell, &clients);
                let place = clients.add(client.clone());
                let thread = thread::Builder::new().spawn_scoped(scope, move || {
                    self.serve(&client, &clients.served);
                    clients.remove(place);
                    // If there is no room, there is something to be read already.
                    let _ = tell.write(&[0]);
                });
                if thread.is_err() {
                    clients.remove(place);
                }
            };
            let ended = self.accept(&told, &clients, &mut begin, look);
            clients.hang_up();
            ended
        })
    }

    fn accept(
        &self,
        mut told: &UnixStream,
        clients: &Clients,
        begin: &mut dyn FnMut(UnixStream),
        look: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| {
            Failure::new(Kind::Refused, format!("cannot wait for clients: {e}"))
        };
        let mut looked: Option<Instant> = None;
        loop {
            let many = clients.many();
            if self.interrupt.came() || self.once && many == 0 && self.has_served(clients) {
                return Ok(());
            }
            if many == 0 {
                // Nobody cares until one comes.
                looked = None;
            } else if looked.is_none_or(|at| at.elapsed() >= LOOK) {
                look()?;
                looked = Some(Instant::now());
            }
            let told_one = PollFd::new(told.as_fd(), PollFlags::POLLIN);
            let listening = PollFd::new(self.listener.as_fd(), PollFlags::POLLIN);
            let mut both = [told_one, listening];
            let waits = match many < CLIENTS {
                true => &mut both[..],
                false => &mut both[..1],
            };
            let timeout = match many {
                0 => PollTimeout::NONE,
                _ => PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX),
            };
            match poll(waits, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(failed(&e.desc())),
            }
            // All that was told, in one.
            let _ = told.read(&mut [0; 64]);
            if many >= CLIENTS {
                continue;
            }
            match self.listener.accept() {
                Ok((client, _)) => begin(client),
                Err(e) => match e.kind() {
                    ErrorKind::WouldBlock
                    | ErrorKind::Interrupted
                    | ErrorKind::ConnectionAborted => {}
                    _ => return Err(failed(&e)),
                },
            }
        }
    }

    fn has_served(&self, clients: &Clients) -> bool {
        clients.served.load(Ordering::Relaxed)
    }

    /// Talks with a client until it has gone.
    fn serve(&self, client: &UnixStream, served: &AtomicBool) {
        let hang_up = || {
            let _ = client.shutdown(Shutdown::Both);
        };
        let done = match negotiate(&mut &*client, &mut &*client, self.export) {
            Ok(Some(session)) => {
                served.store(true, Ordering::Relaxed);
                transmit(client, client, &session, self.export, REQUESTS, &hang_up)
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        // That one has gone is nobody's business.
        if let Err(error @ Error::Broken(_)) = done {
            eprintln!("dms: {error}");
        }
        hang_up();
    }
}
