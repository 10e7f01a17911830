#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 32M --disk 96M --disk 40M --disk 8M --disk 32M --smp 2 --timeout 600
# takes: 90 one
#
# Snapshots are brought onto other devices: as a whole, or by what differs from what they are proven to hold; and at
# once, by dm-clone, which fetches no more than that.
set -u
. /payload/tests/guest/calls.sh
# What `call` sets.
code='' out='' err=''
cd /root || exit
size=$((32 << 20))
notes=/var/lib/dms/apply

# change SEEK COUNT: so many blocks of 4 KiB of the origin, from there on.
change() {
	dd if=/dev/urandom of=/dev/mapper/orig bs=$(($2 * 4096)) count=1 seek=$(($1 * 4096)) \
		iflag=fullblock oflag=direct,seek_bytes status=none
}
# version: takes the next one, and shows it.
last=0
version() { last=$(dms snapshot orig) && dms create "s$last" vdb vdc "$last"; }
# same TAG FILE: what a snapshot and something else hold.
same() { cmp -n $size "/dev/mapper/s$1" "$2"; }
onto() { call dms apply orig "$1" --onto "${@:2}"; }
bytes() { dms send orig "$1" --since "$2" --estimate | sed -n 's/^bytes //p'; }
holds() { grep -q "^holds *: $2\b" <<<"$(dms receive "$1" --status)"; }
is_unknown() { ! grep -q '^holds' <<<"$(dms receive "$1" --status)"; }
nobody() { ! pgrep -f '^[^ ]*dms (apply|serve|receive)' >/dev/null; }
is_gone() { [ ! -e "/dev/mapper/$1" ] && [ ! -e "$notes/$1.json" ] && [ ! -e "$notes/$1.clone" ]; }
no_private() { ! dmsetup ls | grep -q ^dms-send-; }

dms create orig vdb vdc -bf
mkfs.ext4 -qF /dev/mapper/orig 7M
dd if=/dev/urandom of=/dev/mapper/orig bs=1M seek=8 count=24 oflag=direct status=none
version
change 3000 40
version
change 5000 300
blkdiscard -z -o $((6000 * 4096)) -l $((50 * 4096)) /dev/mapper/orig
version

# What is refused.
call dms apply orig 3 --onto vdd --since 3
check 'from itself' told 2 'nothing changes from snapshot 3 to itself'
onto 9 vdd
check 'a snapshot that there is not' told 3 'unknown tag'
for name in vdx /dev/vdx ./no/file; do
	onto 3 $name
	check "nor is there $name" told 3 "there is no device $name"
done
check 'and no file in its place' test ! -e vdx -a ! -e /dev/vdx
onto 3 mapper/orig
check 'the origin itself' told 1 'is the origin of the snapshot itself'
onto 3 vdb
check 'or what that is on' told 1 'has blocks of the origin device'
onto 3 vdc -F
check 'or the COW device' told 1 'has blocks of the COW device'
onto 3 mapper/s2
check 'or a snapshot' told 1 'shows snapshot 2'
onto 3 vdd --since 1
check 'what is not known to hold the older one' told 1 'it is not known what it holds'
onto 3 vde
check 'what is too small' told 5 'it has 16384 sectors, and the version 65536'
mkfs.ext4 -qF /dev/vdd
mkdir -p /mnt/b
mount /dev/vdd /mnt/b
onto 3 vdd -F
check 'what is mounted' told 4 'mounted on /mnt/b'
umount /mnt/b
onto 3 vdd
check 'what something is on' told 1 'there is something on it'
check 'which is still there' mount /dev/vdd /mnt/b
umount /mnt/b
losetup /dev/loop7 /dev/vdd
onto 3 vdd -F
check 'what a loop device leads to' told 4 'the loop device loop7'
losetup -d /dev/loop7

# All, and then what differs.
onto 1 vdd -F
check 'all of it' prints "/dev/vdd is version 1: $size bytes"
check 'it is that' same 1 /dev/vdd
check 'it is noted what it is' holds vdd 1
differ=$(bytes 3 1)
onto 3 vdd --since 1
check 'what differs' prints "/dev/vdd is version 3: $differ bytes"
check 'which is not much' test "$differ" -lt $((2 << 20))
check 'it is that, too' same 3 /dev/vdd
onto 3 vdd --since 1
check 'it is that already' prints '/dev/vdd is version 3 already'
onto 2 vdd --since 1
check 'it is not the other one' told 1 'does not hold the version'
dd if=/dev/urandom of=/dev/vdd bs=512 count=1 conv=notrunc oflag=direct status=none
change 100 5
version
onto 4 vdd --since 3
check 'nor if somebody has written to it' told 1 'written to since'
onto 4 vdd --since 3 --verify
check 'which reading it tells as well' told 1 'is not snapshot 3: it differs at 0,'
dd if=/dev/mapper/s3 of=/dev/vdd bs=512 count=1 conv=notrunc oflag=direct status=none
onto 4 vdd --since 3
check 'as it was' prints "/dev/vdd is version 4: $(bytes 4 3) bytes"
check 'it goes on' same 4 /dev/vdd

# Proven by reading.
dd if=/dev/mapper/s1 of=/dev/vdf bs=1M oflag=direct status=none
onto 3 vdf --since 1
check 'nobody knows of a copy' told 1 'it is not known what it holds'
printf '\xa5' | dd of=/dev/vdf bs=1 seek=$((size - 100)) conv=notrunc status=none
before=$(md5sum </dev/vdf)
onto 3 vdf --since 1 --verify
check 'if one byte is another, it is none' told 1 "it differs at $((size - 4096)),"
check 'and is left as it is' test "$(md5sum </dev/vdf)" = "$before"
check 'and not noted' is_unknown vdf
dd if=/dev/mapper/s1 of=/dev/vdf bs=1M oflag=direct status=none
onto 3 vdf --since 1 --verify
check 'one that is the same' prints "/dev/vdf is version 3: $differ bytes"
check 'becomes the newer one' same 3 /dev/vdf
dms remove s1
dms delete orig 1 -k
dd if=/dev/mapper/s3 of=copy bs=1M status=none
onto 2 ./copy --since 1 --verify
check 'a bookmark cannot be read' told 1 'cannot read snapshot 1: '
rm copy

# Files. What they hold is noted beside them.
onto 2 copy
check 'a file that is not there yet has a slash in its name' told 3 'if a file is to be made: ./copy'
onto 2 ./copy
check 'a file' same 2 copy
cp --sparse=always copy other
onto 3 ./copy --since 2
check 'which becomes another one' same 3 copy
onto 3 other --since 2 --verify
check 'one that was copied' same 3 other
rm copy* other*

# Killed in the midst. What is written to the target takes a minute, so that it never comes to an end.
blkdiscard -fz /dev/vdd
dmsetup create slow --table '0 65536 linear /dev/vdd 0'
onto 2 mapper/slow
change 2500 2000
version
slowed() { dmsetup load slow --table "0 65536 $1" && dmsetup suspend slow && dmsetup resume slow; }
is_between() { grep -q '^between' <<<"$(dms receive mapper/slow --status)"; }
slowed 'delay /dev/vdd 0 0 /dev/vdd 0 60000'
dms apply orig 5 --onto mapper/slow --since 2 >/tmp/out 2>&1 &
check 'it begins' until_so is_between
kill -KILL $!
pkill -KILL -f '^[^ ]*dms (serve|receive)'
slowed 'linear /dev/vdd 0'
wait
check 'when it is killed' until_so nobody
check 'it is between two' is_between
onto 3 mapper/slow --since 2
check 'something else is not begun' told 1 'in part'
onto 5 mapper/slow --since 2
check 'the same again goes on' test "$code" = 0
check 'to the end' same 5 /dev/mapper/slow
dmsetup remove slow

# At once. The snapshot does not answer, so that nothing can be fetched.
blkdiscard -fz /dev/vdf
onto 2 vdf -F
instant() { call dms apply orig 3 --onto vdf --since 2 --instant --name new "$@"; }
: >file
onto 3 ./file --instant --name new
check 'a file cannot be used at once' told 1 'is no device'
instant --metadata vdd
check 'what is on the metadata device is not lost' told 1 'vdd is not blank'
instant --metadata vdf
check 'it cannot be the target' told 1 'vdf has blocks of the target'
dmsetup create tiny --table '0 2048 linear /dev/vde 0'
instant --metadata mapper/tiny
check 'nor be too small' told 5 'the metadata need'
dmsetup remove tiny
dmsetup create new --table '0 8 error'
instant
check 'nor the name be taken' told 4 'there is a device new already'
dmsetup remove new
call dms apply --finish new
check 'nothing has begun' told 3 'there is no device new'
check 'it still is what it was' holds vdf 2
differ=$(bytes 3 2)
dmsetup suspend s3
instant --metadata vde
check 'it is there at once' prints "/dev/mapper/new is version 3: $differ bytes are to be fetched onto /dev/vdf"
# Past the page cache, which would read ahead.
first() { dd if="/dev/mapper/$1" bs=1M count=19 iflag=direct status=none | md5sum; }
check 'what does not differ is there' test "$(first new)" = "$(first s2)"
check 'it is not what was noted any more' is_unknown vdf
onto 2 vdf -F
check 'nobody else writes to it' told 4 'vdf is in use'
dms apply --finish new >/tmp/out 2>/tmp/err &
finisher=$!
is_at_it() { ! flock -n $notes/new.lock true; }
until_so is_at_it
call dms apply --finish new
check 'two do not finish it' told 4 'another dms apply is at it'
kill -INT $finisher
wait $finisher
code=$? out=$(</tmp/out) err=$(</tmp/err)
check 'who waits can be interrupted' told 130 'it goes on in the background'
call dms apply orig 3 --onto vdf --since 1 --instant --name new
check 'it is not for something else' told 4 'new is of another apply'
dmsetup resume s3
check 'it is the snapshot' same 3 /dev/mapper/new
check 'with its file system' mount /dev/mapper/new /mnt/b
echo written >/mnt/b/file
call dms apply --finish new
check 'it becomes the target, mounted as it is' prints '/dev/mapper/new is /dev/vdf now, which has all of version 3'
check 'by a linear mapping' grep -q linear <<<"$(dmsetup table new)"
check 'with what was written' grep -q written /mnt/b/file
umount /mnt/b
dmsetup remove new
check 'which can be without it' mount /dev/vdf /mnt/b
check 'and is on the target' grep -q written /mnt/b/file
umount /mnt/b
check 'nothing else is left' is_gone new
check 'the metadata device is blank' cmp -n 4096 /dev/zero /dev/vde
check 'but for the file system it is the snapshot' cmp -i $((8 << 20)) -n $((24 << 20)) /dev/mapper/s3 /dev/vdf

# Without a device for the metadata, nor one for the snapshot; and without an end, at whatever moment that comes.
dms remove s3
dms create s3 vdb vdc 3
reset() { onto 2 vdf -F; }
again() { call dms apply orig 3 --onto vdf --since 2 --instant --name new; }
reset
dd if=/dev/mapper/s3 of=expected bs=1M status=none
dms remove s3
again
check 'a device of its own shows the snapshot' test "$code" = 0
check 'which is there' dmsetup info -c --noheadings -o name "$(dmsetup ls | sed -n 's/^\(dms-send-[^[:space:]]*\).*/\1/p')"
dd if=/dev/urandom of=written bs=4k count=3 status=none
for at in 5001 40 4999; do
	dd if=written of=/dev/mapper/new bs=4k seek=$at oflag=direct conv=notrunc status=none
	dd if=written of=expected bs=4k seek=$at conv=notrunc status=none
done
dmsetup remove new
losetup -D
until_so no_private
check 'as after a reboot nothing is active' test ! -e /dev/mapper/new
call dms apply --finish new
check 'which cannot be finished' told 3 'the same dms apply again goes on'
again
check 'but be gone on with' test "$code" = 0
check 'with what was written' cmp -n $size expected /dev/mapper/new
again
check 'and again' test "$code" = 0
call dms apply --finish new
check 'and then finished' test "$code" = 0
check 'it is all that' cmp -n $size expected /dev/mapper/new
dmsetup remove new
check 'without it, too' cmp -n $size expected /dev/vdf
check 'with nothing left of it' is_gone new
check 'nor of its snapshot' until_so no_private
dms create s3 vdb vdc 3

killed=0
for ms in 005 010 020 030 040 050 060 080 100 130 160 200; do
	[ -n "${TEST_LONG:-}" ] || case $ms in 020 | 060 | 130) ;; *) continue ;; esac
	reset
	timeout -s KILL 0.$ms dms apply orig 3 --onto vdf --since 2 --instant --name new >/dev/null 2>&1
	[ $? != 137 ] || killed=$((killed + 1))
	again
	check "killed after 0.$ms s: the same again goes on" test "$code" = 0
	timeout -s KILL 0.$ms dms apply --finish new >/dev/null 2>&1
	call dms apply --finish new
	check 'killed when it was finished: finished' cmp -n $size /dev/mapper/s3 /dev/vdf
	check 'with nothing left' test ! -e $notes/new.json
	dmsetup remove new
done
check 'some were killed' test $killed -gt 0

# Given up.
reset
dmsetup suspend s3
again
dmsetup resume s3 &
call dms apply --abandon new
wait
check 'it can be given up' done_silently
check 'with nothing left of it' is_gone new
check 'what the target holds is not known' is_unknown vdf
none_failed
