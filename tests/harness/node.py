"""The node that tests use: kubelet's part, datasets and pods around `csi_fluid.testbed`."""

import contextlib
import dataclasses
import os
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from csi_fluid.rpc.client import Client, Volume
from csi_fluid.testbed import node as machines, plugin as plugins, pods, programs
from csi_fluid.testbed.daemons import Daemon
from csi_fluid.testbed.filesystems import Bindfs, Filesystem
from csi_fluid.testbed.plugin import Plugin
from csi_fluid.testbed.pods import Propagation, VolumeMount
from tests.harness.views import View

MakeFilesystem = Callable[..., Filesystem]


@dataclasses.dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset whose FUSE daemon runs on the node; volume is what its PersistentVolume says."""

    daemon: Daemon
    volume: Volume

    def put(self, name: str, data: bytes) -> None:
        """Change what the dataset holds."""
        self.daemon.filesystem.put(name, data)


class Container(pods.Container):
    """A container, and what it sees."""

    @property
    def sees(self) -> View:
        """Return the file system as the container sees it."""
        return View(self.pid)

    def run(self, *command: str, timeout_s: float = 10.0) -> str:
        """Run a command inside and return its output, both streams.

        Raises subprocess.CalledProcessError with that output when it fails, TimeoutExpired when a
        FUSE mount keeps it.
        """
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--uts", "--root", "--wd"]
        done = subprocess.run(
            [*enter, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=programs.environment(Path("/")),
            check=True,
            timeout=timeout_s,
        )
        return done.stdout.decode(errors="replace")


class Pod:
    """A pod on the node: kubelet's directories, published volumes, containers."""

    def __init__(self, node: "Node", name: str) -> None:
        self.name = name
        self.uid = str(uuid.uuid4())
        self._node = node
        self._ends = contextlib.ExitStack()

    def publish(self, dataset: Dataset, *, volume: str | None = None, **changes: object) -> Path:
        """Publish a dataset's volume by NodePublishVolume and return the target.

        volume is the name of the PersistentVolume where it is not the volume's id (a reference
        dataset); changes are fields of `Volume`, for example sub_path or read_only.
        """
        wanted = dataclasses.replace(dataset.volume, **changes)  # type: ignore[arg-type]
        target = self.target(volume or wanted.volume_id)
        self._node.client.publish(wanted, target)
        self._ends.callback(self._unpublish, wanted, target)
        return target

    def bind(self, dataset: Dataset, *, sub_path: str = "", read_only: bool = True) -> Path:
        """Bind a dataset to this pod's target without the plugin."""
        target = self.target(dataset.volume.volume_id)
        target.mkdir()
        flags = "ro" if read_only else "rw"
        programs.run("mount", "--bind", "-o", flags, dataset.volume.source / sub_path, target)
        self._ends.callback(_unmount_all, target)
        return target

    def target(self, volume: str) -> Path:
        """Return the target path of a volume of this pod."""
        return self._node.machine.target(self.uid, volume)

    def subpath(self, target: Path, inner: str, *, container: str = "main", index: int = 0) -> Path:
        """Make the bind that kubelet makes for a volume mount with `subPath`, and return it."""
        volume = target.parent.name
        place = self._node.machine.kubelet.joinpath(
            "pods", self.uid, "volume-subpaths", volume, container, str(index)
        )
        place.mkdir(parents=True)
        programs.run("mount", "--bind", target / inner, place)
        self._ends.callback(_unmount_all, place)
        return place

    def container(
        self,
        name: str,
        volumes: Mapping[str, Path],
        propagation: Propagation = Propagation.HOST_TO_CONTAINER,
        command: Sequence[str] = pods.PAUSE,
    ) -> Container:
        """Start a container with host directories at paths inside it."""
        mounts = [VolumeMount(source, path, propagation) for path, source in volumes.items()]
        container = Container(self._node.machine.image, name, mounts, command)
        self._ends.callback(container.close)
        container.ready()
        return container

    def close(self) -> None:
        """Take the pod down as kubelet does: containers, sub paths, volumes."""
        self._ends.close()

    def _unpublish(self, volume: Volume, target: Path) -> None:
        plugin = self._node.running
        if plugin is not None and plugin.alive:
            plugin.client.unpublish(volume, target)
        else:
            _unmount_all(target)


class Node:
    """A node below a folder; use it as a context manager, it closes what a test made."""

    def __init__(self, folder: Path) -> None:
        root = folder / "node"
        root.mkdir()
        self.machine = machines.Node(root)
        self.running: Plugin | None = None
        self._root = root
        self._ends = contextlib.ExitStack()
        self._ends.callback(self.machine.close)

    @property
    def sees(self) -> View:
        """Return the file system as the host sees it."""
        return View(os.getpid())

    @property
    def client(self) -> Client:
        """Return the client of the running plugin."""
        assert self.running is not None, "no plugin was started"
        return self.running.client

    def dataset(
        self,
        name: str = "demo",
        filesystem: MakeFilesystem = Bindfs,
        *,
        files: Mapping[str, bytes] | None = None,
        read_only: bool = True,
        runtime: str = "thin",
        start: bool = True,
    ) -> Dataset:
        """Make a dataset and mount it; files is its content."""
        serving = filesystem(self.machine.folder(f"data-{name}"), read_only=read_only)
        for path, data in (files or {"a.txt": b"one\n"}).items():
            serving.put(path, data)
        source = self.machine.source(name, runtime=runtime)
        daemon = Daemon(serving, source, self.machine.folder(f"daemon-{name}"))
        self._ends.callback(daemon.close)
        if start:
            daemon.start()
        volume = Volume(f"default-{name}", source, serving.fs_type, read_only=read_only)
        return Dataset(daemon, volume)

    def pod(self, name: str = "app") -> Pod:
        """Make a pod."""
        pod = Pod(self, name)
        self._ends.callback(pod.close)
        return pod

    def plugin(
        self,
        *,
        strategy: str = "namespace",
        chart: bool = False,
        host_pid: bool = True,
        options: Sequence[str] = (),
        command: Sequence[str] = plugins.COMMAND,
        environ: Mapping[str, str] = {},
    ) -> Plugin:
        """Start the plugin and return it ready; `stop`, `kill` and `start` again as you like."""
        prefix: list[str] = []
        if chart:
            namespaces = [] if host_pid else ["--pid", "--fork", "--kill-child", "--mount-proc"]
            script = 'mount --make-rslave "$0" && exec "$@"'
            prefix = ["unshare", "--mount", "--propagation", "unchanged", *namespaces]
            prefix += ["sh", "-c", script, str(self.machine.mount_root)]
        self.running = Plugin(
            self.machine,
            strategy=strategy,
            options=options,
            command=[*prefix, *command],
            environ={**os.environ, **environ},
        )
        self._ends.callback(self.running.close)
        self.running.start()
        return self.running

    def close(self) -> None:
        """Close what was made here, latest first."""
        self._ends.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unmount_all(path: Path) -> None:
    machine = View(os.getpid())
    while machine.layers(path):
        programs.run("umount", "-l", path)
