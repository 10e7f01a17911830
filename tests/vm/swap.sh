#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 384M --disk 192M --disk 1536M --mem 224 --smp 2 --timeout 600
# takes: 30
# More is kept in memory than there is: it goes to swap space on an origin, of which
# snapshots are taken all the while, and so does what is written to a file system on
# another origin of the same store. To free memory their writes must go on without any.
set -u
failed=0
check() { # NAME COMMAND...
	local name=$1
	shift
	if "$@"; then
		echo "ok swap: $name"
	else
		echo "not ok swap: $name"
		failed=1
	fi
}
memory=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
# More than can be had, by as much as swap space holds easily. With the debug kernel's checks it takes
# a minute to swap out what otherwise takes a second.
over=140
[ "${TEST_SLOW:-1}" = 1 ] || over=70
sysctl -q kernel.hung_task_timeout_secs=$((120 * ${TEST_SLOW:-1}))
rounds=6
each=$(((memory + over) / rounds))
echo "# $memory MiB of memory, in which $((each * rounds)) are to be kept"
size() { blockdev --getsz "$1"; }
mkdir -p /mnt/memory /mnt/fs /mnt/snap

dmsetup create swap --table "0 $(size /dev/vdb) dm-snap-mv co /dev/vdb /dev/vdd -bF" &&
	dmsetup create fs --table "0 $(size /dev/vdc) dm-snap-mv co /dev/vdc /dev/vdd -b" ||
	exit 1
mkswap -q /dev/mapper/swap && swapon /dev/mapper/swap || exit 1
mkfs.ext4 -q /dev/mapper/fs && mount /dev/mapper/fs /mnt/fs || exit 1
mount -t tmpfs -o size=$((each * rounds + 10))m memory /mnt/memory || exit 1
# Whatever else is kept there goes too.
sysctl -q vm.swappiness=100

for ((round = 0; round < rounds; round++)); do
	n=$round
	begin=$SECONDS
	# Every page that goes out now is a first write.
	dmsetup message swap 0 so >/dev/null || failed=1
	dmsetup message fs 0 so >/dev/null || failed=1
	head -c "${each}M" /dev/urandom | tee /mnt/memory/$n | md5sum >/run/memory.$n
	head -c 8M /dev/urandom | tee /mnt/fs/$n | md5sum >/run/fs.$n
	sync -f /mnt/fs
	if ((round == 4)); then
		cp /run/fs.4 /run/snap.4
		dmsetup suspend fs && tag=$(dmsetup message fs 0 so) && dmsetup resume fs
	fi
	if ((round >= 3)); then
		old=$(dmsetup message swap 0 'list 1 1' | awk '$1 ~ /^[0-9]+$/ { print $1; exit }')
		dmsetup message swap 0 "ds $old" || failed=1
	fi
	echo "# round $round: $((SECONDS - begin)) s, swap in use:$(awk '/^SwapFree/ { f = $2 } /^SwapTotal/ { t = $2 } END { print " " int((t - f) / 1024) " MiB" }' /proc/meminfo)"
done

# Not from /proc/vmstat: not every kernel counts there what is swapped out.
check "more than there was memory for was written" test \
	"$(awk '{ print int($7 / 2048) }' /sys/block/vdb/stat)" -gt 60
same=1
# What is still in memory comes first, so that not all of it must go out once more.
for ((n = rounds - 1; n >= 0; n--)); do
	[ "$(md5sum </mnt/memory/$n)" = "$(</run/memory.$n)" ] || same=0
	[ "$(md5sum </mnt/fs/$n)" = "$(</run/fs.$n)" ] || same=0
done
check "what came back from swap space is what went there" test $same = 1
check "nobody was killed for memory" test "$(dmesg | grep -c 'Out of memory')" = 0
if [ -n "${tag:-}" ]; then
	dmsetup create snap --table "0 $(size /dev/vdc) dm-snap-mv cs /dev/vdc /dev/vdd $tag -i /dev/vdc"
	mount -o ro,noload /dev/mapper/snap /mnt/snap
	check "a snapshot taken meanwhile" test "$(md5sum </mnt/snap/4)" = "$(</run/snap.4)"
	umount /mnt/snap
	dmsetup remove snap
fi
for name in swap fs; do
	state=$(dmsetup status $name | cut -d' ' -f6)
	check "$name is valid" test "$state" = valid
done
umount /mnt/memory
swapoff /dev/mapper/swap
umount /mnt/fs
dmsetup remove fs
dmsetup remove swap
exit $failed
