#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The machine stops dead in the middle of everything; its next boot looks at what is there.
# TEST_SEED says what happens until then.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p build
disks=$(mktemp -d "$PWD/build/crash.XXXXXX")
trap 'rm -rf "$disks"' EXIT
seed=${TEST_SEED:-$RANDOM}

for seconds in 6 11; do
	rm -f "$disks"/*
	seed=$((seed + 1))
	options=(--smp 2 --timeout 300 --keep-disk "$disks"
		--disk 16M --disk 256M --disk 1M)
	echo "# crash: TEST_SEED=$seed, $seconds seconds"
	TEST_SEED=$seed scripts/vm "${options[@]}" tests/guest/crash.sh before $seconds
	TEST_SEED=$seed scripts/vm "${options[@]}" tests/guest/crash.sh after
done
