#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 64M --disk 64M --smp 1 --mem 1024 --timeout 600
# takes: 75 waits
exec dms-tests minute
