# shellcheck shell=bash
# The guest: its tree, and for each kernel the image that boots and a disk of the
# tree with the kernel's modules. One disk, for the order in which nvme finds several
# is chance. The stock kernel has nvme and ext4 built in, so no initramfs is needed.

GUEST_PACKAGES=$TOP/scripts/lib/packages-guest

# The kernel starts this. The rest comes with the payload, so that a change of it
# makes no new disk.
GUEST_INIT='#!/bin/bash
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
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

# image FOLDER FILE [FROM TO]...: a disk made from a folder, with what is mounted
# there, and with room to spare of 1/4 and 64 MiB. Made in the build root.
# shellcheck disable=SC2016
IMAGE='
	blocks=$(du -s --block-size=4096 "$1" | cut -f1)
	rm -f "$2"
	mke2fs -q -t ext4 -b 4096 -m 0 -O ^has_journal -E lazy_itable_init=1,nodiscard \
		-d "$1" "$2" $((blocks + blocks / 4 + 16384))
'
image() {
	local from=$1 to=$2
	shift 2
	root_run "$from" /mnt "$@" -- sh -euc "$IMAGE" image /mnt "$to"
}

make_guest() {
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
}

# GUEST: the guest's tree.
guest() {
	local -a packages
	base_tree
	mapfile -t packages < <(grep -v '^#' "$GUEST_PACKAGES")
	cached "guest-$(key "${BASE##*/}" @make_tree @make_guest "$GUEST_INIT" "$GUEST_LVM" \
		"${packages[@]}")" "guest: tools for the tests" make_guest "${packages[@]}"
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
	guest_disk "$OUT/deb/x" "$name"
	rm -rf "$OUT/deb"
}

# guest_disk FOLDER NAME: with the modules in FOLDER.
guest_disk() {
	local modules=$1/usr/lib/modules
	[ -d "$modules" ] || modules=$1/lib/modules
	# Each machine would take seconds to unpack the few that it loads.
	root_run "$modules" /mnt/lib/modules -- sh -euc '
		find /mnt/lib/modules -name "*.ko.xz" -exec xz -d {} +
		find /mnt/lib/modules -name "*.ko.zst" -exec zstd -q -d --rm {} +
		/sbin/depmod -b /mnt "$1"
	' depmod "$2"
	image "$GUEST" "$OUT/root.img" "$modules" /mnt/usr/lib/modules
}

# BOOT: the folder of what boots kernel WORD (see resolve_kernel).
boot() {
	resolve_kernel "${1:-}"
	guest
	case $KERNEL in
	*+debug)
		kernel_tree debug
		cached "boot-$KERNEL-$(key "$KERNEL_KEY" "${GUEST##*/}" @make_debug_boot @guest_disk \
			@image "$IMAGE")" "kernel $KERNEL: its disk" make_debug_boot "$KERNEL"
		BOOT=$CACHED
		return
		;;
	esac
	cached "boot-$KERNEL-$(key "${GUEST##*/}" @make_boot @guest_disk @image "$IMAGE")" \
		"kernel $KERNEL: its image and disk" make_boot "$KERNEL"
	BOOT=$CACHED
}
