# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# For scripts that say of each case whether it was so. Sourced, with `subject` set, and `failed`, which the
# script exits with, to 0.

# check NAME COMMAND...: what the command prints is told if it fails.
check() {
	local name=$1
	shift
	if "$@" >/tmp/out 2>&1; then
		echo "ok ${subject:?}: $name"
	else
		echo "not ok ${subject:?}: $name: $(tr '\n' '|' </tmp/out)"
		# shellcheck disable=SC2034  # it is for who calls
		failed=1
	fi
}
