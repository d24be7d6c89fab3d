#!/bin/sh
# build.sh OUT: builds the local Kubernetes control plane into the file OUT.
#
# The first build compiles 2,600 packages, some 5 minutes on 2 cores; Go's build
# cache keeps them, so that later builds take seconds. The flags are the same on
# every build, since other flags would compile everything again: no inlining and
# no DWARF, which take 38 % off the time. Progress goes to standard error.
set -eu

kubernetes=1.37.2
version=k8s.io/component-base/version
ldflags="-s -w -X $version.gitVersion=v$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=37"

# The environment is part of what must stay the same. GOGC trades memory for time.
export CGO_ENABLED=0 GOWORK=off GOGC=400

fail() {
	say "$1"
	exit 1
}

# say prints a line; tell prints one that the next may rewrite on a terminal.
rewriting=false
say() {
	if $rewriting; then printf '\n' >&2; fi
	rewriting=false
	printf 'kubernetes: %s\n' "$1" >&2
}
tell() {
	if [ -t 2 ]; then
		printf '\r\033[Kkubernetes: %s' "$1" >&2
		rewriting=true
	else
		printf 'kubernetes: %s\n' "$1" >&2
	fi
}

# run PROGRESS COMMAND...: runs the command with its output in $work/out and
# $work/err, and has the function PROGRESS say how far it is: each 5 s, or each
# second on a terminal.
job=
run() {
	progress=$1
	shift
	"$@" >"$work/out" 2>"$work/err" &
	job=$!
	seconds=0
	every=5
	if [ -t 2 ]; then every=1; fi
	while kill -0 "$job" 2>/dev/null; do
		sleep 1
		seconds=$((seconds + 1))
		if [ $((seconds % every)) -eq 0 ] && kill -0 "$job" 2>/dev/null; then
			"$progress"
		fi
	done
	status=0
	wait "$job" || status=$?
	job=
	return "$status"
}

# finish ends what still runs and removes what is half written. SIGINT, not
# SIGTERM: the go command then waits for its compilers and removes its folder.
finish() {
	status=$?
	trap - EXIT
	if [ -n "$job" ]; then
		kill -INT "$job" 2>/dev/null || :
		wait "$job" 2>/dev/null || :
	fi
	if $rewriting; then printf '\n' >&2; fi
	rm -rf "$work"
	exit "$status"
}

downloading() {
	tell "downloading modules: $(grep -c '^go: downloading' "$work/err" || :) so far, $seconds s"
}

compiling() {
	compiled=$(wc -l <"$work/err" | tr -d ' ')
	if [ "$(tail -n 1 "$work/err")" = "$main" ]; then
		tell "linking, $seconds s"
	elif [ "$compiled" -eq 0 ]; then
		tell "checking the build cache, $seconds s"
	else
		tell "$compiled/$total packages, $seconds s"
	fi
}

[ $# -eq 1 ] && [ -n "$1" ] || fail "usage: build.sh OUT, where OUT is the file to write"
command -v go >/dev/null || fail "the go command is missing; install Go 1.26 or newer"

mkdir -p -- "$(dirname -- "$1")" || fail "choose another OUT"
folder=$(CDPATH='' cd -- "$(dirname -- "$1")" && pwd)
out=$folder/$(basename -- "$1")
[ ! -d "$out" ] || fail "$out is a folder; name the file to write"

# Beside OUT, so that the finished binary moves there in one step.
work=$(mktemp -d "$folder/.kubernetes-build.XXXXXX") || fail "$folder cannot be written to; choose another OUT"
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

cd -- "$(dirname -- "$0")"
main=$(go list -m)

say "building; the first time takes about 5 minutes on 2 cores, later ones seconds"
if ! run downloading go list -deps .; then
	grep -v '^go: downloading' "$work/err" >&2 || :
	fail "the modules could not be read; check the network or GOPROXY, then try again: what was downloaded is kept"
fi
total=$(wc -l <"$work/out" | tr -d ' ')

if ! run compiling go build -v -buildvcs=false -gcflags='all=-l -dwarf=false' -ldflags="$ldflags" -o "$work/kubernetes" .; then
	# The names of the packages have no space and no colon; errors do.
	grep '[[:space:]:]' "$work/err" >&2 || :
	fail "the build failed after $seconds s, see above; what was compiled is kept"
fi
compiled=$(wc -l <"$work/err" | tr -d ' ')
mv -f -- "$work/kubernetes" "$out"
say "built in $seconds s ($compiled of $total packages compiled, the others were cached)"
