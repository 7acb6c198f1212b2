"""What the tests of publishing share: the services without recovery, and a pod to publish for."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from csi_fluid.rpc.client import Client
from csi_fluid.testbed import waiting
from recover.linux.mountinfo import Mount
from recover.rows import Publication
from tests.harness import Container, Daemon, Dataset, Node, Pod, View, until
from tests.rpc.serving import SOON_S, Serving, serving

ATTRIBUTES = {
    "csi.storage.k8s.io/pod.name": "app",
    "csi.storage.k8s.io/pod.namespace": "default",
}


FILES = {"a.txt": b"one\n", "sub/b.txt": b"two\n"}
WORLD = {"a.txt", "sub"}


class Publishing:
    """A node's plugin without recovery, its client, and one pod's target."""

    def __init__(self, node: Node, plugin: Serving, client: Client) -> None:
        self.node, self.plugin, self.client = node, plugin, client
        self.pod = Pod(node, "app")
        self.target = self.pod.target("volume")

    def publish(
        self, data: Dataset, target: Path | None = None, *, timeout_s: float = 10, **changes: Any
    ) -> None:
        """Publish a dataset's volume; changes are fields of `Volume`, attributes among them."""
        attributes = ATTRIBUTES | changes.pop("attributes", {})
        volume = replace(data.volume, attributes=attributes, **changes)
        self.client.publish(volume, target or self.target, timeout_s=waiting.PACE * timeout_s)

    def unpublish(self, data: Dataset, target: Path | None = None) -> None:
        """Unpublish a dataset's volume."""
        self.client.unpublish(data.volume, target or self.target, timeout_s=waiting.PACE * 10)

    def hang(self, data: Dataset) -> None:
        """Stop a dataset's daemon; from now on nobody waits for the answer of one for long."""
        self.plugin.prober.timeout_s = SOON_S
        data.daemon.kill(signal.SIGSTOP)

    @property
    def sees(self) -> View:
        """Return the host's view."""
        return self.node.sees

    @property
    def layers(self) -> tuple[Mount, ...]:
        """Return what is mounted at the target, bottom first."""
        return self.sees.layers(self.target)

    @property
    def rows(self) -> tuple[Publication, ...]:
        """Return what is recorded."""
        return self.plugin.store.publications()

    def is_as_never_published(self) -> bool:
        """Tell whether there is neither a target nor a record."""
        return not self.layers and not self.rows and self.target.parent.exists() and _is_bare(self)


def _is_bare(publishing: Publishing) -> bool:
    return not list(publishing.target.parent.iterdir())


@contextmanager
def publishing(node: Node, **options: Any) -> Iterator[Publishing]:
    """Serve on a node for a block."""
    with serving(node.machine.folder("serving"), **options) as (plugin, client):
        made = Publishing(node, plugin, client)
        try:
            yield made
        finally:
            made.pod.close()


def second_daemon(node: Node, data: Dataset) -> Daemon:
    """Return another daemon of the same data at the same place, not started."""
    folder = node.machine.folder("second")
    return Daemon(data.daemon.filesystem, data.daemon.mount_point, folder)


@contextmanager
def stopped(on: Publishing, data: Dataset) -> Iterator[None]:
    """Let the daemon of a dataset hang for a block."""
    patience_s = on.plugin.prober.timeout_s
    on.hang(data)
    try:
        yield
    finally:
        data.daemon.kill(signal.SIGCONT)
        on.plugin.prober.timeout_s = patience_s


def end(container: Container) -> None:
    """Kill a container; what it wrote can be read afterwards."""
    os.kill(container.pid, signal.SIGKILL)
    until(lambda: not container.alive, "the container ended")
