#!/bin/sh
# Starts the node plugin in its container, in the place and with the arguments of Fluid's own.
set -eu
root=${KUBELET_ROOTDIR:-/var/lib/kubelet}

for folder in "$root/pods" "$root/plugins"; do
  if [ ! -d "$folder" ]; then
    echo "cannot start: $folder is no directory in this container, so $root is not kubelet's directory:" \
      "mount kubelet's root directory there, or name it in KUBELET_ROOTDIR" >&2
    exit 1
  fi
done
mkdir -p "$root/csi-plugins/fuse.csi.fluid.io"

# exec: the plugin is the first process and gets the signal that ends the pod.
exec csi-fluid start "$@"
