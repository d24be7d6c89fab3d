#!/bin/sh
# sbom.sh CYCLONEDX-GOMOD BIN OUT VERSION: the bill of materials of each of the six
# binaries in the folder BIN, as CycloneDX JSON into the folder OUT. It is read out of
# the binary itself: what was linked in, with versions, hashes and licences as far as
# they were recognized. The same binary gives the same file.
set -eu
cd "$(dirname "$0")/../.."
tool=$1
bin=$2
out=$3
version=$4
mkdir -p "$out"
for s in ingest launcher watcher notifier console jobrelay; do
	"$tool" bin -json -licenses -std -noserial -notimestamp -version "$version" -output "$out/$s.cdx.json" "$bin/$s" >"$out/$s.log" 2>&1 || {
		cat "$out/$s.log" >&2
		exit 1
	}
	rm "$out/$s.log"
	echo "$out/$s.cdx.json: $(grep -c '"type": "library"' "$out/$s.cdx.json") components"
done
