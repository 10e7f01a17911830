#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 128M --disk 128M --disk 12G --timeout 400
# takes: 25
#
# Every command line of README.md, the documents and the manual is run as it stands there, one after
# the other, and prints what is said there. What a section takes for granted is made before it.
set -u
. /payload/tests/guest/calls.sh
documents=/payload/Documentation/admin-guide/device-mapper
# The disks are called as they are in the documents, too.
for disk in b c; do
	IFS=: read -r major minor </sys/block/vd$disk/dev
	mknod /dev/sd${disk}1 b "$major" "$minor"
done
mkdir -p /mnt/orig /mnt/snap1 /mnt/snap2 /srv /mnt /backup

# Nothing mounted and no device; the disks blank, but for a file system on the origin.
afresh() {
	local folder
	for folder in $(tac /proc/mounts | awk '$2 ~ "^/(srv|mnt)" { print $2 }'); do
		umount "$folder"
	done
	# Once more for what others lay on.
	dmsetup remove_all
	dmsetup remove_all
	rm -f /etc/lvm/lvmlocal.conf
	[ -z "$(vgs --noheadings)" ] || vgremove -qq -ff -y vg
	# Its volumes are gone already, and what leads to them stays now and then.
	rm -rf /dev/vg
	[ "$(dmsetup ls)" = 'No devices found' ] || return
	blkdiscard -z -l 8M /dev/vdb
	blkdiscard -z -l 8M /dev/vdc
	mkfs.ext4 -qF /dev/vdb
	mount /dev/vdb /mnt/orig && touch /mnt/orig/this-is-orig && umount /mnt/orig
}
active() { afresh && dms create orig sdb1 sdc1 -bf; }

# prepare DOCUMENT HEADING: what its commands begin with; if it is not here, what the ones before have left.
prepare() {
	case $* in
	'README.md A session' | 'dm-snap-mv.rst A session' | 'dm-snap-mv.rst The same with dmsetup' | 'manual EXAMPLES') afresh ;;
	'dm-snap-mv.rst Loading a table again' | 'dm-snap-mv.rst I/O errors') active ;;
	'dm-snap-mv.rst Checking and repairing')
		active && dms snapshot orig && dms snapshot orig && dms remove orig
		;;
	'README.md Elsewhere') active && mount /dev/mapper/orig /mnt/orig ;;
	'dm-snap-mv.rst Going back' | 'dm-snap-mv.rst Trying something out' | 'dm-snap-mv.rst Backup') ;;
	'dm-snap-mv.rst Labels') active ;;
	'dm-snap-mv.rst Comparing versions')
		active && dms snapshot orig &&
			dd if=/dev/urandom of=/dev/mapper/orig bs=8k seek=128 count=1 oflag=direct &&
			dd if=/dev/urandom of=/dev/mapper/orig bs=1M seek=12 count=2 oflag=direct &&
			dms snapshot orig
		;;
	'dm-snap-mv.rst Sending snapshots elsewhere')
		# As far behind on the disk that nobody is misled by what is left there.
		dmsetup create far --table '0 262144 linear /dev/vdd 2097152' &&
			dms create copy mapper/far sdc1 -b
		;;
	'dm-snap-mv.rst Onto another device')
		# As far behind on the disk that it is blank.
		active && dmsetup create disk --table '0 262144 linear /dev/vdd 8388608' &&
			blkdiscard -z /dev/mapper/disk &&
			IFS=: read -r major minor < <(dmsetup info -c --noheadings -o major,minor disk) &&
			mknod /dev/sdd1 b "$major" "$minor" &&
			dms snapshot orig && dms snapshot orig &&
			dd if=/dev/urandom of=/dev/mapper/orig bs=1M seek=64 count=2 oflag=direct &&
			dms snapshot orig
		;;
	'dm-snap-mv.rst Backup with NBD')
		rm -rf /backup/* && active && dms snapshot orig &&
			dd if=/dev/urandom of=/dev/mapper/orig bs=8k seek=128 count=1 oflag=direct &&
			dd if=/dev/urandom of=/dev/mapper/orig bs=1M seek=12 count=2 oflag=direct &&
			dms snapshot orig
		;;
	'dm-snap-mv.rst Keeping a copy up to date' | 'dm-snap-mv.rst Going back and forth') ;;
	'dm-snap-mv.rst Moving to another machine') mkfs.ext4 -qF /dev/mapper/orig ;;
	'dm-snap-mv.rst With LVM')
		afresh && vgcreate -qq vg /dev/vdd && lvcreate -qq -y -n data -L 64M vg
		;;
	'dm-snap-mv.rst Under LVM')
		afresh && vgcreate -qq -ff -y vg /dev/vdb && lvcreate -qq -y -n data -L 64M vg &&
			mkfs.ext4 -q /dev/vg/data
		;;
	'dm-snap-mv.rst With udev') active && dms remove orig ;;
	'dm-snap-mv.rst At boot')
		afresh && install -D -t /usr/local/sbin /payload/dms &&
			dms create orig sdb1 sdc1 -bf -i data && dms remove orig
		;;
	'dm-snap-mv.rst Doing without it again') active && mount /dev/mapper/orig /srv ;;
	*) false ;;
	esac
}

# How it comes out but for numbers, columns, and what the disks are called here.
told_alike() { sed -E 's/[0-9]+/0/g; s/[sv]d([bc])0?/\1/g' | tr -s '[:space:]' ' '; }

# run COMMAND OUTPUT: as it would be typed. Variables stay.
ran=0
run() {
	local failed_before=$failed
	ran=$((ran + 1))
	eval "$1" >/tmp/out 2>/tmp/err </dev/null && code=0 || code=$?
	out=$(</tmp/out) err=$(</tmp/err)
	# That something differs is no failure.
	[ "$code" = 0 ] || [[ $code = 1 && $1 == 'dms diff '* ]] || failed=1
	[ -z "$2" ] || [ "$(told_alike <<<"$2")" = "$(told_alike <<<"$out")" ] || failed=1
	[ $failed = $failed_before ] ||
		printf '%s, %s: %s\ncode %s\nout: %s\nerr: %s\n' "$document" "$heading" "$1" "$code" "$out" "$err"
}

# follow DOCUMENT FILE: all that is in it.
follow() {
	local document=$1 heading='' kind text last='' expected='' before=$failed lines
	failed=0
	mapfile -t lines < <(awk -f /payload/tests/guest/commands.awk "$2"; printf '\tend\t\n')
	for line in "${lines[@]}"; do
		kind=${line#*$'\t'} text=${line#*$'\t'*$'\t'}
		kind=${kind%%$'\t'*}
		if [ "$kind" = output ]; then
			expected+=$text$'\n'
			continue
		fi
		[ -z "$last" ] || run "$last" "$expected"
		last='' expected=''
		if [ "${line%%$'\t'*}" != "$heading" ] || [ "$kind" = end ]; then
			[ -z "$heading" ] || check "$document: $heading" test $failed = 0
			[ $failed = 0 ] || before=1
			failed=0 heading=${line%%$'\t'*}
			if [ "$kind" != end ] && ! prepare "$document" "$heading" >/tmp/out 2>&1; then
				echo "nothing is prepared for $document, $heading: $(</tmp/out)"
				failed=1
			fi
		fi
		case $kind in
		command) last=$text ;;
		stray)
			echo "$document, $heading: looks like a command, and has no '# ' before it: $text"
			failed=1
			;;
		esac
	done
	failed=$before
}

dms man >/tmp/manual
follow README.md /payload/README.md
for file in "$documents"/*.rst; do
	follow "${file##*/}" "$file"
done
follow manual /tmp/manual
# None was overlooked, as far as that can be told.
check 'there are commands in all of them' test $ran -ge 100
none_failed
