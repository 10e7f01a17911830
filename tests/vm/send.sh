#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 96M --disk 256M --disk 96M --smp 2 --timeout 600
# takes: 150 one
#
# Snapshots are sent, whole and as what has changed, into a plain disk and a file: what comes out is
# what the snapshots hold, byte by byte, whoever was killed in between, while the origin is written.
set -u
. /payload/tests/guest/calls.sh
# What `call` sets.
code='' out='' err=''
cd /root || exit

show() { dms create "s$1" vdb vdc "$1"; }
same_as() { # TAG FILE: what TARGET holds, as far as the snapshot goes
	cmp -n "$(blockdev --getsize64 "/dev/mapper/s$1")" "/dev/mapper/s$1" "$2"
}
senders() { dmsetup ls | grep -c '^dms-send-'; }
none_left() { [ "$(senders)" = 0 ]; }
into_disk() { dms receive vdd --state /tmp/vdd.state; }

mkfs.ext4 -qF /dev/vdb
dms create orig vdb vdc -bf
mkdir -p /mnt/o
mount /dev/mapper/orig /mnt/o
dd if=/dev/urandom of=/mnt/o/first bs=1M count=24 status=none
mkdir /mnt/o/many
for n in $(seq 300); do echo "$n" >"/mnt/o/many/$n"; done
call dms snapshot orig -m monday
check 'snapshot 1' prints 1
dd if=/dev/urandom of=/mnt/o/first bs=4k seek=100 count=700 conv=notrunc status=none
for n in $(seq 1 3 300); do echo "$n again" >"/mnt/o/many/$n"; done
call dms snapshot orig
check 'snapshot 2' prints 2

# What is refused, before anything is activated.
refused 'a tag that there is not' 3 'unknown tag' dms send orig 9
refused 'one to start from that is not there' 2 'newer' dms send orig 2 --since 1000 -o /tmp/x
refused 'no tag' 2 'tag is not a number' dms send orig x
refused 'one that is newer' 2 'snapshot 2 is newer than snapshot 1' dms send orig 1 --since 2
refused 'the same one' 2 'nothing changes' dms send orig 1 --since 1
refused 'no position' 2 'is no position' dms send orig 1 --resume dms1-00
refused 'no device' 3 'there is no device nothere' dms send nothere 1
refused 'another origin' 3 'is no origin of the store' dms send vdd 1 --cow vdc
script -qec 'dms send orig 1' /tmp/typescript >/dev/null
check 'not to a terminal' grep -q 'not written to a terminal' /tmp/typescript
check 'nothing was activated' none_left

# Estimates.
call dms send orig 1 --estimate
check 'all of it' test "$(awk '$1 == "bytes" { print $2 }' <<<"$out")" = $((96 << 20))
dms diff orig 1 2 --count >/tmp/count
call dms send orig 2 --since 1 --estimate
check 'as much as differs' test "$(grep -v ^chunks <<<"$out")" = "$(</tmp/count)"

# Whole, then what has changed, through pipes, while the origin is written.
fio --name=w --filename=/mnt/o/fio --size=16M --rw=randwrite --bsrange=4k-16k --ioengine=libaio \
	--direct=1 --iodepth=4 --rate_iops=200 --time_based --runtime=600 --refill_buffers \
	--minimal >/dev/null 2>&1 &
writer=$!
until_so test -s /mnt/o/fio
dms send orig 1 | into_disk
check 'snapshot 1 is sent to a disk' test "${PIPESTATUS[*]}" = '0 0'
dms send orig 1 | dms receive ./file
check 'and into a file' test "${PIPESTATUS[*]}" = '0 0'
check 'by a device of its own, which is gone' none_left
dms send orig 2 --since 1 -o 1-2.dms
check 'what has changed is written to a file' dms stream verify 1-2.dms -q
check 'with no more than that' test "$(stat -c %s 1-2.dms)" -lt $((16 << 20))
show 1
show 2
check 'the disk holds 1' same_as 1 /dev/vdd
check 'the file holds 1' same_as 1 file
check 'zeroes take no space' test "$(du -m file | cut -f1)" -lt 64
into_disk <1-2.dms
check 'the disk holds 2' same_as 2 /dev/vdd
# With the device that is there already.
dms send orig 2 --since 1 | dms receive ./file
check 'by a device that is there' test "${PIPESTATUS[*]}" = '0 0'
check 'the file holds 2' same_as 2 file
check 'the writer is at it' kill -0 $writer
kill $writer
wait $writer
mkdir -p /mnt/b
e2fsck -fy /dev/vdd >/dev/null 2>&1
check 'it is a file system' mount -o ro /dev/vdd /mnt/b
check 'with what was in it' test "$(cat /mnt/b/many/4 /mnt/b/many/5)" = '4 again
5'
umount /mnt/b

# Nothing has changed.
call dms snapshot orig 2
check 'a snapshot of 2' prints 3
dms send orig 3 --since 2 | dms receive ./file
check 'nothing is sent as well' test "${PIPESTATUS[*]}" = '0 0'
check 'and the file holds 3' grep -q '^holds *: 3,' <<<"$(dms receive ./file --status)"
check 'which is the same' same_as 2 file

# Killed. Pipes are slow here, so that there is time for it.
dms remove s1
for signal in KILL TERM INT; do
	rm -f part part.dms-state
	mkfifo pipe
	dms send orig 1 >pipe 2>/tmp/sender.err &
	sender=$!
	perl -e '$| = 1; while (sysread STDIN, $b, 65536) { syswrite STDOUT, $b; $n += length $b;
		if ($n > 8 << 20 && !$k++) { system "dmsetup ls >/tmp/during"; kill $ARGV[0], $ARGV[1] }
		select undef, undef, undef, 0.1 if $k && $k < 3 }' $signal $sender <pipe >part.dms
	wait $sender
	code=$?
	rm pipe
	check "SIG$signal in the midst: it ends" test $code = "$([ $signal = KILL ] && echo 137 || echo 130)"
	check "SIG$signal: its device was there" grep -q "^dms-send-$sender-1-1" /tmp/during
	check "SIG$signal: and is gone" until_so none_left
	check "SIG$signal: what was sent is cut off" test "$(dms stream verify part.dms -q 2>&1 | grep -c 'cut off')" = 1
done

# Gone on with, by the position.
dms create big vdd vdc -b -i big 2>/dev/null
dd if=/dev/urandom of=/dev/mapper/big bs=1M oflag=direct status=none 2>/dev/null
call dms snapshot big
check 'a snapshot of 96 MiB that cannot be compressed' prints 1
mount -t tmpfs none /mnt/b
cd /mnt/b || exit
mkfifo pipe
dms send big 1 >pipe 2>/tmp/sender.err &
sender=$!
perl -e '$| = 1; while (sysread STDIN, $b, 65536) { syswrite STDOUT, $b; $n += length $b;
	kill KILL => $ARGV[0] if $n > 80 << 20 && !$k++ }' $sender <pipe | dms receive ./got 2>/tmp/receiver.err
wait $sender
check 'the receiver says that it can be gone on with' grep -q 'gone on with' /tmp/receiver.err
check 'nothing is left of the sender' until_so none_left
position=$(dms receive ./got --position)
check 'there is a position' test -n "$position"
refused 'which is none of another snapshot' 1 'the position is not one of what' \
	dms send orig 1 --resume "$position" -o /tmp/x
dms send big 1 --resume "$position" >rest.dms
check 'only the rest is sent' test "$(stat -c %s rest.dms)" -lt $((40 << 20))
dms receive ./got <rest.dms
check 'and received' test $? = 0
dms create b1 vdd vdc 1 -i big
check 'it is what it should be' cmp /dev/mapper/b1 got
rm got* rest.dms
dms remove b1

# Nobody reads it.
dms send big 1 2>/tmp/sender.err | head -c 3000000 >/dev/null
code=${PIPESTATUS[0]}
check 'nobody reads to the end: it ends' test "$code" = 1
check 'without a word' test ! -s /tmp/sender.err
check 'and nothing is left' none_left
call dms send big 1 -o /dev/full
check 'no space' test "$code" = 5
check 'which is a device still' test -c /dev/full
cd /root || exit
umount /mnt/b

# Written to.
call dms snapshot orig
last=$out
show "$last"
dms send orig "$last" >before.dms
dd if=/dev/urandom of="/dev/mapper/s$last" bs=4k count=3 seek=20 oflag=direct status=none
call dms send orig "$last" --resume "$position" -o /tmp/x
check 'one that was written to is not gone on with' told 1 'has been written to'
call dms snapshot orig
newest=$out
refused 'nor sent since' 1 "snapshot $last has been written to" dms send orig "$newest" --since "$last" -o /tmp/x
dms send orig "$last" | dms receive ./written
check 'but it is sent' test "${PIPESTATUS[*]}" = '0 0'
check 'as it is' same_as "$last" written
dmsetup create over --table "0 8 linear /dev/mapper/s$last 0"
refused 'not while somebody has it' 4 'is in use' dms send orig "$last" -o /tmp/x
dmsetup remove over
# While it is sent, by its own device.
show "$newest"
mkfifo pipe
dms send orig "$newest" >pipe 2>/tmp/sender.err &
sender=$!
perl -e 'read STDIN, $b, 1 << 20; system "dd if=/dev/urandom of=/dev/mapper/s$ARGV[0] bs=4k count=1 seek=9 oflag=direct status=none"; 1 while read STDIN, $b, 1 << 20' "$newest" <pipe
wait $sender
check 'written to while it is sent' test $? = 4
check 'which is said' grep -q 'while it was sent' /tmp/sender.err
rm pipe

# Of a store that is not in use.
umount /mnt/o
for device in $(dmsetup ls | awk '{ print $1 }'); do dms remove "$device"; done
dms send vdb 2 --since 1 --cow vdc >again.dms
check 'of a store that is not in use' cmp again.dms 1-2.dms
check 'nothing is active after that' test "$(dmsetup ls)" = 'No devices found'

# Lost.
dms create orig vdb vdc
dmsetup message orig 0 try list >/dev/null
while dms send orig 1 --estimate >/dev/null 2>&1; do
	dd if=/dev/urandom of=/dev/mapper/orig bs=1M oflag=direct status=none 2>/dev/null
	dms snapshot orig >/dev/null
done
call dms send orig 1 -o /tmp/x
check 'an invalid one' told 6 'invalid'
check 'leaves no file' test ! -e /tmp/x -a ! -e /tmp/x.tmp
none_failed
