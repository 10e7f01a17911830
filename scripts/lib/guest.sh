# shellcheck shell=bash
# The guest: its disk, which no kernel is part of, and for each kernel the image
# that boots and a disk with its modules. The stock kernel has nvme and ext4 built
# in, so these two disks need no initramfs.

GUEST_PACKAGES=$TOP/scripts/lib/packages-guest

# The kernel starts this. The rest comes with the payload, so that a change of it
# makes no new disk.
GUEST_INIT='#!/bin/bash
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mount -o ro /dev/nvme0n2 /lib/modules
modprobe -q virtio_blk
mount -o ro /dev/vda /payload
exec /payload/.vm/init
'

# LVM as it is where no udev runs.
GUEST_LVM='
activation { udev_sync = 0  udev_rules = 0  monitoring = 0 }
devices {
	use_devicesfile = 0
	obtain_device_list_from_udev = 0
	external_device_info_source = "none"
}
global { event_activation = 0  use_lvmpolld = 0 }
backup { backup = 0  archive = 0 }
'

# image FOLDER FILE: a disk made from a folder, with room to spare of 1/4 and 64 MiB.
# Runs in the build root.
# shellcheck disable=SC2016
IMAGE='
	blocks=$(du -s --block-size=4096 "$1" | cut -f1)
	rm -f "$2"
	mke2fs -q -t ext4 -b 4096 -m 0 -O ^has_journal -E lazy_itable_init=1,nodiscard \
		-d "$1" "$2" $((blocks + blocks / 4 + 16384))
'
image() { root_run "$(dirname "$2")" /mnt -- sh -euc "$IMAGE" image "$1" "/mnt/${2##*/}"; }

make_guest() {
	local final=$OUT
	OUT=$final/tree
	mkdir "$OUT"
	make_tree "$@"
	printf '%s' "$GUEST_INIT" >"$OUT/sbin/vm-init"
	chmod 755 "$OUT/sbin/vm-init"
	printf '%s' "$GUEST_LVM" >"$OUT/etc/lvm/lvm.conf"
	mkdir -p "$OUT/payload" "$OUT/lib/modules"
	: >"$OUT/etc/fstab"
	echo guest >"$OUT/etc/hostname"
	printf '127.0.0.1 localhost guest\n' >"$OUT/etc/hosts"
	ln -sf /proc/self/mounts "$OUT/etc/mtab"
	rm -rf "$OUT"/var/lib/apt/lists/* "$OUT"/var/cache/apt/*
	image "$OUT" "$final/root.img"
	rm -rf --one-file-system "$OUT"
}

# GUEST: the folder of the guest's disk.
guest() {
	local -a packages
	base_tree
	mapfile -t packages < <(grep -v '^#' "$GUEST_PACKAGES")
	cached "guest-$(key "${BASE##*/}" @make_tree @make_guest "$GUEST_INIT" "$GUEST_LVM" \
		"$IMAGE" "${packages[@]}")" "guest's disk" make_guest "${packages[@]}"
	GUEST=$CACHED
}

make_boot() {
	local name=$1 package
	# A kernel that is too new to have been signed boots here all the same.
	package=linux-binary-$name
	chroot_run "$ROOT" -- apt-cache show "$package" >/dev/null 2>&1 ||
		package=linux-binary-unsigned-$name
	# The list of what is built in has a package of its own.
	fetch "$package" "linux-modules-$name" "linux-base-$name"
	mv "$(find "$OUT/deb/x" -name 'vmlinuz*' | head -n1)" "$OUT/vmlinuz"
	modules_image "$OUT/deb/x" "$name"
	rm -rf "$OUT/deb"
}

# modules_image FOLDER NAME: from FOLDER/usr/lib/modules.
modules_image() {
	[ -d "$1/usr/lib/modules" ] || { mkdir -p "$1/usr/lib" && mv "$1/lib/modules" "$1/usr/lib/"; }
	root_run -- /sbin/depmod -b "$1/usr" "$2"
	image "$1/usr/lib/modules" "$OUT/modules.img"
}

# BOOT: the folder of what boots kernel WORD (see resolve_kernel).
boot() {
	resolve_kernel "${1:-}"
	cached "boot-$KERNEL-$(key "${ROOT##*/}" @make_boot @modules_image "$IMAGE")" \
		"kernel $KERNEL: image and modules" make_boot "$KERNEL"
	BOOT=$CACHED
}
