#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --kernel debug --disk 256M --disk 256M --smp 2 --timeout 1000000
# TEST_SECONDS says how long (60), TEST_SEED what.
exec timeout $(((${TEST_SECONDS:-60} + 600) * ${TEST_SLOW:-1})) dms-tests memory
