# shellcheck shell=bash
# What every script here starts from: where things are, how they speak, how they
# give up. Sourced, never run.

set -euo pipefail
# Without this an error inside $(...) goes unnoticed.
shopt -s inherit_errexit

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
DMS_CACHE=${DMS_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/dm-snap-mv}
export DMS_CACHE
# A subshell may outlive the shell that started it; this is the one it belongs to.
MAIN_PID=$BASHPID

say() { printf '%s\n' "$*" >&2; }
# What "die" exits with, for a script whose statuses mean something.
DIE_STATUS=1
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit "$DIE_STATUS"
}

need_root() {
	[ "$(id -u)" = 0 ] ||
		die "this needs root: a Debian tree is set up and entered (try: sudo make)"
	[ "$(uname -m)" = x86_64 ] ||
		die "only x86_64 machines are supported, this is $(uname -m)"
}

# Where the cache is, with no link in it: it is mounted at this very path again
# inside the build root.
open_cache() {
	mkdir -p "$DMS_CACHE"
	DMS_CACHE=$(cd "$DMS_CACHE" && pwd -P)
	mkdir -p "$DMS_CACHE/lock" "$DMS_CACHE/log" "$DMS_CACHE/run"
}

# place FROM TO: copy, unless it is the same already; never half a file.
place() {
	cmp -s "$1" "$2" || { cp "$1" "$2.tmp" && mv "$2.tmp" "$2"; }
}
