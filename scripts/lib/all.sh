# shellcheck shell=bash
# Every room of the library, in the order they lean on each other.

LIB=${BASH_SOURCE[0]%/*}
. "$LIB/common.sh"
. "$LIB/step.sh"
. "$LIB/cache.sh"
. "$LIB/debian.sh"
. "$LIB/root.sh"
. "$LIB/kernel.sh"
. "$LIB/debug.sh"

# As it is called where there is a choice of two.
[ "${KERNEL:-}" != stock ] || KERNEL=
