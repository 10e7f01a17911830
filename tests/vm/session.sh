#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 512M --disk 512M --disk 512M --smp 2 --timeout 400
# takes: 35 one
# The session of the documents, which is the demonstration too.
exec /payload/tests/demo.sh
