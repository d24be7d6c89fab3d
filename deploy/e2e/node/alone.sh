#!/bin/sh
# alone.sh PROGRAM ARGUMENT...: runs the program, and all that it starts, in network
# and mount namespaces of its own. What it mounts is not seen from outside. There is
# no network but loopback and 198.51.100.1 (nobody's: RFC 5737), which is the address
# of k8s-node-1: API servers look for a kubelet by its node's name.
set -eu
exec unshare --net --mount --propagation private -- sh -euc '
	ip link set lo up
	ip address add 198.51.100.1/32 dev lo
	hosts=$(mktemp)
	printf "127.0.0.1 localhost\n198.51.100.1 k8s-node-1\n" >"$hosts"
	mount --bind "$hosts" /etc/hosts
	rm "$hosts"
	exec "$@"' alone "$@"
