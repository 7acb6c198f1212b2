"""What a cluster could leave on the machine: processes, mounts, interfaces, cgroups, files."""

import dataclasses
import os
import subprocess
from pathlib import Path

from tests.cluster.settings import CLUSTERS

# Where something of a cluster would be, if it wrote outside its folder.
_FOLDERS = (
    *("/runtime-mnt", "/var/lib/kubelet", "/var/lib/cni", "/var/lib/containerd", "/var/log/pods"),
    *("/etc/cni", "/etc/kubernetes", "/run/containerd", "/run/netns", "/var/lib/etcd"),
    *("/etc/updatedb.conf", "/mnt", str(CLUSTERS)),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Traces:
    """What is there at one moment; each entry is text for a person."""

    entries: frozenset[str]

    @classmethod
    def of_machine(cls) -> "Traces":
        """Look at all of it; other clusters of this machine are seen too."""
        return cls(
            frozenset(
                [f"process {line}" for line in _processes()]
                + [
                    f"mount {line}"
                    for line in Path("/proc/self/mountinfo").read_text().splitlines()
                ]
                + [f"interface {name}" for name in os.listdir("/sys/class/net")]
                + [f"route {line}" for line in Path("/proc/net/route").read_text().splitlines()]
                + [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob("*/csi-fluid*")]
                + [f"file {path}" for path in _files()]
            )
        )

    def left_since(self, before: "Traces") -> list[str]:
        """List what is there now and was not there before."""
        return sorted(self.entries - before.entries)


def _processes() -> list[str]:
    """List what is a part of a cluster by its command line; other processes come and go."""
    said = subprocess.run(
        ("ps", "-eo", "pid=,args="), capture_output=True, text=True, check=True, timeout=10
    ).stdout
    marks = ("node.sh", "containerd", "kube", "etcd", "bindfs", "/entrypoint.sh")
    return [line for line in said.splitlines() if any(mark in line for mark in marks)]


def _files() -> list[str]:
    found = []
    for folder in _FOLDERS:
        if os.path.exists(folder):
            found += [folder, *(os.path.join(folder, name) for name in _names(folder))]
    return found


def _names(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []
