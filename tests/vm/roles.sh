#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 256M --disk 256M --smp 2 --timeout 600
# takes: 25
exec dms-tests roles
