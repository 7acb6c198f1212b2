"""Containers without a container runtime: processes with a root and namespaces of their own.

A container is made as a runtime makes one: new mount, PID and UTS namespaces, the image's tree
bound as the new root, volumes bound into it with the propagation that the pod asked for,
pivot_root(2), the old root detached.  util-linux does all of it (the script below), in about 5 ms
each when several start at once.  An image is a private tmpfs with the machine's programs bound
read-only into it.
"""

import contextlib
import enum
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from csi_fluid.testbed import programs
from csi_fluid.testbed.errors import BedError
from csi_fluid.testbed.waiting import PACE

_START_TIMEOUT_S = PACE * 20.0
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # links into /usr on most systems
_PASSWD = "root:x:0:0:root:/:/bin/sh\n"  # noqa: S105  no secret, but what ls needs for names
_GROUP = "root:x:0:\n"

# $1 image, $2 host name, then source, place and propagation of each volume, "--", the command.
# Until /old is detached /proc still shows the outer process ids; it is made a slave first, or its
# unmount would spread to the host.
_SCRIPT = """
read -r pid _ </proc/self/stat
image=$1
echo "$2" >/proc/sys/kernel/hostname
shift 2
mount --rbind "$image" "$image"
while [ "$1" != -- ]; do
  mount --rbind --make-"$3" "$1" "$image$2"
  shift 3
done
shift
mount -t proc proc "$image/proc"
cd "$image"
pivot_root . old
mount --make-rslave /old
umount -l /old
echo "$pid"
exec "$@"
"""
PAUSE = ("sleep", "infinity")
PYTHON = os.path.realpath(sys.executable)  # a pod has the interpreter, not the environment
_NAMESPACES = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child")


class Propagation(enum.Enum):
    """What `mountPropagation` may be, and what a runtime makes of it: mount(8)."""

    NONE = "rprivate"
    HOST_TO_CONTAINER = "rslave"
    BIDIRECTIONAL = "rshared"


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A directory of the host at a path in a container."""

    source: Path
    path: str
    propagation: Propagation = Propagation.HOST_TO_CONTAINER


class Image:
    """A root directory that containers share; folder must be outside shared mounts or on one's own.

    Building and removing it changes the mount table of the caller's namespace.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        programs.run("mount", "-t", "tmpfs", "-o", "mode=0755", "image", folder)
        programs.run("mount", "--make-private", folder)
        for name in ("old", "proc", "tmp", "dev", "etc"):
            (folder / name).mkdir()
        for name, text in (("passwd", _PASSWD), ("group", _GROUP)):
            (folder / "etc" / name).write_text(text, encoding="utf-8")
        if Path("/etc/ld.so.cache").exists():  # finds libraries outside /lib and /usr/lib
            shutil.copy("/etc/ld.so.cache", folder / "etc")
        for name in ("null", "zero", "urandom"):
            (folder / "dev" / name).touch()
            self._bind(f"/dev/{name}")
        for name in _MERGED:
            self._add(f"/{name}")
        self._add("/usr")
        if not Path(sys.base_prefix).is_relative_to("/usr"):
            self._add(sys.base_prefix)

    def _add(self, path: str) -> None:
        inside = self.folder / path[1:]
        if Path(path).is_symlink():
            inside.symlink_to(Path(path).readlink())
        elif Path(path).is_dir():
            inside.mkdir(parents=True)
            self._bind(path)

    def _bind(self, path: str) -> None:
        inside = self.folder / path[1:]
        programs.run("mount", "--rbind", "--make-rprivate", "-o", "ro", path, inside)

    def close(self) -> None:
        """Unmount the image; containers that run on it keep their copies."""
        programs.run("umount", "-l", self.folder)


class Container:
    """A running container; `pid` is its first process as the caller's PID namespace numbers it."""

    def __init__(
        self, image: Image, name: str, volumes: Sequence[VolumeMount], command: Sequence[str]
    ) -> None:
        """Begin to start a container; `ready` waits for it."""
        self.name = name
        self.pid = 0
        _make_places(image, volumes)
        binds = [word for v in volumes for word in (str(v.source), v.path, v.propagation.value)]
        arguments = [str(image.folder), name, *binds, "--", *command]
        self._process = subprocess.Popen(
            [*_NAMESPACES, "--propagation", "unchanged", "sh", "-ec", _SCRIPT, "sh", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=programs.environment(Path("/")),
            start_new_session=True,
        )

    def ready(self) -> Self:
        """Return when the command runs; raises BedError with what went wrong."""
        line = programs.first_line(self._process, _START_TIMEOUT_S)
        if not line.strip().isdigit():
            self.close()
            raise BedError(f"container {self.name} did not start: {line.decode().strip()}")
        self.pid = int(line)
        return self

    def lines(self) -> Iterator[str]:
        """Yield what the command writes, both streams, line by line until it ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield line.decode(errors="replace").rstrip("\n")

    @property
    def alive(self) -> bool:
        """Return whether the container's first process runs."""
        return self.status is None

    @property
    def status(self) -> int | None:
        """Return the exit status of the container's first process, None while it runs."""
        return self._process.poll()

    def close(self) -> None:
        """Kill all processes of the container and wait until they are gone."""
        if self.alive and self.pid:
            with contextlib.suppress(ProcessLookupError):  # it just ended
                os.kill(self.pid, signal.SIGKILL)
            self._process.wait(10)  # unshare ends after it, when the namespace is empty
        programs.stop(self._process)


def _make_places(image: Image, volumes: Sequence[VolumeMount]) -> None:
    for volume in volumes:
        if not any(volume.path.startswith(f"{other.path}/") for other in volumes):
            (image.folder / volume.path[1:]).mkdir(parents=True, exist_ok=True)
