#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 768M --disk 768M --smp 2 --timeout 3600
# takes: 50 100
# TEST_SECONDS says how long (60), TEST_SEED what.
exec timeout $(((${TEST_SECONDS:-60} + 600) * ${TEST_SLOW:-1})) dms-tests stress
