#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 32M --disk 96M --smp 2 --timeout 400
# takes: 40
#
# A snapshot is served by NBD to Debian's own clients: what they copy is what the snapshot holds, what
# they are told has changed is what differs, and nothing is left of it, whatever ends it.
set -u
. /payload/tests/guest/calls.sh
# What `call` sets.
code='' out='' err=''
mount -t tmpfs none /mnt
cd /mnt || exit

sock=/run/nbd.sock
uri="nbd+unix:///?socket=$sock"
M=$((1 << 20))
served() { [ "$(dmsetup ls | grep -c '^dms-send-')" != 0 ]; }
none_left() { ! served; }
not() { ! "$@" 2>/dev/null; }
gone() { ! kill -0 "$1" 2>/dev/null; }
connects() { perl -MIO::Socket::UNIX -e 'exit !IO::Socket::UNIX->new(Peer => $ARGV[0])' $sock; }
# serve ARG...: in the background, until it can be connected to; who goes without a word is no client.
server=''
serve() {
	dms nbd "$@" --socket $sock 2>/tmp/server.err &
	server=$!
	until_so connects || cat /tmp/server.err
}
# ends SIGNAL: sends it, and sets what came of it.
ends() {
	kill "-$1" "$server"
	wait "$server"
	code=$? out='' err=$(</tmp/server.err)
}
# ended: waits for it to end by itself, and sets what came of it.
ended() {
	until_so gone $server || kill -KILL $server
	wait $server
	code=$? out='' err=$(</tmp/server.err)
}
# client FILE: connects, says nothing, and stays until FILE is gone.
client() {
	perl -MIO::Socket::UNIX -e '$c = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die;
		sysread $c, $b, 18; open my $f, ">", $ARGV[1]; close $f;
		select undef, undef, undef, 0.1 while -e $ARGV[1]' $sock "$1" &
	until_so test -e "$1"
}
# changed: what of a map is dirty, as dms diff writes it.
changed() { awk '$3 == 1 { print $1, $2 }'; }
zeroes() { awk '$3 == 3 { print $1, $2 }'; }

dms create orig vdb vdc -bf
dd if=/dev/urandom of=/dev/mapper/orig bs=1M count=24 oflag=direct status=none
call dms snapshot orig -m monday
check 'snapshot 1' prints 1
for n in 3 77 78 1000 5000 8191; do
	dd if=/dev/urandom of=/dev/mapper/orig bs=4k count=1 seek=$n oflag=direct status=none
done
dd if=/dev/urandom of=/dev/mapper/orig bs=1M count=3 seek=20 oflag=direct status=none
call dms snapshot orig
check 'snapshot 2' prints 2
# One that was written to, and what is taken of it: of that it is known where there are zeroes.
call dms snapshot orig 2
check 'snapshot 3' prints 3
dms create s3 vdb vdc 3
blkdiscard -z -o $((8 * M)) -l $((4 * M)) /dev/mapper/s3
dd if=/dev/urandom of=/dev/mapper/s3 bs=4k count=2 seek=9 oflag=direct status=none
call dms snapshot orig 3
check 'snapshot 4' prints 4
call dms snapshot orig -k
check 'bookmark 5' prints 5
dms remove s3
for n in 1 2 3 4; do
	dms create "s$n" vdb vdc $n
	dd if="/dev/mapper/s$n" of="is$n" bs=1M status=none
	dms remove "s$n"
done

# What is refused, before anything is activated or made.
refused 'nowhere to listen' 2 'where to listen' dms nbd orig 1
refused 'a tag that there is not' 3 'unknown tag' dms nbd orig 9 --socket $sock
refused 'no tag' 2 'tag is not a number' dms nbd orig x --socket $sock
refused 'a bookmark' 1 'bookmark' dms nbd orig 5 --socket $sock
refused 'since one that is newer' 2 'snapshot 2 is newer than snapshot 1' dms nbd orig 1 --since 2 --socket $sock
refused 'since one that was written to' 1 'snapshot 3 has been written to' dms nbd orig 4 --since 3 --socket $sock
refused 'no device' 3 'there is no device nothere' dms nbd nothere 1 --socket $sock
refused 'a folder that there is not' 3 'cannot listen at /run/no/s' dms nbd orig 1 --socket /run/no/s
refused 'a name that is too long' 1 'cannot listen at' dms nbd orig 1 --socket "/run/$(printf %0120d 1)"
touch file
refused 'what is no socket' 1 'is no socket' dms nbd orig 1 --socket file
check 'which is still there' test -f file
check 'nothing is left' none_left

# All of it, by several at once.
serve orig 1
check 'only for the owner' test "$(stat -c '%a %U' $sock)" = '600 root'
check 'by a device of its own' served
call nbdinfo --size "$uri"
check 'its size' prints $((32 * M))
call nbdinfo --list "$uri"
check 'what it is' matches 'export="1":.*description: snapshot 1 \("monday"\) of '
check 'to be read only, by several' matches 'is_read_only: true.*can_multi_conn: true'
nbdcopy "$uri" by-nbdcopy &
one=$!
call qemu-img convert -f raw -O raw "$uri" by-qemu
check 'qemu-img reads it' done_silently
wait $one
check 'and nbdcopy' test $? = 0
check 'nbdcopy has what it is' cmp by-nbdcopy is1
check 'and so has qemu-img' cmp by-qemu is1
call qemu-img compare -f raw -F raw "$uri" is1
check 'qemu-img compares' matches 'Images are identical'
call qemu-img convert -n -f raw -O raw is2 "$uri"
check 'it cannot be written to' test "$code" != 0
refused 'another one there' 4 'somebody listens at /run/nbd.sock already' dms nbd orig 2 --socket $sock
call dms delete orig 1
check 'it is not deleted meanwhile' test "$code" = 4
# Whoever makes no sense is told off, and nobody else.
client /tmp/silent
perl -MIO::Socket::UNIX -e '$c = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die;
	sysread $c, $b, 18; syswrite $c, "\0\0\0\3" . "nonsense" x 9; 1 while sysread $c, $b, 99' $sock
check 'nonsense is answered by hanging up' until_so grep -q 'does not keep to the protocol' /tmp/server.err
call nbdinfo --size "$uri"
check 'others are served' prints $((32 * M))
ends TERM
check 'it ends by SIGTERM, with a client that says nothing' test $code = 0
check 'nothing is left' none_left
check 'nor the socket' test ! -e $sock
rm /tmp/silent

# Two at once, of which one is too late.
dms nbd orig 1 --socket $sock 2>/tmp/one.err &
one=$!
dms nbd orig 2 --socket $sock 2>/tmp/other.err &
other=$!
wait -n $one $other
code=$?
check 'two at once: one of them is refused' test $code = 4
check 'which is said' test "$(cat /tmp/one.err /tmp/other.err | grep -c 'somebody listens')" = 1
# The other one may not have got so far yet.
until_so connects
call nbdinfo --list "$uri"
check 'and the other one serves' matches 'export="[12]":'
kill $one $other 2>/dev/null
wait $one $other
check 'until it is told to end' test ! -e $sock

# What has changed.
dms diff orig 1 2 | awk 'NR > 1 && NF == 3 && $1 ~ /^[0-9]+$/ { print $1, $2 }' >differs
check 'there is something' test "$(wc -l <differs)" -ge 6
serve orig 2 --since 1 --once
nbdinfo --map=qemu:dirty-bitmap:since-1 "$uri" >map
check 'what has changed is what differs' cmp <(changed <map) differs
ended
check 'with --once, that was all' test $code = 0
check 'and nothing is left' none_left
cp is1 patched
while read -r start len; do
	dd if=is2 of=patched bs=64k iflag=skip_bytes,count_bytes oflag=seek_bytes conv=notrunc \
		skip="$start" seek="$start" count="$len" status=none
done < <(changed <map)
check 'which makes the one of the other' cmp patched is2
call nbdinfo --map=qemu:dirty-bitmap:since-1 -- [ dms nbd orig 2 --since 1 ]
check 'the same by a socket that was handed over' test "$out" = "$(<map)"
check 'of which nothing is left' until_so none_left
serve orig 2 --since 1
call dms delete orig 1 -k
check 'the older one is deleted meanwhile' done_silently
call nbdinfo --map=qemu:dirty-bitmap:since-1 "$uri"
check 'which does not matter' test "$out" = "$(<map)"
# SIGKILL while it is read.
client /tmp/silent
ends KILL
check 'killed: its device goes' until_so none_left
check 'and the socket stays' test -S $sock
rm /tmp/silent
serve orig 2 --since 1
call nbdinfo --map=qemu:dirty-bitmap:since-1 "$uri"
check 'which is replaced; and a bookmark tells as much' test "$out" = "$(<map)"
ends INT
check 'it ends by SIGINT' test $code = 0

# By a client that is killed and can tell nobody to end.
mkfifo pipe
nbdcopy -- [ dms nbd --once orig 2 ] - >pipe &
one=$!
exec {held}<pipe
head -c 1000 <&$held >/dev/null
check 'it is at it' served
kill -KILL $one
exec {held}<&-
check 'killed: nothing is left of the server either' until_so none_left

# Zeroes.
call nbdinfo --map -- [ dms nbd --once orig 4 ]
check 'known zeroes' test "$(zeroes <<<"$out")" = "$((8 * M)) $((4 * M))"
check 'are not read' nbdcopy -- [ dms nbd --once orig 4 ] by-nbdcopy
check 'and are there' cmp by-nbdcopy is4
check 'other zeroes take no space either' test "$(du -m by-nbdcopy | cut -f1)" -le 21
serve orig 4 --since 2
call qemu-img map --output=json -f raw "$uri"
check 'qemu-img sees them' matches '"start": 8388608, "length": 4194304, "depth": 0, "present": (true|false), "zero": true'
call qemu-img convert -f raw -O raw "$uri" by-qemu
check 'and reads it' cmp by-qemu is4
call nbdinfo --map=qemu:dirty-bitmap:since-2 "$uri"
check 'zeroes have changed, too' test "$(changed <<<"$out")" = "36864 8192
$((8 * M)) $((4 * M))"
ends TERM

# One that was written to, just now: by a device of its own nobody can go on with that.
dms create s3 vdb vdc 3
dd if=/dev/urandom of=/dev/mapper/s3 bs=4k count=5 seek=7000 oflag=direct status=none
dd if=/dev/mapper/s3 of=is3 bs=1M status=none
serve orig 3 --since 2
call nbdinfo --map=qemu:dirty-bitmap:since-2 "$uri"
check 'with what was written' grep -q "^$((7000 * 4096)) $((5 * 4096))\$" <(changed <<<"$out")
check 'nobody may claim it' not dmsetup create over --table '0 8 linear /dev/mapper/s3 0'
nbdcopy "$uri" by-nbdcopy
check 'it is what was written' cmp by-nbdcopy is3
ends TERM
dmsetup create over --table '0 8 linear /dev/mapper/s3 0'
refused 'not while somebody has it' 4 'is in use' dms nbd orig 3 --socket $sock
dmsetup remove over
dms remove s3
# While it is served.
dms create s2 vdb vdc 2
serve orig 2
check 'by the device that is there' none_left
client /tmp/silent
dd if=/dev/urandom of=/dev/mapper/s2 bs=4k count=1 seek=9 oflag=direct status=none
ended
check 'written to while it is served: it ends' told 4 'has been written to while it was served'
check 'without its socket' test ! -e $sock
rm /tmp/silent

# Of a store that is not in use.
for device in $(dmsetup ls | awk '{ print $1 }'); do dms remove "$device"; done
check 'of a store that is not in use' nbdcopy -- [ dms nbd --once vdb 4 --cow vdc ] by-nbdcopy
check 'the same' cmp by-nbdcopy is4
check 'nothing is active after that' until_so test "$(dmsetup ls)" = 'No devices found'

# Lost.
dms create orig vdb vdc
serve orig 4
client /tmp/silent
dd if=/dev/urandom of=/dev/mapper/orig bs=1M oflag=direct status=none 2>/dev/null
dms snapshot orig >/dev/null
dd if=/dev/urandom of=/dev/mapper/orig bs=1M oflag=direct status=none 2>/dev/null
dms snapshot orig >/dev/null
dd if=/dev/urandom of=/dev/mapper/orig bs=1M oflag=direct status=none 2>/dev/null
ended
check 'lost while it is served: it ends' told 6 'snapshot 4'
rm /tmp/silent
refused 'an invalid one' 6 'invalid' dms nbd orig 4 --socket $sock
check 'leaves nothing' none_left
none_failed
