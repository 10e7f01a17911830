#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 16M --disk 64M --disk 32M --timeout 400
# takes: 35 one
#
# Whose disk it is, as far as the kernel cannot tell: what has its mark on a COW device, and who has
# blocks of a device by another way to them. What is refused is named, and nothing is written.
set -u
. /payload/tests/guest/calls.sh
code=0 out='' err=''
modprobe loop

# unchanged DISK NAME CODE TEXT COMMAND...: refused so, and the disk holds what it held.
unchanged() {
	local disk=$1 before devices
	shift
	before=$(md5sum <"$disk") devices=$(echo /dev/mapper/*)
	refused "$@"
	check "$1: nothing is written" test "$(md5sum <"$disk")" = "$before"
	check "$1: nothing is left" test "$(echo /dev/mapper/*)" = "$devices"
}
typing() { # ANSWER COMMAND: as at a terminal
	call env TERM=xterm script -qec "$2" /dev/null <<<"$1"
}
blank() { blkdiscard -zf "$1" 2>/dev/null; }

# What is there is named. -f refuses it; -F asks at a terminal.
mark() { # WHAT COMMAND...
	local what=$1
	shift
	blank /dev/vdc
	"$@" >/dev/null 2>&1
	unchanged /dev/vdc "$what, -f" 1 "vdc holds $what; -F formats it nevertheless" dms create orig vdb vdc -bf
	local before
	before=$(md5sum </dev/vdc)
	typing n 'dms create orig vdb vdc -bF'
	check "$what is told of, and asked about" \
		test "$code" = 1 -a "${out#*"lost with what is on /dev/vdc: $what"*Format it}" != "$out"
	check "$what is left without consent" test "$(md5sum </dev/vdc)" = "$before"
	call dms create orig vdb vdc -bF
	check "$what is formatted away with -F" test "$code" = 0 \
		-a "$err" = "dms: lost with what is on /dev/vdc: $what"
	dms remove orig
}
mark 'an ext4 file system' mkfs.ext4 -q /dev/vdc
mark 'a swap space' mkswap /dev/vdc
mark 'an LVM physical volume' pvcreate -qq -y /dev/vdc
bytes() { printf %b "$2" | dd of=/dev/vdc bs=1 seek="$1" conv=notrunc,fsync status=none; }
mark 'a LUKS volume' bytes 0 'LUKS\xba\xbe\x00\x02'
# One entry: 32 MiB from 1 MiB on.
parted() { bytes 446 '\0\0\0\0\x83\0\0\0\x00\x08\0\0\0\0\x01\0' && bytes 510 '\x55\xaa'; }
mark 'a partition table' parted
# At the end, where the kernel does not look for anything.
mark 'a member of a RAID' bytes $((64 * 1048576 - 8192)) '\xfc\x4e\x2b\xa9\x01\x00\x00\x00'
blank /dev/vdc

mkfs.ext4 -q /dev/vdc
unchanged /dev/vdc 'without -f it is named as well' 1 'vdc holds an ext4 file system; -F formats it nevertheless' \
	dms create orig vdb vdc
blank /dev/vdc

# An origin may hold anything.
pvcreate -qq -y /dev/vdb
call dms create orig vdb vdc -bf
check 'an origin can hold a physical volume' done_silently
dms remove orig
blank /dev/vdb

# A volume group is in use with all of its disks; -F says so, too.
blank /dev/vdc
vgcreate -qq vg /dev/vdc /dev/vdd 2>/dev/null
lvcreate -qq -y -an -Zn -n on-vdd -l 4 vg /dev/vdd 2>/dev/null
mark_in_vg='an LVM physical volume of the volume group vg'
unchanged /dev/vdc 'a group, -f' 1 "vdc holds $mark_in_vg; -F" dms create orig vdb vdc -bf
vgchange -qq -ay vg
unchanged /dev/vdc 'a group in use, -F' 4 'it belongs to the volume group vg, which is active' \
	dms create orig vdb vdc -bF
unchanged /dev/vdd 'a disk with an active volume, -F' 4 'vg-on--vdd' dms create orig vdb vdd -bF
vgchange -qq -an vg
call dms create orig vdb vdc -bF
check 'a group that is not in use is formatted away' test "$code" = 0 \
	-a "$err" = "dms: lost with what is on /dev/vdc: $mark_in_vg"
dms remove orig
blank /dev/vdc
blank /dev/vdd

# Mounted, swap, a partition: never, and by name.
mkdir -p /mnt/m
mkfs.ext4 -qF /dev/vdc
mount /dev/vdc /mnt/m
refused 'a mounted disk, -F' 4 'mounted on /mnt/m' dms create orig vdb vdc -bF
umount /mnt/m
mkswap /dev/vdc >/dev/null 2>&1
swapon /dev/vdc
refused 'swap space, -F' 4 'used as swap space' dms create orig vdb vdc -bF
swapoff /dev/vdc
blank /dev/vdc
parted
blockdev --rereadpt /dev/vdc
check 'a partition' test -b /dev/vdc1
mkfs.ext4 -q /dev/vdc1
mount /dev/vdc1 /mnt/m
unchanged /dev/vdd 'the disk of a mounted partition, -F' 4 'vdc1, which is mounted on /mnt/m' \
	dms create orig vdb vdc -bF
unchanged /dev/vdd 'the same as origin' 4 'vdc1, which is mounted on /mnt/m' dms create orig vdc vdd -bf
umount /mnt/m

# Loop devices: of the disk, the whole of it, a part of it.
attach() { loop=$(losetup -f --show "$@"); }
in_loop() { echo "has blocks in common with the loop device ${loop#/dev/}"; }
blank /dev/vdd
for over in /dev/vdc /dev/vdc1; do
	attach "$over"
	for disk in vdc vdc1; do
		unchanged $over "$disk as origin, a loop device over $over" 4 "$(in_loop)" dms create orig $disk vdd -bf
		unchanged $over "$disk as COW device, a loop device over $over" 4 "$(in_loop)" dms create orig vdb $disk -bF
	done
	refused 'it is said what to do' 4 "losetup -d $loop" dms create orig vdc vdd -bf
	losetup -d "$loop"
done
attach -o 34M /dev/vdc
call dms create orig vdc1 vdd -bf
check 'a loop device beside a partition is no harm' done_silently
losetup -d "$loop"
attach /dev/vdc1
call dms create s vdc1 vdd
check 'who has a role already keeps it' test "$code" = 4
check 'and is not told of a loop device' test "${err/loop/}" = "$err"
dms snapshot orig >/dev/null
call dms create s vdc1 vdd 1
check 'a snapshot has its device' done_silently
losetup -d "$loop"
dms remove s
dms remove orig
blank /dev/vdc
blockdev --rereadpt /dev/vdc
blank /dev/vdd
truncate -s 32M /tmp/image
attach /tmp/image
file=$loop
call dms create orig "$file" vdc -bf
check 'a loop device over a file is an origin' done_silently
dms remove orig
attach /tmp/image
unchanged "$file" 'but not with another' 4 "$(in_loop)" dms create orig "$file" vdc
losetup -d "$loop"
losetup -d "$file"
attach /dev/vdb
mkfs.ext4 -q /dev/vdb
mount /dev/vdb /mnt/m
unchanged /dev/vdc 'a loop device over a mounted disk' 4 'vdb, which is mounted on /mnt/m' dms create orig "$loop" vdc -bf
umount /mnt/m
losetup -d "$loop"

# linear NAME FIRST SECTORS [DISK]: a mapping of some sectors.
linear() { dmsetup create "$1" --table "0 $3 linear /dev/${4:-vdc} $2"; }

# Two mappings of the same sectors, and two that lie side by side.
blank /dev/vdc
linear one 0 65536
linear two 65535 65536
linear beside 65536 65536
mkfs.ext4 -q /dev/mapper/two
mount /dev/mapper/two /mnt/m
unchanged /dev/vdc 'a mapping of what is mounted by another one' 4 'mapper/two, which is mounted on /mnt/m' \
	dms create orig vdb mapper/one -bF
umount /mnt/m
dmsetup remove two
blank /dev/vdc
unchanged /dev/vdb 'an origin and a COW device of the same sectors' 1 'have blocks in common' \
	eval 'linear two 65535 65536; dms create orig mapper/two mapper/one -bf; code=$?; dmsetup remove two; (exit $code)'
call dms create orig vdb mapper/one -bf
check 'a mapping is a COW device' done_silently
dms snapshot orig >/dev/null

# A store in use by that, by whatever way to it.
left_alone() { # DEVICE USER
	local command
	for command in check 'repair -n' 'repair -y'; do
		# shellcheck disable=SC2086
		refused "$command of $1 with $2" 8 "$2" dms $command "$1"
	done
}
is_cow='mapper/one, which is the COW device of orig'
linear same 0 65536
left_alone mapper/same "$is_cow"
linear over 0 1024 mapper/same
left_alone mapper/over "$is_cow"
dmsetup remove over
linear last 65528 8
left_alone mapper/last "$is_cow"
dmsetup remove last
unchanged /dev/mapper/beside 'nor is it an origin then' 4 "$is_cow" dms create other mapper/same mapper/beside -bf
dmsetup remove same
left_alone vdc 'vdc is in use'
for over in /dev/vdc /dev/mapper/one; do
	attach -r "$over"
	left_alone "$loop" "$is_cow"
	linear on-loop 0 1024 "${loop#/dev/}"
	left_alone mapper/on-loop "$is_cow"
	dmsetup remove on-loop
	losetup -d "$loop"
done
attach -r -o 32M /dev/vdc
refused 'beside it there is no store, which is found out' 8 'holds no store' dms check "$loop"
losetup -d "$loop"
refused 'so it is in a mapping beside it' 8 'holds no store' dms check mapper/beside
call dms create second vdd mapper/beside -bf
check 'which can be a COW device' done_silently
dms remove second
call dms check mapper/beside
check 'and be checked' matches ': clean,'
attach /dev/mapper/beside
left_alone mapper/beside "$(in_loop)"
left_alone vdc 'in use'
losetup -d "$loop"
dms remove orig
call dms check mapper/one
check 'who is not in use any more is checked' matches ': clean,'
none_failed
