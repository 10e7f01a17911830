#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# crash.sh SUBJECT...: crash-after compares what is there with what was acknowledged before the
# machine was killed, and crash-before goes on until it is killed again.
set -e
for subject in "$@"; do
	dms-tests "$subject"
done
