# shellcheck shell=bash
# Kernels: which one, its source prepared for modules in Rust, its bootable image.
#
# Debian's header packages lack the Rust metadata. Made again from the same source,
# configuration and compiler, it comes out the same, crate hashes and so symbol
# names included, and a module built so loads into the kernel that Debian signed.

KERNEL_PIN=$(<"$TOP/scripts/kernel-version")
KERNEL_FLAVOUR=${KERNEL_PIN#*+}
KERNEL_PIN=${KERNEL_VERSION:-$KERNEL_PIN}

# In the tree of apt lists. Others may be at it too.
archive_update() {
	[ -z "${ARCHIVE_UPDATED:-}" ] || return 0
	local fd
	exec {fd}>"$DMS_CACHE/lock/archive"
	flock "$fd"
	step archive "the archive's list of kernels" \
		chroot_run "$ROOT" -- apt-get -q update
	exec {fd}>&-
	ARCHIVE_UPDATED=1
}

# in_archive PACKAGE-PATTERN: the packages of this name that can be had, sorted.
in_archive() {
	chroot_run "$ROOT" -- apt-cache pkgnames "${1%%[*]*}" |
		grep -xE "$(sed 's/[.+]/\\&/g; s/\*/.*/g' <<<"$1")" | sort -V || true
}

# KERNEL: the full name of the kernel that WORD means: nothing for the pinned one,
# 7.3.4, debug, or a full name. One that the archive has dropped becomes the newest of its
# series, since that serves as well and a build must not fail for it.
resolve_kernel() {
	local word=${1:-$KERNEL_PIN} series flavour found
	if [ "$word" = debug ]; then
		resolve_kernel
		resolve_debug
		return
	fi
	case $word in
	*+*) KERNEL=$word ;;
	*) KERNEL=$word+$KERNEL_FLAVOUR ;;
	esac
	flavour=${KERNEL#*+}
	if [ -e "$DMS_CACHE/instead-of-$KERNEL" ]; then
		KERNEL=$(<"$DMS_CACHE/instead-of-$KERNEL")
	fi
	kernel_key
	[ ! -e "$DMS_CACHE/$KERNEL_KEY" ] || return 0
	archive_update
	[ -z "$(in_archive "linux-headers-$KERNEL")" ] || return 0

	series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$KERNEL")
	# With a signed image if possible: only that one can be booted.
	found=$(in_archive "linux-binary-$series.*+$flavour" | tail -n1)
	[ -n "$found" ] || found=$(in_archive "linux-headers-$series.*+$flavour" | tail -n1)
	[ -n "$found" ] || found=$(in_archive "linux-binary-*+$flavour" | sed '/unsigned/d' | tail -n1)
	[ -n "$found" ] || die "the archive has no kernel like $KERNEL"
	found=${found#linux-*-}
	say "NOTE: the archive no longer has kernel $KERNEL: using $found instead"
	printf '%s\n' "$found" >"$DMS_CACHE/instead-of-$KERNEL"
	KERNEL=$found
	kernel_key
}

kernel_key() {
	KERNEL_KEY=kernel-$KERNEL-$(key "$SUITE" @make_kernel @prepare_kernel "$PREPARE")
}

# fetch PACKAGE...: unpack packages into $OUT without installing them.
fetch() {
	local deb
	mkdir -p "$OUT/deb"
	chroot_run "$ROOT" "$OUT/deb" /mnt -- sh -c 'cd /mnt && apt-get -q -o APT::Sandbox::User=root download "$@"' sh "$@"
	for deb in "$OUT"/deb/*.deb; do
		dpkg-deb -x "$deb" "$OUT/deb/x"
		rm "$deb"
	done
}

# Inside the build root, source at the path where modules are built against it: it
# must not move afterwards, or kbuild would make it again.
# shellcheck disable=SC2016
PREPARE='
	cd "$1"
	release=$2
	make olddefconfig
	make -j"$(nproc)" LOCALVERSION=+"${release#*+}" prepare modules_prepare
	[ "$(cat include/config/kernel.release)" = "$release" ]
	ls rust/libcore.rmeta rust/libkernel.rmeta
'
prepare_kernel() {
	chroot_run "$ROOT" "$OUT/tree" "/usr/src/linux-$1" -- \
		sh -euc "$PREPARE" prepare "/usr/src/linux-$1" "$1"
}

make_kernel() {
	local name=$1 series version headers
	series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$name")
	# The source of that very package, should the archive have several.
	version=$(chroot_run "$ROOT" -- apt-cache show --no-all-versions "linux-headers-$name" |
		awk '/^Version:/ { print $2; exit }')
	fetch "linux-headers-$name=$version" "linux-source-$series=$version"
	mkdir "$OUT/tree"
	chroot_run "$ROOT" "$OUT" /mnt -- tar -C /mnt/tree --strip-components=1 \
		-xf "/mnt/deb/x/usr/src/linux-source-$series.tar.xz"
	headers=$OUT/deb/x/usr/src/linux-headers-$name
	cp "$headers/.config" "$headers/Module.symvers" "$OUT/tree/"
	# Other flags or another compiler would give other symbol names.
	local want have
	want=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"/\1/p' "$OUT/tree/.config")
	have=$(chroot_run "$ROOT" -- rustc --version)
	[ "$want" = "$have" ] || die "kernel $name was built with $want, the build root has $have"
	prepare_kernel "$name"
	cp "$headers/Module.symvers" "$OUT/tree/"
	rm -rf "$OUT/deb"
}

# KERNEL, KERNEL_DIR: the prepared source of the kernel that WORD means, which
# inside the build root is /usr/src/linux-$KERNEL.
kernel_tree() {
	resolve_kernel "${1:-}"
	case $KERNEL in
	*+debug)
		cached "$KERNEL_KEY" "kernel $KERNEL: built, this takes a quarter of an hour" \
			make_debug "$KERNEL" "$DEBUG_OF"
		;;
	*) cached "$KERNEL_KEY" "kernel $KERNEL: source, prepared for Rust" make_kernel "$KERNEL" ;;
	esac
	KERNEL_DIR=$CACHED/tree
}

# Every prepared source at its place inside the build root.
kernel_mounts() {
	local dir name
	KERNEL_MOUNTS=()
	for dir in "$DMS_CACHE"/kernel-*/tree; do
		[ -d "$dir" ] || continue
		name=${dir%-*}
		KERNEL_MOUNTS+=("$dir" "/usr/src/linux-${name##*/kernel-}")
	done
}

# The workspace's programs are static, so that what the build root makes runs on other releases too.
# For this target alone: proc macros are loaded by the compiler and cannot be static.
CARGO_TARGET=x86_64-unknown-linux-gnu

# CARGO_ENV: what cargo is run with for the workspace and that target.
cargo_env() {
	# shellcheck disable=SC2034  # it is for who calls
	CARGO_ENV=(env CARGO_HOME="$DMS_CACHE/cargo" CARGO_TARGET_DIR="$(cargo_target)"
		CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static")
}

cargo_target() { printf '%s\n' "$DMS_CACHE/target-$(key "$TOP")"; }
