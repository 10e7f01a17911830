#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 32M --disk 160M --disk 32M --disk 160M --disk 768M --smp 2 --timeout 600
# takes: 90 400 one
#
# Roles are changed after both sides were written: what comes out is what the target was, byte by byte, for no more
# than what has changed on either side; whoever is killed, the origin can be had as it was before; and what is not
# proven to have been the same is refused. TEST_ROUNDS of a random history, of TEST_SEED.
set -u
. /payload/tests/guest/calls.sh
# What `call` sets.
code='' out='' err=''
seed=${TEST_SEED:-$((SRANDOM % 32768))}
echo "seed $seed"
RANDOM=$seed
mkfs.ext4 -qF /dev/vdf
mount /dev/vdf /srv
cd /srv || exit

# touched DEVICE N: writes of it, N of them.
touched() {
	fio --name=w --filename="/dev/mapper/$1" --rw=randwrite --bs=4k --direct=1 --ioengine=libaio \
		--iodepth=4 --number_ios="$2" --size=32M --refill_buffers --randseed="$RANDOM" --minimal >/dev/null
}
# kept DEVICE: what it is now, in a file of its name. is DEVICE NAME: it is what that was.
kept() { dd if="/dev/mapper/$1" of="$1.kept" bs=1M iflag=direct status=none; }
is() { cmp "/dev/mapper/$1" "$2.kept"; }
alike() { cmp /dev/mapper/orig /dev/mapper/far; }
memos() { dms list orig --json | tr -d '\n ' | grep -o '"tag":[1-9][^}]*"memo":"[^"]*"' | grep -c "\"memo\":\"$1\""; }
last_before() { dms list orig | awk '/"before dms sync --reverse"$/ { tag = $3 } END { print tag }'; }
bytes() { grep -oE '[0-9]+ bytes$' <<<"$out" | cut -d' ' -f1; }

# "The other host": what is asked for there is run by a shell.
cat >/tmp/rsh <<'X'
#!/bin/sh
exec sh -c "$2"
X
chmod +x /tmp/rsh
there() { call dms sync "$@" --rsh /tmp/rsh; }
forward() { there orig there:mapper/far; }
reverse() { there --reverse orig there:mapper/far "$@"; }

dms create orig vdb vdc -bf
dms create far vdd vde -bf
dd if=/dev/urandom of=/dev/mapper/orig bs=1M count=32 oflag=direct status=none

# Nothing in common yet.
refused 'one that it was never sent to' 1 'no version is known that both have' \
	dms sync --reverse orig there:mapper/far --rsh /tmp/rsh
forward
check 'all of it is sent' alike
touched orig 20
forward
check 'and what has changed' alike
reverse
check 'when both are the same nothing is done' matches '^orig is version 2 of there:mapper/far, as snapshot 2: 0 bytes$'

# Only the target has been written to.
touched far 30
kept far
reverse
check 'only there: nobody is asked' matches '^orig is version 3 of there:mapper/far'
check 'it is what that is' is orig far
check 'for what has changed' test "$(bytes)" -le $((30 * 4096))
check 'nothing is left of what was not lost' test "$(memos beforedmssync--reverse)" = 0
check 'one snapshot is kept for the target' test "$(memos dmssyncthere:mapper/far)" = 1

# And on again, as before.
touched orig 20
forward
check 'the next sync goes on from there' matches '^there:mapper/far is version'
check 'with what has changed' test "$(bytes)" -le $((20 * 4096))
check 'and is right' alike

# Both have been written to.
touched orig 25
touched far 35
kept orig
kept far
refused 'a sync is refused then' 1 'has been written to' dms sync orig there:mapper/far --rsh /tmp/rsh
call dms sync --reverse orig there:mapper/far --rsh /tmp/rsh </dev/null
check 'nobody can be asked' told 1 'would lose what has been written'
check 'what would be lost is said' grep -qE 'orig, too: [1-9][0-9]* bytes in [0-9]+ ranges' <<<"$err"
check 'nothing has been done' is orig orig
echo n | script -qec 'dms sync --reverse orig there:mapper/far --rsh /tmp/rsh' /tmp/typescript >/dev/null
check 'somebody is' grep -q 'Go on?.*' /tmp/typescript
check 'and may say no' is orig orig
check 'no snapshot is left of that' test "$(memos beforedmssync--reverse)" = 0
reverse --yes
check 'both together' matches '^orig is version'
check 'it is what the target was' is orig far
check 'so is the target' is far far
check 'no more is sent than has changed' test "$(bytes)" -le $((60 * 4096))
dms create before vdb vdc "$(last_before)"
check 'what was lost is kept' is before orig
dms remove before
reverse
check 'then they are the same' matches '0 bytes$'
forward
check 'here and there' matches '^there:mapper/far is'
check 'still' alike

# The other one as the source, and what it has left here is what the next one starts from.
touched far 10
there far there:mapper/orig
check 'the replica replicates' alike
check 'by what has changed' test "$(bytes)" -le $((10 * 4096))
touched far 10
touched orig 10
kept far
reverse --yes
check 'there is a base of that, too' is orig far
check 'which is the newest' test "$(bytes)" -le $((20 * 4096))
touched orig 10
forward
check 'back again' alike

# What is in the way.
touched far 5
mkfs.ext4 -qF /dev/mapper/orig
mkdir -p /mnt/orig
mount /dev/mapper/orig /mnt/orig
refused 'an origin that is mounted' 4 'umount /mnt/orig' dms sync --reverse orig there:mapper/far --rsh /tmp/rsh --yes
umount /mnt/orig
dms create s vdb vdc "$(dms snapshot orig)"
refused 'a snapshot' 2 'shows a snapshot' dms sync --reverse s there:mapper/far --rsh /tmp/rsh
dms delete orig "$(dmsetup table s | awk '{ print $5 }')" 2>/dev/null
dms remove s
refused 'itself' 2 'is the same origin' dms sync --reverse orig there:mapper/orig --rsh /tmp/rsh
dms send orig "$(dms snapshot orig)" | dms receive ./plain
refused 'a file' 1 'what has been written to it is not known' dms sync --reverse orig there:/srv/plain --rsh /tmp/rsh
rm plain plain.dms-state
printf '#!/bin/sh\nexec dms serve --stdio --receive mapper/far\n' >/tmp/bound
printf '#!/bin/sh\nexec dms serve --stdio --send mapper/far\n' >/tmp/bound2
printf '#!/bin/sh\nexec dms serve --stdio --receive mapper/far --send mapper/far\n' >/tmp/bound3
chmod +x /tmp/bound*
kept orig
refused 'one that may only be received into' 1 'nothing may be sent from mapper/far' \
	dms sync --reverse orig there:mapper/far --rsh /tmp/bound --yes
refused 'one that may only be sent' 1 'nothing may be received into mapper/far' \
	dms sync --reverse orig there:mapper/far --rsh /tmp/bound2 --yes
check 'nothing has changed' is orig orig
kept far
call dms sync --reverse orig there:mapper/far --rsh /tmp/bound3 --yes
check 'both are allowed' is orig far
touched orig 5
call dms sync orig there:mapper/far --rsh /tmp/bound3
check 'and either way' alike

# Where the target is a mixture, and where what both had is gone.
cat >/tmp/cut <<'X'
#!/bin/bash
# The way there ends after so many bytes as stand in /tmp/bytes.
perl -e '$| = 1; $at = `cat /tmp/bytes`;
	while ($n < $at && ($r = sysread STDIN, $b, 4096)) { $n += $r; syswrite STDOUT, $b }' | sh -c "$2"
X
chmod +x /tmp/cut
touched orig 200
echo 300000 >/tmp/bytes
call dms sync orig there:mapper/far --rsh /tmp/cut
check 'a sync is cut off' test "$code" != 0
refused 'the target is a mixture' 1 'has received a part of something' \
	dms sync --reverse orig there:mapper/far --rsh /tmp/rsh --yes
forward
check 'it gets the rest' alike
touched far 3
for tag in $(dms list orig --json | tr -d '\n ' | grep -o '"tag":[1-9][^}]*' | grep '"memo":"dmssync' | grep -o '^"tag":[0-9]*' | cut -d: -f2); do
	dms delete orig "$tag"
done
kept orig
refused 'nothing is left here of what both were' 1 'is not left on both sides' \
	dms sync --reverse orig there:mapper/far --rsh /tmp/rsh --yes
check 'and nothing is written' is orig orig
call dms verify orig@now there:mapper/far --rsh /tmp/rsh
dms rollback far "$(dms list far | awk '$3 ~ /^[1-9]/ { tag = $3 } END { print tag }')"
there orig there:mapper/far --full
check 'all anew' alike

# A random history, with somebody killed now and then.
cat >/tmp/slow <<'X'
#!/bin/bash
# After so many bytes as stand in /tmp/bytes have come from there, the one whose name is in /tmp/whom is killed.
sh -c "$2" | perl -e '$| = 1; $at = `cat /tmp/bytes`;
	while (($r = sysread STDIN, $b, 4096)) { $n += $r;
		if ($n > $at && !$k++) { open F, "/tmp/whom"; $w = <F>; chomp $w; system "pkill -KILL -f \"$w\"" }
		syswrite STDOUT, $b or exit }'
X
chmod +x /tmp/slow
free() { [ "$(dmsetup info -c --noheadings -o open orig)" = 0 ] && ! pgrep -f '^[^ ]*dms serve' >/dev/null; }
wrong=0 killed=0 rolled=0
rounds=5
[ -z "${TEST_LONG:-}" ] || rounds=60
for ((round = 1; round <= ${TEST_ROUNDS:-$rounds}; round++)); do
	a=$((RANDOM % 3 * 30)) b=$((RANDOM % 3 * 30))
	[ $a = 0 ] || touched orig $a
	[ $b = 0 ] || touched far $b
	kept orig
	kept far
	how=$((RANDOM % 5))
	if [ $b = 0 ] && [ $how = 0 ]; then
		forward
		alike && is far orig || { echo "round $round: sync: $code $out $err"; wrong=1; }
		continue
	fi
	if [ $how -le 3 ]; then
		[ $((RANDOM % 2)) = 0 ] && whom='dms sync --reverse' || whom='^[^ ]*dms serve'
		echo "$whom" >/tmp/whom
		echo $((RANDOM * 12)) >/tmp/bytes
		call dms sync --reverse orig there:mapper/far --rsh /tmp/slow --yes
		until_so free || { echo "round $round: somebody has it"; wrong=1; }
		[ "$code" = 0 ] || killed=$((killed + 1))
		if [ "$code" != 0 ] && [ $((RANDOM % 2)) = 0 ]; then
			state=$(dms receive mapper/orig --status --json | tr -d '\n ' | grep -o '"state":"[a-z]*"')
			call dms receive mapper/orig --abort
			# It may have come so far that all was there.
			is orig orig || is orig far || { echo "round $round: abort of $state: $code $out $err"; wrong=1; }
			is orig orig && rolled=$((rolled + 1))
		fi
		# What is gone on with is what was begun; what has been written since comes with the next one.
		more=$((RANDOM % 2 * 10))
		[ $more = 0 ] || { touched far $more; reverse --yes; kept far; }
	fi
	reverse --yes
	is orig far && [ "$code" = 0 ] || { echo "round $round: $a $b $how: $code $out $err"; wrong=1; }
	[ $wrong = 0 ] || break
	for tag in $(dms list orig | awk '/"before dms sync --reverse"$/ { print $3 }'); do dms delete orig "$tag"; done
done
check 'a random history' test $wrong = 0
echo "killed $killed times, and $rolled times what was before was had again"
forward
check 'and it goes on' alike

# From a mark on: where more than 64 MiB are sent.
dms remove far
dms remove orig
for name in a a-cow b b-cow; do
	truncate -s "$([[ $name == *-cow ]] && echo 200M || echo 96M)" "$name"
	losetup -f $name
done
loop() { losetup -j "$1" -O NAME --noheadings | head -n 1; }
dms create orig "$(loop /srv/a)" "$(loop /srv/a-cow)" -bf
dms create far "$(loop /srv/b)" "$(loop /srv/b-cow)" -bf
touched orig 10
forward
check 'larger ones' alike
dd if=/dev/urandom of=/dev/mapper/far bs=1M count=90 oflag=direct status=none
kept far
echo $((75 << 20)) >/tmp/bytes
echo 'dms sync --reverse' >/tmp/whom
call dms sync --reverse orig there:mapper/far --rsh /tmp/slow
until_so free
check 'it is killed behind a mark' grep -q '^mark     : 1,' <<<"$(dms receive mapper/orig --status)"
refused 'a mixture is not sent' 1 'is a mixture' dms sync orig there:mapper/far --rsh /tmp/rsh
cat >/tmp/counted <<'X'
#!/bin/sh
sh -c "$2" | tee /tmp/stream
X
chmod +x /tmp/counted
call dms sync --reverse orig there:mapper/far --rsh /tmp/counted
check 'it is gone on with' is orig far
check 'from there' test "$(stat -c %s /tmp/stream)" -lt $((32 << 20))
none_failed
