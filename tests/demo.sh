#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm: --disk 512M --disk 512M --disk 512M --smp 2 --timeout 400
#
# Snapshots of file systems that are mounted, snapshots of snapshots, and the way back; three
# times: ext4 and xfs with dms, and ext4 with nothing but dmsetup. Then what differs between versions,
# and a copy that follows. Each command is shown with what it prints, and what a step claims is looked
# at ("ok").
set -u

if [ -t 1 ] || [ -n "${DEMO_COLOR:-}" ]; then
	bold=$'\e[1m' dim=$'\e[2m' off=$'\e[0m'
else
	bold='' dim='' off=''
fi
failed=0
origin=vdb cow=vdc other=vdd
mkdir -p /mnt/orig /mnt/snap1 /mnt/snap2

part() { printf '\n%s=== %s ===%s\n' "$bold" "$*" "$off"; }
step() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }

# show COMMAND...: as one would type it. All of them must succeed.
show() {
	printf '%s# %s%s\n' "$dim" "$*" "$off"
	if ! eval "$*" 2>&1 </dev/null; then
		claim "$* succeeds" false
		# What is suspended would hold up the end.
		dmsetup info -c --noheadings -o name | xargs -rn1 dmsetup resume
		exit 1
	fi
}

# claim TEXT COMMAND...: says whether it is so.
claim() {
	local text=$1
	shift
	if "$@"; then
		echo "ok $name: $text"
	else
		echo "not ok $name: $text"
		failed=1
	fi
}

# holds FOLDER FILE...: these files and no others.
holds() {
	local folder=$1
	shift
	local names=("$folder"/*)
	names=("${names[@]##*/}")
	[ "${names[*]}" = "$*" ] || [ "${names[*]}" = "lost+found $*" ]
}

# What differs between the three ways: the options to mount with, and who does it.
with_dms() {
	case $1 in
	create) shift && show dms create "$@" ;;
	snapshot) shift && show dms snapshot "$@" ;;
	remove) show dms remove "$2" ;;
	list) show dms list ;;
	rollback) show dms rollback "$2" "$3" ;;
	esac
}

# By hand: a table line, a message.
with_dmsetup() {
	local dev sectors
	case $1 in
	create)
		dev=$2
		sectors=$(blockdev --getsz "/dev/$3")
		case ${5:-} in
		[0-9]*) show dmsetup create "$dev" --table "'0 $sectors dm-snap-mv cs /dev/$3 /dev/$4 $5'" ;;
		*) show dmsetup create "$dev" --table "'0 $sectors dm-snap-mv co /dev/$3 /dev/$4${5:+ $5}'" ;;
		esac
		;;
	snapshot)
		dev=$2
		shift 2
		case $1 in
		[0-9]*) set -- ss "$@" ;;
		*) set -- so "$@" ;;
		esac
		# With -z what is mounted is frozen. In one word, so that dmsetup does not take the
		# options for its own.
		show dmsetup message "$dev" 0 "'$* -z'"
		;;
	remove) show dmsetup remove "$2" ;;
	list) show dmsetup message orig 0 list ;;
	rollback)
		show dmsetup message "$2" 0 "'rs $3 -b -z'"
		show "until dmsetup status $2 | grep ' -\$'; do sleep 0.2; done"
		;;
	esac
}

# session TOOL FS FORMAT: the whole story.
session() {
	local tool=$1 fs=$2 format=$3 options=''
	name="$fs, ${tool#with_}"
	[ "$fs" != xfs ] || options='-o nouuid '

	step 'A disk with a file system on it, as there are many.'
	show "mkfs.$fs -q ${force[$fs]} /dev/$origin"

	step 'Format another disk for the snapshots, bind the first one to it, and use it as ever.'
	"$tool" create orig $origin $cow "$format"
	show "mount ${options}/dev/mapper/orig /mnt/orig"
	show touch /mnt/orig/this-is-orig
	show ls /mnt/orig
	claim 'the origin is in use' holds /mnt/orig this-is-orig

	step 'A snapshot of it, while it is mounted. It is a disk of its own, to be read and written.'
	"$tool" snapshot orig -m snap1
	"$tool" create snap1 $origin $cow 1
	show "mount ${options}/dev/mapper/snap1 /mnt/snap1"
	show touch /mnt/snap1/this-is-snap1
	show ls /mnt/snap1
	claim 'the snapshot has what the origin had, and its own' \
		holds /mnt/snap1 this-is-orig this-is-snap1
	claim 'the origin has nothing of that' holds /mnt/orig this-is-orig

	step 'A snapshot of the snapshot.'
	"$tool" snapshot orig 1 -m snap2
	"$tool" create snap2 $origin $cow 2
	show "mount ${options}/dev/mapper/snap2 /mnt/snap2"
	show touch /mnt/snap2/this-is-snap2
	show ls /mnt/snap2
	claim 'it has all three' holds /mnt/snap2 this-is-orig this-is-snap1 this-is-snap2
	claim 'the first snapshot has two' holds /mnt/snap1 this-is-orig this-is-snap1
	claim 'the origin has one' holds /mnt/orig this-is-orig

	step 'What there is: the origin and its two versions, with the chunks that each holds.'
	"$tool" list

	step 'Roll the origin back to the second snapshot. Nobody may be using the origin meanwhile.'
	show umount /mnt/orig
	"$tool" remove orig
	"$tool" rollback snap2 2
	"$tool" create orig $origin $cow
	show "mount ${options}/dev/mapper/orig /mnt/orig"
	show touch /mnt/orig/this-is-orig-after-rollback
	show ls /mnt/orig
	local all=(this-is-orig this-is-orig-after-rollback this-is-snap1 this-is-snap2)
	claim 'the origin has what the snapshot had, and goes on' holds /mnt/orig "${all[@]}"
	claim 'the snapshots are as they were' \
		eval 'holds /mnt/snap1 this-is-orig this-is-snap1 &&
			holds /mnt/snap2 this-is-orig this-is-snap1 this-is-snap2'

	step 'Take everything away, the module too: the disk alone is the current state.'
	show umount /mnt/orig /mnt/snap1 /mnt/snap2
	show dmsetup remove_all
	show rmmod dm_snap_mv
	show "mount /dev/$origin /mnt/orig"
	show ls /mnt/orig
	claim 'the disk has it all, without the module' holds /mnt/orig "${all[@]}"
	show umount /mnt/orig

	step 'And back again: the snapshots are still there.'
	show insmod /payload/dm-snap-mv.ko
	"$tool" create orig $origin $cow
	"$tool" create snap1 $origin $cow 1
	show "mount ${options}/dev/mapper/snap1 /mnt/snap1"
	show ls /mnt/snap1
	claim 'the first snapshot is found again' holds /mnt/snap1 this-is-orig this-is-snap1
	show umount /mnt/snap1
	"$tool" remove snap1
	"$tool" remove orig
	claim "the file system on the disk is sound, says ${check[$fs]}" \
		eval "${check[$fs]} /dev/$origin >/dev/null 2>&1"
}

# elsewhere: another disk becomes what the origin is, and follows it.
elsewhere() {
	name=elsewhere
	step 'A file system again, with something in it.'
	show "mkfs.ext4 -q -F /dev/$origin"
	show dms create orig $origin $cow -bF
	show mount /dev/mapper/orig /mnt/orig
	show "dd if=/dev/urandom of=/mnt/orig/monday bs=1M count=64 status=none"

	step 'Two versions of it, and what differs: known without reading what is in them.'
	show dms snapshot orig -m monday
	show touch /mnt/orig/tuesday
	show dms snapshot orig -m tuesday
	show 'dms diff orig 1 2 --count || [ $? = 1 ]'

	step 'One as a whole and then what differs, into a file. In between there could be ssh, or age.'
	show mkdir -p /mnt/away
	show mount -t tmpfs none /mnt/away
	show "dms send orig 1 | dms receive /mnt/away/copy.img"
	show "dms send orig 2 --since 1 | dms receive /mnt/away/copy.img"
	show dms create tuesday $origin $cow 2
	claim 'the file is what the snapshot is' cmp -s /mnt/away/copy.img /dev/mapper/tuesday
	show dms remove tuesday

	step 'Another disk, which is to follow the origin: all of it first, then what has changed.'
	show "dms sync orig $other --state /mnt/away/state"
	show "dd if=/dev/urandom of=/mnt/orig/monday bs=4k count=100 seek=1000 conv=notrunc status=none"
	show "dms sync orig $other --state /mnt/away/state"

	step 'It does not depend on any snapshot: a bookmark is left, which takes no space for data.'
	show 'dms delete orig 1 && dms delete orig 2'
	show touch /mnt/orig/wednesday
	show "dms sync orig $other --state /mnt/away/state"
	show dms list
	show dms sync --status
	show umount /mnt/orig
	show "dms sync orig $other --state /mnt/away/state"
	claim 'the other disk is what the origin is' cmp -s "/dev/$other" /dev/mapper/orig
	show mount -o ro "/dev/$other" /mnt/orig
	show ls /mnt/orig
	claim 'with all that is in it' holds /mnt/orig monday tuesday wednesday
	show umount /mnt/orig /mnt/away
	show dms remove orig
}

# Over what the last part has left on the disk.
declare -A force=([ext4]=-F [xfs]=-f)
declare -A check=([ext4]='e2fsck -fn' [xfs]='xfs_repair -n')

cat <<EOF
${bold}dm-snap-mv: snapshots of disks that are in use, in place.${off}

This is a virtual machine with the distribution's own kernel, $(uname -r),
and the module that was just built. It has three empty disks:
EOF
lsblk -dno NAME,SIZE /dev/$origin /dev/$cow /dev/$other

part 'ext4, with dms'
session with_dms ext4 -bf
part 'xfs, with dms'
session with_dms xfs -bF
part 'ext4, with dmsetup alone'
session with_dmsetup ext4 -bF
part 'elsewhere'
elsewhere

if [ $failed = 0 ]; then
	printf '\n%sAll of it was so.%s\n' "$bold" "$off"
fi
exit $failed
