"""kubelet's directory: where pods' volumes are, what is noted beside them, where plugins are.

The only place that knows it; a kubelet that lays its directory out in another way is served by
changing this file.

    ROOT/pods/UID/volumes/kubernetes.io~csi/PV/vol_data.json   what kubelet notes
    ROOT/pods/UID/volumes/kubernetes.io~csi/PV/mount           the target
    ROOT/pods/UID/volume-subpaths/PV/CONTAINER/INDEX           a bind of a part of it
    ROOT/plugins/csi-fluid-plugin/                             our own files
    ROOT/plugins_registry/                                     where plugins are found
    ROOT/csi-plugins/DRIVER/csi.sock                           where Fluid's chart has our socket

(kubernetes: pkg/kubelet/config/defaults.go, pkg/volume/csi/csi_plugin.go and csi_mounter.go.)
"""

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from csi_fluid import driver
from recover.layout import Note, PodVolume

ROOT = "/var/lib/kubelet"
"""Where kubelet's directory is unless --root-dir says otherwise."""

OWN = "plugins/csi-fluid-plugin"
"""The plugin's own directory in kubelet's, which Fluid's chart mounts from the host."""

POD_FOLDER = re.compile(r"(?<!\S)/\S*?/pods/[0-9a-f-]{36}(?=/)")
"""A pod's folder in any kubelet's directory, within a text."""

NOTE_LIMIT = 64 * 1024  # bytes that are read; kubelet writes some 300

Reader = Callable[[str], Mapping[str, object]]

_VOLUMES = "volumes/kubernetes.io~csi"
_SUB_PATHS = "volume-subpaths"
_NOTE = "vol_data.json"
_POD = r"(?P<pods>.*/pods)/(?P<uid>[^/]+)"
_TARGET = re.compile(rf"{_POD}/{_VOLUMES}/(?P<name>[^/]+)/mount", re.DOTALL)
_SUB_PATH = re.compile(rf"{_POD}/{_SUB_PATHS}/(?P<name>[^/]+)/.+", re.DOTALL)


def volume_of(target: str) -> PodVolume | None:
    """Return the volume whose target a path is, of any kubelet; None where it is no target."""
    return _matched(_TARGET.fullmatch(target))


def is_of_volume(path: str) -> bool:
    """Return True for a target, its sub-path binds and what lies in them, of any kubelet."""
    return f"/{_VOLUMES}/" in path or f"/{_SUB_PATHS}/" in path


def _matched(found: re.Match[str] | None) -> PodVolume | None:
    return None if found is None else PodVolume(found["pods"], found["uid"], found["name"])


def read_object(path: str) -> Mapping[str, object]:
    """Return a JSON object from a file, an empty one where there is no proper one."""
    # A pod cannot write here, but whoever can must not make us read a link, a FIFO or a huge file.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return {}
        data = json.loads(os.read(fd, NOTE_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    finally:
        os.close(fd)
    return data if isinstance(data, dict) else {}


@dataclass(frozen=True, slots=True)
class Kubelet:
    """The directory of one kubelet: root is canonical, driver is whose volumes are ours.

    read returns the JSON object in a file, an empty one where there is none.
    """

    root: str = ROOT
    driver: str = driver.NAME
    read: Reader = read_object

    @property
    def pods(self) -> str:
        """The directory of all pods."""
        return f"{self.root.rstrip('/')}/pods"

    @property
    def own(self) -> Path:
        """The plugin's own directory."""
        return Path(self.root, OWN)

    @property
    def registry(self) -> Path:
        """The directory in which kubelet looks for sockets of plugins."""
        return Path(self.root, "plugins_registry")

    @property
    def socket(self) -> Path:
        """Where the CSI socket is by default."""
        return Path(self.root, "csi-plugins", self.driver, "csi.sock")

    def target(self, pod_uid: str, name: str) -> str:
        """Return where a volume of a pod is published."""
        return f"{self.pods}/{pod_uid}/{_VOLUMES}/{name}/mount"

    def published(self, path: str) -> PodVolume | None:
        """Return the volume whose target a path is, None where it is no target of this kubelet."""
        return self._ours(_TARGET.fullmatch(path))

    def sub_path(self, path: str) -> PodVolume | None:
        """Return the volume of which a path is a sub-path bind, None where it is none.

        A volume that is none of CSI's has such binds too, and no target here.
        """
        return self._ours(_SUB_PATH.fullmatch(path))

    def is_in_pod(self, path: str) -> bool:
        """Return True if what is mounted at a path belongs to some pod, of another kubelet too."""
        return path.startswith(f"{self.pods}/") or is_of_volume(path)

    def targets(self) -> Iterator[str]:
        """Yield the targets for which kubelet has made a directory; raises OSError."""
        for pod in _entries(self.pods):
            for name in _entries(f"{self.pods}/{pod}/{_VOLUMES}"):
                yield self.target(pod, name)

    def note(self, target: str) -> Note | None:
        """Return what kubelet noted beside a target, None without a whole note."""
        data = self.read(str(Path(target).with_name(_NOTE)))
        name, handle = data.get("driverName"), data.get("volumeHandle")
        if not isinstance(name, str):
            return None
        if name != self.driver:
            return Note("", is_ours=False)
        return Note(handle, is_ours=True) if isinstance(handle, str) else None

    def _ours(self, found: re.Match[str] | None) -> PodVolume | None:
        volume = _matched(found)
        return volume if volume is not None and volume.pods == self.pods else None


def _entries(folder: str) -> list[str]:
    """Return the names in a folder; kubelet may remove it meanwhile."""
    try:
        return [entry.name for entry in Path(folder).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
