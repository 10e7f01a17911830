#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 64M --disk 64M --smp 2 --timeout 1500
# takes: 60 300 4 one
exec dms-tests ioerrors
