#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The power of a machine that changes everything is cut: it is killed at a random instant. Its
# next boot looks at what is there, and goes on to the next cut. TEST_CUTS says how many (5),
# TEST_SEED what happens.
#
# What the machine's disks have acknowledged is in files of this machine, where it stays. What a
# disk's own cache loses is the business of the subjects powercut and replay.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p build
disks=$(mktemp -d "$PWD/build/crash.XXXXXX")
trap 'rm -rf "$disks"' EXIT
seed=${TEST_SEED:-$RANDOM}
RANDOM=$seed
options=(--smp 2 --mem 1024 --timeout 600 --keep-disk "$disks"
	--disk 8M --disk 64M --disk 1M)
echo "# crash: TEST_SEED=$seed"

# One boot: looks at what the last one has left, then runs until its power is cut.
boot() { # THEN NOW
	local vm rc=0 mark=$disks/out
	: >"$mark"
	scripts/vm "${options[@]}" tests/guest/crash.sh "$1" "$2" >"$mark" &
	vm=$!
	while kill -0 "$vm" 2>/dev/null; do
		if grep -q '^# under load' "$mark"; then
			sleep "$((RANDOM % 5)).$((RANDOM % 1000))"
			kill -USR1 "$vm" 2>/dev/null || true
			break
		fi
		sleep 0.2
	done
	wait "$vm" || rc=$?
	cat "$mark"
	return "$rc"
}

then=none
for ((cut = 1; cut <= ${TEST_CUTS:-5}; cut++)); do
	now=$((seed + cut))
	rc=0
	boot "$then" "$now" || rc=$?
	[ "$rc" = 122 ] || {
		echo "not ok crash: cut $cut, seed $then: ended with $rc"
		exit 1
	}
	then=$now
done
boot "$then" none
