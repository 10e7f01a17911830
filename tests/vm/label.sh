#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 32M --disk 96M --timeout 300
# takes: 20 one
#
# Labels: what is kept with a snapshot or bookmark beside its content, and whatever becomes of that.
set -u
. /payload/tests/guest/calls.sh
label() { dms label orig "$1" --json | tr -d ' ",' | sed -n "s/^$2://p"; }
# field TAG FIELD VALUE: that is what it says.
field() { [ "$(label "$1" "$2")" = "$3" ]; }
clean() { dms check vdc >/dev/null; }
again() { dms remove orig && clean && dms create orig vdb vdc; }
uuid=01234567-89ab-cdef-0011-223344556677

mkfs.ext4 -qF /dev/vdb
dms create orig vdb vdc -bf >/dev/null
call dms snapshot orig
check 'one without a label' prints 1
refused 'it has none' 3 'no label' dms label orig 1
call dms snapshot orig -m memo --name 'before the upgrade' --policy daily --keep-until @2000000000
check 'one that is taken with a label' prints 2
check 'its name' field 2 name beforetheupgrade
check 'its policy' field 2 policy daily
check 'until when it is kept' field 2 keep_until 2000000000
check 'a device without a file system that is mounted' field 2 consistency crash
call dms list orig
check 'the list has its name' matches '2 L +0 - +"before the upgrade" "memo"'
own=$(label 2 uuid)
check 'it has a UUID' [ ${#own} = 36 ]

mkdir -p /mnt/o && mount /dev/mapper/orig /mnt/o
call dms snapshot orig --name mounted
check 'a file system that is mounted' field 3 consistency file-system
call dms snapshot orig --name told --consistency application --group $uuid
check 'what somebody says counts' field 4 consistency application
check 'its group' field 4 group $uuid
umount /mnt/o
call dms snapshot orig -k --name marked
check 'a bookmark has one' field 5 name marked
call dms snapshot orig 1 --name 'of a snapshot'
check 'a snapshot of a snapshot has one' field 6 name ofasnapshot

# Changing.
call dms label orig 2 --name 'after it' --keep-until -
check 'a name is changed' done_silently
check 'it is' field 2 name afterit
check 'a field that is emptied' field 2 keep_until null
check 'the others stay' field 2 policy daily
check 'the UUID stays' field 2 uuid "$own"
call dms label orig 1 --policy weekly
check 'one that had none gets one' field 1 policy weekly
call dms list orig --json
check 'programs see it in the list' matches '"policy": "weekly"'

# What is wrong changes nothing.
long=$(printf 'n%.0s' {1..129})
refused 'a name that is too long' 1 'name is longer than 128 bytes' dms label orig 2 --name "$long"
refused 'a name with a newline' 1 'without control characters' dms label orig 2 --name $'a\nb'
refused 'a state that there is not' 1 'crash, file-system or application' dms label orig 2 --consistency good
refused 'a group that is no UUID' 1 'not a UUID' dms label orig 2 --group 5
refused 'a time that is none' 2 'not a time' dms label orig 2 --keep-until tomorrow
refused 'an empty name' 2 'is empty' dms label orig 2 --name ''
refused 'a tag that there is not' 3 'unknown tag' dms label orig 99 --name x
refused 'the origin' 2 'tag is not' dms label orig 0 --name x
refused 'no snapshot with a wrong label' 1 'name is longer' dms snapshot orig --name "$long"
check 'none has been taken' [ "$(dmsetup message orig 0 list | grep -c '^7 ')" = 0 ]
check 'all is as it was' field 2 name afterit

# With device-mapper's own tool.
call dmsetup message orig 0 label 5
check 'the reply to the message' matches "^[0-9a-f-]{36} - crash - - - marked$"
call dmsetup message orig 0 "label 5 -f $uuid/3/7"
check 'where it came from' field 5 from $uuid/3/7

# It stays.
check 'activated anew, checked between' again
check 'after that' field 2 name afterit
check 'of the bookmark, too' field 5 from $uuid/3/7
dd if=/dev/urandom of=/dev/mapper/orig bs=64k count=4 oflag=direct status=none
call dms delete orig 4 -k
check 'a bookmark is kept' done_silently
check 'with its label' field 4 group $uuid
call dms delete orig 1
refused 'what was deleted has none, even if it stays for its child' 3 'unknown tag' dms label orig 1
check 'the child has its own' field 6 name ofasnapshot
for tag in 6 5 4 3; do dms delete orig "$tag"; done
refused 'a bookmark that was deleted' 3 'unknown tag' dms label orig 4
dms wait orig --cleaning
check 'activated anew once more' again
check 'one is left' [ "$(dmsetup message orig 0 list | grep -c ' L ')" = 1 ]
check 'it is that one' field 2 name afterit

# Not lost and not half there when the store is not closed in order: the disk is looked at as it is now.
call dms label orig 2 --name durable
dd if=/dev/vdc of=/tmp/cow bs=1M iflag=direct status=none
call dms check /tmp/cow
check 'what a power cut leaves is in order' matches clean
check 'the new name is there' grep -aq durable /tmp/cow
dms remove orig
check 'in order' clean
none_failed
