#!/bin/sh
# Starts the node plugin in its container, in the place and with the arguments of Fluid's own.
set -eu
root=${KUBELET_ROOTDIR:-/var/lib/kubelet}

# Print where kubelet has its directory: what its process was told (seen with hostPID), and where one is.
kubelets() {
  for command in /proc/[0-9]*/cmdline; do
    tr '\0' '\n' <"$command" 2>/dev/null | sed -nE \
      '/kubel/,${s/^(--kubelet-arg=)?(--)?root-dir=//p;/^--root-dir$/{n;p;};}'
  done
  for folder in /var/lib/kubelet /var/lib/k0s/kubelet /var/snap/microk8s/common/var/lib/kubelet; do
    [ ! -d "/proc/1/root$folder/pods" ] || echo "$folder"
  done
}

for folder in "$root/pods" "$root/plugins"; do
  if [ ! -d "$folder" ]; then
    found=$(kubelets | sort -u | tr '\n' ' ')
    echo "cannot start: $folder is no directory in this container, so $root is not kubelet's directory:" \
      "mount kubelet's root directory there, or name it in KUBELET_ROOTDIR (with Helm:" \
      "csi.kubelet.rootDir)${found:+; on this node it is $found}" >&2
    exit 1
  fi
done
mkdir -p "$root/csi-plugins/fuse.csi.fluid.io"

# exec: the plugin is the first process and gets the signal that ends the pod.
exec csi-fluid start "$@"
