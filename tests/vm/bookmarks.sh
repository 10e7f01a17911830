#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 512M --disk 512M --smp 2 --timeout 600
# takes: 25 one
exec dms-tests bookmarks
