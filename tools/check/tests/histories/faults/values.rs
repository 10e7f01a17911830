// SPDX-License-Identifier: GPL-2.0

//! What the value of a field becomes.

use std::collections::{BTreeMap, BTreeSet};

use super::fields::Shape;
use super::places::{Place, Places};
use crate::image::Image;
use crate::random::Random;

/// Of the values that the same field has elsewhere, and of the blocks that others lead to, so many are
/// tried.
const OTHERS: usize = 6;

/// What stands in a field.
pub fn value(image: &Image, place: &Place) -> Vec<u8> {
    image.blocks[&place.block].0[place.at..place.at + place.field.size].to_vec()
}

/// The values that fields have, by what they are fields of.
pub struct Values {
    same: BTreeMap<(&'static str, &'static str), BTreeSet<Vec<u8>>>,
    pointers: BTreeSet<Vec<u8>>,
}

impl Values {
    pub fn of(image: &Image, places: &Places) -> Self {
        let mut all = Self {
            same: BTreeMap::new(),
            pointers: BTreeSet::new(),
        };
        for place in &places.fields {
            let value = value(image, place);
            if place.field.shape == Shape::Pointer {
                all.pointers.insert(value.clone());
            }
            let of_field = all.same.entry((place.of, place.field.name));
            of_field.or_default().insert(value);
        }
        all
    }

    /// All that a field is changed to, the worst first.
    pub fn instead(&self, place: &Place, was: &[u8], random: &mut Random) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        match place.field.shape {
            Shape::Checksum | Shape::Bytes => {
                for at in [0, was.len() - 1, random.below(was.len() as u64) as usize] {
                    let mut value = was.to_vec();
                    value[at] ^= 1 << random.below(8);
                    all.push(value);
                }
                all.push(vec![0; was.len()]);
            }
            Shape::Number | Shape::Pointer => {
                let mut bytes = [0; 8];
                bytes[..was.len()].copy_from_slice(was);
                let number = u64::from_le_bytes(bytes);
                let bits = 8 * was.len() as u64;
                let few = [
                    number.wrapping_add(1),
                    number.wrapping_sub(1),
                    0,
                    number ^ (1 << random.below(bits)),
                    u64::MAX,
                    number ^ (1 << random.below(bits.min(12))),
                    1,
                    number.wrapping_mul(2),
                ];
                all.extend(few.map(|value| value.to_le_bytes()[..was.len()].to_vec()));
            }
        }
        let same = self.same.get(&(place.of, place.field.name));
        let pointers = (place.field.shape == Shape::Pointer).then_some(&self.pointers);
        for others in same.into_iter().chain(pointers) {
            let mut others: Vec<_> = others.iter().cloned().collect();
            for _ in 0..OTHERS.min(others.len()) {
                all.push(others.swap_remove(random.below(others.len() as u64) as usize));
            }
        }
        let mut seen = BTreeSet::from([was.to_vec()]);
        all.retain(|value| seen.insert(value.clone()));
        all
    }
}
