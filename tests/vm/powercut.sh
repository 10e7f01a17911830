#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 64M --mem 3072 --smp 2 --timeout 600
# takes: 25 45 one
exec dms-tests powercut
