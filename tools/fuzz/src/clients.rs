// SPDX-License-Identifier: GPL-2.0

//! What a client of network block devices says.

use std::io::{self, Write};
use std::sync::Mutex;

use dm_snap_mv_nbd::wire::{allocation, DIRTY};
use dm_snap_mv_nbd::{negotiate, transmit, Export, Extent, PIECE};

/// Two contexts, of which the first says that every other page is zeroes.
struct Pages(Vec<String>);

const SIZE: u64 = 1 << 20;
const PAGE: u64 = 4096;

impl Export for Pages {
    fn size(&self) -> u64 {
        SIZE
    }
    fn name(&self) -> &str {
        "1"
    }
    fn description(&self) -> &str {
        "pages"
    }
    fn preferred(&self) -> u32 {
        4096
    }
    fn contexts(&self) -> &[String] {
        &self.0
    }
    fn extents(&self, context: usize, offset: u64) -> Box<dyn Iterator<Item = Extent> + '_> {
        assert!(context < self.0.len() && offset <= SIZE);
        let flags = match context {
            0 => allocation::HOLE | allocation::ZERO,
            _ => DIRTY,
        };
        let mut at = offset;
        Box::new(std::iter::from_fn(move || {
            let page = at / PAGE;
            let len = (page + 1) * PAGE - at;
            at += len;
            let flags = flags * (page % 2) as u32;
            (page < SIZE / PAGE).then_some(Extent { len, flags })
        }))
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        assert!(into.len() <= PIECE && offset + into.len() as u64 <= SIZE);
        into.fill((offset / PAGE) as u8);
        Ok(())
    }
}

/// Counts what is sent.
struct To<'a>(&'a Mutex<usize>);

impl Write for To<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = self.0.lock().expect("a count");
        *sent += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All of a conversation; what comes of it is bounded by how much was said.
pub fn client(said: &[u8]) {
    let export = Pages(
        ["base:allocation", "qemu:dirty-bitmap:since-1"]
            .map(String::from)
            .into(),
    );
    let sent = Mutex::new(0);
    let mut from = said;
    if let Ok(Some(session)) = negotiate(&mut from, &mut To(&sent), &export) {
        let hung_up = || {};
        let _ = transmit(from, To(&sent), &session, &export, 1, &hung_up);
    }
    let sent = sent.into_inner().expect("a count");
    // A request is 28 bytes, and asks for all there is at most, with a head for each page.
    let most = 1000 + said.len() * 100 + said.len() / 28 * (SIZE as usize + 16_384);
    assert!(sent <= most, "{sent} bytes for {}", said.len());
}
