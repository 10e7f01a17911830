// SPDX-License-Identifier: GPL-2.0

//! Journals of several blocks, of which any may be one that does not belong there, compared with
//! what the format says of them.

use std::io;

use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::disk::journal::{self, Entry, Place, Run, BATCH_BLOCKS, BEHIND_BLOCKS};
use dm_snap_mv_model::disk::layout::Layout;
use dm_snap_mv_model::disk::superblock::{Roots, Superblock};
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_store::journal::{read, sum, MOST};
use dm_snap_mv_store::{checksum, Block, Blocks};

use crate::input::Input;

/// Blocks of a journal at most: so many that it takes several looks.
const BLOCKS: usize = 3 * BATCH_BLOCKS;

const TRANSACTION: u64 = 3;

/// One block, and what it is: whether it ends a batch, and which of its batch it is. None: it is not
/// the one that belongs there.
struct Made {
    block: Block,
    is: Option<(bool, usize)>,
}

/// What is wrong with a block, a bit each.
const SUM: u8 = 2;
const TRANSACTION_BIT: u8 = 4;
const INDEX: u8 = 8;
const UUID: u8 = 0x10;
const NUMBER: u8 = 0x20;
const BLANK: u8 = 0x80;
/// Its length is not that of what is in it.
const LENGTH: u8 = 0x40;

fn make(superblock: &Superblock, index: usize, input: &mut Input<'_>) -> Made {
    let (how, nth, len) = (input.u8(), input.u8(), input.u16());
    let mut block = Block::zeroed();
    let body = match how & LENGTH {
        0 => input.bytes(usize::from(len).min(4096 - 64)),
        _ => &[],
    };
    let used = match how & LENGTH {
        0 => 64 + body.len() as u32,
        _ => u32::from(len),
    };
    let wrong = |bit| u64::from(how & bit != 0);
    let mut put = |at: usize, bytes: &[u8]| block.0[at..at + bytes.len()].copy_from_slice(bytes);
    let number = superblock.layout.journal_start + index as u64;
    put(64, body);
    put(4, &u32::from(how & 1).to_le_bytes());
    put(8, &(number + wrong(NUMBER)).to_le_bytes());
    put(16, &superblock.uuid);
    put(16, &[superblock.uuid[0] ^ wrong(UUID) as u8]);
    put(32, &(TRANSACTION - wrong(TRANSACTION_BIT)).to_le_bytes());
    put(40, &(index as u64 + wrong(INDEX)).to_le_bytes());
    put(48, &used.to_le_bytes());
    put(52, &u32::from(nth).to_le_bytes());
    let right = checksum::of_block(&block, journal::CHECKSUM_XOR) ^ wrong(SUM) as u32;
    block.0[..4].copy_from_slice(&right.to_le_bytes());
    if how & BLANK != 0 {
        block = Block::zeroed();
    }
    let nth = usize::from(nth);
    let is = how & !(LENGTH | 1) == 0
        && (64..=4096).contains(&used)
        && nth <= index
        && nth < BATCH_BLOCKS;
    Made {
        block: *block,
        is: is.then_some((how & 1 != 0, nth)),
    }
}

struct Device<'a> {
    start: u64,
    blocks: &'a [Made],
}

impl Blocks for Device<'_> {
    fn read(&self, nr: u64) -> io::Result<Box<Block>> {
        let index = nr.checked_sub(self.start).expect("a block of the journal");
        Ok(Box::new(self.blocks[index as usize].block.clone()))
    }
}

fn superblock(journal_blocks: u64) -> Superblock {
    let chunk_size = ChunkSize::from_pages(1).expect("a chunk size");
    let layout = Layout::new(1 << 24, chunk_size, None).expect("a layout");
    let layout = Layout {
        journal_blocks,
        ..layout
    };
    Superblock {
        clean: false,
        needs_check: false,
        cow_full: false,
        uuid: [7; 16],
        compat: 0,
        ro_compat: 0,
        incompat: Superblock::incompat_of(&layout),
        layout,
        transaction: TRANSACTION,
        next_origin: 1,
        nr_origins: 0,
        roots: Roots::default(),
        metadata_space: [0; 128],
        data_space: [0; 128],
        strange: [0; 64],
    }
}

/// Where the last whole batch ends.
fn end(blocks: &[Made]) -> usize {
    let mut end = 0;
    loop {
        let batch = blocks.iter().skip(end).enumerate();
        let mut batch = batch.map_while(|(i, made)| made.is.filter(|&(_, nth)| nth == i));
        match batch.position(|(last, _)| last) {
            Some(last) => end += last + 1,
            None => return end,
        }
    }
}

/// What whole batches say, unless it makes no sense.
fn said(blocks: &[Made], data_chunks: u64) -> Option<Vec<Entry>> {
    let mut all = Vec::new();
    for made in blocks {
        let gather = |entry: &Entry| {
            all.push(*entry);
            Ok::<_, Refusal>(())
        };
        journal::entries(&made.block.0, data_chunks, gather).ok()?;
    }
    let many = |entry: &Entry| match *entry {
        Entry::Run(Run::Records { len, .. }) => u64::from(len),
        Entry::Run(Run::Use { len, .. } | Run::Done { len, .. }) => len,
        _ => 0,
    };
    let sum = all.iter().map(many).fold(0, u64::saturating_add);
    (sum <= MOST).then_some(all)
}

/// Several blocks.
pub fn blocks(data: &[u8]) {
    let mut input = Input(data);
    let mut made = Vec::new();
    let mut bare = superblock(0);
    while !input.is_empty() && made.len() < BLOCKS {
        made.push(make(&bare, made.len(), &mut input));
    }
    bare.layout.journal_blocks = made.len() as u64;
    let layout = bare.layout;
    let place = Place {
        uuid: bare.uuid,
        transaction: bare.transaction,
        first_block: layout.journal_start,
        index: 0,
    };
    for (i, made) in made.iter().enumerate() {
        let found = journal::look(&made.block.0, &place.plus(i), sum);
        let found = found.map(|found| (found.last, found.nth as usize));
        assert_eq!(found, made.is, "block {i}");
    }
    let end = end(&made);
    let behind = made.iter().enumerate().skip(end).take(BEHIND_BLOCKS);
    let behind = behind
        .filter_map(|(i, made)| Some(i - made.is?.1))
        .any(|first| first != end);
    let said = said(&made[..end], layout.data_chunks);

    let all: Vec<_> = made.iter().map(|made| made.block.0).collect();
    let rest = all.iter().skip(end).take(BEHIND_BLOCKS);
    let rest: Vec<_> = rest.copied().collect();
    assert_eq!(
        journal::is_behind(&rest, &place.plus(end), end as u64, sum),
        behind
    );
    let nothing = |_: &Entry| Ok::<_, Refusal>(());
    if let Ok(count) = journal::batches(&all, &place, sum, layout.data_chunks, nothing) {
        assert_eq!(count, end);
    }

    let device = Device {
        start: layout.journal_start,
        blocks: &made,
    };
    let mut given = Vec::new();
    let read = read(&device, &bare, &mut |entry| given.push(*entry));
    match said.filter(|_| !behind) {
        Some(said) => {
            assert!(read.is_ok(), "{read:?}");
            assert_eq!(given, said);
        }
        None => assert!(read.is_err()),
    }
}
