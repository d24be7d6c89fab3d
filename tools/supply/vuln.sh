#!/bin/sh
# vuln.sh GOVULNCHECK PACKAGE...: known vulnerabilities that the packages' code calls.
#
# Exit code 0: none; 3: some, and which. Where the database cannot be reached nothing
# was checked: that is said in plain words, with exit code 0, or 1 with
# JOBRELAY_VULN_REQUIRED=1. GOVULNDB names another database, such as a mirror.
set -u
govulncheck=$1
shift
out=$(mktemp)
trap 'rm -f "$out"' EXIT
"$govulncheck" ${GOVULNDB:+-db "$GOVULNDB"} "$@" >"$out" 2>&1
code=$?
cat "$out"
if [ "$code" -ne 0 ] && grep -q '^govulncheck: fetching vulnerabilities:' "$out"; then
	echo "vuln: the database of vulnerabilities cannot be reached from here: NOTHING WAS CHECKED; try again elsewhere, or name a mirror with GOVULNDB" >&2
	[ -z "${JOBRELAY_VULN_REQUIRED:-}" ] || exit 1
	exit 0
fi
exit "$code"
