# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# udev, where a test wants it: no other has it, and everything works without.

# Starts it, with this project's rules where `make install` puts them, and has it look at what there is.
begin_udev() {
	unset DM_DISABLE_UDEV
	mkdir -p /run/udev
	install_rules
	/usr/lib/systemd/systemd-udevd --daemon --resolve-names=never || return
	udevadm trigger --subsystem-match=block --action=add
	settle
}

rules=/usr/local/lib/udev/rules.d
install_rules() {
	install -D -m 644 -t "$rules" /payload/scripts/package/udev/*.rules
	[ ! -e /run/udev/control ] || udevadm control --reload
}
remove_rules() {
	rm "$rules"/*-dm-snap-mv.rules
	udevadm control --reload
}

# Until all that has happened has been dealt with.
settle() { udevadm settle -t 120; }
