#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 32M --disk 96M --smp 2 --timeout 600
# takes: 15 one
# A COW device that grows under a store in use, and a snapshot that is merged
# while somebody looks at it.
set -u
failed=0
report() { # NAME COMMAND...
	local name=$1
	shift
	if "$@"; then
		echo "ok grow: $name"
	else
		echo "not ok grow: $name"
		failed=1
	fi
}
total() { dmsetup status orig | sed -E 's|.* [0-9]+/([0-9]+) 8 .*|\1|'; }
size=$(blockdev --getsz /dev/vdb)
mib=2048

dmsetup create cow --table "0 $((32 * mib)) linear /dev/vdc 0"
dmsetup create orig --table "0 $size dm-snap-mv co /dev/vdb /dev/mapper/cow -bf -e error" || exit 1
report "as large as the device was" test "$(total)" = $(((32 - 4) * 256 - 64))
dmsetup message orig 0 so >/dev/null
# Everything that there is room for, and then no more.
dd if=/dev/urandom of=/dev/mapper/orig bs=1M oflag=direct 2>/dev/null
report "full" test "$(dmsetup status orig | cut -d' ' -f6)" = full

dmsetup suspend cow
dmsetup reload cow --table "0 $((64 * mib)) linear /dev/vdc 0"
dmsetup resume cow
dmsetup table orig | dmsetup reload orig
dmsetup suspend orig
dmsetup resume orig
report "as large as it is now" test "$(total)" = $(((64 - 4) * 256 - 64))
report "written" dd if=/dev/urandom of=/dev/mapper/orig bs=1M count=32 oflag=direct status=none
report "valid again" test "$(dmsetup status orig | cut -d' ' -f6)" = valid

dmsetup create snap --table "0 $size dm-snap-mv cs /dev/vdb /dev/mapper/cow 1 -i /dev/vdb"
reply=$(dmsetup message orig 0 'try rs 1 -d' 2>&1)
report "no merge of a snapshot that is shown" \
	test "$reply" = "refused EBUSY snapshot device is in use"
dmsetup remove snap
dmsetup remove orig
dmsetup create orig --table "0 $size dm-snap-mv co /dev/vdb /dev/mapper/cow"
report "found again with its new size" test "$(total)" = $(((64 - 4) * 256 - 64))
dmsetup remove orig
dmsetup remove cow
exit $failed
