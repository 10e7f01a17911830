#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 64M --disk 64M --timeout 400
# takes: 25
#
# Snapshots of mounted file systems: beside one another, beside somebody who suspends or freezes,
# when whoever takes them is killed, and with something built on the origin.
set -u
. /payload/tests/guest/calls.sh

dmsetup create below --table "0 $(blockdev --getsz /dev/vdb) linear /dev/vdb 0"
dmsetup mknodes below
o=mapper/below c=vdc
mkdir -p /mnt/o /mnt/s

# soon CONDITION...: within some seconds.
soon() {
	local i
	for i in {1..3000}; do
		"$@" && return
		sleep 0.02
	done
	return 1
}
# waits PID FUNCTION: it does so in the kernel.
waits() { grep -q " $2+" "/proc/$1/stack" 2>/dev/null; }
suspended() { [[ $(dmsetup info -c --noheadings -o suspended "$1") == Suspended ]]; }
has_ended() { [ ! -e "/proc/$1" ] || grep -q '^State:.Z' "/proc/$1/status"; }
# ended PID: what a call in the background came to, with its output in /tmp/out.
ended() {
	wait "$1" && code=0 || code=$?
	out=$(</tmp/out) err=$(</tmp/err)
}
in_background() {
	"$@" >/tmp/out 2>/tmp/err &
	pid=$!
}
# A mounted ext4 file system needs recovery but while it is frozen.
frozen() {
	dms create look $o $c "$1" || return
	! dumpe2fs -h /dev/mapper/look 2>/dev/null | grep -q needs_recovery
	local rc=$?
	dms remove look
	return $rc
}
taken_frozen() { [ "$code" = 0 ] && [ -n "$out" ] && frozen "$out"; }
snapshots() { dms list orig | grep -cE '^20[^ ]+ [^ ]+ +[1-9][0-9]* '; }
# goes_on: the file system takes a write, and it reaches the disk.
goes_on() { timeout 60 sh -c 'echo x >/mnt/o/goes-on && sync -f /mnt/o'; }
# hold, let_go: no request to the origin's disk ends in between, and the file system has some to
# make.
hold() {
	dmsetup suspend --noflush --nolockfs below
	echo "$RANDOM" >/mnt/o/dirty
}
let_go() { dmsetup resume below; }

dms create orig $o $c -bf
mkfs.ext4 -q /dev/mapper/orig
mount /dev/mapper/orig /mnt/o
(while :; do for i in {1..20}; do echo "$i" >"/mnt/o/w$i"; done; done) &
writer=$!

# Beside one another, and beside who suspends and resumes.
suspending() {
	while [ -e /tmp/go ]; do
		dmsetup suspend orig
		dmsetup resume orig
	done
}
touch /tmp/go
suspending &
suspender=$!
failures='' thawed=''
for i in {1..3}; do
	pids=()
	for k in 1 2 3; do
		dms snapshot orig >/tmp/out.$k 2>/tmp/err.$k &
		pids+=($!)
	done
	for k in 1 2 3; do
		wait "${pids[k - 1]}" || failures+="$(</tmp/err.$k) "
	done
	for k in 1 2 3; do
		tag=$(</tmp/out.$k)
		[ -z "$tag" ] || frozen "$tag" || thawed+="$tag "
	done
done
rm /tmp/go
wait $suspender
check 'three at a time, beside who suspends, all succeed' test -z "$failures"
check 'and all are of a frozen file system' test -z "$thawed"
check 'there are as many' test "$(snapshots)" = 9
kill $writer
wait $writer 2>/dev/null
check 'the file system goes on' goes_on

# After who froze or suspended before.
fsfreeze --freeze /mnt/o
call dms snapshot orig
check 'a frozen file system has its snapshot' taken_frozen
call fsfreeze --unfreeze /mnt/o
check 'and stays frozen until its owner thaws it' done_silently
check 'which then goes on' goes_on
dmsetup suspend orig
call dms snapshot orig
check 'a suspended device has its snapshot' test "$code" = 0 -a -n "$out"
check 'and stays suspended until its owner resumes it' suspended orig
dmsetup resume orig
check 'it is of a frozen file system' taken_frozen
dmsetup suspend --noflush --nolockfs orig
n=$(snapshots)
call dmsetup message -- orig 0 so -z
check 'one that is suspended unfrozen has none' test "$code" != 0
in_background dms snapshot orig
soon grep -q 'waiting until it is resumed' /tmp/err
check 'dms waits for that' test "$(snapshots)" = "$n"
dmsetup resume orig
ended $pid
check 'then it is taken' taken_frozen
check 'and all goes on' goes_on

# While it is being frozen, which waits for the disk.
n=$(snapshots)
for signal in INT KILL; do
	hold
	in_background dms snapshot orig
	soon waits $pid target_message
	kill -$signal $pid
	soon has_ended $pid
	check "$signal ends the waiting" has_ended $pid
	let_go
	ended $pid
	check "which says so after $signal" test "$code" = $((128 + $(kill -l $signal)))
	check 'nothing stays frozen' goes_on
	check 'nor suspended' active orig
	check 'and there is no snapshot' test "$(snapshots)" = "$n"
done
# The device is suspended meanwhile, in which no request gets through any more: the message must
# have ended for it to go on to wait for those that are on their way.
hold
in_background dms snapshot orig
soon waits $pid target_message
dmsetup suspend --noflush --nolockfs orig &
suspender=$!
check 'suspending does not wait for the freezing' soon waits $suspender dm_wait_for_completion
let_go
wait $suspender
check 'it succeeds' suspended orig
soon grep -q 'waiting until it is resumed' /tmp/err
check 'nothing is taken while it lasts' test "$(snapshots)" = "$n"
dmsetup resume orig
ended $pid
check 'the snapshot is taken afterwards' taken_frozen
check 'and nothing stays frozen then either' goes_on

# A snapshot's own file system; and rolling back to one that is mounted.
call dms snapshot orig
tag=$out
dms create s $o $c "$tag"
mount /dev/mapper/s /mnt/s
echo kept >/mnt/s/kept
call dms snapshot s "$tag"
check 'a snapshot of a snapshot is of a frozen file system' taken_frozen
umount /mnt/o
echo late >/mnt/s/late
call dms rollback orig "$tag"
check 'rolling back to a mounted snapshot' test "$code" = 0
umount /mnt/s
dms remove s
mount /dev/mapper/orig /mnt/o
check 'brings what was in memory' grep -q late /mnt/o/late

# A file system on something that is built on the origin.
umount /mnt/o
dmsetup create part --table "0 65536 linear /dev/mapper/orig 2048"
dmsetup create top --table "0 65536 linear /dev/mapper/part 0"
dmsetup mknodes
mkfs.ext4 -q -F /dev/mapper/top
mount /dev/mapper/top /mnt/o
echo x >/mnt/o/x
call dms snapshot orig
tag=$out
dms create look $o $c "$tag"
dmsetup create inside --table "0 65536 linear /dev/mapper/look 2048"
dmsetup mknodes
check 'a file system on top is frozen, too' \
	sh -c '! dumpe2fs -h /dev/mapper/inside 2>/dev/null | grep needs_recovery'
dmsetup remove inside
dms remove look
check 'and goes on' goes_on
call dmsetup message orig 0 "so -Z $(lsblk -dno maj:min /dev/mapper/top | xargs)"
check 'whoever names it' test "$code" = 0
umount /mnt/o
dmsetup remove top
dmsetup remove part
dms remove orig
call dms check $c
check 'the store is in order' matches clean
dmsetup remove below
none_failed
