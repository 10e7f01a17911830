#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 768M --mem 1024 --smp 1 --timeout 2700
# takes: 70 500 4
# One processor: grace periods, which activating and removing mostly wait for, are short then.
echo 1 >/sys/kernel/rcu_expedited
echo 0 >/sys/module/rcutree/parameters/jiffies_till_first_fqs
exec dms-tests replay
