#!/bin/sh
# needs.sh: whether this machine can have a real node: root on Linux, with some
# Debian packages. It says in one line what is missing, and fails.
#
#   JOBRELAY_E2E_INSTALL=1   installs the packages that are missing from Debian's mirror
set -eu
cannot() {
	printf 'a real node: %s\n' "$1" >&2
	exit 1
}
[ "$(uname -s)" = Linux ] || cannot "it needs Linux, this is $(uname -s)"
[ "$(id -u)" = 0 ] || cannot "it needs root (containers, cgroups, mounts): sudo make e2e-node"

missing=
[ -x /usr/bin/containerd ] || missing="$missing containerd"
[ -x /usr/sbin/runc ] || missing="$missing runc"
[ -x /usr/lib/cni/bridge ] || missing="$missing containernetworking-plugins"
# The image of busybox is made of this binary, so it links nothing.
if [ ! -x /bin/busybox ] || ldd /bin/busybox >/dev/null 2>&1; then missing="$missing busybox-static"; fi
command -v ip >/dev/null || missing="$missing iproute2"
command -v mount >/dev/null || missing="$missing mount"
command -v unshare >/dev/null || missing="$missing util-linux"
[ -n "$missing" ] || exit 0

command -v apt-get >/dev/null || cannot "it needs what Debian packages as$missing"
[ "${JOBRELAY_E2E_INSTALL:-}" = 1 ] || cannot "it needs$missing: apt-get install$missing, or JOBRELAY_E2E_INSTALL=1 does it"
printf 'a real node: installing%s\n' "$missing" >&2

# policy-rc.d: Debian starts no containerd of its own.
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
ours=
trap 'rm -f "$log" ${ours:+"$ours"}' EXIT
trap 'exit 130' INT TERM
if [ ! -e "$policy" ]; then
	ours=$policy
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
fi
# shellcheck disable=SC2086 # a list of names
if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing; } >"$log" 2>&1; then
	tail -n 5 "$log" >&2
	cannot "apt-get could not install$missing, see above"
fi
