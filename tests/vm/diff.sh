#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 48M --disk 256M --smp 2 --timeout 600
# takes: 45 one
#
# dms diff and dms dump: what they tell is what comparing bytes finds, while the origin is being
# written to the whole time, and while snapshots come and go.
set -u
. /payload/tests/guest/calls.sh
CHUNK=4096
# What `call` sets.
code='' out=''

# written_all_the_time: runs until stop_writing, and changes everything that it writes.
written_all_the_time() {
	fio --name=w --filename=/dev/mapper/orig --rw=randwrite --bsrange=4k-24k --ioengine=libaio \
		--direct=1 --iodepth=4 --rate_iops=300 --time_based --runtime=600 --refill_buffers \
		--randrepeat=0 --norandommap --minimal >/dev/null 2>&1 &
	writer=$!
}
stop_writing() {
	kill "$writer"
	wait "$writer"
}

# written N: waits until so many more writes have been done.
written() {
	local stat from
	stat=/sys/block/$(lsblk -ndo KNAME /dev/mapper/orig)/stat
	from=$(awk '{ print $5 }' "$stat")
	until [ "$(awk '{ print $5 }' "$stat")" -ge $((from + $1)) ]; do sleep 0.1; done
}

# differing A B: the chunks of two devices that differ, by their bytes.
differing() {
	perl -e 'open A, "<", $ARGV[0]; open B, "<", $ARGV[1]; $n = 0;
		while (read A, $a, $ARGV[2]) { read B, $b, $ARGV[2]; print "$n\n" if $a ne $b; $n++ }' "$1" "$2" $CHUNK
}
# told OLD NEW [OPTION...]: the same, by dms.
told_chunks() {
	dms diff "$@" | awk -v c=$CHUNK '$1 ~ /^[0-9]+$/ && NF == 3 {
		for (n = $1 / c; n < ($1 + $2) / c; n++) print n }'
}
# All that differs is told. And not much more: what was being written when a snapshot was taken has been
# preserved for the one before, and is overwritten behind it. That is four requests of six chunks at most.
same_as_bytes() { # OLD NEW
	told_chunks orig "$1" "$2" | sort >/tmp/told
	differing "/dev/mapper/${3:-s$1}" "/dev/mapper/${4:-s$2}" | sort >/tmp/found
	[ -s /tmp/found ] && [ -z "$(comm -13 /tmp/told /tmp/found)" ] &&
		[ "$(comm -23 /tmp/told /tmp/found | wc -l)" -le 24 ]
}
counted() { awk -v w="$1" '$1 == w { print $2 }'; }
bits() { od -An -v -tu1 "$1" | awk '{ for (i = 1; i <= NF; i++) for (b = $i; b; b = int(b / 2)) n += b % 2 } END { print n + 0 }'; }
# without_gaps FILE END: a map is one.
without_gaps() {
	awk -v end="$2" '$1 != at || $3 !~ /^(data|zero|same)$/ { exit 1 } { at += $2 } END { exit at != end }' "$1"
}
show() { dms create "s$1" vdb vdc "$1"; }

dd if=/dev/urandom of=/dev/vdb bs=1M count=48 oflag=direct status=none
dms create orig vdb vdc -bf
written_all_the_time
written 50
for tag in 1 2; do
	call dms snapshot orig
	check "snapshot $tag while it is written" prints $tag
	written 200
done
call dms snapshot orig 1
check 'a snapshot of a snapshot' prints 3
show 3
dd if=/dev/urandom of=/dev/mapper/s3 bs=8k seek=100 count=150 oflag=direct status=none
call dms snapshot orig 3
check 'and of that' prints 4
dd if=/dev/urandom of=/dev/mapper/s3 bs=4k seek=2000 count=50 oflag=direct status=none
show 4
blkdiscard -z -o 8M -l 2M /dev/mapper/s4
dd if=/dev/urandom of=/dev/mapper/s4 bs=4k seek=5000 count=70 oflag=direct status=none
sync
show 1
show 2

# While all of it goes on.
call dms diff orig 1 2
check 'what differs is an exit code of 1' test "$code" = 1
check 'and a total' test "${out##*$'\n'}" != "${out##*differ}"
first=$out
for pair in '1 2' '2 1' '1 3' '3 4' '4 2' '2 4' '1 4'; do
	# shellcheck disable=SC2086
	check "$pair: as bytes say, while it is written" same_as_bytes $pair
done
many=0 whole=0
for _ in $(seq 30); do
	dms diff orig 1 2 >/tmp/again
	[ "$(</tmp/again)" = "$first" ] && many=$((many + 1))
	dms dump orig >/tmp/dump && tail -n 1 /tmp/dump | grep -q '^end ' && whole=$((whole + 1))
done
check 'read again and again, it is the same' test $many = 30
check 'all of the store is read, too' test $whole = 30
grep '^end' /tmp/dump
call dms diff orig 2
check 'the origin as it is differs' test "$code" = 1
call dms diff orig 1 1
check 'nothing differs from itself' test "$code" = 0
check 'which is said' matches '0 ranges: 0 KiB of 48 MiB differ$'
refused 'a tag that there is not' 2 'unknown tag' dms diff orig 1 9
refused 'no tag' 2 'tag is not a number' dms diff orig 1 x
refused 'no device' 2 'there is no device nothere' dms diff nothere 1
# Snapshots that come and go meanwhile are none of what is compared.
(for _ in $(seq 8); do
	dms snapshot orig >/tmp/tag
	dms delete orig "$(</tmp/tag)"
done) &
comes=$!
while kill -0 $comes 2>/dev/null; do
	dms diff orig 1 2 >/tmp/again
	[ "$(</tmp/again)" = "$first" ] || echo "$(</tmp/again)" >/tmp/other
done
wait $comes
check 'others come and go' test ! -e /tmp/other
written 20
check 'it was written all the time' kill -0 "$writer"
stop_writing

# All forms say the same.
check 'now: as bytes say' same_as_bytes 2 now s2 orig
dms diff orig 1 4 --count >/tmp/count
bytes=$(counted bytes </tmp/count) zero=$(counted zero-bytes </tmp/count)
echo "# 1 and 4: $bytes bytes differ, $zero of them zeroes"
check 'zeroes are known' test "$zero" = $((2 << 20))
check 'bytes are counted' test "$(dms diff orig 1 4 | awk 'NF == 3 && $2 ~ /^[0-9]+$/ { n += $2 } END { print n }')" = "$bytes"
check 'sectors' test "$(dms diff orig 1 4 --sectors | awk 'NF == 3 && $2 ~ /^[0-9]+$/ { n += $2 } END { print n * 512 }')" = "$bytes"
dms diff orig 1 4 --bitmap /tmp/bitmap
check 'a bit for each chunk' test "$(stat -c %s /tmp/bitmap) $(bits /tmp/bitmap)" = "1536 $((bytes / CHUNK))"
check 'to standard output, too' test "$(dms diff orig 1 4 --bitmap - | md5sum)" = "$(md5sum </tmp/bitmap)"
dms diff orig 1 4 --borg-map >/tmp/map
check 'a map without gaps' without_gaps /tmp/map $((48 << 20))
check 'of the same' test "$(awk '$3 != "same" { n += $2 } END { print n }' /tmp/map)" = "$bytes"
dms diff orig 1 4 --json >/tmp/json
check 'JSON begins' grep -q '^{"kind":"diff","store":"[0-9a-f]\{32\}","origin":"/dev/vdb","origin_number":1,"old":1,"new":4,' /tmp/json
check 'and ends' grep -q '^{"kind":"end",.*"bytes":'"$bytes"',' <(tail -n 1 /tmp/json)
check 'with a line for each range' test "$(grep -c '^{"kind":"range"' /tmp/json)" = "$(counted ranges </tmp/count)"

# While it is rolled back, and when that is done.
dms remove orig
dms diff s1 1 >/tmp/before
call dms rollback s1 2 -b
check 'it is being rolled back' test "$code" = 0
call dms diff s1 2 now
check 'versions can be compared meanwhile' test "$code" -le 1
dms wait s1 --rollback
dms create orig vdb vdc
# What was copied back is where it was not before.
told_chunks orig 2 now | sort >/tmp/told
differing /dev/mapper/s2 /dev/mapper/orig >/tmp/found
check 'rolled back, nothing differs' test ! -s /tmp/found
check 'and 1 is told from it by what 2 was' same_as_bytes 1 2

# Not in use.
dms diff orig 1 4 >/tmp/before
for device in s1 s2 s3 s4 orig; do dms remove $device; done
dms diff vdb 1 4 --cow vdc >/tmp/after
check 'of a store that is not in use' cmp /tmp/before /tmp/after
check 'by its identity' test "$(dms diff /dev/vdb 1 4 --cow /dev/vdc | md5sum)" = "$(md5sum </tmp/after)"
refused 'another origin' 2 'its origins are: /dev/vdb' dms diff vdx 1 4 --cow vdc
refused 'without a device' 2 'with --cow COW' dms diff orig 1 4
dms dump vdc >/tmp/dump
dms dump vdc --json >/tmp/dump.json
check 'a dump has all records' test "$(sed -n 's/^records .* length=\([0-9]*\) .*/\1/p' /tmp/dump | awk '{ n += $1 } END { print n }')" \
	-ge "$(dms check vdc --json | sed -n 's/.*"records": \([0-9]*\).*/\1/p' | head -n 1)"
check 'as JSON the same' test "$(wc -l </tmp/dump)" = "$(wc -l </tmp/dump.json)"
check 'a part' test "$(dms dump vdc --origin vdb --snapshot 4 | grep -c '^snapshot ')" = 1
check 'records of one snapshot' test "$(dms dump vdc --origin vdb --snapshot 4 | grep '^records ' | grep -vc 'snapshot=4 ')" = 0
call dms check vdc
check 'the store is in order' test "$code" = 0
none_failed
