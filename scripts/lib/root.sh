# shellcheck shell=bash
# The build root: a Debian tree with every tool in it, and the way in. Compiling
# happens nowhere else, so that it comes out the same on every machine.

ROOT_PACKAGES=$TOP/scripts/lib/packages-root

# ROOT: the build root's folder.
build_root() {
	local -a packages
	base_tree
	mapfile -t packages < <(grep -v '^#' "$ROOT_PACKAGES")
	ROOT=$DMS_CACHE/root-$(key "${BASE##*/}" @make_tree "${packages[@]}")
	cached "${ROOT##*/}" "build root: compilers and tools" make_tree "${packages[@]}"
}

# Mounts the tree's surroundings and becomes the command. Runs in its own mount
# namespace: what is mounted goes with the last process, however that ends.
# shellcheck disable=SC2016  # it is another shell's text
ENTER='
	set -eu
	root=$1 cwd=$2
	shift 2
	for d in proc sys dev; do mount --rbind "/$d" "$root/$d"; done
	mount --bind /tmp "$root/tmp"
	for f in etc/resolv.conf etc/hosts etc/ssl/certs/ca-certificates.crt; do
		if [ -s "/$f" ] && [ -e "$root/$f" ]; then mount --bind "/$f" "$root/$f"; fi
	done
	while [ "$1" != -- ]; do
		mkdir -p "$root$2"
		mount --bind "$1" "$root$2"
		shift 2
	done
	shift
	[ -d "$root$cwd" ] || cwd=/
	exec env -i -C / "${ENTER_ENV[@]}" chroot "$root" env -C "$cwd" "$@"
'

# ENV: what of the environment goes in: how to reach registries, what to test.
chroot_env() {
	local name
	ENV=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
		HOME=/root LANG=C.UTF-8 "TERM=${TERM:-dumb}" DEBIAN_FRONTEND=noninteractive)
	for name in $(compgen -e); do
		case $name in
		*_proxy | *_PROXY | CARGO_HTTP_* | CARGO_NET_* | CARGO_REGISTR* | CARGO_SOURCE_* | \
			CARGO_TERM_* | CARGO_INCREMENTAL | CARGO_BUILD_JOBS | CARGO_PROFILE_* | RUST_* | \
			RUSTFLAGS | RUSTDOCFLAGS | PROPTEST_* | TEST_* | DMS_* | CI | SOURCE_DATE_EPOCH)
			ENV+=("$name=${!name}")
			;;
		esac
	done
}

# chroot_exec TREE [FROM TO]... -- COMMAND...: become COMMAND inside TREE, with
# FROM mounted at TO.
chroot_exec() {
	local tree=$1
	shift
	chroot_env
	exec unshare -m --propagation private -- bash -c "
		ENTER_ENV=($(printf '%q ' "${ENV[@]}"))
		$ENTER" enter "$tree" "$PWD" "$@"
}

chroot_run() { (chroot_exec "$@"); }

# The registries that this machine's cargo is set up to use, and nothing else of
# its configuration: linkers and flags are this machine's, not the build root's.
cargo_config() {
	local from
	mkdir -p "$DMS_CACHE/cargo"
	for from in "${CARGO_HOME:-$HOME/.cargo}"/config{.toml,}; do
		[ -e "$from" ] || continue
		awk '/^\[/ { keep = /^\[+(source|registry|registries|http|net)[].]/ } keep' \
			"$from" >"$DMS_CACHE/cargo/config.toml.$$"
		mv "$DMS_CACHE/cargo/config.toml.$$" "$DMS_CACHE/cargo/config.toml"
		return
	done
}

# root_exec [FROM TO]... -- COMMAND...: become COMMAND inside the build root, where
# the checkout and the cache are at the same paths as outside.
root_exec() {
	cargo_config
	export DMS_TOP=$TOP
	chroot_exec "$ROOT" "$TOP" "$TOP" "$DMS_CACHE" "$DMS_CACHE" \
		"${KERNEL_MOUNTS[@]}" "$@"
}

root_run() { (root_exec "$@"); }

# Where the kernel sources are inside (see kernel.sh).
KERNEL_MOUNTS=()
