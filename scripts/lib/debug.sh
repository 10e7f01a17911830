# shellcheck shell=bash
# The debug kernel: of the pinned kernel's source, with the checks of debug-config,
# and everything but our own module built in. It is not the kernel that the module
# is for, so whatever passes here is run on the stock one too.

DEBUG_CONFIG=$TOP/scripts/lib/debug-config

# KERNEL, KERNEL_KEY, after resolve_kernel has found the pinned one.
resolve_debug() {
	DEBUG_OF=$KERNEL
	KERNEL=${KERNEL%%+*}+debug
	KERNEL_KEY=kernel-$KERNEL-$(key "$DEBUG_OF" @make_debug "$DEBUG_BUILD" \
		"$(grep -E '^(# )?CONFIG_' "$DEBUG_CONFIG")")
}

# Long work, and nobody's hurry: it leaves the processors to others.
DEBUG_BUILD='
	cd "$1"
	release=$2
	# Rust goes with KASAN only if clang compiles the rest.
	export LLVM=1
	make tinyconfig
	scripts/kconfig/merge_config.sh -m .config "$3"
	make olddefconfig
	bad=
	while read -r line; do
		case $line in
		CONFIG_*) grep -qxF "$line" .config || bad="$bad $line" ;;
		"# CONFIG_"*"not set") ! grep -q "^${line:2:-11}=" .config || bad="$bad ($line)" ;;
		esac
	done <"$3"
	[ -z "$bad" ] || { echo "not taken:$bad"; exit 1; }
	nice -n 10 make -j"$(nproc)" LOCALVERSION=+"${release#*+}" bzImage modules
	make LOCALVERSION=+"${release#*+}" INSTALL_MOD_PATH=/mnt/modules DEPMOD=true modules_install
	[ "$(cat include/config/kernel.release)" = "$release" ]
'

make_debug() {
	local name=$1 of=$2 series version
	series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$of")
	version=$(chroot_run "$ROOT" -- apt-cache show --no-all-versions "linux-headers-$of" |
		awk '/^Version:/ { print $2; exit }')
	fetch "linux-source-$series=$version"
	mkdir "$OUT/tree" "$OUT/modules"
	chroot_run "$ROOT" "$OUT" /mnt -- tar -C /mnt/tree --strip-components=1 \
		-xf "/mnt/deb/x/usr/src/linux-source-$series.tar.xz"
	rm -rf "$OUT/deb"
	cp "$DEBUG_CONFIG" "$OUT/debug-config"
	chroot_run "$ROOT" "$OUT" /mnt "$OUT/tree" "/usr/src/linux-$name" -- \
		bash -euc "$DEBUG_BUILD" build "/usr/src/linux-$name" "$name" /mnt/debug-config
}

# In $OUT, what boots it.
make_debug_boot() {
	cp "$KERNEL_DIR/arch/x86/boot/bzImage" "$OUT/vmlinuz"
	mkdir -p "$OUT/x/usr/lib"
	cp -a "$KERNEL_DIR/../modules/lib/modules" "$OUT/x/usr/lib/modules"
	rm -f "$OUT"/x/usr/lib/modules/*/{build,source}
	guest_disk "$OUT/x" "$1"
	rm -rf "$OUT/x"
}
