#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 768M --disk 256M --smp 2 --timeout 400
# takes: 25 one
#
# Logical volumes as origin and COW device, and beside them the same story with LVM's own
# snapshots: in the end both have the same content.
set -u
failed=0 subject=lvm
. /payload/tests/guest/check.sh

# What happens to a mounted file system before and after the snapshot.
before() {
	mkdir "$1/folder" && seq 100000 >"$1/folder/numbers" && echo first >"$1/file" &&
		cp /usr/bin/bash "$1/program" && sync -f "$1"
}
after() {
	echo second >"$1/file" && rm "$1/program" && seq 50000 -1 1 >"$1/folder/numbers" &&
		cp /usr/bin/ls "$1/other" && sync -f "$1"
}
content() { (cd "$1" && find . -path ./lost+found -prune -o -type f -print0 | sort -z | xargs -0 md5sum); }

# same FOLDER FILE: has what was noted there.
same() { [ "$(content "$1")" = "$(<"$2")" ]; }

modprobe dm-snapshot
mkdir -p /mnt/ours /mnt/theirs /mnt/s
check 'a volume group' vgcreate -qq vg /dev/vdb /dev/vdc
check 'an origin for us' lvcreate -qq -y -n ours -L 96M vg
check 'a COW device' lvcreate -qq -y -n cow -L 128M vg
check 'an origin for LVM' lvcreate -qq -y -n theirs -L 96M vg
for lv in ours theirs; do
	check "a file system on $lv" mkfs.ext4 -q /dev/vg/$lv
done

check 'dms takes vg/lv' dms create orig vg/ours vg/cow -bf
check 'mount ours' mount /dev/mapper/orig /mnt/ours
check 'mount theirs' mount /dev/vg/theirs /mnt/theirs
check 'fill ours' before /mnt/ours
check 'fill theirs' before /mnt/theirs
content /mnt/ours >/tmp/then
check 'both are the same' same /mnt/theirs /tmp/then

check 'dms snapshot' dms snapshot orig -m before
check 'lvcreate -s' lvcreate -qq -y -s -n back -L 64M vg/theirs
check 'change ours' after /mnt/ours
check 'change theirs' after /mnt/theirs
content /mnt/ours >/tmp/now
check 'both are the same again' same /mnt/theirs /tmp/now
check 'and not what they were' eval '! same /mnt/ours /tmp/then'

check 'a device of the snapshot' dms create snap vg/ours vg/cow 1
check 'mount it' mount -o ro,noload /dev/mapper/snap /mnt/s
check 'it has what was' same /mnt/s /tmp/then
check 'unmount it' umount /mnt/s
check 'remove it' dms remove snap

check 'merge is refused while it is mounted' eval '! dms merge orig 1'
check 'which leaves ours' same /mnt/ours /tmp/now
check 'unmount ours' umount /mnt/ours
check 'unmount theirs' umount /mnt/theirs
check 'dms merge' dms merge orig 1
check 'lvconvert --merge' lvconvert -qq --merge vg/back
# LVM's merge runs in the background.
for _ in {1..600}; do
	lvs --noheadings -o lv_attr vg/theirs | grep -q '^ *O' || break
	sleep 0.2
done
check 'mount ours again' mount /dev/mapper/orig /mnt/ours
check 'mount theirs again' mount /dev/vg/theirs /mnt/theirs
check 'ours is what it was' same /mnt/ours /tmp/then
check 'theirs is what it was' same /mnt/theirs /tmp/then
check 'the snapshot is gone' eval '! dms create snap vg/ours vg/cow 1'

# Deferred, as LVM does it for a volume that is in use.
check 'another snapshot' dms snapshot orig
check 'change ours again' after /mnt/ours
check 'a merge deferred' dms merge orig 2 --defer
check 'changes nothing yet' same /mnt/ours /tmp/now
check 'unmount' umount /mnt/ours
check 'deactivate' dms remove orig
check 'activate' dms create orig vg/ours vg/cow
check 'wait' dms wait orig
check 'mount' mount /dev/mapper/orig /mnt/ours
check 'and it is what it was' same /mnt/ours /tmp/then
check 'unmount ours in the end' umount /mnt/ours
check 'remove ours' dms remove orig

# The volume alone.
check 'mount the volume itself' mount /dev/vg/ours /mnt/ours
check 'it holds the current content' same /mnt/ours /tmp/then
check 'unmount the volume' umount /mnt/ours /mnt/theirs
check 'both are sound' eval 'e2fsck -fn /dev/vg/ours && e2fsck -fn /dev/vg/theirs'

# A COW device that becomes larger is used from the next activation on.
check 'activate once more' dms create orig vg/ours vg/cow
chunks() { dmsetup status orig | sed -E 's|.* [0-9]+/[0-9]+ [0-9]+/([0-9]+) .*|\1|'; }
small=$(chunks)
check 'deactivate once more' dms remove orig
check 'lvextend' lvextend -qq -L 160M vg/cow
check 'activate in the end' dms create orig vg/ours vg/cow
check 'there is more room' eval "[ $(chunks) -gt $small ]"
check 'remove in the end' dms remove orig
exit $failed
