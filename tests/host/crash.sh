#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# takes: 50 110
# The power of a machine that changes everything is cut: it is killed at a random instant. Its
# next boot looks at what is there, uses it, and goes on with it to the next cut. TEST_CUTS says how
# many (2, or 5 in the long run), TEST_SEED what happens.
#
# What the machine's disks have acknowledged is in files of this machine, where it stays. What a
# disk's own cache loses is the business of the subjects powercut and replay.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p build
disks=$(mktemp -d "$PWD/build/crash.XXXXXX")
trap 'rm -rf "$disks"' EXIT
seed=${TEST_SEED:-$RANDOM}
cuts=${TEST_CUTS:-${TEST_LONG:+5}}
cuts=${cuts:-2}
RANDOM=$seed
options=(--smp 2 --mem 1024 --timeout 600 --keep-disk "$disks"
	--disk 8M --disk 64M --disk 32M)
echo "# crash: TEST_SEED=$seed"
export TEST_SEED=$seed

# One boot: looks at what the last one has left, then runs until its power is cut.
boot() { # SUBJECT...
	local vm rc=0 mark=$disks/out
	: >"$mark"
	setpriv --pdeathsig TERM scripts/vm "${options[@]}" tests/guest/crash.sh "$@" >"$mark" &
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

subjects=(crash-before)
for ((cut = 1; cut <= cuts; cut++)); do
	rc=0
	boot "${subjects[@]}" || rc=$?
	[ "$rc" = 122 ] || {
		echo "not ok crash: cut $cut: ended with $rc"
		exit 1
	}
	subjects=(crash-after crash-before)
done
boot crash-after
