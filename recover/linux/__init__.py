"""The kernel: system calls, mounts, namespaces, FUSE connections and wake-ups."""
