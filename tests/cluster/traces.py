"""What a cluster could leave on the machine: processes, mounts, interfaces, cgroups, files."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.cluster.cluster import Cluster

# Where something of a cluster would be, if it wrote outside its folder.
_FOLDERS = (
    *("/runtime-mnt", "/var/lib/kubelet", "/var/lib/cni", "/var/lib/containerd", "/var/log/pods"),
    *("/etc/cni", "/etc/kubernetes", "/run/containerd", "/run/netns", "/var/lib/etcd"),
    *("/etc/updatedb.conf", "/etc/updatedb.conf.backup", "/mnt"),
)


class Traces:
    """Finds what there is of one cluster, also after its end; others may run beside it.

    Made before the cluster is up; ``follow`` it once it is; a context manager.
    """

    def __init__(self) -> None:
        self._mounts = _mounts()
        self._files = set(_files())
        self._namespace = self._link = self._cgroup = self._folder = ""
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def follow(self, cluster: Cluster) -> None:
        """Learn by what the cluster's processes, link, cgroups and files are known.

        The PID namespace is held, or its number would be given to the next one at once.
        """
        self._namespace = cluster.enter("readlink", "/proc/1/ns/pid").strip()
        pid = next(_pids(self._namespace))
        self._held.callback(os.close, os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY))
        self._link = f"csif{cluster.node.number}"
        self._cgroup = cluster.place.cgroup
        self._folder = str(cluster.place.folder)

    def found(self) -> list[str]:
        """List what is there now; each entry is text for a person."""
        routes = Path("/proc/net/route").read_text().splitlines()
        return [
            *(f"process {line}" for line in _processes(self._namespace)),
            *(f"mount {line}" for line in _mounts() - self._mounts),
            *(f"interface {n}" for n in os.listdir("/sys/class/net") if n == self._link),
            *(f"route {line}" for line in routes if line.split()[0] == self._link),
            *(f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"*/{self._cgroup}")),
            *(f"file {path}" for path in _files() if path not in self._files),
            *(f"file {path}" for path in filter(os.path.exists, [self._folder])),
        ]


def _mounts() -> set[str]:
    return set(Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines())


def _processes(namespace: str) -> Iterator[str]:
    for pid in _pids(namespace):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}"


def _pids(namespace: str) -> Iterator[int]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if os.readlink(f"/proc/{name}/ns/pid") == namespace:
                yield int(name)


def _files() -> Iterator[str]:
    for folder in filter(os.path.exists, _FOLDERS):
        yield folder
        if os.path.isdir(folder):
            yield from (os.path.join(folder, name) for name in os.listdir(folder))
