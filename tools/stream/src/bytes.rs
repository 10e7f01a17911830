// SPDX-License-Identifier: GPL-2.0
//! Numbers in bytes, little-endian. Behind the end of the bytes there are zeroes.

/// The number of four bytes at an offset.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    field.map_or(0, |field| u32::from_le_bytes(*field))
}

/// The number of eight bytes at an offset.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    field.map_or(0, |field| u64::from_le_bytes(*field))
}

/// `N` bytes at an offset.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let field = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    field.copied().unwrap_or([0; N])
}

/// Puts a field where there is room for it.
pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    let end = at.checked_add(field.len());
    if let Some(place) = end.and_then(|end| bytes.get_mut(at..end)) {
        place.copy_from_slice(field);
    }
}
