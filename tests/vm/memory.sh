#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 256M --disk 256M --smp 2 --timeout 1000000
# takes: 30 one
# On the debug kernel allocations fail. TEST_SECONDS says how long (75), TEST_SEED what. With
# TEST_ALL_SITES it takes as long as it takes.
# Devices come and go all the time; each waits for several grace periods.
echo 1 >/sys/kernel/rcu_expedited
echo 0 >/sys/module/rcutree/parameters/jiffies_till_first_fqs
# What kcopyd keeps for when there is no memory are four pages then instead of 128, each of them an
# allocation at the same place.
echo 16 >/sys/module/dm_mod/parameters/kcopyd_subjob_size_kb
[ -z "${TEST_ALL_SITES:-}" ] || exec dms-tests memory
exec timeout $(((${TEST_SECONDS:-75} + 600) * ${TEST_SLOW:-1})) dms-tests memory
