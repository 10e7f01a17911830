#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs inside the machine: see scripts/profile.
# vm: --mem 3072 --smp 2 --timeout 3600
echo 0 >/proc/sys/kernel/kptr_restrict
exec dms-bench profile "$@"
