"""What a cluster is made of: its names, its folders and what a test may set."""

import dataclasses
import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = Path(__file__).parent / "files"
BIN = ROOT / ".cache/bin"
CLUSTERS = ROOT / ".cache/cluster"
NODE_NAME = "node1"


def cache() -> Path:
    """Return the folder for what takes minutes to make; ``.ci/setup`` uses the same."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CSI_FLUID_CACHE") or Path(home, "csi-fluid"))


@dataclasses.dataclass(frozen=True, slots=True)
class KubeletSettings:
    """What a test may set, and set anew with a restart of the kubelet.

    sync_frequency: how often kubelet looks at every pod; its default is 1m.
    max_restart_period: the longest back-off of a crashing container; None is Kubernetes' own,
    300 s, reached by 10, 20, 40 ... s.
    volume_stats_period: how often it asks for volume statistics and health; its default is 1m.
    """

    sync_frequency: str = "5s"
    max_restart_period: str | None = "1s"
    volume_stats_period: str = "5s"


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a cluster keeps what the machine sees of it; all of it goes with ``down``."""

    name: str

    @property
    def folder(self) -> Path:
        """Return the folder of everything below."""
        return CLUSTERS / self.name

    @property
    def logs(self) -> Path:
        """Return the folder with one log of each program, and the audit log."""
        return self.folder / "logs"

    @property
    def pids(self) -> Path:
        """Return the folder with the process id, on the node, of each program."""
        return self.folder / "pids"

    @property
    def secrets(self) -> Path:
        """Return the folder of certificates, tokens and kubeconfigs."""
        return self.folder / "secrets"

    @property
    def cgroup(self) -> str:
        """Return the name of the cgroup, in each hierarchy, that holds all pods.

        Another checkout may have a cluster of the same name; cgroups have no namespace here.
        """
        checkout = hashlib.sha256(str(self.folder).encode()).hexdigest()[:6]
        return f"csi-fluid-{self.name}-{checkout}"
