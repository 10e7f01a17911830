#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 96M --disk 256M --disk 96M --disk 256M --disk 1G --smp 2 --timeout 600
# takes: 90 one
#
# All snapshots of an origin in one stream: into an origin, each is a snapshot there, byte by byte; into a file, it is
# the last one; cut off anywhere, it is gone on with where it was.
set -u
. /payload/tests/guest/calls.sh
# What `call` sets.
code='' out='' err=''
mkfs.ext4 -qF /dev/vdf
mount /dev/vdf /srv
cd /srv || exit

# show NAME DEVICE COW TAG FILE: what that snapshot holds is in the file from then on.
show() {
	dms create "s-$1" "$2" "$3" "$4" && dd if="/dev/mapper/s-$1" of="$5" bs=1M iflag=direct conv=sparse status=none
	dms remove "s-$1"
}
touched() {
	fio --name=w --filename=/dev/mapper/orig --rw=randwrite --bs=4k --direct=1 --ioengine=libaio \
		--iodepth=4 --number_ios="$1" --size=32M --refill_buffers --randseed=$RANDOM --minimal >/dev/null
}
none_left() { ! dmsetup ls | grep -q '^dms-send-'; }
segments() { dms stream show "$1" --json | grep -c '"begin"\|"to":'; }

dms create orig vdb vdc -bf
refused 'no snapshot' 3 'there is no snapshot to be sent' dms send orig -R -o none.dms
dd if=/dev/urandom of=/dev/mapper/orig bs=1M count=32 oflag=direct status=none
for n in 1 2 3 4 5; do
	dms snapshot orig -m "version $n" >/dev/null
	show "$n" vdb vdc "$n" "v$n"
	touched $((n * 20))
	# A rollback is a change like others.
	[ $n != 3 ] || { dms rollback orig 2 && touched 10; }
done
# What does not belong to it.
dms snapshot orig 2 >/dev/null
dms create w vdb vdc 4
dd if=/dev/urandom of=/dev/mapper/w bs=4k count=1 oflag=direct status=none
dms remove w

call dms send orig -R -o all.dms
check 'all of them' test "$code" = 0
check 'but for those that are no history' grep -q 'snapshot 4 is left out' <<<"$err"
check 'and those of snapshots' grep -q 'snapshot 6 is left out' <<<"$err"
check 'nothing is left active' none_left
call dms stream verify all.dms
check 'in one stream' matches '^all.dms: whole, 4 segments that set [0-9]+ bytes'
call dms stream show all.dms
check 'one behind the other' test "$(grep -cE 'version +[0-9]+|version ' <<<"$out")" -ge 4
dms create far vdd vde -bf
call dms receive mapper/far <all.dms
check 'an origin has a snapshot of each' prints $'1\n2\n3\n4'
for pair in 1:1 2:2 3:3 4:5; do
	show far vdd vde "${pair%:*}" got
	check "as version ${pair#*:}" cmp got "v${pair#*:}"
done
check 'with its memo' grep -q '"version 5"' <<<"$(dms list far)"
call dms receive mapper/far <all.dms
check 'the same once more is nothing new' test "$code" = 0
call dms receive ./last <all.dms
check 'a file is the last one' cmp last v5

# Parts of it.
call dms send orig 3 -R -o upto.dms
check 'up to one' test "$(dms stream verify upto.dms | grep -o ' [0-9] segments')" = ' 3 segments'
rm -f last last.dms-state
dms receive ./last <upto.dms
check 'it is that' cmp last v3
call dms send orig -R --since 3 -o rest.dms
check 'since one' test "$code" = 0
dms receive ./last <rest.dms
check 'it goes on with it' cmp last v5
refused 'nothing newer' 3 'there is no newer snapshot than 5' dms send orig -R --since 5 -o none.dms
refused 'in the wrong order' 2 'is newer than snapshot 2' dms send orig 2 -R --since 3 -o none.dms
refused 'no tag and no history' 2 'TAG' dms send orig
dms send orig -R --estimate >estimate
check 'an estimate of all' test "$(awk '$1 == "bytes" { print $2 }' estimate)" = \
	"$(dms stream verify all.dms | grep -o 'set [0-9]*' | cut -d' ' -f2)"

# Behind the end.
cat all.dms rest.dms >both.dms
refused 'another stream behind it is none of it' 6 'another stream follows' dms stream verify both.dms
{ cat all.dms; echo x; } >more.dms
refused 'nor is anything else' 6 'something follows' dms stream verify more.dms
rm -f last last.dms-state
refused 'who receives it says so, too' 6 'another stream follows' dms receive ./last <both.dms
check 'though the first one has been received' cmp last v5

# Cut off anywhere.
size=$(stat -c %s all.dms)
rm -f last last.dms-state
for ((n = 0; n < ${TEST_ROUNDS:-2}; n++)); do
	rm -f last last.dms-state
	cut=$((size - RANDOM * 100 % (size / 20) * (n + 1) / 4 - 1))
	head -c $cut all.dms | dms receive ./last 2>/dev/null
	position=$(dms receive ./last --position)
	if [ -n "$position" ]; then
		dms send orig -R --resume "$position" | dms receive ./last
	else
		dms send orig -R | dms receive ./last 2>/dev/null
	fi
	cmp last v5 || { echo "cut at $cut"; failed=1; }
done
check 'it is gone on with' cmp last v5

# Behind a mark of another one than the first: where more than 64 MiB have changed.
rm -f v[1-4] got last both.dms more.dms upto.dms
dd if=/dev/urandom of=/dev/mapper/orig bs=1M count=80 oflag=direct status=none
dms delete orig 6
show 7 vdb vdc "$(dms snapshot orig)" v7
call dms send orig -R -o all.dms
rm -f last last.dms-state
head -c $(($(stat -c %s all.dms) - (8 << 20))) all.dms | dms receive ./last 2>/dev/null
position=$(dms receive ./last --position)
check 'there is a place to go on from' test -n "$position"
call dms send orig 5 -R --resume "$position" -o rest.dms
check 'which is in none of the others' told 1 'is not one of what is to be sent'
call dms send orig -R --resume "$position" -o rest.dms
check 'what was received is not sent again' test "$(stat -c %s rest.dms)" -lt $((32 << 20))
dms receive ./last <rest.dms
check 'it is gone on with from there' cmp last v7
none_failed
