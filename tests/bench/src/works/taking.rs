// SPDX-License-Identifier: GPL-2.0

//! How long it takes to take a snapshot and to delete one, by how many there are.

use std::time::Instant;

use anyhow::Result;

use super::Course;
use crate::fio::{small, Job};
use crate::peers::{ours, thin, Stack};
use crate::report::median;
use crate::sample::{Peer, Setting, Work};

/// So many snapshots there are when it is measured.
const COUNTS: [u32; 4] = [10, 100, 1000, 10_000];

/// Of so many the median is taken.
const TAKES: u32 = 25;

/// Measures it, for both who can.
pub fn run(course: &Course<'_>) -> Result<()> {
    for peer in [Peer::Ours, Peer::Thin] {
        if course.wanted(Work::Take.title()) || course.wanted(Work::Delete.title()) {
            measure(course, peer)?;
        }
    }
    Ok(())
}

/// Either of them.
struct Taker {
    peer: Peer,
    stack: Stack,
    next: u32,
}

impl Taker {
    /// Takes a snapshot; returns the microseconds.
    fn take(&mut self) -> Result<f64> {
        let begin = Instant::now();
        match self.peer {
            Peer::Thin => thin::take(&self.stack, self.next)?,
            _ => drop(ours::take(&self.stack)?),
        }
        self.next += 1;
        Ok(begin.elapsed().as_secs_f64() * 1e6)
    }

    /// Deletes the newest.
    fn delete(&self, number: u32) -> Result<f64> {
        let begin = Instant::now();
        match self.peer {
            Peer::Thin => thin::delete(&self.stack, number)?,
            _ => drop(
                self.stack
                    .get(ours::ORIGIN)?
                    .message(&format!("ds {number}"))?,
            ),
        }
        Ok(begin.elapsed().as_secs_f64() * 1e6)
    }
}

fn measure(course: &Course<'_>, peer: Peer) -> Result<()> {
    let disks = course.disks;
    let (stack, index) = match peer {
        Peer::Thin => (thin::set_up(disks)?, thin::VOLUME),
        _ => {
            let stack = ours::set_up(&disks.origin, &disks.cow, 1, 0)?;
            (stack, ours::ORIGIN)
        }
    };
    let device = stack.path(index)?;
    let mut taker = Taker {
        peer,
        stack,
        next: 1,
    };
    let counts = if course.large { &COUNTS } else { &COUNTS[..3] };
    for &snapshots in counts {
        while taker.next <= snapshots {
            taker.take()?;
        }
        let setting = |work| Setting {
            latency: course.latency,
            work,
            peer,
            snapshots,
            jobs: 1,
        };
        let times: Result<Vec<f64>> = (0..TAKES).map(|_| taker.take()).collect();
        course.tell(setting(Work::Take), median(&mut times?))?;

        let load = Job {
            seconds: Some(60),
            ..small(&device, "randwrite")
        };
        let load = load.begin()?;
        std::thread::sleep(std::time::Duration::from_millis(700));
        let times: Result<Vec<f64>> = (0..TAKES).map(|_| taker.take()).collect();
        drop(load);
        course.tell(setting(Work::TakeLoaded), median(&mut times?))?;

        let newest = taker.next - 1;
        let times: Result<Vec<f64>> = (newest - TAKES..newest)
            .map(|number| taker.delete(number))
            .collect();
        course.tell(setting(Work::Delete), median(&mut times?))?;
    }
    Ok(())
}
