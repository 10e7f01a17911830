// SPDX-License-Identifier: GPL-2.0
//! Reading data ahead of who wants them.

use crate::interrupt::Interrupt;
use crate::streams;
use dm_snap_mv_stream::frame::{PAYLOAD, SECTOR};
use dm_snap_mv_stream::{Piece, Source};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn, JoinHandle};
use std::time::Duration;

/// Requests that a device has at once.
const THREADS: usize = 16;
/// Those that are under way or have been answered, and are not wanted yet.
const DEPTH: usize = 24;
/// What memory for direct I/O begins at a multiple of.
const ALIGN: usize = 4096;
/// How often it is looked for signals while a device does not answer.
const LOOK: Duration = Duration::from_millis(200);

/// Room for a request.
struct Buffer {
    bytes: Vec<u8>,
    first: usize,
}

impl Buffer {
    fn new() -> Self {
        let bytes = vec![0; PAYLOAD + ALIGN];
        let first = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { bytes, first }
    }

    fn of(&mut self, len: usize) -> &mut [u8] {
        let end = self.first.saturating_add(len);
        self.bytes.get_mut(self.first..end).unwrap_or_default()
    }
}

struct Job {
    part: Part,
    buffer: Buffer,
    answer: Sender<(Buffer, io::Result<()>)>,
}

/// First sector, and how many.
type Part = (u64, u64);

struct Asked {
    part: Part,
    answer: Receiver<(Buffer, io::Result<()>)>,
}

/// Reads pieces of a device, in the order of a list, before they are asked for.
pub struct Ahead<I> {
    parts: Parts<I>,
    jobs: Option<Sender<Job>>,
    asked: VecDeque<Asked>,
    spare: Vec<Buffer>,
    threads: Vec<JoinHandle<()>>,
    interrupt: Interrupt,
}

impl<I: Iterator<Item = Piece>> Ahead<I> {
    /// Of a device that was opened for direct I/O: pieces from a sector on.
    pub fn new(file: Arc<File>, pieces: I, from: u64, interrupt: Interrupt) -> Self {
        let (jobs, todo) = channel::<Job>();
        let todo = Arc::new(Mutex::new(todo));
        let threads = (0..THREADS).map(|_| {
            let (file, todo) = (file.clone(), todo.clone());
            spawn(move || work(&file, &todo))
        });
        Self {
            parts: Parts {
                pieces,
                from,
                rest: (0, 0),
            },
            jobs: Some(jobs),
            asked: VecDeque::new(),
            spare: Vec::new(),
            threads: threads.collect(),
            interrupt,
        }
    }

    fn ask(&mut self) {
        while self.asked.len() < DEPTH {
            let Some(part) = self.parts.next() else { break };
            let (send, answer) = channel();
            let job = Job {
                part,
                buffer: self.spare.pop().unwrap_or_else(Buffer::new),
                answer: send,
            };
            // Where nobody takes it, nobody answers.
            let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
            self.asked.push_back(Asked { part, answer });
        }
    }
}

fn work(file: &File, todo: &Mutex<Receiver<Job>>) {
    loop {
        let job = match todo.lock() {
            Ok(todo) => todo.recv(),
            Err(_) => break,
        };
        let Ok(mut job) = job else { break };
        let (start, sectors) = job.part;
        let bytes = job.buffer.of((sectors * SECTOR) as usize);
        let done = match start.checked_mul(SECTOR) {
            Some(at) => file.read_exact_at(bytes, at),
            None => Err(io::ErrorKind::InvalidInput.into()),
        };
        // It may not be wanted any more.
        let _ = job.answer.send((job.buffer, done));
    }
}

impl<I: Iterator<Item = Piece>> Source for Ahead<I> {
    fn read(&mut self, start: u64, into: &mut [u8]) -> io::Result<()> {
        self.ask();
        let other = || io::Error::other("it was read in another order than was planned");
        let asked = self.asked.pop_front().ok_or_else(other)?;
        if asked.part != (start, into.len() as u64 / SECTOR) {
            return Err(other());
        }
        let (mut buffer, done) = loop {
            if self.interrupt.came() {
                return Err(streams::interrupted());
            }
            match asked.answer.recv_timeout(LOOK) {
                Ok(answer) => break answer,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(other()),
            }
        };
        done?;
        into.copy_from_slice(buffer.of(into.len()));
        self.spare.push(buffer);
        Ok(())
    }
}

impl<I> Drop for Ahead<I> {
    fn drop(&mut self) {
        self.jobs = None;
        self.asked.clear();
        // They have the device open. One that waits for a disk that does not answer is not waited for.
        for _ in 0..100 {
            if self.threads.iter().all(JoinHandle::is_finished) {
                break;
            }
            sleep(Duration::from_millis(10));
        }
    }
}

/// Pieces from a sector on, cut as they are to be asked for: first sector, and how many.
pub fn parts(pieces: impl Iterator<Item = Piece>, from: u64) -> impl Iterator<Item = (u64, u64)> {
    Parts {
        pieces,
        from,
        rest: (0, 0),
    }
}

/// Cuts pieces as they will be asked for: where frames end.
struct Parts<I> {
    pieces: I,
    from: u64,
    rest: Part,
}

impl<I: Iterator<Item = Piece>> Iterator for Parts<I> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let most = PAYLOAD as u64 / SECTOR;
        while self.rest.1 == 0 {
            let piece = self.pieces.next()?;
            let end = piece.start.saturating_add(piece.sectors);
            let start = piece.start.max(self.from);
            if !piece.zero && start < end {
                self.rest = (start, end - start);
            }
        }
        let (start, left) = self.rest;
        let sectors = (most - start % most).min(left);
        self.rest = (start + sectors, left - sectors);
        Some((start, sectors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dm_snap_mv_stream::{send, source, Begin, Decoder, Encoder, Event, Options, Version};
    use std::io::Write;

    #[test]
    fn the_parts_are_those_that_are_asked_for() {
        let path = std::env::temp_dir().join(format!("dms-ahead-{}", std::process::id()));
        let bytes: Vec<u8> = (0..3 * PAYLOAD as u32 / 4)
            .flat_map(|n| (n | 1).to_le_bytes())
            .collect();
        let mut file = File::create(&path).unwrap();
        file.write_all(&bytes).unwrap();
        let file = Arc::new(File::open(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        let piece = |start, sectors, zero| Piece {
            start,
            sectors,
            zero,
        };
        let pieces = [
            piece(0, 8, false),
            piece(16, 2040, false),
            piece(2056, 8, true),
            piece(2064, 3000, false),
            piece(6136, 8, false),
        ];
        let begin = Begin {
            size: 6144,
            from_size: 6144,
            chunk: 8,
            from: Some(Version::default()),
            ..Begin::default()
        };
        let counts = source::count(pieces.map(Ok), 8).unwrap();
        let begin = begin.with_counts(&counts);
        let mut ahead = Ahead::new(file, pieces.into_iter(), 0, Interrupt::never());
        let mut encoder = Encoder::new(Vec::new(), Options::default()).unwrap();
        send(
            &mut encoder,
            &begin,
            None,
            pieces.map(Ok),
            &mut ahead,
            &mut |_| {},
        )
        .unwrap();
        let stream = encoder.finish().unwrap();
        let mut decoder = Decoder::new(&stream[..]).unwrap();
        let mut sectors = 0;
        loop {
            match decoder.event().unwrap() {
                Event::Data(start, data) => {
                    let at = start as usize * 512;
                    assert_eq!(data, &bytes[at..at + data.len()]);
                    sectors += data.len() / 512;
                }
                Event::Last(_) => break,
                _ => {}
            }
        }
        assert_eq!(sectors, 8 + 2040 + 3000 + 8);
    }
}
