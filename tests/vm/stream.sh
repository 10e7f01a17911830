#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 64M --disk 400M --no-module
# takes: 20 one
#
# Streams are received into plain devices, on a machine without the module: what is in use is refused,
# and what was interrupted gone on with.
set -u
. /payload/tests/guest/calls.sh
streams=/payload/tests/guest/streams
cd / || exit
state=/tmp/vdb.state
receive() { # STREAM [ARGUMENT...]: into vdb
	call dms receive vdb --state "$state" "${@:2}" <"$streams/$1.dms"
}
holds() { # TAG
	[[ $(dms receive vdb --state "$state" --status) == "holds    : $1 of "* ]]
}
content() { head -c "$1" /dev/vdb | md5sum; }

blkdiscard -z /dev/vdb
for name in vdx /dev/vdx; do
	call dms receive $name <"$streams/full.dms"
	check "there is no device $name" told 3 "there is no device $name"
	check 'and nothing is made in its place' test ! -e vdx -a ! -e /dev/vdx
done
dms receive vdc <"$streams/full.dms"
call dms receive vdc <"$streams/increment.dms"
check 'what a device holds is noted by itself' done_silently
check 'where nobody else looks' test "$(stat -c %a /var/lib/dms/receive)" = 700
check 'in a file of its own' test "$(dms receive vdc --status | head -c 12)" = 'holds    : 2'
blkdiscard -fz /dev/vdc
receive increment
check 'what has changed is of no use by itself' told 1 'it is not known what it holds'
receive full
check 'a whole version' done_silently
check 'and that is noted' holds 1
full=$(content 262144)
dms receive ./file <"$streams/full.dms"
check 'it is the same as in a file' cmp -n 262144 /dev/vdb file
receive increment
check 'what has changed since' done_silently
check 'and that is noted, too' holds 2
call dms receive ./file <"$streams/increment.dms"
check 'that is the same as well' cmp -n "$(stat -c %s file)" /dev/vdb file
receive full
check 'nothing is written over by mistake' told 1 'it holds version 2'
receive full -F
check 'but on purpose' done_silently
check 'and it is what it was' test "$(content 262144)" = "$full"

# Cut off in its midst, again and again.
size=$(stat -c %s "$streams/increment.dms")
for part in 1 2 3 4 5; do
	head -c $((size * part / 6)) "$streams/increment.dms" >/tmp/part
	call dms receive vdb --state "$state" </tmp/part
	check "cut off after $part sixths" told 6 'cut off'
done
receive full
check 'something else is not begun then' told 1 'in part'
call dms receive vdb --state "$state" --abort
check 'nor is it lost by mistake' told 1 'not put aside'
receive increment
check 'but gone on with' done_silently
check 'to the end' cmp -n "$(stat -c %s file)" /dev/vdb file

# Written to by somebody else.
receive full -F
mkfs.ext4 -qF /dev/vdb
receive increment
check 'who has changed it is noticed' told 1 'it has been written to since'
rm "$state"
receive full
check 'a file system is not written over by mistake' told 1 'there is something on it'
mkdir -p /mnt/b
mount /dev/vdb /mnt/b
receive full -F
check 'nor one that is mounted, on purpose' told 4 'mounted on /mnt/b'
umount /mnt/b
dmsetup create over --table '0 8 linear /dev/vdb 0'
receive full -F
check 'nor what another device is on' told 4 'used by the device over'
dmsetup remove over
receive full -F
check 'when nobody has it, it is' done_silently
check 'whatever was there' cmp -n 262144 /dev/vdb <(dms receive ./other <"$streams/full.dms" && cat other)

# As a file of a loop device, and one that is too small.
loop=$(losetup --find --show file)
call dms receive ./file -F <"$streams/full.dms"
check 'not one of a loop device' told 4 "it is the loop device ${loop#/dev/}"
losetup -d "$loop"
dmsetup create small --table '0 8 linear /dev/vdc 0'
call dms receive mapper/small --state /tmp/small.state <"$streams/full.dms"
check 'a device that is too small' told 5 'it has 8 sectors, and the version 512'
dmsetup remove small

# Where there are reflinks, what a file held comes back.
modprobe -q xfs
mkfs.xfs -qf /dev/vdc
mount /dev/vdc /mnt/b
cd /mnt/b || exit
dms receive ./kept <"$streams/full.dms"
before=$(md5sum <kept)
head -c $((size / 2)) "$streams/increment.dms" >/tmp/part
call dms receive ./kept --keep </tmp/part
check 'cut off, with the old content put aside' told 6 'cut off'
check 'it holds a mixture' test "$(md5sum <kept)" != "$before"
check 'and that is noted' grep -q '^kept     : yes$' <<<"$(dms receive ./kept --status)"
call dms receive ./kept --abort
check 'it can be given up' told 0 'again'
check 'for what it was' test "$(md5sum <kept)" = "$before"
call dms receive ./kept --keep <"$streams/increment.dms"
check 'and received once more' done_silently
check 'to the end, leaving nothing' test "$(ls)" = "kept
kept.dms-state" -a "$(md5sum <kept)" = "$(md5sum </file)"
none_failed
