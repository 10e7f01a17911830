#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 64M --disk 96M --disk 64M --disk 96M --smp 2 --timeout 400
# takes: 25 one
#
# What uses an origin is moved to another one: nothing that was written is missing there, nobody can write to the
# wrong one, and where it does not come to its end all stays as it was.
set -u
. /payload/tests/guest/calls.sh
# What `call` sets.
code='' out='' err=''
cd /root || exit
cat >/tmp/rsh <<'X'
#!/bin/sh
exec sh -c "$2"
X
chmod +x /tmp/rsh
migrate() { dms migrate orig there:mapper/far --rsh /tmp/rsh "$@"; }
read_only() { [ "$(blockdev --getro /dev/mapper/orig)" = 1 ]; }
writable() { [ "$(blockdev --getro /dev/mapper/orig)" = 0 ]; }
alike() { cmp /dev/mapper/orig /dev/mapper/far; }

dms create orig vdb vdc -bf
dms create far vdd vde -bf
mkfs.ext4 -qF /dev/mapper/orig
mkdir -p /mnt/orig /mnt/far
mount /dev/mapper/orig /mnt/orig
# A "database": lines that are numbered, and flushed one by one.
cat >/tmp/database <<'X'
#!/bin/bash
trap 'exit 0' TERM
for ((n = 1; ; n++)); do
	echo $n >>/mnt/orig/lines
	sync -d /mnt/orig/lines
	echo $n >/tmp/written
done
X
chmod +x /tmp/database
/tmp/database &
database=$!
until_so test -s /tmp/written

# What is refused, and leaves all as it was.
refused 'a snapshot' 2 'shows a snapshot' dms migrate "$(dms create s vdb vdc "$(dms snapshot orig)" && echo s)" there:mapper/far --rsh /tmp/rsh
dms remove s
refused 'no number' 2 'number of bytes' migrate --until many
refused 'one that is in use' 4 'orig is in use' migrate
check 'though the target is up to date' grep -q 'there:mapper/far is version' <<<"$err"
check 'and it goes on' writable
refused 'what ends the use has failed' 1 'what --stop gives has failed' migrate --stop 'exit 3'
check 'it goes on, too' writable
check 'it still writes' kill -0 $database
cat >/tmp/gone <<'X'
#!/bin/sh
[ ! -e /tmp/away ] && exec sh -c "$2"
X
chmod +x /tmp/gone
refused 'the other one has gone at the last moment' 1 'the connection has ended' \
	dms migrate orig there:mapper/far --rsh /tmp/gone --stop "kill $database; while kill -0 $database; do :; done 2>/dev/null
		umount /mnt/orig; touch /tmp/away"
check 'nothing has been switched' writable
check 'as is said' grep -q 'orig is writable again' <<<"$err"
mount /dev/mapper/orig /mnt/orig
/tmp/database &
database=$!

# And now all of it.
call migrate --until 4K --stop "kill $database; while kill -0 $database; do :; done 2>/dev/null; umount /mnt/orig" \
	--start 'mount /dev/mapper/far /mnt/far'
check 'it is moved' matches 'there:mapper/far is version [0-9]+, which is all; orig is read-only'
check 'with all that was written' test "$(tail -n 1 /mnt/far/lines)" -ge "$(</tmp/written)"
umount /mnt/far
check 'orig is read-only' read_only
check 'nobody can write to it' test "$(mount -o rw /dev/mapper/orig /mnt/orig 2>&1 | grep -c read-only)" = 1
mountpoint -q /mnt/orig && umount /mnt/orig

# What begins the use there has failed: it is only that.
blockdev --setrw /dev/mapper/orig
dms sync --reverse orig there:mapper/far --rsh /tmp/rsh --yes
call migrate --start false
check 'what begins it has failed' told 1 'what --start gives has failed'
check 'the target has all' alike
check 'and orig is read-only' read_only
call migrate
check 'once more' test "$code" = 0

# The way back.
blockdev --setrw /dev/mapper/orig
dd if=/dev/urandom of=/dev/mapper/far bs=64k count=3 seek=100 oflag=direct status=none
call dms sync --reverse orig there:mapper/far --rsh /tmp/rsh
check 'all comes back' alike
none_failed
