#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 16M --disk 32M --disk 18M --disk 48M --disk 16M --disk 12M --disk 4M --timeout 600
# takes: 60 one
#
# What one origin was is received into another one, of another store, and its snapshots are that: whoever
# was killed in between. What it is not known to be is not written over.
set -u
. /payload/tests/guest/calls.sh
# What `call` sets.
code='' out='' err=''
cd /root || exit
notes=/var/lib/dms/receive

# change SEEK COUNT: so many blocks of 4 KiB of the sender's origin, from there on.
change() { dd if=/dev/urandom of=/dev/mapper/orig bs=4k seek="$1" count="$2" oflag=direct status=none; }
# version: takes the next one of the sender's origin, and shows it.
last=0
version() {
	last=$(dms snapshot orig "$@") && dms create "s$last" vdb vdc "$last"
}
# pass TAG [OLD [ARGUMENT...]]: from there to here.
pass() {
	dms send orig "$1" ${2:+--since "$2"} 2>/tmp/sender.err | dms receive mapper/copy "${@:3}" >/tmp/out 2>/tmp/err
	code=${PIPESTATUS[1]} out=$(</tmp/out) err=$(</tmp/err)
}
receive() { call dms receive mapper/copy "$@"; }
status() { dms receive mapper/copy --status "$@"; }
size=$((16 << 20))
# same TAG DEVICE: the sender's snapshot, and a device.
same() { cmp -n $size "/dev/mapper/s$1" "/dev/mapper/$2"; }
# shows TAG NUMBER: the snapshot of the copy with this number is the sender's.
shows() {
	[ -e "/dev/mapper/c$2" ] || dms create "c$2" vdd vde "$2" || return
	same "$1" "c$2"
}
snapshots() { dms list "$1" --json | grep -c '"parent": 0'; }
is_noted() { grep -q "$1" <<<"$(dms receive "mapper/$2" --status ${3:+--state "$3"})"; }
ended() { ! kill -0 "$1" 2>/dev/null; }

dms create orig vdb vdc -bf
change 0 300
version -m monday
change 250 100
blkdiscard -z -o $((100 * 4096)) -l $((50 * 4096)) /dev/mapper/orig
version
change 3000 1
change 3200 100
version -m wednesday
version
dms create copy vdd vde -bf -e error

# One after the other.
pass 2 1
check 'what has changed is of no use by itself' told 1 'it is not known what it holds'
pass 1
check 'a whole version becomes snapshot 1' prints 1
check 'the origin is that' same 1 copy
check 'it is noted where nobody else looks' test "$(stat -c %a $notes)" = 700
state=$(echo $notes/*-1.state)
check 'by the store and the number' test "$state" = "$notes/$(dms list copy --json | grep -om1 '[0-9a-f]\{8\}-[0-9a-f-]\{27\}')-1.state"
check 'and which snapshot it is' is_noted '^snapshot *: 1$' copy
for tag in 2 3 4; do
	pass $tag $((tag - 1))
	check "what has changed to $tag becomes a snapshot" prints $tag
	check "the origin is that, $tag" same $tag copy
done
for tag in 1 2 3 4; do check "snapshot $tag is what it was" shows $tag $tag; done
check 'with the memos' test "$(dms list copy --json | grep -o '"memo": "[^"]*"' | tr -d '\n')" = \
	'"memo": """memo": "monday""memo": """memo": "wednesday""memo": ""'
pass 4 3
check 'once more' test "$code $out" = '0 4'
check 'it is said that nothing was done' test "$err" = 'dms: /dev/mapper/copy holds that already'
check 'nor was a snapshot taken' test "$(snapshots copy)" = 4
check 'somebody else takes one' test "$(dms snapshot copy)" = 5
change 7 9
version
pass 5 4
check 'it does not matter' prints 6
check 'the snapshot after that is it' shows 5 6

# What is refused, with nothing done.
before=$(md5sum </dev/mapper/copy)
untouched() { [ "$(md5sum </dev/mapper/copy)" = "$before" ] && [ "$(snapshots copy)" = 6 ]; }
change 3500 30
version
dms send orig 6 --since 5 -o 5-6.dms
call dms receive mapper/c4 <5-6.dms
check 'a snapshot is not received into' told 1 'shows snapshot 4'
dmsetup create over --table '0 8 linear /dev/mapper/copy 0'
receive <5-6.dms
check 'nor what another device is on' told 4 'used by the device over'
dmsetup remove over
pass 6 1
check 'nor on another version' told 1 'does not hold the version that the stream starts from'
dms send copy 4 --since 3 | dms receive mapper/copy >/tmp/out 2>/tmp/err
check 'nor of another store' grep -q 'it is of another store' /tmp/err
pass 3 2
check 'nor does it become again what it was' told 1 'holds a version'
pass 1
check 'nor is a whole one written over it' told 1 'it holds version 5'
dms create t1 vdf vdg -bf
call dms receive mapper/t1 --state "$state" <5-6.dms
check 'nor is another origin taken for it' told 1 'of another target'
dms remove t1
dms create small vdh vde -b
call dms receive mapper/small <<<"$(dms send orig 1 | head -c 4096 | base64)"
check 'no stream' test "$code" = 6
dms send orig 1 | dms receive mapper/small >/tmp/out 2>/tmp/err
check 'too small' grep -q 'it has 8192 sectors, and the version 32768' /tmp/err
dms remove small
check 'all is as it was' untouched

# Written to by somebody else, where there is no sample.
dd if=/dev/urandom of=/dev/mapper/copy bs=512 seek=22222 count=1 oflag=direct status=none
before=$(md5sum </dev/mapper/copy)
receive <5-6.dms
check 'who has changed it is noticed' told 1 'it has been written to since it was received as snapshot 6'
check 'and how to go back is said' grep -q '^  to have it be that again: dms rollback copy 6$' <<<"$err"
check 'it is as it was written' untouched
dms rollback copy 6
receive <5-6.dms
check 'it is received after that' prints 7
check 'the origin is that, 6' same 6 copy
dms rollback copy 6
receive <5-6.dms
check 'rolled back to another one it is not that already' told 1 'written to since'
change 123 4
version
pass 7 6
check 'nor is that received which follows' told 1 'written to since'
dms rollback copy 7
dmsetup message -- copy 0 rs -l 1
pass 7 6
check 'nor if it will be rolled back' told 4 'will be rolled back'
dmsetup message -- copy 0 rs -x
pass 7 6
check 'it goes on then' prints 8
dms create c8 vdd vde 8
dd if=/dev/urandom of=/dev/mapper/c8 bs=4k count=1 oflag=direct status=none
change 124 4
version
pass 8 7
check 'not if the snapshot was written to' told 1 'snapshot 8, which was taken when it was received, has been written to'
dms remove c8
dms delete copy 8
pass 8 7
check 'nor if it is gone' told 1 'is gone'
cp "$state" /tmp/before
rm "$state"
pass 8 7
check 'nor if it is not known' told 1 'it is not known what it holds'
pass 8
check 'something is on it' told 1 'there is something on it'
pass 8 '' -F
check 'it is received whole, on purpose' prints 9
check 'the origin is that, 8' same 8 copy
check 'older ones stay' shows 6 7

# Interrupted.
streams=/payload/tests/guest/streams
dms receive ./file <$streams/full.dms
receive -F <$streams/full.dms
check 'another sender, on purpose' prints 10
dms create c10 vdd vde 10
check 'the origin is that' cmp -n "$(stat -c %s file)" file /dev/mapper/copy
all=$(stat -c %s $streams/increment.dms)
rm -f pipe
mkfifo pipe
dms receive mapper/copy <pipe >/tmp/out 2>/tmp/err &
receiver=$!
exec 9>pipe
head -c $((all * 2 / 3)) $streams/increment.dms >&9
check 'it comes to a mark' until_so is_noted '^mark *: [1-9]' copy
kill -KILL $receiver
exec 9>&-
wait $receiver 2>/dev/null
check 'killed: it is between two' is_noted '^between *: 1 of' copy
check 'and neither' test "$(cmp -s /dev/mapper/c10 /dev/mapper/copy; echo $?)" = 1
receive <5-6.dms
check 'something else is not begun' told 1 'in part'
receive --abort
check 'it is given up' told 0 'is version 1 of'
check 'for what it was' cmp /dev/mapper/c10 /dev/mapper/copy
check 'which is noted' is_noted '^holds *: 1 of' copy
receive --abort
check 'nothing is left of that' told 0 'nothing had been left off'
for part in 1 2 3 4 5; do
	head -c $((all * part / 6)) $streams/increment.dms >part
	receive <part
	check "cut off after $part sixths" told 6 'cut off'
done
check 'there is a position' test -n "$(dms receive mapper/copy --position)"
receive <$streams/increment.dms
check 'it is gone on with' prints 11
dms receive ./file <$streams/increment.dms
check 'the origin is that' cmp -n "$(stat -c %s file)" file /dev/mapper/copy
dms create c11 vdd vde 11
check 'and the snapshot' cmp /dev/mapper/c11 /dev/mapper/copy

# The COW device is full. It lies on another one, that can be had fail.
change 100 500
version
dms send orig 9 --since 8 -o 8-9.dms
cow=$(blockdev --getsz /dev/vdg)
dmsetup create cow --table "0 $cow linear /dev/vdg 0"
dms create tight vdf mapper/cow -bF -e error 2>/dev/null
tight() { call dms receive mapper/tight --state /tmp/tight.state "$@"; }
dms send orig 8 | dms receive mapper/tight --state /tmp/tight.state >/tmp/out
check 'where there is little space' test "$(</tmp/out)" = 1
dms snapshot tight >/dev/null
dms create t2 vdf mapper/cow 2
dd if=/dev/urandom of=/dev/mapper/t2 bs=4k seek=1000 oflag=direct status=none 2>/dev/null
tight <8-9.dms
check 'it is full' told 5 'the COW device is full'
check 'what to do is said' grep -q 'dms receive /dev/mapper/tight --abort' <<<"$err"
dms create t1 vdf mapper/cow 1
check 'the snapshot is valid' same 8 t1
tight --abort
check 'it is given up, full as it is' told 0 'again'
check 'and is what it was' same 8 tight
dms remove t2
dms delete tight 2
dms wait tight --cleaning
tight <8-9.dms
check 'and received when there is space' prints 3
check 'the origin is that, 9' same 9 tight
dms remove t1
dms remove tight

# Nothing has changed: only a snapshot is to be taken.
version
dms send orig 10 --since 9 -o 10.dms
dms create tight vdf mapper/cow -bF -e error 2>/dev/null
dms send orig 9 | dms receive mapper/tight --state /tmp/tight.state -F >/tmp/out
check 'another store' test "$(</tmp/out)" = 1
# feed: all that comes before the end.
feed() {
	local at all
	all=$(stat -c %s 10.dms)
	rm -f pipe
	mkfifo pipe
	dms receive mapper/tight --state /tmp/tight.state <pipe >/tmp/out 2>/tmp/err &
	receiver=$!
	exec 9>pipe
	for ((at = 0; at < all; at += 16)); do
		tail -c +$((at + 1)) 10.dms | head -c 16 >&9
		sleep 0.2
		! is_noted ^between tight /tmp/tight.state || break
	done
	tail -c +$((at + 17)) 10.dms >rest
}
feed
dmsetup suspend --noflush cow
cat rest >&9
check 'all is received, and the snapshot is to be taken' until_so is_noted '^received *: all' tight /tmp/tight.state
cp /tmp/tight.state /tmp/taking
check 'it is about to be' until_so commits $receiver
kill -KILL $receiver
dmsetup resume cow
exec 9>&-
check 'it is killed' until_so ended $receiver
check 'which is not known to have been taken' is_noted '^received *: all' tight /tmp/tight.state
check 'but was' test "$(snapshots tight)" = 2
tight <10.dms
check 'it is found' prints 2
cp /tmp/taking /tmp/tight.state
tight <10.dms
check 'again and again' prints 2
check 'and none is taken' test "$(snapshots tight)" = 2
cp /tmp/taking /tmp/tight.state
dd if=/dev/urandom of=/dev/mapper/tight bs=4k count=1 oflag=direct status=none
tight <10.dms
check 'not if it has been written to' told 1 'written to'
tight --abort
check 'but it is given up' told 0 'again'
# It cannot be taken.
feed
dmsetup load cow --table "0 $cow error"
dmsetup suspend --noflush cow
dmsetup resume cow
cat rest >&9
exec 9>&-
wait $receiver
code=$? out=$(</tmp/out) err=$(</tmp/err)
check 'it cannot be taken' test "$code" != 0 -a -z "$out"
check 'what to do is said, too' grep -q 'the same stream again has it taken' <<<"$err"
check 'it is noted' is_noted '^received *: all' tight /tmp/tight.state
dmsetup load cow --table "0 $cow linear /dev/vdg 0"
dmsetup suspend --noflush cow
dmsetup resume cow
dms remove tight
dms create tight vdf mapper/cow
tight <10.dms
check 'it is taken when that goes' prints 3
check 'the origin is that, 10' same 10 tight

# A file system.
dms remove tight
pass 9 '' -F
check 'a whole one again' prints 12
mkfs.ext4 -qF /dev/mapper/copy
mkdir -p /mnt/b
mount /dev/mapper/copy /mnt/b
pass 10 9
check 'not into what is mounted' told 4 'mounted on /mnt/b'
umount /mnt/b
pass 10 9
check 'nor into what was' told 1 'written to since'
dms rollback copy 12
pass 10 9
check 'but for the rollback' prints 13
none_failed
