#!/bin/sh
# e2e.sh: runs deploy/e2e/compose against a real Docker daemon: the one that
# answers, else one of its own, in a network namespace and a folder of its own.
# What it starts it ends, also when it fails or is interrupted.
#
#   JOBRELAY_E2E_INSTALL=1   may install Docker from Debian's mirror, as root
#   JOBRELAY_E2E_OPTIONAL=1  where no daemon can be started, says so and succeeds
#   RUN=REGEXP               only these tests
set -eu
cd "$(dirname "$0")/../.."
packages='docker.io docker-compose iptables iproute2'

say() { printf 'e2e-compose: %s\n' "$1" >&2; }

# cannot: this machine runs no daemon for us, which is not the project's fault.
cannot() {
	say "NOT RUN: $1"
	if [ "${JOBRELAY_E2E_OPTIONAL:-}" = 1 ]; then exit 0; fi
	exit 1
}

work=
namespace=
daemon=
child=
finish() {
	status=$?
	trap - EXIT INT TERM HUP
	if [ -n "$child" ]; then
		kill -TERM "-$child" 2>/dev/null || kill -TERM "$child" 2>/dev/null || :
		wait "$child" 2>/dev/null || :
	fi
	if [ -n "$work" ]; then
		if docker info >/dev/null 2>&1; then
			VOLUMES=1 inside sh deploy/docker/stack.sh down >"$work/down.log" 2>&1 || cat "$work/down.log" >&2
		fi
		if [ -n "$daemon" ]; then end_daemon; fi
		if [ -n "$namespace" ]; then ip netns del "$namespace" || :; fi
		rm -rf "$work" || say "$work could not be removed"
	fi
	exit "$status"
}

# inside runs a command where the daemon's published ports are.
inside() {
	if [ -n "$namespace" ]; then
		nsenter "--net=/run/netns/$namespace" "$@"
	else
		"$@"
	fi
}

end_daemon() {
	kill -TERM "$daemon" 2>/dev/null || :
	left=60
	while kill -0 "$daemon" 2>/dev/null && [ "$left" -gt 0 ]; do
		sleep 0.5
		left=$((left - 1))
	done
	if kill -0 "$daemon" 2>/dev/null; then
		say "the Docker daemon did not end, it is killed"
		kill -KILL "$daemon" 2>/dev/null || :
	fi
	wait "$daemon" 2>/dev/null || :
	daemon=
	# The deepest first: containers' file systems, then what holds them.
	awk -v dir="$work/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while IFS= read -r mount; do
		umount "$mount" 2>/dev/null || umount -l "$mount" 2>/dev/null || :
	done
}

# start_daemon DRIVER: true where it answers.
start_daemon() {
	# Not `ip netns exec`: it mounts /sys anew, without the cgroups below it.
	nsenter "--net=/run/netns/$namespace" dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" \
		-H "unix://$work/docker.sock" --storage-driver "$1" --oom-score-adjust 0 >"$work/dockerd.log" 2>&1 </dev/null &
	daemon=$!
	left=60
	while [ "$left" -gt 0 ] && kill -0 "$daemon" 2>/dev/null; do
		if docker info >/dev/null 2>&1; then return 0; fi
		sleep 0.5
		left=$((left - 1))
	done
	end_daemon
	return 1
}

own_daemon() {
	if [ "$(uname -s)" != Linux ]; then cannot "no Docker daemon answers; start one"; fi
	if [ "$(id -u)" != 0 ]; then cannot "no Docker daemon answers, and only root can start one; start one, or point DOCKER_HOST at it"; fi
	for tool in dockerd ip iptables nsenter; do
		command -v "$tool" >/dev/null || cannot "no Docker daemon answers, and $tool is not here to start one (Debian: apt-get install $packages)"
	done
	namespace=jobrelay-docker-$$
	export DOCKER_HOST="unix://$work/docker.sock"
	ip netns add "$namespace" 2>"$work/netns.log" || {
		namespace=
		cannot "a network namespace for the Docker daemon cannot be made: $(cat "$work/netns.log")"
	}
	ip -n "$namespace" link set lo up
	for driver in overlay2 vfs; do
		say "starting a Docker daemon in the network namespace $namespace, storage driver $driver"
		if start_daemon "$driver"; then return; fi
		rm -rf "$work/data" "$work/exec"
	done
	tail -n 5 "$work/dockerd.log" >&2
	cannot "the Docker daemon does not start here, see the lines above"
}

if [ "${JOBRELAY_E2E_INSTALL:-}" = 1 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! docker info >/dev/null 2>&1; then
	missing=false
	for tool in docker dockerd docker-compose ip iptables; do command -v "$tool" >/dev/null || missing=true; done
	if $missing; then
		say "installing $packages"
		log=$(mktemp)
		# A daemon that the package starts would be nobody's to end.
		# shellcheck disable=SC2086 # several words
		if ! { apt-get update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $packages; } >"$log" 2>&1; then
			tail -n 5 "$log" >&2
			rm -f "$log"
			cannot "Docker could not be installed, see the lines above"
		fi
		rm -f "$log"
	fi
fi
command -v docker >/dev/null || cannot "there is no docker command (Debian: apt-get install $packages)"
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || cannot "there is neither docker compose nor docker-compose"

trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
work=$(mktemp -d /tmp/jobrelay-docker.XXXXXX)
# A name of its own, and no settings of a developer's .env.
: >"$work/env"
export COMPOSE_PROJECT_NAME=jobrelay-e2e ENV_FILE="$work/env"
if docker info >/dev/null 2>&1; then
	say "a Docker daemon runs already: it is used"
else
	own_daemon
fi
CGO_ENABLED=0 go test -c -tags e2ecompose -o "$work/e2e-compose.test" ./deploy/e2e/compose
# A session of its own, so that an interrupt ends all of it.
if command -v setsid >/dev/null; then leader=setsid; else leader=; fi
began=$(date +%s)
# shellcheck disable=SC2086 # no word or one
(cd deploy/e2e/compose && exec $leader ${namespace:+nsenter "--net=/run/netns/$namespace"} \
	"$work/e2e-compose.test" -test.v -test.timeout 40m ${RUN:+-test.run "$RUN"}) </dev/null &
child=$!
status=0
wait "$child" || status=$?
child=
say "ended after $(($(date +%s) - began)) s with $status"
exit "$status"
