#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 320M --disk 96M --disk 320M --smp 2 --timeout 400
# takes: 30 one
#
# An origin is mounted by itself for once, and comes back: on a disk without a name and with next to nothing on
# it but a superblock, it is still known. Another one of the same kind is not taken for it.
set -u
. /payload/tests/guest/calls.sh
# What `call` sets.
code='' out='' err=''
mkdir -p /mnt/alone

make() { # KIND DISK
	blkdiscard -z "$2"
	case $1 in
	xfs) mkfs.xfs -qf "$2" ;;
	lvm) pvcreate -qq -ff -y "$2" ;;
	swap) mkswap -q "$2" >/dev/null ;;
	*) "mkfs.$1" -q "$2" >/dev/null ;;
	esac
}
use() { # KIND DISK: what is on it is used, and left again.
	case $1 in
	swap) swapon "$2" && swapoff "$2" ;;
	lvm) vgcreate -qq vg "$2" && vgremove -qq -y vg ;;
	*)
		mount "$2" /mnt/alone && touch "/mnt/alone/$(date +%s%N)" && sync && rm /mnt/alone/[0-9]* &&
			umount /mnt/alone
		;;
	esac
}

for kind in xfs ext4 btrfs swap lvm; do
	make $kind /dev/vdb
	make $kind /dev/vdd
	call dms create orig vdb vdc -bF
	check "$kind: bound" test "$code" = 0
	call dms snapshot orig
	# LVM would find it twice.
	[ $kind = lvm ] || use $kind /dev/mapper/orig
	dms remove orig
	check "$kind: used by itself" use $kind /dev/vdb
	call dms create orig vdb vdc
	check "$kind: known again" done_silently
	dms remove orig
	refused "$kind: another one is not taken for it" 1 'is not the disk that was bound' \
		dms create orig vdd vdc -i /dev/vdb
	call dms create orig vdd vdc -i /dev/vdb --accept-device
	check "$kind: unless it is to be" test "$code" = 0
	dms remove orig
done
none_failed
