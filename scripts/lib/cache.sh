# shellcheck shell=bash
# Things made once and kept in the cache, under a name that tells what they were
# made from. A thing that exists is whole: it is made beside its place and then
# renamed, under a lock, so neither an interrupt nor a second run spoils it.

# key WORD...: a short digest. Functions are named with a leading @ and count with
# their text (comments and layout aside), so that a changed recipe is a new thing.
key() {
	local word
	for word in "$@"; do
		case $word in
		@*) declare -f "${word#@}" ;;
		*) printf '%s\n' "$word" ;;
		esac
	done | sha256sum | cut -c1-12
}

# cached NAME TEXT FUNCTION [ARG...]: unless $DMS_CACHE/NAME is there, call
# FUNCTION ARG... with $OUT, a fresh folder, and make that folder NAME. Sets CACHED.
cached() {
	local name=$1 text=$2 fd
	shift 2
	CACHED=$DMS_CACHE/$name
	[ ! -e "$CACHED" ] || return 0
	exec {fd}>"$DMS_CACHE/lock/$name"
	if ! flock -n "$fd"; then
		say "  ...  waiting for another run: $text"
		flock "$fd"
	fi
	if [ ! -e "$CACHED" ]; then
		# Only a run that was killed can have left these: the lock is ours.
		rm -rf --one-file-system "$CACHED".tmp
		mkdir -p "$CACHED.tmp"
		OUT=$CACHED.tmp step "$name" "$text" "$@"
		# The dead machine's case: contents before the name.
		sync -f "$CACHED.tmp"
		mv -T "$CACHED.tmp" "$CACHED"
	fi
	exec {fd}>&-
}
