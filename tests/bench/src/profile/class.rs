// SPDX-License-Identifier: GPL-2.0

//! What a function is for, told from its name and the module that it is in.

use serde::{Deserialize, Serialize};

/// Kinds of work that a processor does; ordered as they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The target that is measured, but for what follows.
    Target,
    /// B-trees, their blocks, and checksums.
    Trees,
    /// device-mapper, kcopyd, dm-io.
    Mapper,
    /// The block layer and io_uring.
    Block,
    /// null_blk, which is the devices.
    Devices,
    /// Copying and clearing, whoever has it done.
    Copying,
    /// Finding memory, and giving it back.
    Memory,
    /// The scheduler, work queues, timers, interrupts.
    Scheduler,
    /// Locks. A sample that was due while interrupts were off is taken when they are on again: in
    /// the function that lets a lock go.
    Locks,
    /// All else of the kernel.
    Other,
    /// fio.
    User,
    /// Nothing: a processor waits.
    Idle,
}

/// All of them.
pub const ALL: [Class; 12] = [
    Class::Target,
    Class::Trees,
    Class::Mapper,
    Class::Block,
    Class::Devices,
    Class::Copying,
    Class::Memory,
    Class::Scheduler,
    Class::Locks,
    Class::Other,
    Class::User,
    Class::Idle,
];

/// Beginnings of names of the kernel's own functions, leading underscores aside. The first that fits
/// counts.
const NAMES: &[(&str, Class)] = &[
    ("pv_native_safe_halt", Class::Idle),
    ("native_safe_halt", Class::Idle),
    ("default_idle", Class::Idle),
    ("acpi_safe_halt", Class::Idle),
    ("acpi_idle", Class::Idle),
    ("acpi_processor_ffh", Class::Idle),
    ("arch_cpu_idle", Class::Idle),
    ("cpuidle", Class::Idle),
    ("cpu_idle", Class::Idle),
    ("do_idle", Class::Idle),
    ("menu_", Class::Idle),
    ("copy_", Class::Copying),
    ("memcpy", Class::Copying),
    ("memset", Class::Copying),
    ("memmove", Class::Copying),
    ("clear_page", Class::Copying),
    ("rep_movs", Class::Copying),
    ("rep_stos", Class::Copying),
    ("crc32", Class::Trees),
    ("raw_spin", Class::Locks),
    ("raw_read", Class::Locks),
    ("raw_write", Class::Locks),
    ("queued_", Class::Locks),
    ("native_queued", Class::Locks),
    ("pv_queued", Class::Locks),
    ("mutex", Class::Locks),
    ("osq_", Class::Locks),
    ("rwsem", Class::Locks),
    ("down_", Class::Locks),
    ("up_", Class::Locks),
    ("rcu_", Class::Locks),
    ("srcu_", Class::Locks),
    ("percpu_ref", Class::Locks),
    ("kmem_cache", Class::Memory),
    ("kmalloc", Class::Memory),
    ("kfree", Class::Memory),
    ("slab", Class::Memory),
    ("mempool", Class::Memory),
    ("alloc_pages", Class::Memory),
    ("alloc_frozen", Class::Memory),
    ("alloc_from_pcs", Class::Memory),
    ("free_from_pcs", Class::Memory),
    ("free_to_pcs", Class::Memory),
    ("free_frozen", Class::Memory),
    ("free_pages", Class::Memory),
    ("free_unref", Class::Memory),
    ("free_one_page", Class::Memory),
    ("free_pcp", Class::Memory),
    ("rmqueue", Class::Memory),
    ("get_page_from", Class::Memory),
    ("refill_", Class::Memory),
    ("folio", Class::Memory),
    ("memcg", Class::Memory),
    ("obj_cgroup", Class::Memory),
    ("gup_", Class::Memory),
    ("pin_user", Class::Memory),
    ("unpin_user", Class::Memory),
    ("radix_tree", Class::Devices),
    ("xa_", Class::Devices),
    ("xas_", Class::Devices),
    ("dm_", Class::Mapper),
    ("blk", Class::Block),
    ("bio", Class::Block),
    ("bdev", Class::Block),
    ("bvec", Class::Block),
    ("submit_bio", Class::Block),
    ("io_", Class::Block),
    ("iov_", Class::Block),
    ("sbitmap", Class::Block),
    ("elv_", Class::Block),
    ("dd_", Class::Block),
    ("req_", Class::Block),
    ("rq_qos", Class::Block),
    ("wbt_", Class::Block),
    ("part_", Class::Block),
    ("update_io_ticks", Class::Block),
    ("should_fail_bio", Class::Block),
    ("generic_file", Class::Block),
    ("sched", Class::Scheduler),
    ("schedule", Class::Scheduler),
    ("try_to_wake", Class::Scheduler),
    ("ttwu", Class::Scheduler),
    ("wake", Class::Scheduler),
    ("enqueue", Class::Scheduler),
    ("dequeue", Class::Scheduler),
    ("pick_", Class::Scheduler),
    ("put_prev", Class::Scheduler),
    ("set_next", Class::Scheduler),
    ("select_", Class::Scheduler),
    ("update_curr", Class::Scheduler),
    ("update_load", Class::Scheduler),
    ("update_rq", Class::Scheduler),
    ("update_cfs", Class::Scheduler),
    ("update_se", Class::Scheduler),
    ("update_entity", Class::Scheduler),
    ("update_process", Class::Scheduler),
    ("place_entity", Class::Scheduler),
    ("avg_vruntime", Class::Scheduler),
    ("vruntime", Class::Scheduler),
    ("finish_task", Class::Scheduler),
    ("prepare_task", Class::Scheduler),
    ("switch_", Class::Scheduler),
    ("psi_", Class::Scheduler),
    ("cpuacct", Class::Scheduler),
    ("task_", Class::Scheduler),
    ("reweight", Class::Scheduler),
    ("dl_", Class::Scheduler),
    ("entity", Class::Scheduler),
    ("resched", Class::Scheduler),
    ("process_one_work", Class::Scheduler),
    ("process_scheduled", Class::Scheduler),
    ("worker_", Class::Scheduler),
    ("queue_work", Class::Scheduler),
    ("queue_delayed", Class::Scheduler),
    ("insert_work", Class::Scheduler),
    ("kick_pool", Class::Scheduler),
    ("pwq_", Class::Scheduler),
    ("wq_", Class::Scheduler),
    ("move_linked", Class::Scheduler),
    ("kthread", Class::Scheduler),
    ("mod_timer", Class::Scheduler),
    ("timer", Class::Scheduler),
    ("hrtimer", Class::Scheduler),
    ("run_timer", Class::Scheduler),
    ("tick", Class::Scheduler),
    ("clockevents", Class::Scheduler),
    ("ktime", Class::Scheduler),
    ("read_tsc", Class::Scheduler),
    ("read_hpet", Class::Scheduler),
    ("acpi_pm_read", Class::Scheduler),
    ("native_sched_clock", Class::Scheduler),
    ("local_clock", Class::Scheduler),
    ("smp_call", Class::Scheduler),
    ("flush_smp", Class::Scheduler),
    ("call_function", Class::Scheduler),
    ("native_smp", Class::Scheduler),
    ("x2apic", Class::Scheduler),
    ("apic", Class::Scheduler),
    ("lapic", Class::Scheduler),
    ("native_apic", Class::Scheduler),
    ("native_write_msr", Class::Scheduler),
    ("irq", Class::Scheduler),
    ("sysvec", Class::Scheduler),
    ("asm_sysvec", Class::Scheduler),
    ("softirq", Class::Scheduler),
    ("handle_softirqs", Class::Scheduler),
    ("do_softirq", Class::Scheduler),
    ("rebalance", Class::Scheduler),
    ("nohz", Class::Scheduler),
    ("newidle", Class::Scheduler),
];

/// What a function of the kernel is for, by its name and the module that it is of.
pub fn of(module: Option<&str>, name: &str) -> Class {
    match module {
        Some("dm_snap_mv") if name.contains("pdata") => Class::Trees,
        Some("dm_snap_mv" | "dm_snapshot" | "dm_thin_pool" | "dm_bio_prison") => Class::Target,
        Some("dm_persistent_data" | "dm_bufio") => Class::Trees,
        Some("dm_mod") => Class::Mapper,
        Some("null_blk") => Class::Devices,
        _ => {
            let bare = name.trim_start_matches('_');
            NAMES
                .iter()
                .find(|(start, _)| bare.starts_with(start))
                .map_or(Class::Other, |&(_, class)| class)
        }
    }
}

impl Class {
    /// As it is shown.
    pub fn title(self) -> &'static str {
        match self {
            Self::Target => "the target",
            Self::Trees => "B-trees and their blocks",
            Self::Mapper => "device-mapper, kcopyd, dm-io",
            Self::Block => "block layer, io_uring",
            Self::Devices => "null_blk",
            Self::Copying => "copying and clearing",
            Self::Memory => "memory",
            Self::Scheduler => "scheduler, work queues, clocks",
            Self::Locks => "locks",
            Self::Other => "other",
            Self::User => "fio",
            Self::Idle => "idle",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_before_names() {
        let ours = Some("dm_snap_mv");
        assert_eq!(of(ours, "_RNvNtCsX_2dm5pdata4copy_block"), Class::Trees);
        assert_eq!(of(ours, "memcpy"), Class::Target);
    }

    #[test]
    fn underscores_do_not_count() {
        assert_eq!(of(None, "__kmalloc_cache_noprof"), Class::Memory);
        assert_eq!(of(None, "_raw_spin_unlock_irqrestore"), Class::Locks);
        assert_eq!(of(None, "pv_native_safe_halt"), Class::Idle);
        assert_eq!(of(None, "crypto_thing"), Class::Other);
    }
}
