#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 64M --disk 64M --smp 2 --timeout 900
# takes: 30 one
exec dms-tests recovery
