#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs inside the machine: see scripts/bench.
# vm: --mem 3072 --smp 2 --timeout 3600
exec dms-bench run "$@"
