#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 64M --disk 64M --smp 1 --timeout 1500
# takes: 60 220 2
# TEST_IMAGES says how many of each kind of block (as go into 200 s), TEST_SEED which.
# What the kernel says of each is read by the tests; printing it takes longer than all else.
dmesg -n 3
# Devices come and go all the time; each waits for several grace periods. With one processor these
# are short, and nothing waits for another one: twice as many images, and on half of the host. Some
# are not to be expedited, but shorter.
echo 1 >/sys/kernel/rcu_expedited
echo 0 >/sys/module/rcutree/parameters/jiffies_till_first_fqs
if modprobe brd rd_nr=2 rd_size=65536 2>/dev/null && [ -b /dev/ram1 ]; then
	export TEST_DISKS="/dev/ram0 /dev/ram1"
fi
exec dms-tests hostile
