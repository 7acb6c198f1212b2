#!/bin/bash
# The first process of the node. It gives the node a root of its own, so that nothing that kubelet,
# containerd or a pod writes reaches the machine, and then reaps what is orphaned.
#   node.sh READY FOLDER...      each FOLDER is shared with the machine under its own path
set -eu
ready=$1
root=/mnt  # any directory that every Debian has; only this mount namespace sees what is on it

share() {
  mkdir -p "$root$1"
  mount --rbind "$1" "$root$1"
}

mount -t tmpfs -o mode=0755 node "$root"
for entry in /*; do
  case $entry in
    /mnt | /proc | /run | /var | /etc | /runtime-mnt) ;;
    *) if [ -L "$entry" ]; then cp -P "$entry" "$root/"; elif [ -d "$entry" ]; then share "$entry"; fi ;;
  esac
done
cp -a /etc "$root/etc"
mkdir -p "$root"/{mnt,proc,run/lock,runtime-mnt,.old,var/{cache,log/pods,tmp},var/lib/{kubelet/pki,cni,containerd}}
ln -s ../run "$root/var/run"
for folder in "$@"; do
  [ -e "$root$folder" ] || share "$folder"
done

cd "$root"
pivot_root . .old
cd /
mount -t proc proc /proc  # umount asks it
umount -l /.old
rmdir /.old
# The two that pods share with the node are mounts, as FUSE paths on a real node are seen below one.
for folder in /runtime-mnt /var/lib/kubelet; do
  mount -t tmpfs -o mode=0755 "${folder##*/}" "$folder"
done
mkdir -p /var/lib/kubelet/pki
mount --make-rshared /
ip link set lo up
ip address add 10.96.0.1/32 dev lo  # the API server's service address, without kube-proxy
echo 1 >/proc/sys/net/ipv4/ip_forward
touch "$ready"
while :; do
  sleep 1000000 &
  wait $! || true
done
