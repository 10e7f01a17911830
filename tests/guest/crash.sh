#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# crash.sh before SECONDS: changes everything, step by step, until the machine stops dead.
# crash.sh after: compares what is there with what was acknowledged.
case $1 in
before)
	(sleep "$2" && vm-crash) &
	dms-tests crash-before
	# To come here is a failure.
	exit 1
	;;
after)
	exec dms-tests crash-after
	;;
esac
