#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 64M --disk 64M --smp 2 --timeout 21600
TEST_ALL_FAULTS=1 TEST_TIMES=1 exec dms-tests ioerrors
