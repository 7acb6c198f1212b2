"""The demonstration: a FUSE daemon dies under a running pod, and the pod's volume heals.

`outside` starts the whole in mount and PID namespaces of its own, where `__main__` and `story` tell
it; whatever ends them, the kernel removes every mount, process and file in them.  `trial` is the
same on a node, with the plugin that runs there.  What they stand on is `csi_fluid.testbed`.
"""

from collections.abc import Sequence


def run(words: Sequence[str]) -> int:
    """Run `csi-fluid demo` and return its exit code: 0 only if the pod read its data again."""
    from csi_fluid.demo import outside

    return outside.run(words)
