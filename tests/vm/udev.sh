#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 64M --disk 64M --disk 64M --timeout 400
# takes: 35
#
# With udev: whose links are they that lead to what is on a device? The origin's, as long as that has
# a device, and else those of the disk below it; never a snapshot's.
set -u
. /payload/tests/guest/calls.sh
. /payload/tests/guest/udev.sh
id=11111111-2222-3333-4444-555555555555

# Whatever is opened for writing and closed is looked at anew: so each look waits for that.
leads_to() { # LINK DEVICE
	settle
	[ "$(readlink -f "/dev/disk/$1")" = "$(readlink -f "$2")" ] || {
		echo "$1 leads to $(readlink -f "/dev/disk/$1"), not to $(readlink -f "$2")"
		return 1
	}
}
by_uuid() { leads_to "by-uuid/$id" "$1" && leads_to by-label/content "$1"; }
# Each device's links below /dev/disk.
links() {
	settle
	udevadm info -q symlink "$1" | tr ' ' '\n' | sed -n 's|^disk/||p' | sort | tr '\n' ' '
}
snapshots_have_their_own() {
	local device uuid seq
	for device in "$@"; do
		uuid=$(dmsetup info -c --noheadings -o uuid "$device")
		seq=$(<"/sys/block/$(lsblk -ndo KNAME "/dev/mapper/$device")/diskseq")
		[ "$(links "/dev/mapper/$device")" = "by-diskseq/$seq by-id/dm-name-$device ${uuid:+by-id/dm-uuid-$uuid }" ] || {
			echo "$device has $(links "/dev/mapper/$device")"
			return 1
		}
	done
}
# What udev does of itself when a device was written to, or at boot.
again() {
	udevadm trigger --action="${2:-change}" "$1"
	settle
}
again_in_all_orders() {
	local device
	for device in "$@" "$1"; do
		again "$device" && by_uuid "$expected" || return
	done
	again "$1" add && by_uuid "$expected"
}

check 'udev runs' begin_udev
mkfs.ext4 -q -U $id -L content /dev/vdb
check 'the disk has its links' by_uuid /dev/vdb

call dms create orig vdb vdc -bf
check 'an origin' done_silently
expected=/dev/mapper/orig
check 'has the links' by_uuid $expected
check 'whoever is looked at last' again_in_all_orders /dev/vdb /dev/mapper/orig
uuid=$(dmsetup info -c --noheadings -o uuid orig)
check 'one tells store, origin, and that it is one' leads_to "by-id/dm-uuid-$uuid" $expected
check 'it has the priority of one' grep -qx 'L: 200' <<<"$(udevadm info -q all /dev/mapper/orig)"

for _ in 1 2 3; do dms snapshot orig >/dev/null; done
dms create s2 vdb vdc 2
check 'a snapshot does not take them' by_uuid $expected
dms create s1 vdb vdc 1
dms create s3 vdb vdc 3
check 'nor do more' again_in_all_orders /dev/mapper/s3 /dev/mapper/s1 /dev/vdb /dev/mapper/s2 /dev/mapper/orig
check 'snapshots have links of their own only' snapshots_have_their_own s1 s2 s3
check 'which tell the tag' leads_to "by-id/dm-uuid-${uuid%-*}-2" /dev/mapper/s2
check 'and are known as what they hold' test "$(lsblk -ndo UUID,LABEL /dev/mapper/s2)" = "$id content"

mkdir -p /mnt/o
mount UUID=$id /mnt/o
check 'mount by UUID mounts the origin' test "$(findmnt -no SOURCE /mnt/o)" = /dev/mapper/orig
call dms snapshot orig
check 'and it can be frozen' prints 4
umount /mnt/o
mount LABEL=content /mnt/o
check 'mount by label does, too' test "$(findmnt -no SOURCE /mnt/o)" = /dev/mapper/orig
umount /mnt/o

call dms remove orig
check 'the origin is removed' done_silently
expected=/dev/vdb
check 'the disk below it has them again, not a snapshot' again_in_all_orders /dev/mapper/s1 /dev/vdb /dev/mapper/s3
check 'snapshots have what they had' snapshots_have_their_own s1 s2 s3
refused 'which cannot be mounted past its snapshots' 32 "/dev/vdb: Can't open blockdev" mount UUID=$id /mnt/o
call dms create orig vdb vdc
check 'the origin is back' done_silently
expected=/dev/mapper/orig
check 'with the links' again_in_all_orders /dev/mapper/s1 /dev/vdb /dev/mapper/s3
call dms remove s1
check 'a snapshot goes' done_silently
check 'and nothing changes' by_uuid $expected

# While it is rolled back, with a snapshot in between.
dd if=/dev/urandom of=/dev/mapper/orig bs=1M seek=20 count=8 oflag=direct conv=notrunc status=none
call dms rollback orig 2
check 'a rollback' done_silently
check 'leaves them with the origin' by_uuid $expected
dms remove s2
dms remove s3

# udev opens whatever was closed by a writer, at once and for a moment.
often() {
	local i
	for i in {1..15}; do
		dms create s vdb vdc 1 && dd if=/dev/zero of=/dev/mapper/s bs=4096 count=1 seek=9000 \
			oflag=direct conv=notrunc status=none && dms remove s || return
		[ ! -e /dev/mapper/s ] || return
	done
	for i in {1..5}; do
		dd if=/dev/zero of=/dev/mapper/orig bs=4096 count=1 seek=9000 oflag=direct conv=notrunc \
			status=none && dms snapshot orig >/dev/null && dms rollback orig 1 || return
	done
}
call often
check 'nothing fails because udev looks' done_silently

# dmsetup alone: with a UUID, and without.
size=$(blockdev --getsz /dev/vdb)
dmsetup create --uuid "${uuid%-*}-1" s1 --table "0 $size dm-snap-mv cs /dev/vdb /dev/vdc 1"
dmsetup create s2 --table "0 $size dm-snap-mv cs /dev/vdb /dev/vdc 2"
check "dmsetup's snapshots do not take them" again_in_all_orders /dev/mapper/s1 /dev/vdb /dev/mapper/s2
check 'and have links of their own only' snapshots_have_their_own s1 s2
# As kpartx does it.
dmsetup create --uuid "part1-${uuid%-*}-1" p1 --table "0 $size linear /dev/mapper/s1 0"
check 'nor does a partition of one' again_in_all_orders /dev/mapper/p1
check 'which has its own' snapshots_have_their_own p1
dmsetup remove p1
dms remove orig
expected=/dev/vdb
check 'without the origin they are the disk' again_in_all_orders /dev/mapper/s1 /dev/mapper/s2
dmsetup create orig --table "0 $size dm-snap-mv co /dev/vdb /dev/vdc"
expected=/dev/mapper/orig
check "dmsetup's origin has them" again_in_all_orders /dev/mapper/s1 /dev/vdb /dev/mapper/s2
dmsetup suspend orig
dmsetup resume orig
check 'suspended and resumed it has them' by_uuid $expected
dmsetup remove s1
dmsetup remove s2

# Another target's devices are left alone.
dmsetup create other --table "0 $size linear /dev/vdd 0"
mkfs.ext4 -q -U 11111111-2222-3333-4444-666666666666 /dev/mapper/other
check 'a device of another target keeps its links' leads_to by-uuid/11111111-2222-3333-4444-666666666666 /dev/mapper/other
dmsetup remove other

# Without these rules, what dms tells those of device-mapper has to do.
dms remove orig
remove_rules
dms create orig vdb vdc
dms create s1 vdb vdc 1
again /dev/mapper/s1
check 'without rules a snapshot of dms does not take them, either' \
	test "$(readlink -f /dev/disk/by-uuid/$id)" != "$(readlink -f /dev/mapper/s1)"
dms remove s1
dms remove orig
install_rules

# A physical volume is a part of something: not to be taken from a snapshot.
pvcreate -qq -ffy /dev/vdd
pv=$(pvs --noheadings -o uuid /dev/vdd | xargs)
settle
dms create pv vdd vdc -b
dms snapshot pv >/dev/null
dms create pvs vdd vdc 1
again /dev/vdd
again /dev/mapper/pvs
check 'the link of a physical volume leads to the origin' leads_to "by-id/lvm-pv-uuid-$pv" /dev/mapper/pv
check 'a snapshot of it has its own only' snapshots_have_their_own pvs
check 'and is nothing to be put together' grep -q '^DM_UDEV_DISABLE_OTHER_RULES_FLAG=1' \
	<<<"$(udevadm info -q property /dev/mapper/pvs)"
dms remove pvs
dms remove pv
check 'all devices are gone' test "$(dmsetup ls)" = 'No devices found'
settle
check 'and their nodes' test "$(echo /dev/mapper/*)" = /dev/mapper/control
call dms check vdc
check 'the store is in order' matches ': clean,'
none_failed
