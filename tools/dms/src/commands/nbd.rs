// SPDX-License-Identifier: GPL-2.0
//! `dms nbd`

use super::send::versions;
use crate::cli::Nbd;
use crate::dm::Dm;
use crate::failure::{Failure, Kind, Result};
use crate::hints;
use crate::interrupt::Interrupt;
use crate::list;
use crate::nbd::export::Snapshot;
use crate::nbd::server::Server;
use crate::nbd::socket::{need_free, Socket};
use crate::plan::{Base, Plan};
use crate::private::Shown;
use crate::sender::Sender;
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_stream::frame::SECTOR;

pub fn run(args: &Nbd) -> Result<()> {
    let (to, from) = versions(&args.tag, args.since.as_deref())?;
    // Signals before threads, and what was given before anything else can have taken its number.
    let interrupt = Interrupt::watch()?;
    let given = Socket::given()?;
    if given.is_some() == args.socket.is_some() {
        return Err(match given {
            Some(_) => {
                Failure::usage("a socket was given by who started this, and one with --socket")
                    .hint("leave out --socket")
            }
            None => Failure::usage("it is not known where to listen")
                .hint("dms nbd --socket /run/NAME ..., or by socket activation"),
        });
    }
    if let Some(path) = &args.socket {
        need_free(path)?;
    }
    let find = || Sender::find(&args.dm_dev, args.cow.as_deref(), interrupt.clone());
    let sender = find()?;
    let plan = sender.plan(to, from.map(Base::of))?;
    let shown = sender.show(&plan)?;
    let done = match plan.written {
        false => serve(args, &sender, plan, from, given, &shown, &interrupt),
        // Whoever wrote to it may have done so until a moment ago. Now nobody can: so that is what is looked at,
        // with what the kernel had in memory alone.
        true => written_down(&shown)
            .and_then(|()| find())
            .and_then(|sender| {
                let plan = sender.plan(to, from.map(Base::of))?;
                serve(args, &sender, plan, from, given, &shown, &interrupt)
            }),
    };
    if let Some(dm) = Dm::if_there() {
        shown.close(&dm);
    }
    done
}

fn written_down(shown: &Shown) -> Result<()> {
    shown.file.sync_all().map_err(|e| {
        let what = format!("cannot have {} write down what it holds: {e}", shown.name);
        Failure::new(Kind::Refused, what)
    })
}

fn serve(
    args: &Nbd,
    sender: &Sender,
    plan: Plan,
    from: Option<Tag>,
    given: Option<Socket>,
    shown: &Shown,
    interrupt: &Interrupt,
) -> Result<()> {
    let begin = &plan.begin;
    let tag = begin.to.tag;
    let memo = begin.to.memo.as_ref().map(|memo| format!(" ({memo:?})"));
    let description = format!(
        "snapshot {tag}{} of {}",
        memo.unwrap_or_default(),
        String::from_utf8_lossy(&begin.identity).escape_debug()
    );
    let (bytes, chunk) = (begin.size * SECTOR, u64::from(begin.chunk) * SECTOR);
    let snapshot = Snapshot::new(shown.file.clone(), bytes, chunk, sender.zeroes(plan.to)?);
    let mut snapshot = snapshot.called(tag.to_string(), description);
    let written = plan.written;
    if let Some(from) = from {
        snapshot = snapshot.since(from.get(), plan.ranges);
    }
    let dm = Dm::open()?;
    let mut look = || unchanged(&dm, shown, tag, written);
    look()?;
    let socket = match (given, &args.socket) {
        (Some(socket), _) => socket,
        (None, Some(path)) => Socket::make(path)?,
        (None, None) => return Err(Failure::usage("it is not known where to listen")),
    };
    let server = Server {
        listener: &socket.listener,
        export: &snapshot,
        once: args.once,
        interrupt,
    };
    server.run(&mut look)
}

/// Whether the snapshot still is what it was when this began, as the kernel has it.
fn unchanged(dm: &Dm, shown: &Shown, tag: u32, written: bool) -> Result<()> {
    let page = list::page(dm, &shown.name, tag)?;
    let row = page.rows.iter().find(|row| row.tag == tag);
    let row = row.ok_or_else(|| hints::failure(Refusal::UnknownTag))?;
    if row.flags.contains('I') {
        let failure = hints::failure(Refusal::InvalidSnapshot);
        return Err(failure.context(format!("snapshot {tag}")));
    }
    if row.chunks > 0 && !written {
        let what = format!("snapshot {tag} has been written to while it was served");
        return Err(Failure::new(Kind::Busy, what)
            .hint("what was read is of no use; take a snapshot of it, and serve that"));
    }
    Ok(())
}
