#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --kernel debug --disk 256M --disk 256M --smp 2 --timeout 1000000
# TEST_SECONDS says how long (75), TEST_SEED what. With TEST_ALL_SITES it takes as long as it takes.
[ -z "${TEST_ALL_SITES:-}" ] || exec dms-tests memory
exec timeout $(((${TEST_SECONDS:-75} + 600) * ${TEST_SLOW:-1})) dms-tests memory
