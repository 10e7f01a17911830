#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 64M --disk 64M --smp 2 --timeout 400
# takes: 30 one
#
# The dms command when something comes in between: signals, a udev that there is not, devices that
# were left half made, stores in files that are loop devices, failures of the store.
set -u
. /payload/tests/guest/calls.sh
o=vdb c=mapper/cow

# slow MILLISECONDS: how long each request of the COW device takes. No request that was held back
# before is any longer.
modprobe dm-delay
cow() {
	dmsetup load cow --table "0 $(blockdev --getsz /dev/vdc) $1"
	dmsetup suspend --noflush cow
	dmsetup resume cow
}
slow() { cow "delay /dev/vdc 0 $1"; }
# hold: no write to the COW device ends until `slow` is called. However slow the machine is, what
# has to write is still at it when something comes in between.
hold() { cow 'delay /dev/vdc 0 0 /dev/vdc 0 600000'; }
dmsetup create cow --notable
slow 0
dmsetup mknodes cow
table="0 $(blockdev --getsz /dev/$o) dm-snap-mv co $(lsblk -dno maj:min /dev/$o | xargs) $(lsblk -dno maj:min /dev/$c | xargs) -i /dev/$o"

exists() { dmsetup info "$1" >/dev/null 2>&1; }
gone() { ! exists "$1"; }
# soon CONDITION...: within two minutes.
soon() {
	local i
	for i in {1..5000}; do
		"$@" && return
		sleep 0.02
	done
	return 1
}
store_failed() { [[ $(dmsetup status orig) == *' error '* ]]; }
# ended PID: what a call in the background came to, with its output in /tmp/out.
ended() {
	wait "$1" && code=0 || code=$?
	out=$(</tmp/out) err=$(</tmp/err)
}
last_tag() { dms list | awk '$3 ~ /^[0-9]+$/ { tag = $3 } END { print tag }'; }

# Signals while a device is created.
hold
dms create orig $o $c -bf >/tmp/out 2>/tmp/err &
soon exists orig
kill -TERM $!
slow 0
ended $!
check 'an interrupted create says so' told 130 'leave out -f'
check 'and leaves no device' gone orig
refused 'nothing is bound then' 3 'origin is not bound' dms create orig $o $c
call dms create orig $o $c -b
check 'but the COW device is formatted' done_silently
dms remove orig
# All that it need do is read.
slow 2000
dms create orig $o $c >/tmp/out 2>/tmp/err &
soon exists orig
kill -HUP $!
slow 0
ended $!
check 'it is interrupted without -b, too' told 130 'interrupted before orig was of use'
check 'it leaves no device then either' gone orig

# Devices that were left half made.
dmsetup create half --notable
refused 'a device without a table is not removed' 3 'is no dm-snap-mv device' dms remove half
dmsetup load half --table "$table"
refused 'a half-made device has its name' 4 'dms remove half' dms create half $o $c
refused 'it is not of use' 3 'is no dm-snap-mv device' dms snapshot half
call dms remove half
check 'it is removed' done_silently
check 'and gone' gone half
dmsetup create half --notable
dmsetup load half --table '0 8 linear /dev/vdc 0'
refused "another target's is not" 3 'is no dm-snap-mv device' dms remove half
dmsetup resume half
dmsetup load half --table "$table"
refused 'nor one that has another table in use' 3 'is no dm-snap-mv device' dms remove half
check 'which stays' exists half
dmsetup remove half

# Signals while a snapshot is taken.
call dms create orig $o $c
check 'the store is free again' done_silently
for signal in USR1 ALRM; do
	hold
	dms snapshot orig >/tmp/out 2>/tmp/err &
	taking=$!
	soon commits $taking
	check "$signal comes while it is taken" commits $taking
	kill -$signal $taking
	check "$signal has to wait" commits $taking
	slow 0
	ended $taking
	check 'it ends the program' test "$code" = $((128 + $(kill -l $signal)))
	check 'after the device goes on' active orig
done
check 'the snapshots were taken' test "$(last_tag)" = 2
hold
dms snapshot orig >/tmp/out 2>/tmp/err &
soon commits $!
kill -INT $!
slow 0
ended $!
check 'a snapshot that has begun is taken' prints 3
check 'and the device goes on' active orig

# Something is where udev should be, and no cookie can be had for it.
mkdir -p /run/udev
touch /run/udev/control
sem=$(sysctl -n kernel.sem)
sysctl -q kernel.sem='250 32000 32 1'
set=$(ipcmk -S 1)
call dms snapshot orig
check 'a snapshot without udev' prints 4
check 'leaves the device active' active orig
call dms create s1 $o $c 1
check 'create without udev' done_silently
check 'makes the node' test -b /dev/mapper/s1
call dms remove s1
check 'remove without udev' done_silently
check 'removes the device' gone s1
ipcrm -s "${set##* }"
sysctl -q kernel.sem="$sem"
rm -rf /run/udev /dev/mapper/s1

# A store that fails and works again.
dms create s1 $o $c 1
dd if=/dev/urandom of=/dev/mapper/s1 bs=4k count=1 oflag=direct status=none
cow error
dd if=/dev/urandom of=/dev/mapper/orig bs=4k count=1 oflag=direct,sync seek=99 status=none 2>/dev/null
check 'the store fails' soon store_failed
refused 'it is not waited for' 6 'the store of s1 has failed' dms wait s1
slow 0
dmsetup suspend orig
dmsetup resume orig
call dms status s1
check 'a snapshot may have lost writes' matches 's1: snapshot 1 of origin 1, error'
call dms wait s1
check 'which is no failure of the store' done_silently
dms remove s1
dms remove orig

# An image in a file.
modprobe loop
truncate -s 32M /tmp/image
loop=$(losetup -f --show /tmp/image)
dms create orig $o "$loop" -bf
ln /tmp/image /tmp/other
for command in 'check' 'repair -y' 'repair -n'; do
	# shellcheck disable=SC2086
	refused "a file in use, $command" 8 "it is the loop device ${loop#/dev/}" dms $command /tmp/image
	# shellcheck disable=SC2086
	refused "and by another name, $command" 8 "losetup -d $loop" dms $command /tmp/other
done
rm /tmp/image
refused 'the loop device knows no name of it' 8 'is in use' dms check /tmp/other
dms remove orig
call dms check "$loop"
check 'a loop device is checked' matches 'clean'
losetup -d "$loop"
call dms check /tmp/other
check 'a file that nobody uses is checked' matches 'clean'
none_failed
