#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 3G --disk 300M --disk 64M --disk 10G --disk 1T --smp 2 --timeout 900
# takes: 90 one
#
# Zeroes take no space. File systems are made, filled a little, trimmed and given up on an origin ten times
# the size of the COW device and on snapshots of it, and all of a snapshot a hundred times its size is
# discarded and zeroed. The metadata hardly notice, and another origin keeps its snapshot through all of it.
set -u
failed=0 subject=trim
. /payload/tests/guest/check.sh

# Of a snapshot's status line.
state() { dmsetup status "$1" | cut -d' ' -f7; }
own_chunks() { dmsetup status "$1" | cut -d' ' -f11; }

reads_zeroes() { cmp -n "$2" "$1" /dev/zero; }
is_valid() { [ "$(state "$1")" = valid ]; }
same_as() { [ "$(sha256sum <"$1")" = "$2" ]; }

origin=/dev/vdb cow=/dev/vdc
dms create other vdd vdc -bF || exit 1
dd if=/dev/urandom of=/dev/mapper/other bs=1M count=8 oflag=direct status=none
precious=$(dms snapshot other) || exit 1
dms create kept vdd vdc "$precious" || exit 1
sum=$(sha256sum </dev/mapper/kept)
# So that each round has something to preserve.
dd if=/dev/urandom of=/dev/mapper/other bs=4K count=1 oflag=direct conv=notrunc status=none
dms create big vdb vdc -b || exit 1
mkdir -p /mnt/t

# round DEVICE FS: makes one, puts something there, and trims it.
round() {
	local device=/dev/mapper/$1 fs=$2 force=-f
	[ "$fs" != ext4 ] || force=-F
	mkfs."$fs" -q "$force" "$device" && mount "$device" /mnt/t || return 1
	dd if=/dev/urandom of=/mnt/t/file bs=64K count=32 status=none &&
		sync -f /mnt/t && rm /mnt/t/file && sync -f /mnt/t && fstrim -v /mnt/t
	local done=$?
	umount /mnt/t
	return "$done"
}

modprobe -q xfs btrfs
for fs in ext4 xfs btrfs; do
	# The debug kernel has no other.
	[ $fs = ext4 ] || modprobe -q $fs || continue
	check "$fs on the origin" round big $fs
	tag=$(dms snapshot big) && dms create s vdb vdc "$tag" || exit 1
	check "$fs on a snapshot" round s $fs
	check "fstrim and mkfs once more on a snapshot" round s $fs
	check "blkdiscard of a snapshot" blkdiscard -f /dev/mapper/s
	check "blkdiscard -z of a snapshot" blkdiscard -f -z /dev/mapper/s
	check "no chunk is left of it" [ "$(own_chunks s)" = 0 ]
	# As all of it does, once there is no chunk of it.
	check "it reads as zeroes" reads_zeroes /dev/mapper/s $((512 << 20))
	check "$fs on the origin beside it" round big $fs
	check "nor was the snapshot given up" is_valid s
	dms remove s && dms delete big "$tag" || exit 1
	check "blkdiscard of the origin" blkdiscard -f /dev/mapper/big
	check "blkdiscard -z of the origin" blkdiscard -f -z /dev/mapper/big
done

check "the other origin has its snapshot" same_as /dev/mapper/kept "$sum"
dd if=/dev/urandom of=/dev/mapper/other bs=4K count=1 seek=40 oflag=direct conv=notrunc status=none
check "and keeps it" same_as /dev/mapper/kept "$sum"
for device in kept other big; do dms remove $device || exit 1; done
check "the store is in order" dms check vdc

# A hundred times the COW device.
dms create h vdf vde -bF || exit 1
tag=$(dms snapshot h) && dms create hs vdf vde "$tag" || exit 1

# Metadata blocks in use. While a store is open it has some more, for what is not in its trees.
blocks() {
	dms remove hs && dms remove h && dms create h vdf vde &&
		dms create hs vdf vde "$tag" || exit 1
	dmsetup status hs | cut -d' ' -f8 | cut -d/ -f1
}

# grows_by MOST COMMAND...: takes no more metadata blocks than that for it.
grows_by() {
	local most=$1 before after
	shift
	before=$(blocks)
	"$@" || return 1
	after=$(blocks)
	echo "$before blocks before, $after after"
	[ $((after - before)) -le "$most" ]
}

piece() { blkdiscard -f "$@" -o $((64 << 20)) -l $((64 << 20)) /dev/mapper/hs; }
fill() { dd if=/dev/urandom of=/dev/mapper/hs bs=1M count="$1" seek="$2" oflag=direct status=none; }
# The first one brings the tree that it is in.
fill 1 1000
check "64 MiB in one piece: a metadata block" grows_by 1 piece
check "the same zeroed: none" grows_by 0 piece -z
fill 96 48
check "64 MiB that were written: fewer than before" grows_by -60 piece -z
check "they read as zeroes" cmp -n $((64 << 20)) -i $((64 << 20)):0 /dev/mapper/hs /dev/zero
fill 8 64
of=$(dd if=/dev/mapper/hs bs=1M count=160 status=none | sha256sum)
second=$(dms snapshot h "$tag") && dms create hs2 vdf vde "$second" || exit 1
check "64 MiB of which another one needs 8 MiB" piece
same() { [ "$(dd if=/dev/mapper/hs2 bs=1M count=160 status=none | sha256sum)" = "$of" ]; }
check "the other one is as it was" same
dms remove hs2 && dms delete h "$second" && dms wait --cleaning h || exit 1
check "all of 1 TiB discarded" grows_by 200 blkdiscard -f /dev/mapper/hs
check "and zeroed" grows_by 0 blkdiscard -f -z /dev/mapper/hs
check "no chunk is left of it, either" [ "$(own_chunks hs)" = 0 ]
check "its beginning reads as zeroes" reads_zeroes /dev/mapper/hs $((256 << 20))
check "mkfs.ext4 on it" mkfs.ext4 -q -F /dev/mapper/hs
check "and it is as it should be" e2fsck -fn /dev/mapper/hs
check "all of it discarded again" grows_by 0 blkdiscard -f /dev/mapper/hs
dms remove hs && dms remove h || exit 1
check "that store is in order, too" dms check vde
exit $failed
