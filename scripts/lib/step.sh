# shellcheck shell=bash
# Long work, shown as one line with the time it takes; its output goes to a log
# that is shown when it fails.

STEP_TEXT='' STEP_LOG='' STEP_TICKER=''

# step NAME TEXT COMMAND...: NAME is the log's. COMMAND runs in the foreground of
# this shell, not in a condition, so that errexit holds in it and an interrupt
# reaches it.
step() {
	local name=$1 begin=$SECONDS
	# In a condition bash would carry on after an error, and keep what is broken.
	# shellcheck disable=SC2155  # that the error is masked is the point
	local carries_on=$(false; echo yes)
	[ -z "$carries_on" ] || die "step $name was called in a condition"
	STEP_TEXT=$2
	STEP_LOG=$DMS_CACHE/log/$name.log
	shift 2
	if [ -t 2 ]; then
		step_tick "$STEP_TEXT" "$begin" &
		STEP_TICKER=$!
	else
		say "  ...  $STEP_TEXT"
	fi
	"$@" >"$STEP_LOG" 2>&1 </dev/null
	step_end
	printf '%s%4ds  %s\n' "${STEP_CR:-}" $((SECONDS - begin)) "$STEP_TEXT" >&2
	STEP_TEXT=''
}

step_tick() {
	while kill -0 "$MAIN_PID" 2>/dev/null; do
		printf '\r%4ds  %s ' $((SECONDS - $2)) "$1" >&2
		sleep 1
	done
}

step_end() {
	STEP_CR=''
	if [ -n "$STEP_TICKER" ]; then
		kill "$STEP_TICKER" 2>/dev/null || true
		wait "$STEP_TICKER" 2>/dev/null || true
		STEP_TICKER='' STEP_CR=$'\r'
	fi
}

# For an EXIT trap: if a step was under way, say which and why.
step_failed() {
	[ -n "$STEP_TEXT" ] && [ "$BASHPID" = "$MAIN_PID" ] || return 0
	step_end
	{
		printf '%sfailed: %s\n' "$STEP_CR" "$STEP_TEXT"
		tail -n 30 "$STEP_LOG" | sed 's/^/    /'
		printf 'the whole log: %s\n' "$STEP_LOG"
	} >&2
}
trap step_failed EXIT
# Leave by way of the trap above.
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
