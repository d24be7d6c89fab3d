#!/bin/sh
# Fails where a generated file, a module file or the format is not what its
# source gives now. It writes the files anew in place, and names the stale ones.
set -eu
cd "$(dirname "$0")/.."

# state is every changed or new file with the hash of its content.
state() {
	git ls-files -mo --exclude-standard | sort | while IFS= read -r file; do
		echo "$file $(git hash-object -- "$file" 2>/dev/null || echo gone)"
	done
}

git rev-parse --git-dir >/dev/null
before=$(state)
echo "verify: generated files"
make -s generate
echo "verify: go.mod files"
go mod tidy
(cd deploy/dev/kubernetes && go mod verify >/dev/null && go mod tidy)
(cd tools/supply && go mod tidy)
echo "verify: format"
unformatted=$(gofmt -l pkg services deploy docs tools)
if [ -n "$unformatted" ]; then
	echo "verify: not formatted, run gofmt -w: $unformatted" >&2
	exit 1
fi
after=$(state)
if [ "$before" != "$after" ]; then
	echo "verify: stale; these are written anew now, look at them and commit them:" >&2
	git ls-files -mo --exclude-standard >&2
	exit 1
fi
echo "verify: all is fresh"
