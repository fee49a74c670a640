#!/bin/bash
# Init of one node, process 1 of its pid namespace: private mounts, then containerd and the kubelet for as long as it
# lives. Killing it ends every process of the node and drops every mount.
# usage: node-init.sh STATE NODE
set -euo pipefail

state=$1 name=$2
node=$state/nodes/$name

# The machine's own folders stay as they are: what a node writes goes to tmpfs or to the node's folder. The state
# folder is held by a descriptor, because one of the tmpfs may cover its path.
mount --make-rprivate /
exec 9<"$state"
mkdir -p "$node/written"
mount -t tmpfs tmpfs "$node/written"
# Made by kube-proxy's pod in /lib where the machine has none.
system=(/etc)
[ -d /lib/modules ] || system+=("$(readlink -f /lib)")
for folder in "${system[@]}"; do
  mkdir -p "$node/written$folder/upper" "$node/written$folder/work"
  mount -t overlay overlay "$folder" \
    -o "lowerdir=$folder,upperdir=$node/written$folder/upper,workdir=$node/written$folder/work"
done
for folder in /run /var/lib /var/log; do
  mount -t tmpfs tmpfs "$folder"
done
mkdir -p "$state" /run/lock /run/netns
mount --no-canonicalize --bind /proc/self/fd/9 "$state"
exec 9<&-
for folder in /etc/kubernetes /var/lib/kubelet /var/lib/containerd /var/lib/cni /var/lib/etcd /var/log/pods; do
  mkdir -p "$node$folder" "$folder"
  mount --bind "$node$folder" "$folder"
done
mkdir -p /var/log/containers /etc/kubernetes/manifests
rm -f /etc/resolv.conf
cp "$node/resolv.conf" /etc/resolv.conf

# The kubelet insists on these values and would set them for the whole machine; it reads them here instead.
sysctls=/run/sysctls
mkdir "$sysctls"
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  copy=$sysctls/$(basename "${setting%%=*}")
  echo "${setting##*=}" >"$copy"
  mount --bind "$copy" "/proc/sys/${setting%%=*}"
done
mount --make-rshared /
hostname "$name"
echo 1 >/proc/sys/net/ipv4/ip_forward
# Addresses of the pods that died with the last init.
rm -rf /var/lib/cni/networks
cd /

keep_running() {
  while :; do
    "$@" || true
    sleep 1
  done
}

containerd_daemon() {
  containerd --config "$node/containerd.toml" >>"$node/containerd.log" 2>&1
}

kubelet_daemon() {
  # kubeadm writes both files when the node joins.
  [ -f /var/lib/kubelet/config.yaml ] && [ -f /var/lib/kubelet/kubeadm-flags.env ] || return 0
  local KUBELET_KUBEADM_ARGS=
  # shellcheck source=/dev/null
  . /var/lib/kubelet/kubeadm-flags.env
  local flags
  read -r -a flags <<<"$KUBELET_KUBEADM_ARGS"
  "$state/bin/kubelet" --config=/var/lib/kubelet/config.yaml --kubeconfig=/etc/kubernetes/kubelet.conf \
    --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf "${flags[@]}" >>"$node/kubelet.log" 2>&1
}

keep_running containerd_daemon &
keep_running kubelet_daemon
