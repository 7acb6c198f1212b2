"""Heals broken FUSE mounts; knows nothing of CSI, gRPC or Kubernetes."""
