// SPDX-License-Identifier: GPL-2.0
//! Whose a physical volume of LVM is, by what stands on it: a group that is in use is so with all of its
//! disks, also with those that none of its active volumes is on.

use dm_snap_mv_store::{Blocks, BLOCK_SIZE};

/// A sector of LVM's.
const SECTOR: u64 = 512;
/// The label is in one of the first sectors.
const LABEL_SECTORS: u64 = 4;
const LABEL: &[u8] = b"LABELONE";
const KIND: &[u8] = b"LVM2 001";
/// What a metadata area has behind its checksum.
const AREA: &[u8] = b" LVM2 x[5A%r0N*>";
/// So many areas of one sort are looked at.
const MOST_AREAS: u64 = 16;

/// A volume group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its UUID as device-mapper's UUIDs of its volumes have it: without hyphens.
    pub uuid: String,
}

/// Reads bytes that do not cross the end of their block.
fn bytes(device: &dyn Blocks, at: u64, len: usize) -> Option<Vec<u8>> {
    let block = device.read(at / BLOCK_SIZE as u64).ok()?;
    let from = (at % BLOCK_SIZE as u64) as usize;
    Some(block.0.get(from..from.checked_add(len)?)?.to_vec())
}

fn number(device: &dyn Blocks, at: u64) -> Option<u64> {
    let bytes = bytes(device, at, 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// The group that a physical volume belongs to. `None` if it belongs to none, or keeps no metadata, or
/// is no physical volume.
pub fn group(device: &dyn Blocks) -> Option<Group> {
    (0..LABEL_SECTORS)
        .map(|sector| sector * SECTOR)
        .find(|&at| {
            let has = |at, mark: &[u8]| bytes(device, at, mark.len()).as_deref() == Some(mark);
            has(at, LABEL) && has(at + 24, KIND)
        })
        .and_then(|label| labelled(device, label))
}

fn labelled(device: &dyn Blocks, label: u64) -> Option<Group> {
    let header = u32::from_le_bytes(bytes(device, label + 20, 4)?.try_into().ok()?);
    // Behind a UUID and the size there are areas, each an offset and a size: those of data, up to one
    // that is 0, and then those of metadata.
    let list = label + u64::from(header) + 32 + 8;
    let area = |nr: u64| number(device, list + nr * 16);
    let data = (0..MOST_AREAS).find(|&nr| area(nr) == Some(0))?;
    (data + 1..data + 1 + MOST_AREAS)
        .map_while(|nr| area(nr).filter(|&at| at != 0))
        .find_map(|at| described(device, at))
}

/// The group that a metadata area describes.
fn described(device: &dyn Blocks, area: u64) -> Option<Group> {
    if bytes(device, area.checked_add(4)?, AREA.len())? != AREA {
        return None;
    }
    // Behind the version, where the area begins, and its size.
    let text = number(device, area.checked_add(40)?).filter(|&at| at != 0)?;
    let text = bytes(device, area.checked_add(text)?, SECTOR as usize)?;
    let text = String::from_utf8_lossy(&text);
    let (name, rest) = text.split_once(" {")?;
    let uuid = rest.split_once("id = \"")?.1.split_once('"')?.0;
    Some(Group {
        name: name.to_owned(),
        uuid: uuid.replace('-', ""),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dm_snap_mv_store::Block;
    use std::io;

    struct Disk(Vec<u8>);

    impl Blocks for Disk {
        fn read(&self, nr: u64) -> io::Result<Box<Block>> {
            let mut block = Block::zeroed();
            let from = nr as usize * BLOCK_SIZE;
            let bytes = self.0.get(from..from + BLOCK_SIZE);
            block
                .0
                .copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(block)
        }
    }

    /// As pvcreate and vgcreate make it.
    fn volume() -> Vec<u8> {
        let mut disk = vec![0; 4 * BLOCK_SIZE];
        let mut put = |at: usize, bytes: &[u8]| disk[at..at + bytes.len()].copy_from_slice(bytes);
        put(512, LABEL);
        put(512 + 20, &32u32.to_le_bytes());
        put(512 + 24, KIND);
        put(544 + 40, &(1u64 << 20).to_le_bytes());
        put(544 + 40 + 32, &4096u64.to_le_bytes());
        put(4096 + 4, AREA);
        put(4096 + 40, &1536u64.to_le_bytes());
        put(4096 + 1536, b"v-g {\nid = \"ab-cd-EF\"\nseqno = 1\n");
        disk
    }

    #[test]
    fn the_group_is_found() {
        let found = Group {
            name: "v-g".into(),
            uuid: "abcdEF".into(),
        };
        assert_eq!(group(&Disk(volume())), Some(found));
    }

    #[test]
    fn a_volume_of_no_group_has_none() {
        for at in [512, 544 + 40 + 32, 4096 + 4, 4096 + 40, 4096 + 1536] {
            let mut disk = volume();
            disk[at..at + 8].fill(0);
            assert_eq!(group(&Disk(disk)), None, "{at}");
        }
        assert_eq!(group(&Disk(Vec::new())), None);
        // Whatever stands where numbers are expected.
        let mut disk = volume();
        for at in [544 + 40 + 32, 4096 + 40] {
            disk[at..at + 8].fill(0xff);
        }
        assert_eq!(group(&Disk(disk)), None);
    }
}
