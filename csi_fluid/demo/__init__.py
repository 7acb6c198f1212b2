"""The demonstration: a FUSE daemon dies under a running pod, and the pod's volume heals.

Nothing of Kubernetes or of a container runtime is needed: the pod is a process with namespaces and
a root of its own (`pods`), the daemons are programs that no one here wrote (`filesystems`,
`daemons`).  `outside` starts the whole in mount and PID namespaces of its own, where `__main__` and
`story` tell it; whatever ends them, the kernel removes every mount, process and file in them.
"""

from collections.abc import Sequence


def run(words: Sequence[str]) -> int:
    """Run `csi-fluid demo` and return its exit code: 0 only if the pod read its data again."""
    from csi_fluid.demo import outside

    return outside.run(words)
