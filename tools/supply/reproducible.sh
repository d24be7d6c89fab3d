#!/bin/sh
# reproducible.sh: builds the six binaries twice, here and in a copy of the source at
# another path, the second time without Go's build cache, and compares them.
#
# Both have the same VERSION and no stamp of the version control: a release built from
# an unpacked archive is then the one that is built from a clone.
set -eu
cd "$(dirname "$0")/../.."
say() { printf 'reproducible: %s\n' "$1" >&2; }
work=$(mktemp -d)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
services='ingest launcher watcher notifier console jobrelay'
VERSION=${VERSION:-v0.0.0-reproducible}
LDFLAGS="-s -w -X github.com/jobrelay/jobrelay/pkg/process.version=$VERSION"
export LDFLAGS GOFLAGS=-buildvcs=false
packages=
for s in $services; do packages="$packages ./services/$s/cmd/$s"; done

mkdir "$work/first" "$work/second" "$work/source" "$work/cache"
say "first build, of $PWD"
# shellcheck disable=SC2086 # a list
sh deploy/build.sh "$work/first/" $packages
say "second build, of a copy at another path and without a cache: some minutes"
tar -cf - --exclude=./bin --exclude=./.git --exclude=node_modules . | tar -xf - -C "$work/source"
# shellcheck disable=SC2086
(cd "$work/source" && GOCACHE="$work/cache" sh deploy/build.sh "$work/second/" $packages)
status=0
for s in $services; do
	a=$(sha256sum <"$work/first/$s" | cut -d' ' -f1)
	b=$(sha256sum <"$work/second/$s" | cut -d' ' -f1)
	if [ "$a" = "$b" ]; then
		echo "$a  $s"
	else
		echo "differs: $s: $a, $b" >&2
		status=1
	fi
done
[ "$status" -eq 0 ] && say "the six binaries of $VERSION are the same, byte for byte ($(go version | cut -d' ' -f3,4))"
exit "$status"
