# shellcheck shell=bash
# What there is to be run of the tests, in units: the native tests, or one machine's script.
#
# A script says of itself in a line "# takes: SECONDS [LONG [PARTS]] [one] [waits]" near its top how
# long it takes on two idle cores, in the usual run and in the long one, and into how many equal parts
# of its cases the long one can be divided. By that the longest are begun first, and one that takes much
# longer is complained of. One that mostly waits is run beside those that keep the cores busy.
#
# What tests nothing that is about processors has "one", and in the usual run one processor: it takes a
# third of the host's time then, for most of the activating, suspending and removing is waiting for
# grace periods, and these for both processors. In the long run and on the debug kernel it has two.

# What one takes that does not say: that is also what there is for it.
UNIT_SECONDS=30
NATIVE_FILE=native
NATIVE_TAKES='100 200 1'

# The units: what they are called, what is run, what that takes, and what its environment has more.
UNIT_NAMES=() UNIT_FILES=() UNIT_TAKES=() UNIT_ENVS=()

# says WORD FILE: whether the file has that word in its line.
says() {
	[ "$2" != "$NATIVE_FILE" ] && sed -n '1,40p' "${2%% *}" | grep -qE "^# takes: .* $1( |\$)"
}

# waits FILE: whether it says so.
waits() {
	says waits "$1"
}

# one_processor FILE ENVIRONMENT: whether one is enough for it here, with these variables.
one_processor() {
	[ -z "$2${TEST_LONG:-}${KERNEL:-}" ] && says one "$1"
}

unit() { # NAME FILE SECONDS [VARIABLE=VALUE...]
	UNIT_NAMES+=("$1") UNIT_FILES+=("$2") UNIT_TAKES+=("$3") UNIT_ENVS+=("${*:4}")
}

# takes_of FILE: sets USUAL, LONG, PARTS.
takes_of() {
	local line
	line=$NATIVE_TAKES
	[ "$1" = "$NATIVE_FILE" ] || line=$(sed -n '1,40s/^# takes: *//p' "$1" | head -n1)
	# shellcheck disable=SC2034  # they are for who calls
	read -r USUAL LONG PARTS _ <<<"${line//[a-z]/}" || true
	USUAL=${USUAL:-$UNIT_SECONDS}
	LONG=${LONG:-$USUAL}
	PARTS=${PARTS:-1}
}

unit_name() { # FILE
	local name=${1##*/}
	printf '%s\n' "${name%.sh}"
}

# all_files [WORD]: the native tests and every script, with WORD in the name.
all_files() {
	local file
	for file in "$NATIVE_FILE" tests/vm/*.sh tests/host/*.sh; do
		[ "$file" = "$NATIVE_FILE" ] || [ -x "$file" ] || continue
		[[ $(unit_name "$file") != *"${1:-}"* ]] || printf '%s\n' "$file"
	done
}

# A file's one unit of the usual run.
usual_unit() { # FILE
	local USUAL LONG PARTS
	takes_of "$1"
	unit "$(unit_name "$1")" "$1" "$USUAL"
}

# A machine takes so long to start and to end.
MACHINE_SECONDS=6
# Those that go to one machine take so long together, or one of them longer.
SHARED_SECONDS=75

# machine_of FILE: what it needs, if it is a subject of dms-tests and nothing else: those that
# need the same can be run in one machine, one after the other.
machine_of() {
	[[ $1 == tests/vm/* ]] && [ "$(grep -vE '^#|^$' "$1")" = "exec dms-tests $(unit_name "$1")" ] ||
		return 0
	sed -n '1,40s/^# vm: *//p' "$1" | head -n1 | sed -E 's/ *--timeout [0-9]+//'
	! says one "$1" || echo one
	! waits "$1" || echo waits
}

# The usual run's units of all files, with as few machines as that takes.
usual_units() {
	local file name machine USUAL LONG PARTS
	local -A together=() seconds=()
	while read -r file; do
		machine=$(machine_of "$file")
		if [ -z "$machine" ]; then
			usual_unit "$file"
			continue
		fi
		takes_of "$file"
		name=$(unit_name "$file")
		if [ -n "${together[$machine]:-}" ] &&
			[ $((seconds[$machine] + USUAL)) -gt "$SHARED_SECONDS" ]; then
			shared_unit "${together[$machine]}" $((seconds[$machine]))
			together[$machine]='' seconds[$machine]=0
		fi
		together[$machine]="${together[$machine]:+${together[$machine]} }$name"
		seconds[$machine]=$((${seconds[$machine]:-0} + USUAL))
	done < <(all_files "")
	for machine in "${!together[@]}"; do
		shared_unit "${together[$machine]}" "${seconds[$machine]}"
	done
}

shared_unit() { # NAMES SECONDS
	local names
	read -ra names <<<"$1"
	if [ ${#names[@]} = 1 ]; then
		usual_unit "tests/vm/$1.sh"
	else
		unit "${1// /+}" "$(printf 'tests/vm/%s.sh ' "${names[@]}")" \
			$(($2 - MACHINE_SECONDS * (${#names[@]} - 1)))
	fi
}

# The long run's, on the distribution's kernel: what has no long form has been in the usual run, but
# perhaps not on two processors.
long_units() { # FILE
	local USUAL LONG PARTS i name
	takes_of "$1"
	name=$(unit_name "$1")
	if [ "$LONG" = "$USUAL" ]; then
		! says one "$1" || unit "$name-on-two" "$1" "$USUAL" TEST_TWO=1
		return 0
	fi
	for ((i = 1; i <= PARTS; i++)); do
		if [ "$PARTS" = 1 ]; then
			unit "$name-long" "$1" "$LONG" TEST_LONG=1
		else
			unit "$name-long-$i-of-$PARTS" "$1" $(((LONG + PARTS - 1) / PARTS)) \
				TEST_LONG=1 "TEST_PART=$i/$PARTS"
		fi
	done
}

# On the debug kernel, which is slower by so much. What looks for memory does so there only.
debug_unit() { # FILE
	local USUAL LONG PARTS more=()
	[[ $1 == tests/vm/* ]] || return 0
	takes_of "$1"
	case $1 in
	*/memory.sh | */kmemleak.sh)
		USUAL=$((USUAL * 4))
		more=(TEST_LONG=1)
		;;
	esac
	unit "$(unit_name "$1")-debug" "$1" $((USUAL * 6)) KERNEL=debug "${more[@]}"
}

# What takes hours.
endless_units() {
	unit ioerrors-all tests/long/ioerrors.sh 7200 TEST_TIMEOUT=1000000
	unit crash-100 tests/host/crash.sh 3000 "TEST_CUTS=${TEST_CUTS:-100}"
	unit stress-soak tests/vm/stress.sh 2000 KERNEL=debug "TEST_SECONDS=${TEST_SECONDS:-1800}"
	unit hostile-all tests/vm/hostile.sh 7200 KERNEL=debug "TEST_IMAGES=${TEST_IMAGES:-2000}" \
		TEST_TIMEOUT=1000000
	unit replay-all tests/vm/replay.sh 7200 "TEST_POINTS=${TEST_POINTS:-50000}" TEST_LONG=1 \
		TEST_TIMEOUT=1000000
	unit memory-all tests/vm/memory.sh 7200 KERNEL=debug TEST_LONG=1 TEST_ALL_SITES=1 \
		"TEST_SECONDS=${TEST_SECONDS:-1800}" TEST_TIMEOUT=1000000
	unit fuzz scripts/fuzz 7200
}

# The longest first; of units that take as long, in the order that they are in.
units_longest_first() {
	local i order=() names=("${UNIT_NAMES[@]}") files=("${UNIT_FILES[@]}")
	local takes=("${UNIT_TAKES[@]}") envs=("${UNIT_ENVS[@]}")
	mapfile -t order < <(for i in "${!takes[@]}"; do
		printf '%s %s\n' "${takes[i]}" "$i"
	done | sort -s -k1,1nr | cut -d' ' -f2)
	UNIT_NAMES=() UNIT_FILES=() UNIT_TAKES=() UNIT_ENVS=()
	for i in "${order[@]}"; do
		UNIT_NAMES+=("${names[i]}") UNIT_FILES+=("${files[i]}")
		UNIT_TAKES+=("${takes[i]}") UNIT_ENVS+=("${envs[i]}")
	done
}

# keep_slice K N: of the units, those in slice K of N (from 0) that take about as long each, the
# longest first. It depends on nothing but the units, so that all slices are all of them.
keep_slice() {
	local i slice least sums=() kept=()
	units_longest_first
	for ((slice = 0; slice < $2; slice++)); do
		sums[slice]=0
	done
	for i in "${!UNIT_NAMES[@]}"; do
		least=0
		for slice in "${!sums[@]}"; do
			[ "${sums[slice]}" -ge "${sums[least]}" ] || least=$slice
		done
		sums[least]=$((sums[least] + UNIT_TAKES[i]))
		[ "$least" != "$1" ] || kept+=("$i")
	done
	keep_units "${kept[@]}"
}

# keep_units INDEX...: no others.
keep_units() {
	local i names=() files=() takes=() envs=()
	for i in "$@"; do
		names+=("${UNIT_NAMES[i]}") files+=("${UNIT_FILES[i]}")
		takes+=("${UNIT_TAKES[i]}") envs+=("${UNIT_ENVS[i]}")
	done
	UNIT_NAMES=("${names[@]}") UNIT_FILES=("${files[@]}")
	UNIT_TAKES=("${takes[@]}") UNIT_ENVS=("${envs[@]}")
}
