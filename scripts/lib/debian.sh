# shellcheck shell=bash
# Debian trees, made from the very mirror that this machine's own apt uses, so
# that a proxy, a local mirror or a company's copy serves here too.

SUITE=trixie

# What of apt's configuration says how to reach the archive.
apt_access() {
	apt-config dump --format '%f "%v";%n' |
		grep -Ei '^Acquire::((http|https|ftp)(::|\b)|Retries|ForceIPv[46]|Languages)' |
		grep -Evi '^Acquire::[a-z]+ "";' || true
}

# MIRROR: the archive's address. apt itself is asked, since it alone reads all of
# its formats. A mirror list counts with its first line.
find_mirror() {
	[ -z "${MIRROR:-}" ] || return 0
	MIRROR=${DMS_MIRROR:-}
	local uri label
	if [ -z "$MIRROR" ]; then
		host_update
		while read -r uri label; do
			case $uri in
			mirror+file:*)
				uri=${uri#mirror+file:}
				uri=$(grep -Eom1 '^[a-z]+://[^[:space:]]+' "$uri" || true)
				;;
			esac
			case $label:$uri in
			Debian:[a-z]*://*) MIRROR=$uri && break ;;
			esac
		done < <(apt-get indextargets --format '$(REPO_URI) $(LABEL)' \
				'Created-By: Packages' 'Origin: Debian')
	fi
	[ -n "$MIRROR" ] || die "apt has no Debian archive configured; name one: DMS_MIRROR=URL"
	MIRROR=${MIRROR%/}
}

# Once a run at most, and only when something is to be fetched. A third party's
# archive that fails is no reason to stop.
host_update() {
	[ -z "${HOST_UPDATED:-}" ] || return 0
	say "  ...  apt-get update"
	apt-get -qq update >&2 || say "apt-get update failed, going on with what apt knows"
	HOST_UPDATED=1
}

# host_tool COMMAND PACKAGE: have COMMAND on this machine.
host_tool() {
	! command -v "$1" >/dev/null 2>&1 || return 0
	host_update
	say "  ...  apt-get install $2"
	DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$2" \
		>/dev/null </dev/null || die "cannot install $2 on this machine"
}

# The bare tree. In its own mount namespace, since debootstrap mounts.
make_base() {
	local proxy keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	proxy=$(apt-config dump --format '%v%n' Acquire::http::Proxy)
	if [ -n "$proxy" ] && [ "$proxy" != DIRECT ]; then
		export http_proxy=$proxy
	fi
	unshare -m --propagation private debootstrap --variant=minbase --merged-usr \
		--keyring="$keyring" "$SUITE" "$OUT" "$MIRROR"
	cat >"$OUT/etc/apt/sources.list" <<-EOF
		deb [signed-by=$keyring] $MIRROR $SUITE main
		deb [signed-by=$keyring] $MIRROR $SUITE-backports main
	EOF
	apt_access >"$OUT/etc/apt/apt.conf.d/90access"
	printf '%s\n' 'APT::Install-Recommends "false";' 'Acquire::Languages "none";' \
		>"$OUT/etc/apt/apt.conf.d/91lean"
	# A tree that is thrown away when it is not whole needs no fsync; nobody reads
	# manuals in it.
	cat >"$OUT/etc/dpkg/dpkg.cfg.d/lean" <<-EOF
		force-unsafe-io
		path-exclude=/usr/share/doc/*
		path-exclude=/usr/share/man/*
		path-exclude=/usr/share/locale/*
	EOF
	printf '#!/bin/sh\nexit 101\n' >"$OUT/usr/sbin/policy-rc.d"
	chmod 755 "$OUT/usr/sbin/policy-rc.d"
	# The machine's own are mounted over these.
	rm -f "$OUT/etc/resolv.conf" "$OUT/etc/hosts"
	touch "$OUT/etc/resolv.conf" "$OUT/etc/hosts"
	rm -f "$OUT"/var/cache/apt/archives/*.deb
}

# BASE: the bare tree's folder.
base_tree() {
	BASE=$DMS_CACHE/debian-$SUITE-$(key @make_base @apt_access)
	[ ! -e "$BASE" ] || return 0
	find_mirror
	host_tool debootstrap debootstrap
	[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
		host_tool no-such-command debian-archive-keyring
	cached "${BASE##*/}" "Debian $SUITE, bare" make_base
}

# make_tree PACKAGE...: the bare tree and these packages.
make_tree() {
	cp -a "$BASE/." "$OUT/"
	chroot_run "$OUT" -- apt-get -q update
	chroot_run "$OUT" -- apt-get -q -y install "$@"
	rm -f "$OUT"/var/cache/apt/archives/*.deb
}
