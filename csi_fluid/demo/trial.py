"""A trial of the plugin that runs here: it publishes a small volume, whose daemon then crashes.

The volume is this trial's own, a FUSE file system beside those of the datasets, and so is the place
where it is published, beside the state file: no pod and no dataset is touched.  Whatever an
earlier trial left is taken away first.
"""

import contextlib
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import grpc

from csi_fluid import config
from csi_fluid.demo import screen
from csi_fluid.rpc.client import Client, Volume
from csi_fluid.testbed.daemons import Daemon
from csi_fluid.testbed.errors import BedError
from csi_fluid.testbed.filesystems import TinyFs
from csi_fluid.testbed.waiting import until
from recover.errors import Unanswered
from recover.linux.probe import Prober

_UNIX = "unix:"
_NAME = "csi-fluid-trial"
_HEAL_S = 30.0
_FILE = "hello"


class Trial:
    """One trial; nothing is left when its block ends."""

    def __init__(self, settings: config.Settings, told: screen.Screen, folder: Path) -> None:
        """Take the plugin's settings, where to tell, and a folder for the file system's data."""
        self._told = told
        self._client = Client(Path(settings.endpoint.removeprefix(_UNIX)))
        self._target = settings.state.with_name("trial") / "mount"
        source = Path(settings.mount_root, "trial", "csi-fluid", "trial", "fuse")
        self._daemon = Daemon(TinyFs(folder), source, folder)
        self._volume = Volume(_NAME, source, TinyFs.fs_type)
        self._prober = Prober(timeout_s=settings.probe_timeout_s)

    def __enter__(self) -> Self:
        with self._told.step("the plugin answers, and is ready"):
            until(self._client.ready, "the plugin to be ready")
        self._client.unpublish(self._volume, self._target)
        self._daemon.filesystem.put(_FILE, b"hello\n")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(grpc.RpcError):
            self._client.unpublish(self._volume, self._target)
        self._daemon.close()
        self._client.close()
        place = self._daemon.mount_point
        for folder in (self._target.parent, place, *place.parents[:3]):
            with contextlib.suppress(OSError):  # not empty: somebody else's too
                folder.rmdir()

    def publish(self) -> None:
        """Publish the volume and read it."""
        with self._told.step(f"a FUSE file system is mounted at {self._daemon.mount_point}"):
            self._daemon.start()
        with self._told.step(f"NodePublishVolume at {self._target}"):
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._client.publish(self._volume, self._target)
        with self._told.step("the volume can be read"):
            until(self._reads, f"{_FILE} in the volume")

    def crash(self) -> None:
        """Kill the daemon, start it again, and see the volume heal."""
        with self._told.step("kill -9 of its daemon: the volume cannot be read"):
            self._daemon.kill()
            until(lambda: not self._reads(), "the end of the volume")
        with self._told.step("the daemon mounts again"):
            self._daemon.start()
        with self._told.step("the volume can be read again"):
            until(self._reads, "the heal; is FuseRecovery on?", timeout_s=_HEAL_S)
        healed = time.monotonic() - self._daemon.answered_at
        self._told.end(f"healed {screen.duration(healed)} after the new mount answered", good=True)

    def unpublish(self) -> None:
        """Unpublish the volume and see that nothing of it is left."""
        with self._told.step("NodeUnpublishVolume"):
            self._client.unpublish(self._volume, self._target)
        if self._target.exists():
            raise BedError(f"{self._target} is still there after NodeUnpublishVolume")

    def _reads(self) -> bool:
        path = self._target / _FILE
        try:
            return self._prober.run(_NAME, path.read_bytes) == b"hello\n"
        except (OSError, Unanswered):
            return False


def run(settings: config.Settings, *, crash: bool) -> int:
    """Try the plugin out and return the exit code: 0 only if all went well."""
    told = screen.Screen(picture=False)
    try:
        with tempfile.TemporaryDirectory(prefix="csi-fluid-trial-") as folder:
            _try(settings, told, Path(folder), crash=crash)
    except grpc.RpcError as error:
        told.end(f"the plugin answered {error.code().name}: {error.details()}", good=False)
    except (BedError, TimeoutError, OSError, subprocess.SubprocessError) as error:
        told.end(str(error), good=False)
    else:
        return 0
    return 1


def _try(settings: config.Settings, told: screen.Screen, folder: Path, *, crash: bool) -> None:
    with Trial(settings, told, folder) as trial:
        trial.publish()
        if crash:
            trial.crash()
        trial.unpublish()
