// SPDX-License-Identifier: GPL-2.0
//! A snapshot on its way into something that receives it.

use crate::failure::{Failure, Kind, Result};
use crate::peer::Peer;
use crate::plan::Plan;
use crate::sender::Sender;
use dm_snap_mv_stream::Position;

/// Sends what is planned, from a position on if there is one, to who receives it; with `overwrite`, over whatever is
/// there. What was said to that.
pub(super) fn pass(
    sender: &Sender,
    plan: &Plan,
    position: Option<&Position>,
    mut peer: Peer,
    overwrite: bool,
) -> Result<String> {
    let stream = peer.receive(overwrite)?;
    let sent = sender.send(std::slice::from_ref(plan), position, stream);
    // Whoever receives knows better why that has ended, but for what has gone wrong here.
    match (sent, peer.received()) {
        (Ok(()), Ok(said)) => Ok(said),
        (Err(failure), _) if !failure.is_quiet() => Err(failure),
        (_, Err(failure)) => Err(failure),
        (Err(_), Ok(_)) => Err(Failure::new(Kind::Refused, "it has stopped listening")),
    }
}
