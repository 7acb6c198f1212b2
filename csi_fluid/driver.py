"""The driver's name, and what the attributes of its volumes are called.

The only place of both: whoever serves another name, or volumes described in other words, changes
this file (and the manifests, which carry the name too).
"""

NAME = "fuse.csi.fluid.io"

# Attributes of a volume: spec.csi.volumeAttributes of its PersistentVolume, which Fluid writes.
FLUID_PATH = "fluid_path"
"""Where the FUSE daemon mounts on the node: the source."""
FLUID_SUB_PATH = "fluid_sub_path"
"""The directory below the source to publish, relative; all of it where absent."""
MOUNT_TYPE = "mount_type"
"""What must be found in the mount's file system type, source or path for it to be the one."""
NODE_PUBLISH_METHOD = "node_publish_method"
"""symlink or bindMount, over what the node plugin was told."""
RUNTIME_NAMESPACE = "runtime_namespace"
RUNTIME_NAME = "runtime_name"
"""The runtime that serves the dataset; volumes of old releases do not name it."""
NODE_LABEL = "mount_pod_node_selector_key"
"""The node label that brings a pod of the FUSE DaemonSet to a node."""
SESSIONS = "efc_sessmgr_workdir"
"""The directory in which EFC's session manager listens."""
SKIP_CHECK = "fluid.io/skip-check-mount-ready-target"
"""Whose readiness is not waited for: All, None, MountPod, Sidecar, with commas between."""

# Ours, as the attribute of a volume and as the annotation of a serverless pod.
RECOVER_WRITABLE = f"{NAME}/recover-writable"
"""Whether to heal the volume although it can be written to: true or false."""
RECOVER_POLICY = f"{NAME}/recover-policy"
"""An annotation only: whether a pod's FUSE sidecars are recovered, auto or off."""
