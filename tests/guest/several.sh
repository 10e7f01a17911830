# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# several.sh NAME...: the scripts tests/vm/NAME.sh one after the other, which need the same machine.
status=0
for name in "$@"; do
	bash "/payload/tests/vm/$name.sh" || {
		# Which one, if it did not say so itself.
		echo "# $name ended with status $?"
		status=1
	}
done
exit $status
