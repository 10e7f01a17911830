#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 32M --disk 96M --disk 32M --disk 256M --smp 2 --timeout 600
# takes: 60 one
#
# Targets follow an origin: all of it first, then what has changed, with nothing but a bookmark left here; whoever
# is killed, whatever is in the way, and whatever else the target holds.
set -u
. /payload/tests/guest/calls.sh
# What `call` sets.
code='' out='' err=''
mkfs.ext4 -qF /dev/vde
mount /dev/vde /srv
cd /srv || exit

same() { cmp -n $((32 << 20)) /dev/mapper/orig "$1"; }
rows() { dms list orig --json | tr -d '\n ' | grep -o '"tag":[1-9][^}]*"memo":"[^"]*"'; }
# bookmarks TARGET, snapshots TARGET: how many there are for it.
bookmarks() { rows | grep '"flags":"[^"]*B' | grep -c "\"memo\":\"dmssync$1\""; }
snapshots() { rows | grep -v '"flags":"[^"]*B' | grep -c "\"memo\":\"dmssync$1\""; }
one_bookmark() { [ "$(bookmarks "$1")" = 1 ] && [ "$(snapshots "$1")" = 0 ]; }
# touched N: writes of the origin, N of them.
touched() {
	fio --name=w --filename=/dev/mapper/orig --rw=randwrite --bs=4k --direct=1 --ioengine=libaio \
		--iodepth=4 --number_ios="$1" --size=32M --refill_buffers --randseed=$RANDOM --minimal >/dev/null
}
nobody_receives() { ! pgrep -f '^[^ ]*dms receive /srv/killed' >/dev/null; }
to_disk() { dms sync orig vdd --state /srv/vdd.state; }

dms create orig vdb vdc -bf
dd if=/dev/urandom of=/dev/mapper/orig bs=1M count=32 oflag=direct status=none

# A disk.
call to_disk
check 'all of it, the first time' matches '^vdd is version 1: [0-9]+ bytes$'
check 'the disk is what the origin is' same /dev/vdd
check 'a bookmark is left, and no snapshot' one_bookmark vdd
touched 50
call to_disk
check 'then what has changed' matches '^vdd is version 2: [0-9]{5,6} bytes$'
check 'it is the same again' same /dev/vdd
check 'the bookmark before that has gone' one_bookmark vdd
call to_disk
check 'when nothing has changed it is up to date' matches '^vdd is up to date: version 2$'
check 'and nothing else is left' one_bookmark vdd

# Snapshots come and go meanwhile.
call dms snapshot orig
touched 30
dms delete orig "$out"
call dms snapshot orig
touched 30
dms delete orig "$out"
dms wait orig --cleaning
call to_disk
check 'when all snapshots have been deleted, it goes on' matches '^vdd is version'
check 'and is right' same /dev/vdd

# A second target, on "another host": what is asked for there is run by a shell.
cat >/tmp/rsh <<'EOF'
#!/bin/sh
# HOST COMMAND
echo "$1" >>/tmp/hosts
exec sh -c "$2"
EOF
chmod +x /tmp/rsh
there="backup:/srv/it's a file"
call dms sync orig "$there" --rsh /tmp/rsh
check 'a file on another host' test "$code" = 0
check 'which was asked' grep -qx backup /tmp/hosts
check 'has it all' same "/srv/it's a file"
touched 40
call dms sync orig "$there" --rsh /tmp/rsh
check 'and what has changed' same "/srv/it's a file"
check 'the first one was left as it was' one_bookmark vdd
call to_disk
check 'and follows as well' same /dev/vdd

# How far behind they are.
touched 10
call dms sync --status
check 'both are shown' matches 'target   : backup:.*target   : vdd'
check 'with how far behind' grep -qE '^behind   : [0-9]+ seconds, [1-9][0-9]* bytes$' <<<"$out"
call dms sync orig --status --json
check 'for programs' grep -q '"lag_bytes": [1-9]' <<<"$out"
call dms sync --status --prometheus
check 'for Prometheus' grep -q '^dms_sync_lag_bytes{origin="[^"]*",target="vdd"} [1-9]' <<<"$out"

# By a key that can do nothing else.
cat >/tmp/bound <<'EOF'
#!/bin/sh
exec dms serve --stdio --receive /srv/allowed
EOF
chmod +x /tmp/bound
call dms sync orig backup:/srv/allowed --rsh /tmp/bound
check 'what is allowed is received' same /srv/allowed
refused 'nothing else is' 1 'nothing may be received into /srv/other' \
	dms sync orig backup:/srv/other --rsh /tmp/bound
check 'and no snapshot stays for that' test "$(snapshots backup:/srv/other)" = 0
refused 'nor is anything written over' 1 'may not be written over' \
	dms sync orig backup:/srv/allowed --rsh /tmp/bound --full
call dms sync orig backup:/srv/allowed --rsh /tmp/bound
check 'it goes on after that' same /srv/allowed

# Killed in the midst, on either side: gone on with the next time.
cat >/tmp/slow <<'EOF'
#!/bin/bash
# After 8 MiB, the one whose name is in /tmp/whom is killed.
perl -e '$| = 1; while (($r = sysread STDIN, $b, 65536)) { syswrite STDOUT, $b; $n += $r;
	if ($n > 8 << 20 && !$k++) { open F, "/tmp/whom"; $w = <F>; chomp $w; system "pkill -KILL -f \"$w\"" }
	select undef, undef, undef, 0.05 if $k && $k < 20 }' | sh -c "$2"
EOF
chmod +x /tmp/slow
printf '#!/bin/sh\nexec dms serve --stdio --receive /srv/killed\n' >/tmp/kept
chmod +x /tmp/kept
for whom in 'dms sync orig slow:' 'dms receive /srv/killed'; do
	rm -f killed killed.dms-state
	echo "$whom" >/tmp/whom
	call dms sync orig slow:/srv/killed --rsh /tmp/slow
	check "\"$whom\" is killed: that is seen" test "$code" != 0
	until_so nobody_receives
	touched 20
	check 'the target has a part of it' grep -q '^between' <<<"$(dms receive killed --status)"
	refused 'all anew is refused there' 1 'may not be written over' \
		dms sync orig slow:/srv/killed --rsh /tmp/kept --full
	call dms sync orig slow:/srv/killed --rsh /tmp/rsh
	check 'it is gone on with' matches 'is version'
	call dms sync orig slow:/srv/killed --rsh /tmp/rsh
	check 'and then comes what has changed since' same killed
	check 'with one bookmark' one_bookmark slow:/srv/killed
done

# Two at once.
mkfifo /tmp/hold
cat >/tmp/held <<'EOF'
#!/bin/sh
read -r _ </tmp/hold
exec sh -c "$2"
EOF
chmod +x /tmp/held
timeout 100 dms sync orig slow:/srv/killed --rsh /tmp/held >/tmp/first 2>&1 &
first=$!
exec 5>/tmp/hold
refused 'two at once are not' 4 'another dms sync is at it' dms sync orig slow:/srv/killed --rsh /tmp/rsh
echo >&5
exec 5>&-
wait $first
check 'the first one goes through' grep -q 'up to date' /tmp/first

# What is in the way.
dd if=/dev/urandom of=killed bs=1M count=30 conv=notrunc status=none
sum=$(md5sum <killed)
touched 5
refused 'a target that somebody has written to' 1 'killed' dms sync orig slow:/srv/killed --rsh /tmp/rsh
check 'is left as it is' test "$(md5sum <killed)" = "$sum"
check 'nothing is left for that but the bookmark' one_bookmark slow:/srv/killed
call dms sync orig slow:/srv/killed --rsh /tmp/rsh --full
check 'unless it is to be written over' same killed

tag=$(rows | grep "memo\":\"dmssyncvdd" | grep -o '"tag":[0-9]*' | cut -d: -f2)
dms delete orig "$tag"
refused 'without its bookmark' 1 'neither a snapshot nor a bookmark is left' to_disk
check 'no snapshot is left' test "$(snapshots vdd)" = 0
call dms sync orig vdd --state /srv/vdd.state --full
check 'all is sent again when asked' same /dev/vdd

# The same? By digests, and where not.
call dms sync orig backup:/srv/allowed --rsh /tmp/bound
call dms verify orig@now backup:/srv/allowed --rsh /tmp/bound
check 'a replica is verified' done_silently
refused 'nothing else is looked at there' 2 'may not be looked at' dms verify orig@now backup:/etc/passwd --rsh /tmp/bound
call dms snapshot orig
tag=$out
call dms verify "orig@$tag" backup:/srv/allowed --rsh /tmp/rsh
check 'so is a snapshot' done_silently
check 'by a device that goes' test -z "$(dmsetup ls | grep '^dms-send-')"
dms delete orig "$tag"
cp allowed there
for at in 0 5000001 20000000 $(((32 << 20) - 1)); do
	printf '\xa5' | dd of=there bs=1 seek=$at conv=notrunc status=none
done
differing() { cmp -l allowed there | awk '{ print int(($1 - 1) / 4096) * 4096, 4096 }' | uniq; }
call dms verify allowed "backup:/srv/there" --rsh /tmp/rsh
check 'where it differs is told' test "$code $out" = "1 $(differing)"
call dms verify -q allowed there
check 'or only that it does' told 1 ''
truncate -s $((33 << 20)) there
call dms verify backup:/srv/there allowed --rsh /tmp/rsh
check 'what one of them has more differs' test "${out##*$'\n'}" = "$(((32 << 20) - 4096)) $(((1 << 20) + 4096))"
rm there
refused 'a snapshot that there is not' 2 'unknown tag' dms verify orig@99 allowed
refused 'a file that there is not' 2 'there' dms verify there allowed
refused 'one of no whole sectors' 2 'no multiple of 512' dms verify /tmp/rsh allowed

# Into an origin of another store: with a snapshot for each time.
truncate -s 32M far
truncate -s 64M far-cow
far=$(losetup -f --show far) far_cow=$(losetup -f --show far-cow)
dms create far "$far" "$far_cow" -bf
for n in 1 2 3; do
	call dms sync orig backup:mapper/far --rsh /tmp/rsh
	check "an origin elsewhere, $n" same /dev/mapper/far
	[ $n = 3 ] || touched 30
done
check 'it has a snapshot of each' test "$(dms list far --json | grep -c '"memo": "dms sync backup:mapper/far"')" = 3
dd if=/dev/urandom of=/dev/mapper/far bs=4k count=1 seek=77 oflag=direct status=none
touched 30
refused 'when somebody has written to it' 1 'far' dms sync orig backup:mapper/far --rsh /tmp/rsh
dms rollback far 3
call dms sync orig backup:mapper/far --rsh /tmp/rsh
check 'it can be made what it was, and goes on' same /dev/mapper/far
dms remove far
losetup -d "$far" "$far_cow"
rm far far-cow

cat >/tmp/banner <<'EOF'
#!/bin/sh
echo Welcome
exec sh -c "$2"
EOF
chmod +x /tmp/banner
refused 'one who says something else' 1 'it says "Welcome"' dms sync orig x:/srv/y --rsh /tmp/banner
refused 'one who is not there' 1 'the connection has ended' dms sync orig x:/srv/y --rsh false
refused 'a command that is not there' 7 'cannot be reached' dms sync orig x:/srv/y --rsh /no/such/command
refused 'a COW device that is in use' 4 'vdc' dms sync orig vdc --state /tmp/s
check 'it leaves no snapshot either' test "$(snapshots vdc)" = 0
none_failed
