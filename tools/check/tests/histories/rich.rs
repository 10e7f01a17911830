// SPDX-License-Identifier: GPL-2.0

//! A store that has some of everything: one that random operations come to.

use std::cell::RefCell;

use dm_snap_mv_model::disk::identity::Identity;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::record_key::RecordValue;

use crate::image::has_zeroes;
use crate::store::Store;

thread_local! {
    static RICH: RefCell<Option<Store>> = const { RefCell::new(None) };
}

/// Whether there are two origins, one of them being rolled back with marks and another one with snapshots, a ghost, a dead
/// timeline and one with garbage, snapshots of snapshots, zeroes of several chunks, and bookmarks that something was
/// noted for.
fn is_rich(store: &Store) -> bool {
    let mut snapshots = store.snapshots.iter();
    let rests = store.origins.iter();
    let mut rests = rests.filter(|(_, row)| row.rollback.is_none());
    store.origins.iter().count() > 1
        && rests.clone().next().is_some()
        && rests.all(|(_, row)| row.snapshots > 0)
        && store.done.iter().next().is_some()
        && store.cleaning.iter().any(|(_, row)| row.drop)
        && store.cleaning.iter().any(|(_, row)| !row.drop)
        && store.snapshots.iter().any(|(_, row)| row.ghost)
        && has_zeroes(store)
        && store
            .snapshots
            .iter()
            .any(|(_, row)| row.bookmark && !row.ghost)
        && store
            .records
            .iter()
            .any(|(_, &value)| value == RecordValue::Mark.encode())
        && snapshots.any(|(_, row)| row.parent.is_some() && row.chunks > 2)
}

/// To be called with each state that operations come to.
pub fn look_at(store: &Store) {
    RICH.with_borrow_mut(|rich| {
        if rich.is_none() && is_rich(store) {
            *rich = Some(store.clone());
        }
    });
}

/// The first such store there is.
pub fn rich() -> Store {
    for seed in 1.. {
        let (config, operations) = crate::ops::generate(seed, 1000);
        crate::ops::run(&config, &operations, &mut 0);
        if let Some(mut store) = RICH.take() {
            // One of them has been in use, and says on what disk.
            let (&nr, &row) = store.origins.iter().next().expect("an origin");
            let identity = Identity {
                name: Some(*b"name of disk"),
                samples: Some([1, 0, 2, 3]),
            };
            store.origins.insert(nr, OriginRow { identity, ..row });
            return store;
        }
    }
    unreachable!()
}
