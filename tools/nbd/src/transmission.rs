// SPDX-License-Identifier: GPL-2.0
//! Requests and replies.

use crate::error::{Error, Result};
use crate::export::{Export, Extent};
use crate::negotiation::{id, Session};
use crate::reply;
use crate::request::Request;
use crate::wire::{allocation, chunk, command, errno, flag, MOST};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::thread;

/// Most bytes that are read at once, and are in memory of a request.
pub const PIECE: usize = 1 << 20;

/// What memory that is read into begins at a multiple of.
const ALIGN: usize = 4096;

/// Blocks of so many bytes that turn out to be zeroes are not sent.
const BLOCK: usize = 1 << 16;
static ZEROES: [u8; BLOCK] = [0; BLOCK];

/// Most extents of one context in a reply. Whoever wants more asks for the rest.
const EXTENTS: usize = 8192;

/// Answers a client until it has gone: by so many threads, which is how many of its requests are under way at
/// once. `hang_up` ends the connection, so that nobody waits for more from there.
///
/// # Errors
///
/// The client has gone without a word, or does not keep to the protocol.
pub fn transmit(
    from: impl Read + Send,
    to: impl Write + Send,
    session: &Session,
    export: &dyn Export,
    threads: usize,
    hang_up: &(dyn Fn() + Sync),
) -> Result<()> {
    let client = Client {
        from: Mutex::new(from),
        to: Mutex::new(to),
        session,
        export,
        over: AtomicBool::new(false),
    };
    let failed = Mutex::new(None);
    let work = || {
        if let Err(error) = client.work() {
            client.over.store(true, Ordering::Relaxed);
            hang_up();
            if let Ok(mut failed) = failed.lock() {
                failed.get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // With fewer of them it goes on as well.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    match failed.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error),
        Err(_) => Err(broken_off()),
    }
}

/// Another thread has panicked.
fn broken_off() -> Error {
    Error::Io(std::io::Error::other("a thread has ended"))
}

struct Client<'a, R, W> {
    from: Mutex<R>,
    to: Mutex<W>,
    session: &'a Session,
    export: &'a dyn Export,
    /// No more comes.
    over: AtomicBool,
}

impl<R: Read, W: Write> Client<'_, R, W> {
    fn work(&self) -> Result<()> {
        let mut memory = Memory::default();
        while let Some(request) = self.next()? {
            self.answer(&request, &mut memory)?;
        }
        Ok(())
    }

    fn next(&self) -> Result<Option<Request>> {
        let mut from = self.from.lock().map_err(|_| broken_off())?;
        if self.over.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let request = Request::read(&mut *from);
        if !matches!(request, Ok(Some(_))) {
            self.over.store(true, Ordering::Relaxed);
        }
        request
    }

    fn send(&self, head: &[u8], data: &[u8]) -> Result<()> {
        let mut to = self.to.lock().map_err(|_| broken_off())?;
        to.write_all(head)?;
        Ok(to.write_all(data)?)
    }

    fn answer(&self, request: &Request, memory: &mut Memory) -> Result<()> {
        let known = match request.command {
            command::READ if self.session.structured => flag::DF,
            command::BLOCK_STATUS => flag::REQ_ONE,
            _ => 0,
        };
        let wrong = match request.command {
            command::WRITE | command::TRIM | command::WRITE_ZEROES => Some(errno::PERM),
            command::FLUSH => None,
            _ if request.flags & !known != 0 => Some(errno::INVAL),
            _ if request.end(self.export.size()).is_none() => Some(errno::INVAL),
            command::READ if request.len > MOST => Some(errno::INVAL),
            command::READ | command::CACHE => None,
            command::BLOCK_STATUS if request.len == 0 || self.session.contexts.is_empty() => {
                Some(errno::INVAL)
            }
            command::BLOCK_STATUS => None,
            _ => Some(errno::INVAL),
        };
        match (wrong, request.command) {
            (Some(wrong), command::READ | command::BLOCK_STATUS) => self.fail(request, wrong),
            (Some(wrong), _) => self.send(&reply::simple(request.cookie, wrong), &[]),
            (None, command::READ) if !self.session.structured => self.read_simply(request, memory),
            (None, command::READ) if request.flags & flag::DF != 0 => {
                self.read_at_once(request, memory)
            }
            (None, command::READ) => self.read(request, memory),
            (None, command::BLOCK_STATUS) => self.status(request),
            // There is nothing to be done.
            (None, _) => self.send(&reply::simple(request.cookie, 0), &[]),
        }
    }

    fn fail(&self, request: &Request, errno: u32) -> Result<()> {
        let reply = match self.session.structured {
            true => reply::error(request.cookie, errno, None),
            false => reply::simple(request.cookie, errno),
        };
        self.send(&reply, &[])
    }

    /// Data behind one another, of which it is said first that all of them will come: whoever cannot keep to that
    /// has to hang up.
    fn read_simply(&self, request: &Request, memory: &mut Memory) -> Result<()> {
        let end = request.offset.saturating_add(request.len.into());
        let mut to = None;
        for (at, len) in pieces(request.offset, end) {
            let data = memory.of(len);
            match (self.export.read(at, data), &to) {
                (Ok(()), _) => {}
                (Err(_), None) => return self.fail(request, errno::IO),
                (Err(error), Some(_)) => return Err(error.into()),
            }
            if to.is_none() {
                let mut first = self.to.lock().map_err(|_| broken_off())?;
                first.write_all(&reply::simple(request.cookie, 0))?;
                to = Some(first);
            }
            if let Some(to) = &mut to {
                to.write_all(data)?;
            }
        }
        match to {
            Some(_) => Ok(()),
            None => self.send(&reply::simple(request.cookie, 0), &[]),
        }
    }

    /// Data in one chunk.
    fn read_at_once(&self, request: &Request, memory: &mut Memory) -> Result<()> {
        let cookie = request.cookie;
        let len = request.len as usize;
        if len > PIECE {
            return self.fail(request, errno::OVERFLOW);
        }
        if len == 0 {
            return self.read(request, memory);
        }
        let data = memory.of(len);
        match self.export.read(request.offset, data) {
            Ok(()) => self.send(&reply::data(cookie, true, request.offset, len), data),
            Err(_) => self.send(&reply::error(cookie, errno::IO, Some(request.offset)), &[]),
        }
    }

    /// Data, without what is zeroes.
    fn read(&self, request: &Request, memory: &mut Memory) -> Result<()> {
        let cookie = request.cookie;
        let end = request.offset.saturating_add(request.len.into());
        let mut extents = self.export.extents(0, request.offset);
        let mut at = request.offset;
        while at < end {
            let Extent { len, flags } = extents.next().unwrap_or(Extent {
                len: end - at,
                flags: 0,
            });
            let upto = at.saturating_add(len).min(end);
            if flags & allocation::ZERO != 0 {
                let len = (upto - at) as u32;
                self.send(&reply::hole(cookie, upto == end, at, len), &[])?;
                at = upto;
                continue;
            }
            for (from, len) in pieces(at, upto) {
                let data = memory.of(len);
                if self.export.read(from, data).is_err() {
                    let reply = reply::error(cookie, errno::IO, Some(from));
                    return self.send(&reply, &[]);
                }
                self.send_data(cookie, from, data, end)?;
            }
            at = upto;
        }
        match request.len {
            0 => self.send(&reply::chunk(cookie, true, chunk::NONE, &[], 0), &[]),
            _ => Ok(()),
        }
    }

    /// Data of a request up to `end`, but for blocks of zeroes in them.
    fn send_data(&self, cookie: u64, from: u64, data: &[u8], end: u64) -> Result<()> {
        let mut at = from;
        for (zero, data) in Runs(data) {
            let upto = at.saturating_add(data.len() as u64);
            let last = upto == end;
            match zero {
                true => self.send(&reply::hole(cookie, last, at, data.len() as u32), &[])?,
                false => self.send(&reply::data(cookie, last, at, data.len()), data)?,
            }
            at = upto;
        }
        Ok(())
    }

    fn status(&self, request: &Request) -> Result<()> {
        let most = match request.flags & flag::REQ_ONE {
            0 => EXTENTS,
            _ => 1,
        };
        let last = self.session.contexts.last();
        for context in &self.session.contexts {
            let mut reply = id(*context).to_be_bytes().to_vec();
            let extents = self.export.extents(*context, request.offset);
            for Extent { len, flags } in joined(extents, request.len).take(most) {
                reply.extend((len as u32).to_be_bytes());
                reply.extend(flags.to_be_bytes());
            }
            let last = Some(context) == last;
            let reply = reply::chunk(request.cookie, last, chunk::BLOCK_STATUS, &[&reply], 0);
            self.send(&reply, &[])?;
        }
        Ok(())
    }
}

/// Extents of so many bytes, of which no two that touch are alike.
fn joined(extents: impl Iterator<Item = Extent>, bytes: u32) -> impl Iterator<Item = Extent> {
    let mut extents = extents.peekable();
    let mut left = u64::from(bytes);
    std::iter::from_fn(move || {
        let mut extent = extents.next().filter(|_| left > 0)?;
        while let Some(next) =
            extents.next_if(|next| extent.len < left && next.flags == extent.flags)
        {
            extent.len = extent.len.saturating_add(next.len);
        }
        extent.len = extent.len.min(left);
        left -= extent.len;
        Some(extent)
    })
}

/// The pieces that a range is read in: first byte, and how many.
fn pieces(from: u64, end: u64) -> impl Iterator<Item = (u64, usize)> {
    let mut at = from;
    std::iter::from_fn(move || {
        let start = at;
        let upto = (start / PIECE as u64 + 1)
            .saturating_mul(PIECE as u64)
            .min(end);
        at = upto;
        (start < upto).then_some((start, (upto - start) as usize))
    })
}

/// Runs of blocks that are zeroes, or are not.
struct Runs<'a>(&'a [u8]);

impl<'a> Iterator for Runs<'a> {
    type Item = (bool, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let mut blocks = self.0.chunks(BLOCK);
        let is_zero = |block: &[u8]| block.len() == BLOCK && block == ZEROES;
        let first = is_zero(blocks.next()?);
        let more = blocks.take_while(|block| is_zero(block) == first).count();
        let len = self
            .0
            .len()
            .min(BLOCK.saturating_mul(more.saturating_add(1)));
        let (run, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some((first, run))
    }
}

/// Room for a piece, once there is need for it.
#[derive(Default)]
struct Memory {
    bytes: Vec<u8>,
}

impl Memory {
    fn of(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = vec![0; PIECE + ALIGN];
        }
        let first = self.bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        let end = first.saturating_add(len);
        self.bytes.get_mut(first..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_blocks() {
        let mut data = vec![0; 5 * BLOCK + 7];
        data[2 * BLOCK] = 1;
        data[4 * BLOCK - 1] = 1;
        let runs: Vec<_> = Runs(&data).map(|(zero, run)| (zero, run.len())).collect();
        assert_eq!(
            runs,
            [
                (true, 2 * BLOCK),
                (false, 2 * BLOCK),
                (true, BLOCK),
                (false, 7)
            ]
        );
    }

    #[test]
    fn pieces_end_at_multiples() {
        let piece = PIECE as u64;
        let all: Vec<_> = pieces(piece - 1, 2 * piece + 5).collect();
        assert_eq!(all, [(piece - 1, 1), (piece, PIECE), (2 * piece, 5)]);
        assert_eq!(pieces(7, 7).count(), 0);
    }

    #[test]
    fn alike_extents_are_one() {
        let of = |len, flags| Extent { len, flags };
        let all = [of(5, 0), of(5, 0), of(5, 1), of(u64::MAX, 1), of(9, 0)];
        let joined: Vec<_> = joined(all.into_iter(), 12).collect();
        assert_eq!(joined, [of(10, 0), of(2, 1)]);
    }
}
