#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 32M --disk 32M --no-module --timeout 400
# takes: 12 one
#
# A module that is installed and not loaded: device-mapper loads it when a table names the target.
set -u
. /payload/tests/guest/calls.sh

mkdir -p "/lib/modules/$(uname -r)/extra"
cp /payload/dm-snap-mv.ko "/lib/modules/$(uname -r)/extra/"
depmod
loaded() { grep -q '^dm_snap_mv ' /proc/modules; }
not_loaded() { ! loaded; }
check 'it is not loaded at first' not_loaded
call dmsetup create orig --table "0 $(blockdev --getsz /dev/vdb) dm-snap-mv co /dev/vdb /dev/vdc -bf"
check 'dmsetup alone makes a device' done_silently
check 'and it is loaded' loaded
dmsetup remove orig
none_failed
