#!/bin/bash
# buildah with its store in the state folder, in a mount namespace of its own: what it mounts falls with it, and the
# files it keeps under /var/lib for other engines' sake do not reach the machine.
# usage: unshare --mount buildah-run.sh STATE ARGUMENT...
set -euo pipefail

state=$1
shift
exec 9<"$state"
mount -t tmpfs tmpfs /var/lib
mkdir -p "$state"
mount --no-canonicalize --bind /proc/self/fd/9 "$state"
exec 9<&-
export TMPDIR=$state/scratch
exec buildah --root "$state/containers" --runroot /var/lib/buildah-run --storage-driver overlay "$@"
