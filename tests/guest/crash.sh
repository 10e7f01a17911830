#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# crash.sh THEN NOW: compares what is there with what was acknowledged of the story that follows
# from seed THEN, then begins that of seed NOW and goes on until the machine is killed. Either
# may be "none".
set -e
[ "$1" = none ] || TEST_SEED=$1 dms-tests crash-after
[ "$2" = none ] || TEST_SEED=$2 dms-tests crash-before
