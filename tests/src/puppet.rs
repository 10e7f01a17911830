// SPDX-License-Identifier: GPL-2.0

//! A disk whose every request is in a test's hand: it can be held back for as long as the test
//! likes, and the disk's power can fail.
//!
//! It is a network block device served by a thread of this program. Like a real disk it has a
//! write cache: what was written without FUA is only there until the next flush. When the power
//! fails, any of the versions that a sector had since then may be what is left of it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::content::{generation_of, SECTOR, ZERO};
use crate::kernel;
use crate::random::Random;
use crate::store::{until, Device};
use crate::sys;
use crate::tape::{self, Event, Recorder};
use crate::time::patience;

const SET_SOCK: u8 = 0;
const SET_BLKSIZE: u8 = 1;
const DO_IT: u8 = 3;
const CLEAR_SOCK: u8 = 4;
const SET_SIZE_BLOCKS: u8 = 7;
const DISCONNECT: u8 = 8;
const SET_FLAGS: u8 = 10;

/// Flush, FUA, trim and write-zeroes are understood.
const FLAGS: libc::c_ulong = 1 | (1 << 2) | (1 << 3) | (1 << 5) | (1 << 6);

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const EIO: u32 = 5;

/// How many disks there can be at once.
const MOST: u32 = 8;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// To read.
    Read,
    /// To write.
    Write,
    /// To make what was written durable.
    Flush,
    /// To discard.
    Discard,
    /// To write zeroes.
    Zero,
}

/// All of them.
pub const OPS: [Op; 5] = [Op::Read, Op::Write, Op::Flush, Op::Discard, Op::Zero];

struct Request {
    op: Op,
    fua: bool,
    cookie: [u8; 8],
    start: u64,
    len: usize,
    data: Vec<u8>,
}

impl Request {
    fn sectors(&self) -> Range<u64> {
        let start = self.start / SECTOR as u64;
        start..start + (self.len / SECTOR) as u64
    }

    /// Whether it writes what belongs at this sector of the device that it was made for, which need
    /// not be this one.
    fn is_data_of(&self, sector: u64) -> bool {
        let first = self.data.get(..SECTOR);
        let generation = first.and_then(|bytes| generation_of(bytes, sector));
        generation.is_some_and(|generation| generation != ZERO)
    }
}

type Sector = [u8; SECTOR];

struct State {
    /// What is durable.
    stable: Vec<u8>,
    /// The versions that a sector had since the last flush, oldest first.
    cache: BTreeMap<u64, Vec<Sector>>,
    dead: bool,
    /// How many requests of each sort there were.
    counts: [usize; OPS.len()],
    /// Requests of these sorts are held back: after so many that are not, so many of them.
    hold: Vec<Op>,
    pass: usize,
    most: usize,
    /// Of the writes only those of what belongs here.
    hold_data: Option<u64>,
    held: Vec<Request>,
    /// Sectors written so far.
    written: u64,
    fault: Option<Fault>,
    gone: bool,
    /// Where everything is noted down: the tape, its first sector there, and the cache's number.
    recorder: Option<(Recorder, u64, u8)>,
}

/// Requests that fail.
struct Fault {
    ops: Vec<Op>,
    /// So many go well before.
    skip: usize,
    /// Then so many fail.
    most: usize,
    /// Where the first of them fails no other does well either, and nowhere else does any fail.
    stays: bool,
    /// What that one was of.
    place: Option<Range<u64>>,
    hits: usize,
}

impl Fault {
    fn strikes(&mut self, request: &Request) -> bool {
        if !self.ops.contains(&request.op) || self.most == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let here = request.sectors();
        let place = self.place.get_or_insert(here.clone());
        if self.stays && (here.end <= place.start || place.end <= here.start) {
            return false;
        }
        self.most = self.most.saturating_sub(1);
        self.hits += 1;
        true
    }
}

struct Stage {
    state: Mutex<State>,
    changed: Condvar,
    replies: Mutex<UnixStream>,
}

/// The disk. It goes, with its content, when it goes out of scope.
pub struct Puppet {
    number: u32,
    device: File,
    stage: Arc<Stage>,
    threads: Vec<JoinHandle<()>>,
}

impl Puppet {
    /// A disk of `mib` MiB, full of zeroes.
    pub fn new(mib: u32) -> Result<Self> {
        Self::with_blocks(mib, 512)
    }

    /// A disk with blocks of so many bytes.
    pub fn with_blocks(mib: u32, block: u32) -> Result<Self> {
        if !Path::new("/sys/module/nbd").exists() {
            let most = format!("nbds_max={MOST}");
            kernel::run("modprobe", &["nbd", &most, "max_part=0"])?;
        }
        let number = (0..MOST)
            .find(|n| !Path::new(&format!("/sys/block/nbd{n}/pid")).exists())
            .context("no network block device is left")?;
        let open = || {
            let path = format!("/dev/nbd{number}");
            OpenOptions::new().read(true).write(true).open(path)
        };
        let device = open()?;
        let size = u64::from(mib) << 20;
        let (ours, theirs) = UnixStream::pair()?;
        sys::nbd(&device, CLEAR_SOCK, 0)?;
        sys::nbd(&device, SET_BLKSIZE, block.into())?;
        sys::nbd(&device, SET_SIZE_BLOCKS, size / u64::from(block))?;
        sys::nbd(&device, SET_FLAGS, FLAGS)?;
        sys::nbd(&device, SET_SOCK, theirs.as_raw_fd() as libc::c_ulong)?;
        let stage = Arc::new(Stage {
            state: Mutex::new(State {
                stable: vec![0; size as usize],
                cache: BTreeMap::new(),
                dead: false,
                counts: [0; OPS.len()],
                hold: Vec::new(),
                pass: 0,
                most: 0,
                hold_data: None,
                held: Vec::new(),
                written: 0,
                fault: None,
                gone: false,
                recorder: None,
            }),
            changed: Condvar::new(),
            replies: Mutex::new(ours.try_clone()?),
        });
        let server = {
            let stage = stage.clone();
            thread::spawn(move || stage.serve(ours))
        };
        let driver = {
            let device = open()?;
            thread::spawn(move || {
                // Until it is disconnected. The driver has its own hold on the socket.
                let _ = sys::nbd(&device, DO_IT, 0);
                drop(theirs);
            })
        };
        let puppet = Self {
            number,
            device,
            stage,
            threads: vec![server, driver],
        };
        until("a network block device", || {
            let size = std::fs::read_to_string(format!("/sys/block/nbd{number}/size"))?;
            Ok(size.trim() != "0" && Path::new(&format!("/sys/block/nbd{number}/pid")).exists())
        })?;
        Ok(puppet)
    }

    /// Its node.
    pub fn path(&self) -> PathBuf {
        format!("/dev/nbd{}", self.number).into()
    }

    /// From now on each request arrives as it was made: none become one on the way. It stays so for
    /// the next disk of this number.
    pub fn keep_apart(&self) -> Result<()> {
        let file = format!("/sys/block/nbd{}/queue/nomerges", self.number);
        std::fs::write(&file, "2").context(file)
    }

    /// From now on requests of these sorts are held back.
    pub fn hold(&self, ops: &[Op]) {
        self.hold_some(ops, usize::MAX);
    }

    /// The next so many requests of these sorts are held back.
    pub fn hold_some(&self, ops: &[Op], most: usize) {
        self.hold_from(ops, 0, most, None);
    }

    /// The next write of what belongs at this sector of the device above, wherever it is put here,
    /// is held back. What that device writes on its own account is not.
    pub fn hold_data(&self, sector: u64) {
        self.hold_from(&[Op::Write], 0, 1, Some(sector));
    }

    /// The next so many are not held back, all behind them are.
    pub fn hold_after(&self, ops: &[Op], pass: usize) {
        self.hold_from(ops, pass, usize::MAX, None);
    }

    fn hold_from(&self, ops: &[Op], pass: usize, most: usize, data: Option<u64>) {
        let mut state = self.stage.lock();
        state.hold = ops.to_vec();
        state.pass = pass;
        state.most = most;
        state.hold_data = data;
    }

    /// How many are held back.
    pub fn held(&self) -> usize {
        self.stage.lock().held.len()
    }

    /// How many sectors have been written so far, whether they are durable or not.
    pub fn written(&self) -> u64 {
        self.stage.lock().written
    }

    /// Waits until so many are held back.
    pub fn wait_held(&self, count: usize) -> Result<()> {
        let end = Instant::now() + patience();
        let mut state = self.stage.lock();
        while state.held.len() < count {
            ensure!(
                Instant::now() < end,
                "{} requests came, not {count}",
                state.held.len()
            );
            let wait = self
                .stage
                .changed
                .wait_timeout(state, Duration::from_secs(1));
            state = wait.expect("no panic").0;
        }
        Ok(())
    }

    /// Lets go what is held back, and holds back the next request of these sorts instead.
    pub fn hold_next(&self, ops: &[Op]) {
        let held = {
            let mut state = self.stage.lock();
            state.hold = ops.to_vec();
            state.pass = 0;
            state.most = 1;
            state.hold_data = None;
            std::mem::take(&mut state.held)
        };
        for request in held {
            self.stage.answer(request);
        }
    }

    /// Lets go what is held back, and all that comes.
    pub fn release(&self) {
        let held = {
            let mut state = self.stage.lock();
            state.hold.clear();
            std::mem::take(&mut state.held)
        };
        for request in held {
            self.stage.answer(request);
        }
    }

    /// From now on, after `skip` requests of these sorts that go well, the next `most` of them fail
    /// and do nothing.
    pub fn fail(&self, ops: &[Op], skip: usize, most: usize) {
        self.fail_from(ops, skip, most, false);
    }

    /// The same of the first one, and of all that touch its sectors from then on: a bad place, with
    /// the rest of the disk as good as ever.
    pub fn fail_place(&self, ops: &[Op], skip: usize) {
        self.fail_from(ops, skip, usize::MAX, true);
    }

    /// The same of these sectors, from now on.
    pub fn fail_at(&self, ops: &[Op], place: Range<u64>) {
        self.fail_from(ops, 0, usize::MAX, true);
        if let Some(fault) = &mut self.stage.lock().fault {
            fault.place = Some(place);
        }
    }

    fn fail_from(&self, ops: &[Op], skip: usize, most: usize, stays: bool) {
        self.stage.lock().fault = Some(Fault {
            ops: ops.to_vec(),
            skip,
            most,
            stays,
            place: None,
            hits: 0,
        });
    }

    /// Nothing fails any more. Tells how many requests have.
    pub fn mend(&self) -> usize {
        let fault = self.stage.lock().fault.take();
        fault.map_or(0, |fault| fault.hits)
    }

    /// Removes the last device of an origin on this disk, which cannot be flushed while that ends: what
    /// it holds is not noted then.
    pub fn remove_unseen(&self, co: Device) -> Result<()> {
        self.fail(&[Op::Flush], 0, usize::MAX);
        let removed = co.remove();
        let flushes = self.mend();
        ensure!(flushes > 0, "it is not flushed when it ends");
        removed
    }

    /// How many requests have failed so far of those that were to.
    pub fn failed(&self) -> usize {
        let state = self.stage.lock();
        state.fault.as_ref().map_or(0, |fault| fault.hits)
    }

    /// The sectors of the first one that has failed so far.
    pub fn failed_at(&self) -> Option<Range<u64>> {
        let state = self.stage.lock();
        state.fault.as_ref().and_then(|fault| fault.place.clone())
    }

    /// How many requests of a sort there were, whatever became of them.
    pub fn count(&self, op: Op) -> usize {
        self.stage.lock().counts[op as usize]
    }

    /// What is on it, as it reads now.
    pub fn image(&self) -> Vec<u8> {
        let state = self.stage.lock();
        let mut image = state.stable.clone();
        for (&sector, versions) in &state.cache {
            if let Some(version) = versions.last() {
                let at = sector as usize * SECTOR;
                image[at..at + SECTOR].copy_from_slice(&version[..]);
            }
        }
        image
    }

    /// Puts an image back. Nobody may be using it.
    pub fn restore(&self, image: &[u8]) {
        let mut state = self.stage.lock();
        state.stable.copy_from_slice(image);
        state.cache.clear();
    }

    /// From now on everything is noted down on a tape, where this disk begins at `sector`.
    pub fn record(&self, recorder: &Recorder, sector: u64, cache: u8) {
        self.stage.lock().recorder = Some((recorder.clone(), sector, cache));
    }

    /// No more of it.
    pub fn stop_recording(&self) {
        self.stage.lock().recorder = None;
    }

    /// The power fails: from now on every request does.
    pub fn dies(&self) {
        self.stage.lock().dead = true;
        self.release();
    }

    /// The connection breaks, for good.
    pub fn disconnect(&self) {
        let _ = sys::nbd(&self.device, DISCONNECT, 0);
        let _ = sys::nbd(&self.device, CLEAR_SOCK, 0);
    }

    /// The power is back. Of what was not flushed, `random` says what is left.
    pub fn comes_back(&self, random: &mut Random) {
        let mut state = self.stage.lock();
        state.dead = false;
        // Mostly this and that is left, sometimes nothing, sometimes nearly all.
        let kept_in_10 = *random.one_of(&[0, 5, 5, 9]);
        for (sector, versions) in std::mem::take(&mut state.cache) {
            if random.pick(0..10) < kept_in_10 {
                let version = random.one_of(&versions);
                let at = sector as usize * SECTOR;
                state.stable[at..at + SECTOR].copy_from_slice(&version[..]);
            }
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.release();
        let _ = sys::nbd(&self.device, DISCONNECT, 0);
        let _ = sys::nbd(&self.device, CLEAR_SOCK, 0);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Stage {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    fn serve(&self, mut socket: UnixStream) {
        while let Ok(Some(request)) = receive(&mut socket) {
            let mut state = self.lock();
            state.counts[request.op as usize] += 1;
            if state.holds(&request) {
                state.held.push(request);
                self.changed.notify_all();
            } else {
                drop(state);
                self.answer(request);
            }
        }
        self.lock().gone = true;
    }

    /// Does what is asked for and says so.
    fn answer(&self, request: Request) {
        let mut state = self.lock();
        let mut reply = Vec::with_capacity(16 + request.len);
        reply.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
        let struck = match &mut state.fault {
            Some(fault) => fault.strikes(&request),
            None => false,
        };
        let error = if state.dead || struck { EIO } else { 0 };
        reply.extend_from_slice(&error.to_be_bytes());
        reply.extend_from_slice(&request.cookie);
        if error == 0 {
            match request.op {
                Op::Read => state.read(&request, &mut reply),
                Op::Flush => state.flush(),
                Op::Write => state.write(request.start, &request.data, request.fua),
                Op::Discard | Op::Zero => {
                    state.write(request.start, &vec![0; request.len], request.fua);
                }
            }
            state.note(&request);
        }
        let gone = state.gone;
        drop(state);
        if !gone {
            let mut replies = self.replies.lock().expect("no panic");
            let _ = replies.write_all(&reply);
        }
    }
}

impl State {
    /// Whether a request that has come is held back.
    fn holds(&mut self, request: &Request) -> bool {
        if !self.hold.contains(&request.op) || self.most == 0 || self.dead {
            return false;
        }
        let data = self.hold_data;
        if data.is_some_and(|sector| !request.is_data_of(sector)) {
            return false;
        }
        if self.pass > 0 {
            self.pass -= 1;
            return false;
        }
        self.most -= 1;
        true
    }

    /// Before it is answered, so that what depends on it is noted down behind it.
    fn note(&self, request: &Request) {
        let Some((recorder, first, cache)) = &self.recorder else {
            return;
        };
        let sector = first + request.start / SECTOR as u64;
        let count = (request.len / SECTOR) as u64;
        let mut tape = tape::lock(recorder);
        let write = match request.op {
            Op::Read => return,
            Op::Flush => {
                tape.events.push(Event::Flushed(*cache));
                return;
            }
            Op::Write => tape.write(sector, &request.data, *cache),
            Op::Discard | Op::Zero => tape.zero(sector, count, *cache),
        };
        if request.fua {
            tape.events.push(Event::Durable(write));
        }
    }

    fn read(&self, request: &Request, reply: &mut Vec<u8>) {
        let (start, len) = (request.start as usize, request.len);
        let header = reply.len();
        reply.extend_from_slice(&self.stable[start..start + len]);
        let first = request.start / SECTOR as u64;
        for (sector, versions) in self.cache.range(first..first + (len / SECTOR) as u64) {
            if let Some(version) = versions.last() {
                let at = header + (sector - first) as usize * SECTOR;
                reply[at..at + SECTOR].copy_from_slice(&version[..]);
            }
        }
    }

    fn write(&mut self, start: u64, data: &[u8], fua: bool) {
        let first = start / SECTOR as u64;
        if fua {
            let at = start as usize;
            self.stable[at..at + data.len()].copy_from_slice(data);
        }
        self.written += (data.len() / SECTOR) as u64;
        for (i, bytes) in data.chunks_exact(SECTOR).enumerate() {
            let sector = first + i as u64;
            if fua {
                self.cache.remove(&sector);
            } else {
                let bytes: Sector = bytes.try_into().expect("a sector");
                self.cache.entry(sector).or_default().push(bytes);
            }
        }
    }

    fn flush(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.cache) {
            if let Some(version) = versions.last() {
                let at = sector as usize * SECTOR;
                self.stable[at..at + SECTOR].copy_from_slice(&version[..]);
            }
        }
    }
}

/// The next request; `None` at the end.
fn receive(socket: &mut UnixStream) -> io::Result<Option<Request>> {
    let mut header = [0u8; 28];
    socket.read_exact(&mut header)?;
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes"));
    if word(0) != REQUEST_MAGIC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let op = match word(4) & 0xffff {
        0 => Op::Read,
        1 => Op::Write,
        3 => Op::Flush,
        4 => Op::Discard,
        6 => Op::Zero,
        _ => return Ok(None),
    };
    let len = word(24) as usize;
    let mut data = vec![0u8; if op == Op::Write { len } else { 0 }];
    socket.read_exact(&mut data)?;
    Ok(Some(Request {
        op,
        fua: word(4) & (1 << 16) != 0,
        cookie: header[8..16].try_into().expect("8 bytes"),
        start: u64::from_be_bytes(header[16..24].try_into().expect("8 bytes")),
        len,
        data,
    }))
}
