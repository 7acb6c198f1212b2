"""The generation of a running FUSE daemon, which tells whether its DaemonSet changed since.

Fluid mounts the labels of a JuiceFS FUSE pod (Kubernetes' downward API) below the mount root.
"""

import os
import stat
from pathlib import Path

from csi_fluid.kube.objects import GENERATION_LABEL
from recover.linux.probe import Prober

_LIMIT = 64 * 1024  # bytes


def of_daemon(prober: Prober, mount_root: str, runtime: tuple[str, str, str]) -> str:
    """Return the generation of the daemon of (type, namespace, name), "" where it says none.

    Raises Unanswered, Crowded, OSError.
    """
    path = Path(mount_root, *runtime, ".meta", "fuse", "labels")
    return parse(prober.call(("labels", path), _read, path))


def parse(text: str) -> str:
    """Return the generation among labels as the downward API writes them: key="value"."""
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == GENERATION_LABEL:
            return value.strip().strip('"')
    return ""


def _read(path: Path) -> str:
    # The downward API makes the file a link to a link beside it.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return os.read(fd, _LIMIT).decode("utf-8", "replace")
    finally:
        os.close(fd)
