// SPDX-License-Identifier: GPL-2.0
//! Reading blocks ahead of who uses them.
//!
//! A disk that is asked for one block at a time is idle most of the time, and so is a processor that
//! waits for it. So some threads read, each a group of blocks, while the caller's looks at those
//! that came before, in the order in which it has asked for them.

use crate::block::{Block, Blocks};
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// Blocks that a thread reads at a time: those of them that stand side by side by one request.
const GROUP: usize = 32;

/// Threads, which is how many requests a disk has at once. More wait for each other.
const THREADS: usize = 16;

/// What is done with a block.
pub type Each<'e> = &'e mut dyn FnMut(io::Result<Box<Block>>) -> ControlFlow<()>;

/// Gives blocks to `each` in the order of `numbers`, until it breaks, while others are being read. What
/// has been read and not been given yet is no more than `numbers` are.
pub(crate) fn read(blocks: &(impl Blocks + Sync), numbers: &[u64], each: Each<'_>) {
    let groups: Vec<_> = numbers.chunks(GROUP).collect();
    let [_, _, ..] = groups.as_slice() else {
        for block in blocks.read_many(numbers) {
            if each(block).is_break() {
                break;
            }
        }
        return;
    };
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..THREADS.min(groups.len()) {
            let (send, next, groups) = (send.clone(), &next, &groups);
            scope.spawn(move || loop {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                let Some(group) = groups.get(turn) else { break };
                if send.send((turn, blocks.read_many(group))).is_err() {
                    break;
                }
            });
        }
        drop(send);
        give(receive, each);
    });
}

/// Gives what comes in any order to `each` in the right one. What comes later is not wanted when this
/// returns, which who reads it is told by the receiver's end.
fn give(receive: mpsc::Receiver<(usize, Vec<io::Result<Box<Block>>>)>, each: Each<'_>) {
    let mut early = BTreeMap::new();
    let mut turn = 0;
    for (came, group) in receive.iter() {
        early.insert(came, group);
        while let Some(group) = early.remove(&turn) {
            turn += 1;
            for block in group {
                if each(block).is_break() {
                    return;
                }
            }
        }
    }
}
