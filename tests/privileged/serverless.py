"""A serverless pod in namespaces: FUSE sidecars, agent and applications as containers of one node.

The agent runs as a process in a container of its own that sees no process of the others.
"""

import contextlib
import os
import re
import signal
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from csi_fluid.testbed import pods, programs
from csi_fluid.testbed.serverless import Agent, Client, Sidecar
from recover.anchors.anchor import FOLDER
from recover.linux import fuse, mountinfo
from tests.harness import Node, Propagation, View, VolumeMount, until
from tests.harness.node import Container
from tests.privileged.healing import Healing


class ServerlessPod:
    """The pod of one or more datasets; `data[0]` is the first sidecar.

    name is its host name; with uid="" it is one that an old webhook made.
    """

    def __init__(
        self,
        node: Node,
        client: Client,
        *,
        datasets: int = 1,
        read_only: bool = True,
        name: str = "demo-app",
        uid: str | None = None,
        options: Sequence[str] = ("--period=200ms",),
        suffix: str = "",
        random_suffix: str = "",
    ) -> None:
        self.node = node
        uid = str(uuid.uuid4()) if uid is None else uid
        self.identity = uid or name
        image = node.machine.image
        root = node.machine.mount_root
        self.data = [
            Sidecar(
                image,
                root / "jindo" / "default" / f"demo{n}" / random_suffix,
                node.machine.folder(f"source{n}"),
                client,
                read_only=read_only,
            )
            for n in range(datasets)
        ]
        for n, sidecar in enumerate(self.data):
            (sidecar.source / f"file{n}").write_bytes(b"1")
        parents = [sidecar.parent for sidecar in self.data]
        self.agent = Agent(image, parents, pod=name, uid=uid, options=options, suffix=suffix)
        self.apps: list[Container] = []

    def start(self, *, agent: bool = True) -> Container:
        """Start the sidecars, the agent and one application, which is returned."""
        for sidecar in self.data:
            sidecar.start()
        if agent:
            self.agent.start()
        return self.app("main")

    def app(self, name: str, *, read_only: bool = False) -> Container:
        """Start an application's container, with dataset n at /dataN."""
        mounts = [
            VolumeMount(sidecar.host_path, f"/data{n}", Propagation.HOST_TO_CONTAINER)
            for n, sidecar in enumerate(self.data)
        ]
        container = Container(self.node.machine.image, name, mounts, pods.PAUSE)
        self.apps.append(container)
        container.ready()
        if read_only:  # as a runtime does for volumeMounts[].readOnly
            for n in range(len(self.data)):
                container.run("mount", "-o", "remount,bind,ro", f"/data{n}")
        return container

    def await_anchors(self, number: int, n: int = 0) -> None:
        """Wait until the agent has so many anchors of a dataset."""
        until(lambda: len(self.anchors(n)) == number, f"{number} anchors: {self.agent.said[-5:]}")

    def anchors(self, n: int = 0) -> set[str]:
        """Return where the host has anchors of a dataset."""
        prefix = f"{self.data[n].parent / FOLDER / self.identity}/"
        return {m.mount_point for m in mountinfo.read() if m.mount_point.startswith(prefix)}

    def await_whole(self, app: Container, n: int = 0) -> None:
        """Wait until an application sees a dataset's present mount, and goes on seeing it.

        What a client stacked on its dead mount is seen at once, and again when that is cleared.
        """
        path = f"/data{n}"

        def is_whole() -> bool:
            live = self.node.sees.layers(self.data[n].host_path)
            if not live or any(not fuse.daemons(mount.dev) for mount in live[-2:-1]):
                return False
            top = app.sees.layers(path)
            return bool(top) and top[-1].dev == live[-1].dev and not app.sees.error(path)

        until(
            is_whole,
            f"{path} whole: {app.sees.layers(path)}, {self.agent.said[-8:]}, "
            f"{self.node.sees.layers(self.data[n].host_path)}",
        )

    def await_layers(self, app: Container, *numbers: int, n: int = 0) -> None:
        """Wait until an application has so many mounts at a dataset, and sees the present one."""
        until(
            lambda: len(app.sees.layers(f"/data{n}")) in numbers,
            f"{numbers} layers: {app.sees.layers(f'/data{n}')}, {self.agent.said[-8:]}",
        )
        self.await_whole(app, n)

    def await_claimed(self, heal: Healing) -> None:
        """Wait until the node plugin heals this pod in the place of its agent."""
        source = str(self.data[0].host_path)
        until(lambda: heal.store.publications(source), "the plugin to find the pod")
        heal.await_known(source)

    def said(self, words: str) -> bool:
        """Tell whether a line of the agent's log has these words."""
        return any(words in line for line in self.agent.said)

    def leave(self) -> None:
        """Run the agent's preStop hook."""
        enter = ["nsenter", f"--target={self.agent.container.pid}", "--all"]
        programs.run(*enter, *self.agent.command("--leave"))

    def delete(self) -> None:
        """End the pod as kubelet does: the agent's preStop hook, then SIGTERM for everybody."""
        self.leave()
        for container in (self.agent.container, *(data.container for data in self.data)):
            os.kill(container.pid, signal.SIGTERM)
        for app in self.apps:
            app.close()
        containers = [self.agent.container, *(data.container for data in self.data)]
        until(lambda: not any(c.alive for c in containers), "the containers to end", timeout_s=30)

    @property
    def left_on_the_node(self) -> list[str]:
        """Return the mounts below the directories that the pod had from the host."""
        parents = tuple(f"{data.parent}/" for data in self.data)
        return [m.mount_point for m in mountinfo.read() if m.mount_point.startswith(parents)]

    def await_settled(self) -> None:
        """Wait until only one mount, a live one, is left at the host path."""
        path = self.data[0].host_path
        until(lambda: len(self.node.sees.layers(path)) == 1, f"settled: {self.agent.said[-8:]}")

    def crash(self, n: int = 0) -> None:
        """Kill a sidecar and start it again, as kubelet does."""
        self.data[n].kill()
        self.data[n].start()

    @property
    def heals(self) -> int:
        """Return how many heals the agent told."""
        return sum(" healed " in line for line in self.agent.said)

    def close(self) -> None:
        """End all containers, and take from the host what a killed agent left."""
        for app in self.apps:
            app.close()
        self.agent.close()
        for sidecar in self.data:
            sidecar.close()
            _unmount_below(sidecar.parent)


def _unmount_below(folder: Path) -> None:
    machine = View(os.getpid())
    pattern = re.compile(re.escape(str(folder)) + "/")
    while found := [
        m.mount_point for m in mountinfo.read(machine.pid) if pattern.match(m.mount_point)
    ]:
        programs.run("umount", "-l", max(found, key=len))


@contextlib.contextmanager
def serverless(node: Node, client: Client, **options: object) -> Iterator[ServerlessPod]:
    """Have a pod for a block."""
    pod = ServerlessPod(node, client, **options)  # type: ignore[arg-type]
    try:
        yield pod
    finally:
        pod.close()
