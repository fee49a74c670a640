#!/bin/bash
# Enter the node's cgroups, then its namespaces, then its init.
# usage: node-launch.sh STATE NODE NETNS CGROUP...
set -euo pipefail

state=$1 name=$2 netns=$3
shift 3
for cgroup in "$@"; do
  echo $$ >"$cgroup/cgroup.procs"
done
exec nsenter --net="/run/netns/$netns" unshare --pid --fork --kill-child --mount --uts --ipc --mount-proc \
  "$(dirname "$0")/node-init.sh" "$state" "$name"
