#!/bin/sh
# run.sh: runs deploy/e2e/upgrade with the build of now, in bin/, and the one before: the
# commit that deploy/e2e/upgrade/previous names, which `make released` writes. That is
# built out of the repository's history, once, into bin/previous. A copy without the
# history (an archive, a shallow clone) cannot; it says so, and what to do.
#
#   JOBRELAY_E2E_OPTIONAL=1  where the history is not there, says so and succeeds
set -eu
cd "$(dirname "$0")/../../.."
bin=$PWD/bin
previous=$bin/previous
commit=$(cat deploy/e2e/upgrade/previous)

say() { printf 'e2e-upgrade: %s\n' "$1" >&2; }

cannot() {
	say "NOT RUN: $1"
	if [ "${JOBRELAY_E2E_OPTIONAL:-}" = 1 ]; then exit 0; fi
	exit 1
}

if [ "$(cat "$previous/commit" 2>/dev/null)" != "$commit" ]; then
	git rev-parse --git-dir >/dev/null 2>&1 ||
		cannot "the version before is built out of the history, and this is no clone of the repository (or git is not there): run it in a full clone"
	git cat-file -e "$commit^{commit}" 2>/dev/null ||
		cannot "the version before, commit $commit, is not in this clone: git fetch --unshallow, or take a full clone"
	say "building the version before, $commit"
	rm -rf "$previous"
	mkdir -p "$previous/source"
	git archive "$commit" | tar -x -C "$previous/source"
	# One binary is each of the services by its name (docs/adr/0007).
	(cd "$previous/source" && LDFLAGS="-s -w -X github.com/jobrelay/jobrelay/pkg/process.version=before" sh deploy/build.sh "$previous/" ./services/jobrelay/cmd/jobrelay)
	for service in ingest launcher watcher notifier; do ln -s jobrelay "$previous/$service"; done
	rm -rf "$previous/source"
	echo "$commit" >"$previous/commit"
fi
JOBRELAY_KUBE_BIN=$bin/kubernetes JOBRELAY_BIN_DIR=$bin JOBRELAY_PREVIOUS_BIN_DIR=$previous \
	exec go test -tags e2e -count 1 -v -timeout 10m ./deploy/e2e/upgrade
