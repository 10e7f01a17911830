#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --kernel debug --no-module --disk 128M --disk 128M --smp 2 --timeout 900
# The module is loaded, used for everything and unloaded 20 times: no memory is lost.
set -u
failed=0
leaks=/sys/kernel/debug/kmemleak
origin=/dev/vdb cow=/dev/vdc
size=$(blockdev --getsz $origin)

device() { dmsetup create "$1" --table "0 $size dm-snap-mv $2"; }
message() { dmsetup message orig 0 "$@"; }
fill() { dd if=/dev/urandom of="/dev/mapper/$1" bs=64k count="$2" seek="$3" oflag=direct conv=notrunc status=none; }

use() {
	device orig "co $origin $cow -bF -c $((1 << $1 % 5))" &&
		message so >/dev/null && fill orig 20 0 &&
		device snap "cs $origin $cow 1 -i $origin" && fill snap 10 3 &&
		message 'ss 1 -m nested' >/dev/null && fill snap 10 8 &&
		cmp -s -n 1000000 /dev/mapper/snap $origin
	blkdiscard -o 0 -l 65536 /dev/mapper/snap &&
		dmsetup remove snap && message so >/dev/null && fill orig 30 100 &&
		message 'ds 1' && message 'rs 3' && message 'rs 2 -d' &&
		message list | grep -q '^end' && message 'try ds 77' | grep -q refused &&
		dmsetup table orig | dmsetup reload orig && dmsetup suspend orig &&
		dmsetup resume orig &&
		# What is refused in the middle of a table's construction.
		! device orig2 "co $origin $cow -bF" 2>/dev/null &&
		! device orig2 "cs $origin $cow 99 -i $origin" 2>/dev/null
	dmsetup remove orig2 2>/dev/null
	dmsetup remove orig
}

for dep in $(modinfo -F depends /payload/dm-snap-mv.ko | tr , ' '); do
	modprobe -q "$dep"
done
# Once, for what stays for ever: caches of the kernel's own, first uses.
insmod /payload/dm-snap-mv.ko && use 0 && rmmod dm_snap_mv || failed=1
echo scan >$leaks
echo clear >$leaks
for i in {1..20}; do
	insmod /payload/dm-snap-mv.ko && use "$i" && rmmod dm_snap_mv || {
		echo "not ok kmemleak: round $i"
		failed=1
		break
	}
done
[ $failed = 1 ] || echo "ok kmemleak: loaded, used and unloaded 20 times"

# It says nothing of what is younger than five seconds, and looks twice at what moves.
for _ in 1 2; do
	sleep 6
	echo scan >$leaks
done
found=$(<$leaks)
if [ -z "$found" ]; then
	echo "ok kmemleak: nothing is lost"
else
	echo "not ok kmemleak: $(grep -c '^unreferenced' <<<"$found") objects are lost"
	head -n 60 <<<"$found"
	failed=1
fi
exit $failed
