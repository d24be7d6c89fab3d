#!/bin/bash
# hold.sh DIR KUBECONFIG [up.sh's flags]: the node of up.sh for as long as standard
# input is open; it prints "up", and at the end runs down.sh --purge. Who holds the
# other end of the pipe has the node as long as it lives, however it ends.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/up.sh" "$@" </dev/null
status=$?
if [ $status = 0 ]; then
  echo up
  cat >/dev/null
fi
"$here/down.sh" "$1" --purge </dev/null || status=1
exit $status
