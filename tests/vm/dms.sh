#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 256M --disk 256M --timeout 400
# takes: 30 one
#
# The dms command: what it does, prints, and exits with.
set -u
. /payload/tests/guest/calls.sh
o=vdb c=mapper/cow

# slow MILLISECONDS: how long each request of the COW device takes.
modprobe dm-delay
slow() {
	dmsetup load cow --table "0 $(blockdev --getsz /dev/vdc) delay /dev/vdc 0 $1"
	dmsetup suspend cow
	dmsetup resume cow
}
dmsetup create cow --notable
slow 0
dmsetup mknodes cow

hash_of() { md5sum <"$1"; }

mkdir -p /mnt/o /mnt/s

# Creating.
call dms list
check 'list without devices' test "$code$out" = 0
refused 'a COW device without a store' 3 'COW device holds no store' dms create orig $o $c
check 'what was refused leaves no device' test ! -e /dev/mapper/orig
# As btrfs has its mark: the first block alone is blank.
echo other | dd of=/dev/$c bs=64K seek=1 oflag=direct conv=sync status=none
refused 'other data are told of at once' 1 'with -b -F)' dms create orig $o $c
refused 'and not formatted over' 1 'with -b -F)' dms create orig $o $c -bf
blkdiscard -z -l 256K /dev/$c
mkfs.ext4 -q /dev/$o
call dms create orig $o $c -bfc2
check 'create formats and binds' done_silently
check 'create makes the node' test -b /dev/mapper/orig
check 'the identity is the path' test "$(dmsetup table orig)" = \
	"0 524288 dm-snap-mv co $(lsblk -dno maj:min /dev/$o | xargs) $(lsblk -dno maj:min /dev/$c | xargs) -i /dev/$o"
refused 'a name that is taken' 4 'there is a device orig already' dms create orig $o $c
refused 'a store in use is not formatted' 4 'store is in use' dms create x $o $c -bF
refused 'an origin that does not exist' 3 '/dev/nothere does not exist' dms create x nothere $c
refused 'an origin that is a file' 3 'losetup' dms create x /etc/passwd $c
refused 'another identity for an origin in use' 4 "$o is origin /dev/$o of the store on" dms create x $o $c -i other
refused 'a tag that there is not' 3 'unknown tag' dms create x $o $c 7
refused 'wrong words' 2 'power of two' dms create x $o $c -bfc3

# Snapshots: of what is in a mounted file system's memory, too.
mount /dev/mapper/orig /mnt/o
echo one >/mnt/o/file
call dms snapshot orig -m 'say "à propos" \ - '
check 'snapshot prints the tag' prints 1
check 'the origin goes on' active orig
for path in /dev/mapper/orig "/dev/$(lsblk -ndo KNAME /dev/mapper/orig)" /mnt/o; do
	call dms status "$path"
	check "$path leads to the device" matches '^orig: '
done
check 'its UUID tells what it is' \
	grep -qE '^SNAPMV-[0-9a-f]{32}-1-0$' <<<"$(dmsetup info -c --noheadings -o uuid orig)"
call dms help snapshot
check 'help with a command' matches 'Usage: dms snapshot'
call dms create s1 /dev/$o /dev/$c 1
check 'create shows a snapshot' done_silently
mount /dev/mapper/s1 /mnt/s
check 'a snapshot has what was not written out yet' test "$(</mnt/s/file)" = one
echo two >/mnt/s/file
call dms s s1 1 -m nested
check 'a snapshot of a snapshot' prints 2
check 'the snapshot goes on' active s1
refused 'a snapshot of what there is not' 3 'unknown tag' dms snapshot orig 9
check 'a refusal leaves the origin going' active orig
refused 'a memo that is too long' 2 'longer than 64 bytes' dms snapshot orig -m "$(printf '%065d' 0)"
refused 'a second device of a snapshot' 4 'already active' dms create x $o $c 1
call dms create s2 $o $c 2
check 'a nested snapshot has a device' done_silently
mount /dev/mapper/s2 /tmp 2>/dev/null && {
	check 'it has what was not written out yet' test "$(</tmp/file)" = two
	umount /tmp
}

# Listing.
call dms list orig
TZ=UTC check 'the listing' matches "^origin-device : $o \([0-9:]+\)
cow-device    : $c \([0-9:]+\)
chunk-size    : 2 page\(s\)
used-versions : 0% \(3/4294967295\)
used-chunks   : [0-9]+% \([0-9]+/[0-9]+\)
cow-status    : valid
cleaning      : no
rollbacking   : no
YYYY/MM/DD HH:MM:SS Tag R Chunks DM_Dev Memo
20[0-9/]{8} [0-9:]{8}   0 \. +[0-9]+ orig   \"ORIGIN\"
20[0-9/]{8} [0-9:]{8}   1 \. +[0-9]+ s1     \"say .{2}à propos.{2} .{2} - \"
20[0-9/]{8} [0-9:]{8}   2 \. +[0-9]+ s2     \"nested\"\$"
of_one=$(tail -n 3 <<<"$out" | cut -c 1-25,33-)
call dms l
out=$(tail -n 3 <<<"$out" | cut -c 1-25,33-)
check 'all there is' prints "$of_one"
call dms list --json s2
check 'the listing for programs' matches '"versions": \[.*"tag": 2,.*"devices": \[[^]]*"s2"'
call dms status s2
check 'the status' matches 's2: snapshot 2 of origin 1, valid'
call dms status --json
check 'the status for programs' matches '"role": "snapshot",[^}]*"tag": 2'
refused 'the status of what there is not' 3 'active are: orig, s1, s2' dms status s9

# What is in use.
refused 'a mounted device is not removed' 4 'it is mounted on /mnt/s' dms remove s1
refused 'a shown snapshot is not deleted' 4 'dms remove s2' dms delete orig 2
refused 'a mounted origin is not rolled back' 4 'umount /mnt/o' dms rollback orig 1
refused 'but a wrong tag is told before that' 3 'unknown tag' dms rollback orig 9
refused 'a mounted origin is not merged into' 4 '--defer' dms merge orig 2
refused 'an origin with snapshots is not unbound' 4 'it is mounted on /mnt/o' dms delete orig
exec 8</dev/mapper/s2
refused 'who has a device open is named' 4 "open in process $$" dms remove s2
exec 8<&-

# Rolling back, from a snapshot's device with no other there.
umount /mnt/o
refused 'a shown snapshot is not merged' 4 'dms remove s1' dms merge orig 1
call dms remove orig
check 'remove' done_silently
check 'remove takes the node away' test ! -e /dev/mapper/orig
echo three >/mnt/s/file
call dms rollback s1 1
check 'rollback from a snapshot alone' done_silently
umount /mnt/s
dms remove s1
dms create orig $o $c
mount /dev/mapper/orig /mnt/o
check 'it took along what was not written out' test "$(</mnt/o/file)" = three
umount /mnt/o

# In the background, waited for, watched.
big() { dd if=/dev/urandom of=/dev/mapper/orig bs=1M count=60 oflag=direct conv=notrunc status=none; }
before=$(hash_of /dev/mapper/s2)
big
call dms rollback orig 2 -b
check 'rollback in the background' done_silently
check 'the origin is the snapshot at once' test "$(hash_of /dev/mapper/orig)" = "$before"
call dms wait orig --rollback --timeout 0
check 'wait has its time' test "$code" = 8 -o "$code" = 0
call dms wait orig
check 'wait' done_silently
call dms status orig
check 'there is nothing left to wait for' matches 'rollbacking   : no'
big
slow 100
call env TERM=xterm script -qec 'dms rollback orig 2' /dev/null
check 'a bar on a terminal' matches 'rolling back to 2 \['
slow 0
big
slow 1000
dms rollback orig 2 2>/tmp/err &
rolls=$!
# As soon as it has begun: from then on there is something to be interrupted.
for _ in {1..5000}; do
	[[ $(dms status orig) != *'rollbacking   : to 2'* ]] || break
	sleep 0.02
done
# Others have events all the time, of which each ends the waiting for one.
dms wait orig 2>/dev/null &
waits=$!
strace -qq -e trace=poll,ppoll -o /tmp/polls -p $waits &
for _ in {1..5000}; do
	! grep -qs poll /tmp/polls || break
	sleep 0.02
done
begin=${EPOCHREALTIME/./} polls=$(wc -l </tmp/polls)
for _ in 1 2; do
	dmsetup create --concise "$(printf 'event%d,,,rw,0 8 zero;' {1..60})"
	dmsetup remove event{1..60}
done
# It looks ten times in a second at the most, with two of these for each look.
most=$((((${EPOCHREALTIME/./} - begin) / 100000 + 2) * 2))
polls=$(($(wc -l </tmp/polls) - polls))
out="$polls, at most $most" err=''
check 'it is waited for without haste' test $polls -le $most -a $polls -ge 2
kill $waits
wait $waits
kill -INT $rolls
wait $rolls && code=0 || code=$?
err=$(</tmp/err) out=''
check 'an interrupted wait says that it goes on' told 130 'goes on in the background'
slow 0
dms wait orig

# Deleting, cleaning.
dms remove s2
call dms delete orig 1
check 'delete' done_silently
refused 'what is deleted is gone' 3 'unknown tag' dms delete orig 1
call dms list
check 'it is not listed' matches '
[^
]* 0 \. [^
]*
[^
]* 2 \. [^
]*$'
call dms list -a
check 'unless all is asked for' matches ' 1 G '

# Merging.
call dms snapshot orig
check 'another snapshot' prints 3
before=$(hash_of /dev/mapper/orig)
big
call dms merge orig 3
check 'merge' done_silently
check 'the origin is what it was' test "$(hash_of /dev/mapper/orig)" = "$before"
refused 'a merged snapshot is gone' 3 'unknown tag' dms create x $o $c 3
dms snapshot orig >/dev/null
big
exec 8</dev/mapper/orig
refused 'no merge while it is open' 4 "open in process $$" dms merge orig 4
refused 'a wrong tag is told before that' 3 'unknown tag' dms merge orig 99
refused 'or before it is deferred' 3 'unknown tag' dms merge orig 99 --defer
call dms merge orig 4 --defer
check 'merge can be deferred' test "$code" = 0
call dms status orig
check 'which its status shows' matches 'to 4, when the origin'
call dms list orig
check 'and its list' matches 'rollbacking +: to 4, when the origin'
call dms merge orig --call-off
check 'it can be called off' done_silently
call dms status orig
check 'and is not shown any more' matches 'rollbacking +: no'
refused 'but only once' 3 'no rollback of the origin is deferred' dms merge orig --call-off
call dms merge orig 4 --defer
check 'and deferred again' test "$code" = 0
exec 8<&-
dms remove orig
refused 'an identity that is not bound' 3 "bound to it now: /dev/$o" dms create x $o $c -i other
dms create orig $o $c
dms wait orig
check 'to the next activation' test "$(hash_of /dev/mapper/orig)" = "$before"

# The store's own way to a snapshot's size, and a policy that is kept.
dms snapshot orig >/dev/null
dms remove orig
call dms create s5 $o $c 5 -e queue
check 'a snapshot with no other device' done_silently
dms create orig $o $c
check 'who does not mention the policy keeps it' grep -q 'queue$' <<<"$(dmsetup table orig)"
dms remove s5
dms remove orig
dms create orig $o $c

# Unbinding waits for cleaning.
dms delete orig 2
dms delete orig 5
call dms delete orig
check 'delete unbinds the origin' done_silently
check 'and removes its device' test ! -e /dev/mapper/orig
refused 'it is not bound any more' 3 'no origin is bound to it now' dms create orig $o $c

# Formatting over a store says what is lost, and asks where somebody can answer.
dms create orig $o $c -b
dms snapshot orig >/dev/null
dms snapshot orig >/dev/null
dms remove orig
typing() { # ANSWER COMMAND: as at a terminal
	call env TERM=xterm script -qec "$2" /dev/null <<<"$1"
}
lost="lost with what is on /dev/$c: snapshots 1, 2 of /dev/$o"
typing n "dms create orig $o $c -bF"
check 'formatting over snapshots names them, and asks' test "$code" = 1 -a "${out#*"$lost"*Format it}" != "$out"
check 'and leaves them without consent' grep -q 'nothing has been formatted' <<<"$out"
typing '' "dms create orig $o $c -bF"
check 'for which no answer is none' grep -q 'nothing has been formatted' <<<"$out"
call dms create orig $o $c
check 'they are still there' test "$(dmsetup message orig 0 list | grep -c '^[12] ')" = 2
dms remove orig
typing y "dms create orig $o $c -bF"
check 'with consent it is formatted' test "$code" = 0
check 'and they are gone' test "$(dmsetup message orig 0 list | grep -c '^[12] ')" = 0
dms snapshot orig >/dev/null
dms remove orig
typing n "dms create orig $o $c -bF --yes"
check 'nobody is asked who has consented before' test "$code" = 0 -a "${out#*Format it}" = "$out"
check 'but told' grep -q "snapshot 1 of /dev/$o" <<<"$out"
dms remove orig
call dms create orig $o $c -bF
check 'nor where nobody could answer' test "$code" = 0 -a "$err" = "dms: lost with what is on /dev/$c: the binding of /dev/$o, which has no snapshots"
dms remove orig

# Completions, as bash asks for them.
eval "$(dms completions bash)"
completes() { # WORD...: the last one is being typed.
	COMP_WORDS=(dms "$@") COMP_CWORD=$#
	COMPREPLY=()
	_dms_with_names dms "${*: -1}" "${COMP_WORDS[COMP_CWORD - 1]}"
	out=${COMPREPLY[*]} err='' code=0
}
check 'bash has completions' grep -q -- '-F _dms_with_names ' <<<"$(complete -p dms)"
dms create orig $o $c -bF
for memo in one two 'the third'; do dms snapshot orig -m "$memo" >/dev/null; done
dms delete orig 2
dms create snap $o $c 1
completes snap
check 'of commands' prints snapshot
completes snapshot ''
check 'of devices' matches '(^| )orig snap$'
check 'and of nothing that stands for something' test "${out//[<\[]/}" = "$out"
completes rollback -b o
check 'of devices that begin so' prints orig
completes delete snap ''
check 'of tags' matches '(^| )1 3$'
completes create other $o $c ''
check 'of tags to be shown' matches '(^| )1 3$'
dms remove orig
dms remove snap
completes create other $o $c 3
check 'and where no device is active' prints 3
completes create other $o $c -i unknown ''
check 'but not of an origin that there is not' test "${out%3}" = "$out"
completes remove ''
check 'nor of devices then' test "${out% orig*}" = "$out"
call dms complete -- list ''
check 'nothing is not an error' done_silently

# Logical volumes.
lv() { "$@" --config 'activation{udev_sync=0 udev_rules=0 monitoring=0} devices{use_devicesfile=0}' -q >/dev/null 2>&1; }
lv vgcreate -y v-g /dev/$o && lv lvcreate -y -n o -L 32M v-g && lv lvcreate -y -n c -L 64M v-g
call dms create lv v-g/o /dev/mapper/v--g-c -bf
check 'logical volumes' done_silently
call dms list
check 'are called what they are called' matches 'origin-device : v-g/o .*cow-device    : v-g/c '
dms remove lv
call dms create lv /dev/mapper/v--g-o v-g/c
check 'by any name' done_silently
dms snapshot lv >/dev/null
dms remove lv
lv lvextend -L 48M v-g/o
dms create s1 v-g/o v-g/c 1
check 'a snapshot keeps its size' test "$(blockdev --getsize64 /dev/mapper/s1)" = $((32 << 20))
dms create lv v-g/o v-g/c
check 'an origin grows' test "$(blockdev --getsize64 /dev/mapper/lv)" = $((48 << 20))
dms remove s1
dms remove lv

# Where it cannot work.
refused 'without root' 7 'needs root' setpriv --reuid 65534 dms list
dmsetup create linear --table "0 8 linear /dev/$c 0"
refused "another target's device" 3 'is no dm-snap-mv device' dms remove linear
dmsetup remove linear
none_failed
