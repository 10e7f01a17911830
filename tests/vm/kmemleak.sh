#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --no-module --append kmemleak=on --disk 128M --disk 128M --smp 1 --timeout 900
# takes: 25 100
# The module is loaded, used for everything and unloaded, 3 times, or 20 in the long run. The debug
# kernel tells then whether memory was lost; any other whether a cache or a thread of it is left.
set -u
failed=0
leaks=/sys/kernel/debug/kmemleak
rounds=3
[ -z "${TEST_LONG:-}" ] || rounds=20
origin=/dev/vdb cow=/dev/vdc
size=$(blockdev --getsz $origin)

device() { dmsetup create "$1" --table "0 $size dm-snap-mv $2"; }
message() { dmsetup message orig 0 "$@"; }
fill() { dd if=/dev/urandom of="/dev/mapper/$1" bs=64k count="$2" seek="$3" oflag=direct conv=notrunc status=none; }
# All that is ever written, of a device or of a copy.
beginning() { head -c 2M "$1"; }
keep() { beginning "/dev/mapper/$1" >"/run/$2"; }

# What must succeed, or the round ends.
must() {
	"$@" && return
	echo "# failed: $*"
	return 1
}
holds() { beginning "/dev/mapper/$1" | cmp - "/run/$2"; }
differ() { ! cmp -s "/run/$1" "/run/$2"; }
answers() { # WORD MESSAGE
	message "$2" | grep -q "$1"
}
reload() { dmsetup table orig | dmsetup reload orig; }
# Of a table that is refused nothing may stay.
refused() { # TABLE
	! device orig2 "$1" 2>/dev/null
}

use() {
	must device orig "co $origin $cow -bF -c $((1 << $1 % 5))" || return 1
	must fill orig 32 0 && must keep orig first || return 1
	must answers '^1$' so || return 1
	must fill orig 20 0 && must keep orig second && must differ first second || return 1

	must device snap "cs $origin $cow 1 -i $origin" && must holds snap first || return 1
	must fill snap 10 3 && must keep snap third && must differ first third || return 1
	must answers '^2$' 'ss 1 -m nested' || return 1
	must fill snap 10 8 && must keep snap fourth && must differ third fourth || return 1
	must blkdiscard -o 0 -l 65536 /dev/mapper/snap || return 1
	must dmsetup remove snap || return 1
	must device snap "cs $origin $cow 2 -i $origin" && must holds snap third || return 1
	must dmsetup remove snap || return 1

	must answers '^3$' so && must fill orig 12 18 || return 1
	must keep orig fifth && must differ second fifth || return 1
	must message 'ds 1' || return 1
	must message 'rs 3' && must holds orig second || return 1
	must message 'rs 2 -d' && must holds orig third || return 1
	must answers '^end' list && must answers refused 'try ds 77' || return 1
	must reload && must dmsetup suspend orig && must dmsetup resume orig || return 1
	must holds orig third || return 1
	# What is refused in the middle of a table's construction.
	must refused "co $origin $cow -bF" || return 1
	must refused "cs $origin $cow 99 -i $origin" || return 1
	must dmsetup remove orig
}

# It writes of itself that it has given up, and takes no orders then.
scan() {
	must eval "echo scan >$leaks" || return 1
	if dmesg | grep -iE 'kmemleak:? (disabled|.*(cannot|not enough|empty))|leak detector disabled'; then
		echo "# failed: it no longer looks"
		return 1
	fi
}

# It knows what is allocated now: the module's own memory, of which it tells in the kernel's log.
knows_module() {
	local at before
	at=$(</sys/module/dm_snap_mv/sections/.data) || return 1
	before=$(dmesg | wc -l)
	must eval "echo dump=$at >$leaks" || return 1
	dmesg | tail -n +$((before + 1)) | grep -q 'kmemleak: Object' && return
	echo "# failed: it does not know what is at $at"
	return 1
}

for dep in $(modinfo -F depends /payload/dm-snap-mv.ko | tr , ' '); do
	modprobe -q "$dep"
done
# What the kernel keeps for the module while it is there, by name.
kept() {
	grep -hoE '(dm[-_ ]?snap[-_ ]?mv|\bdms-)[^ ]*' /proc/slabinfo /proc/vmallocinfo /proc/modules \
		/proc/misc /proc/[0-9]*/comm 2>/dev/null | sort -u
}
if [ ! -e $leaks ]; then
	for ((i = 1; i <= rounds; i++)); do
		must insmod /payload/dm-snap-mv.ko && use "$i" && must rmmod dm_snap_mv || {
			echo "not ok kmemleak: round $i"
			exit 1
		}
		left=$(kept)
		[ -z "$left" ] || {
			echo "not ok kmemleak: left behind in round $i: $left"
			exit 1
		}
	done
	echo "ok kmemleak: loaded, used and unloaded $rounds times"
	exit 0
fi

# Once, for what stays for ever: caches of the kernel's own, first uses.
if must insmod /payload/dm-snap-mv.ko && knows_module && use 0 && must rmmod dm_snap_mv; then
	echo "ok kmemleak: it knows what the module has"
else
	echo "not ok kmemleak: it knows what the module has"
	exit 1
fi
scan && must eval "echo clear >$leaks" || failed=1
for ((i = 1; i <= rounds; i++)); do
	must insmod /payload/dm-snap-mv.ko && use "$i" && must rmmod dm_snap_mv || {
		echo "not ok kmemleak: round $i"
		failed=1
		break
	}
done
[ $failed = 1 ] || echo "ok kmemleak: loaded, used and unloaded $rounds times"

# It says nothing of what is younger than five seconds, and looks twice at what moves.
looked=1
for _ in 1 2; do
	sleep 6
	scan || looked=0
done
found=$(<$leaks) || looked=0
if [ $looked = 1 ] && [ -z "$found" ]; then
	echo "ok kmemleak: nothing is lost"
else
	echo "not ok kmemleak: $(grep -c '^unreferenced' <<<"$found") objects are lost"
	head -n 60 <<<"$found"
	failed=1
fi
exit $failed
