# shellcheck shell=bash
# Units (units.sh) are run, some at once, and what comes of them is counted in `passed` and `failed`
# and shown.

# Longer than any takes, on a machine that is slow and does other things, too.
UNIT_TIMEOUT=1500

# Names of units that the time was not enough for.
LATE=()
# Of each case: seconds and what it is, a line each.
CASE_TIMES=''
declare -A UNIT_BEGIN=() UNIT_READER=()

# stamp FILE: copies its input to FILE, and to FILE.times how long each case has taken: a case ends
# when that is said, and the first begins with the test's machine.
stamp() {
	local line last=$EPOCHREALTIME now
	: >"$1.times"
	while IFS= read -r line || [ -n "$line" ]; do
		printf '%s\n' "$line"
		case $line in
		'ok '* | 'not ok '*)
			now=$EPOCHREALTIME
			# Tenths of a second.
			printf '%d %s\n' $(((${now/./} - ${last/./}) / 100000)) "$line" >>"$1.times"
			last=$now
			;;
		esac
	done >"$1"
}

# Becomes the workspace's own tests, built as build-dms builds, so that nothing is compiled twice.
become_native() {
	local args=(--workspace --release --no-fail-fast --target "$CARGO_TARGET")
	[ -z "${CI:-}" ] || args+=(--locked)
	cargo_env
	root_exec -- "${CARGO_ENV[@]}" setpriv --pdeathsig KILL cargo test "${args[@]}"
}

env_become() { # VARIABLE=VALUE...
	local variable
	for variable in "$@"; do
		export "${variable?}"
	done
	# Of what is drawn for each property, ten times as much.
	[ -z "${TEST_LONG:-}" ] || export PROPTEST_CASES=${PROPTEST_CASES:-2560}
	become_native
}

start_unit() { # INDEX
	local name=${UNIT_NAMES[$1]} file=${UNIT_FILES[$1]} run more variables pipe several names options
	read -ra variables <<<"${UNIT_ENVS[$1]}"
	rm -f "$LOGS/$name.pipe"
	mkfifo "$LOGS/$name.pipe"
	pipe=$LOGS/$name.pipe
	stamp "$LOGS/$name.log" <"$pipe" &
	local reader=$!
	case $file in
	"$NATIVE_FILE")
		env_become "${variables[@]}" >"$pipe" 2>&1 </dev/null &
		;;
	*' '*)
		# The first one says what machine they need.
		read -ra several <<<"$file"
		read -ra names <<<"${name//+/ }"
		mapfile -t options < <(sed -n '1,40s/^# vm: *//p' "${several[0]}" | head -n1 |
			xargs -n1 printf '%s\n')
		! one_processor "${several[0]}" "${UNIT_ENVS[$1]}" || options+=(--smp 1)
		setpriv --pdeathsig TERM scripts/vm "${options[@]}" --timeout "$UNIT_TIMEOUT" \
			--log "$LOGS/$name.kernel" tests/guest/several.sh "${names[@]}" \
			>"$pipe" 2>&1 </dev/null &
		;;
	*)
		run=("$file")
		# One by itself says how long it may take on a machine that has nothing else to do.
		more=(--timeout "$UNIT_TIMEOUT")
		[[ ${UNIT_ENVS[$1]} != *TEST_TIMEOUT=* ]] || more=(--timeout 1000000)
		! one_processor "$file" "${UNIT_ENVS[$1]}" || more+=(--smp 1)
		[[ $file == tests/host/* || $file == scripts/* ]] ||
			run=(scripts/vm "${more[@]}" --log "$LOGS/$name.kernel" "$file")
		# The machines end with this shell, however it ends.
		env "${variables[@]}" setpriv --pdeathsig TERM "${run[@]}" >"$pipe" 2>&1 </dev/null &
		;;
	esac
	STARTED=$!
	UNIT_OF[$STARTED]=$1
	UNIT_BEGIN[$STARTED]=$SECONDS
	UNIT_READER[$STARTED]=$reader
}

# show_unit INDEX STATUS SECONDS: what came of one.
show_unit() {
	local name=${UNIT_NAMES[$1]} ok bad tenths line log
	log=$LOGS/$name.log
	if [ "${UNIT_FILES[$1]}" = "$NATIVE_FILE" ]; then
		read -r ok bad < <(awk '/^test result: / { ok += $4; bad += $6 } END { print ok + 0, bad + 0 }' "$log")
		[ "$ok" = 0 ] || echo "ok $name: $ok tests"
	else
		case $name in
		*+*) sed -nE '/^(not )?ok /p' "$log" ;;
		*) sed -nE "s/^((not )?ok) (.*)/\1 $name: \3/p" "$log" | sed "s/ $name: $name: / $name: /" ;;
		esac
		ok=$(grep -cE '^ok ' "$log" || true)
		bad=$(grep -cE '^not ok ' "$log" || true)
		while read -r tenths line; do
			line=${line#not }
			line=${line#ok }
			CASE_TIMES+="$tenths $line"$'\n'
		done <"$log.times"
	fi
	if [ "$2" != 0 ] && [ "$bad" = 0 ]; then
		echo "not ok $name: ended with status $2"
		bad=1
	elif [ "$ok" = 0 ] && [ "$bad" = 0 ] && [ -z "$word" ]; then
		echo "not ok $name: tested nothing"
		bad=1
	fi
	if [ "$bad" != 0 ]; then
		{ grep -vE '^(ok |test .* \.\.\. ok$)' "$log" || true; } | tail -n 60 | sed 's/^/    /'
		echo "    the whole log: build/test-logs/$name.log, the kernel's: $name.kernel"
	elif [ -n "${DONE:-}" ]; then
		echo "$ok" >"$DONE/$name"
	fi
	echo "# $name: $3 s"
	if [ "$3" -gt $((UNIT_TAKES[$1] * 2 + 30)) ]; then
		echo "# $name: much more than its ${UNIT_TAKES[$1]} s"
	fi
	UNIT_TIMES+="$3 $name"$'\n'
	passed=$((passed + ok)) failed=$((failed + bad))
}

# Waits for one to end, or for the end of the time.
collect() {
	local rc=0 pid='' name
	wait -n -p pid "${!UNIT_OF[@]}" ${CLOCK:+"$CLOCK"} || rc=$?
	if [ -z "$pid" ]; then
		# One that ended while others were looked at may not be waited for any more, but asked.
		for pid in "${!UNIT_OF[@]}" ${CLOCK:+"$CLOCK"} ''; do
			[ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null && break
		done
		if [ -z "$pid" ]; then
			sleep 1
			return 0
		fi
		rc=0
		wait "$pid" || rc=$?
	fi
	if [ -n "$CLOCK" ] && [ "$pid" = "$CLOCK" ]; then
		# The machines end with what started them.
		CLOCK=''
		for pid in "${!UNIT_OF[@]}"; do
			kill "$pid" 2>/dev/null || true
			wait "$pid" || true
			# What it has started may write some more, which nobody is to wait for.
			kill "${UNIT_READER[$pid]}" 2>/dev/null || true
			name=${UNIT_NAMES[UNIT_OF[$pid]]}
			rm -f "$LOGS/$name.pipe"
			LATE+=("$name")
			# What has failed by then has failed.
			if grep -qE '^not ok ' "$LOGS/$name.log"; then
				show_unit "${UNIT_OF[$pid]}" 1 $((SECONDS - UNIT_BEGIN[$pid]))
			fi
		done
		UNIT_OF=()
		return 0
	fi
	wait "${UNIT_READER[$pid]}" || true
	rm -f "$LOGS/${UNIT_NAMES[UNIT_OF[$pid]]}.pipe"
	show_unit "${UNIT_OF[$pid]}" "$rc" $((SECONDS - UNIT_BEGIN[$pid]))
	unset "UNIT_OF[$pid]"
}

# running busy, running idle: how many of those that wait, or do not, are being run.
running() {
	local i count=0 kind
	for i in "${UNIT_OF[@]}"; do
		kind=busy
		! waits "${UNIT_FILES[i]}" || kind=idle
		[ "$kind" != "$1" ] || count=$((count + 1))
	done
	echo "$count"
}

# run_lanes N: all units, N at once and one more of those that wait, as long as TEST_BUDGET lasts.
run_lanes() {
	local i
	declare -gA UNIT_OF=()
	CLOCK='' UNIT_TIMES='' LANES_BEGIN=$SECONDS
	if [ -n "${TEST_BUDGET:-}" ]; then
		setpriv --pdeathsig TERM sleep $((TEST_BUDGET > SECONDS ? TEST_BUDGET - SECONDS : 0)) &
		CLOCK=$!
	fi
	local busy=() idle=()
	for i in "${!UNIT_NAMES[@]}"; do
		if waits "${UNIT_FILES[i]}"; then idle+=("$i"); else busy+=("$i"); fi
	done
	while [ $((${#busy[@]} + ${#idle[@]} + ${#UNIT_OF[@]})) != 0 ]; do
		if [ -n "${TEST_BUDGET:-}" ] && [ -z "$CLOCK" ]; then
			for i in "${busy[@]}" "${idle[@]}"; do
				LATE+=("${UNIT_NAMES[i]}")
			done
			return
		fi
		while [ ${#busy[@]} != 0 ] && [ "$(running busy)" -lt "$1" ]; do
			start_unit "${busy[0]}"
			busy=("${busy[@]:1}")
		done
		while [ ${#idle[@]} != 0 ] && [ "$(running idle)" -lt 1 ]; do
			start_unit "${idle[0]}"
			idle=("${idle[@]:1}")
		done
		collect
	done
	[ -z "$CLOCK" ] || kill "$CLOCK"
}

# Where the time has gone. Not by head, which ends before sort has written all: that would be a failure.
show_times() {
	local seconds name tenths
	echo "# in all $((SECONDS - LANES_BEGIN)) s; the longest:"
	sort -rn <<<"$UNIT_TIMES" | sed -n 1,10p | while read -r seconds name; do
		[ -z "$name" ] || printf '# %6d s    %s\n' "$seconds" "$name"
	done
	[ -n "$CASE_TIMES" ] || return 0
	echo "# the longest cases (the first one of a machine with its start):"
	sort -rn <<<"$CASE_TIMES" | sed -n 1,10p | while read -r tenths name; do
		[ -z "$name" ] || printf '# %6d.%d s  %s\n' $((tenths / 10)) $((tenths % 10)) "$name"
	done
}

# What has passed for this source is noted, a file each, and left out.
done_here() {
	local i kept=() source
	source=$(git rev-parse HEAD 2>/dev/null || echo none)
	# What is not committed makes it another source.
	source+=$({
		git diff HEAD 2>/dev/null || true
		git ls-files -o --exclude-standard -z 2>/dev/null | xargs -0r sha256sum || true
	} | sha256sum | cut -c1-8)
	DONE=$TOP/build/tests-done/${source:0:12}-${source: -8}
	mkdir -p "$DONE"
	for i in "${!UNIT_NAMES[@]}"; do
		if [ -e "$DONE/${UNIT_NAMES[i]}" ]; then
			passed=$((passed + $(<"$DONE/${UNIT_NAMES[i]}")))
		else
			kept+=("$i")
		fi
	done
	echo "# $((${#UNIT_NAMES[@]} - ${#kept[@]})) of ${#UNIT_NAMES[@]} have passed before"
	keep_units "${kept[@]}"
	[ ${#kept[@]} = 0 ] || echo "# to be run: ${UNIT_NAMES[*]}"
}
