#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 1G --disk 16M --disk 16M --smp 2 --timeout 600
# takes: 130 one
#
# While a rollback runs, each chunk of the origin that is written is noted. The rollback gets no
# further, so the notes take all metadata there are for them. Then writes wait; whatever has been made
# durable can be opened again, as it is at that instant, too; and when the rollback goes on so do they.
set -u
failed=0 subject=marks
. /payload/tests/guest/check.sh

# until_so COMMAND...: waits for that, with a limit that only a failure needs.
until_so() {
	local end=$((SECONDS + 300 * ${TEST_SLOW:-1}))
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		read -rt 0.1 <>/tmp/never
	done
	# Not what the last pause ended with.
	return 0
}
mkfifo /tmp/never

status() { dmsetup status o; }
free_blocks() {
	local metadata
	metadata=$(status | cut -d' ' -f7)
	echo $((${metadata#*/} - ${metadata%/*}))
}

origin=/dev/vdb cow=/dev/vdc copy=/dev/vdd
sectors=$(blockdev --getsz $origin)
head=8192
dmsetup create head --table "0 $head linear $origin 0" || exit 1
printf '0 %d linear /dev/mapper/head 0\n%d %d linear %s %d\n' $head $head $((sectors - head)) \
	$origin $head | dmsetup create origin || exit 1
table="0 $sectors dm-snap-mv co /dev/mapper/origin"
dmsetup create o --table "$table $cow -i marks -b -F -c 1" || exit 1
tag=$(dmsetup message o 0 so) || exit 1
put() { dd if=/dev/zero of=/dev/mapper/o bs=4M count=1 seek="$1" oflag=direct conv=notrunc status=none; }
dd if=/dev/zero of=/dev/mapper/o bs=4K count=1 oflag=direct conv=notrunc status=none || exit 1

dmsetup suspend head || exit 1
dmsetup message o 0 -- rs -b "$tag" || exit 1
least=1024
(
	for ((i = 1; i < 256; i++)); do
		put $i || exit 1
		echo $i >/tmp/at
	done
	echo all >/tmp/at
) &
writer=$!
# With the part that nobody but the rollback has, less than this is left when no write goes on.
is_short() { [ "$(free_blocks)" -lt 180 ]; }
check "notes take what there is for them" until_so is_short
stands() {
	local before
	before=$(cat /tmp/at)
	is_short && ! read -rt 2 <>/tmp/never && [ "$(cat /tmp/at)" = "$before" ]
}
check "then a write waits" until_so stands
least=$(free_blocks)
check "$least blocks are kept" [ "$least" -ge 64 ]
state_is() { [[ " $1 " = *" $(status | cut -d' ' -f6) "* ]]; }
check "the store has not failed" state_is "valid invalid full full-metadata"
check "the write has not failed" kill -0 $writer
# What a crash would leave now.
dd if=$cow of=$copy bs=1M iflag=direct oflag=direct status=none || exit 1

dmsetup resume head || exit 1
check "the writes end when the rollback goes on" wait $writer
is_over() { [ "$(status | cut -d' ' -f12)" = - ]; }
check "the rollback ends" until_so is_over
check "the store still works" state_is "valid invalid"
dmsetup remove o || exit 1
check "it is in order" dms check $cow
check "it can be opened again" dmsetup create o --table "$table $cow -i marks"
check "and works then" state_is "valid invalid"
dmsetup remove o || exit 1

check "what a crash would have left is in order" dms check $copy
check "it can be opened" dmsetup create o --table "$table $copy -i marks"
check "its rollback ends" until_so is_over
check "and it works" state_is "valid invalid"
dmsetup remove o || exit 1
check "it is in order then" dms check $copy
exit $failed
