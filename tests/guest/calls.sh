# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Calls of programs, and what they must come to: for the scripts of tests/vm.

failed=0

# What the last call of `call` came to.
code=0 out='' err=''
call() {
	out=$("$@" 2>/tmp/err) && code=0 || code=$?
	err=$(</tmp/err)
}

# check NAME CONDITION...: the condition is a command.
check() {
	local name=$1
	shift
	if "$@"; then
		echo "ok $name"
	else
		echo "not ok $name"
		failed=1
		printf 'failed: %s\ncode %s\nout: %s\nerr: %s\n' "$*" "$code" "$out" "$err"
	fi
}

# refused NAME CODE TEXT COMMAND...: exits so, prints nothing, and says so.
refused() {
	local name=$1 expected=$2 text=$3
	shift 3
	call "$@"
	check "$name" told "$expected" "$text"
}
told() { [ "$code" = "$1" ] && [ -z "$out" ] && [[ $err == *"$2"* ]]; }
done_silently() { [ "$code" = 0 ] && [ -z "$out$err" ]; }
prints() { [ "$code" = 0 ] && [ "$out" = "$1" ]; }
matches() { [ "$code" = 0 ] && [[ $out =~ $1 ]]; }
active() { [[ $(dmsetup info -c --noheadings -o suspended "$1") == Active ]]; }
none_failed() { [ $failed = 0 ]; }

# until_so COMMAND...: waits for that, with a limit that only a failure needs.
until_so() {
	local i
	for ((i = 0; i < 600; i++)); do
		"$@" && return
		sleep 0.1
	done
	return 1
}
# commits PID: it waits in the kernel for a write to the COW device, of the journal or of the trees.
commits() { grep -qE ' (dm_io|sync_io|dm_bufio_write_dirty_buffers)\+' "/proc/$1/stack"; }
