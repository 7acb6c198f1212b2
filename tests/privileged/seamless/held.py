"""The plugin's inside with seamless recovery on, and its holder and reader."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from csi_fluid.testbed.waiting import PACE
from recover.seamless.client import Client, Held
from tests.harness import Dataset, Node, Propagation, until
from tests.harness.node import Container
from tests.privileged.healing import Healing


class HeldHealing(Healing):
    """Publishes, heals and holds."""

    def __init__(self, node: Node, hold_s: float = 20.0, **options: object) -> None:
        super().__init__(node, hold_s=PACE * hold_s, **options)  # type: ignore[arg-type]
        self.client = Client(node.machine.folder("hold") / "s", starts=False)

    def held(self, data: Dataset) -> Held:
        """Return what the holder says of a dataset."""
        return self.client.status().of(str(data.volume.source))

    def container(
        self,
        node: Node,
        data: Dataset,
        propagation: Propagation = Propagation.HOST_TO_CONTAINER,
    ) -> Container:
        """Start a container that has a dataset at /data, and whose reads would outlive a crash."""
        pod = node.pod()
        main = pod.container("main", {"/data": self.publish(pod, data)}, propagation)
        self.await_kept(data)
        return main

    def look(self, data: Dataset) -> None:
        """Have a source looked at, as a tick does."""
        assert self.recovery is not None
        self.recovery.changed(str(data.volume.source))

    def await_kept(self, data: Dataset) -> None:
        """Wait until the live daemon's connection is kept."""
        until(lambda: self._is_newest(data) and self.held(data).has_root, "the connection kept")

    def await_held(self, data: Dataset) -> None:
        """Wait until callers are kept waiting, and the dead mount is out of the daemon's way."""
        until(lambda: self.held(data).waits_s is not None, "the connection held")
        until(lambda: not self._node.sees.layers(data.volume.source), "the dead mount cleared")

    def await_served(self, data: Dataset) -> None:
        """Wait until the dead daemons' connections are served from the live one."""
        until(lambda: self._is_newest(data) and self.held(data).serving, "old connections served")

    def _is_newest(self, data: Dataset) -> bool:
        layers = self._node.sees.layers(data.volume.source)
        return bool(layers) and layers[-1].dev == self.held(data).newest


@contextlib.contextmanager
def holding(node: Node, **options: object) -> Iterator[HeldHealing]:
    """Publish, heal and hold for a block; end the holder and the reader after it."""
    made = HeldHealing(node, **options)  # type: ignore[arg-type]
    try:
        made.start()
        yield made
    finally:
        made.close()
        made.client.close()
        for name in ("holder", "reader"):
            end(name)


@contextlib.contextmanager
def inside(
    main: Container, *program: str, within: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python program in a container for a block, from where it says that it is ready.

    program is its text and its arguments; within is a command that runs it in namespaces of its
    own, below the container's.
    """
    enter = ["nsenter", f"--target={main.pid}", "--mount", "--root", "--wd"]
    # Else not in its PID namespace: nsenter would fork for that, and we would kill nsenter.
    enter += ["--pid", *within] if within else []
    command = [*enter, os.path.realpath(sys.executable), "-c", *program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def go(process: subprocess.Popen[bytes]) -> None:
    """Let a program that is ready do what it is for."""
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()


def said(process: subprocess.Popen[bytes]) -> str:
    """Return the next line that a program writes."""
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def pid_of(name: str) -> int | None:
    """Return the process id of the holder or the reader in this sandbox."""
    word = f"recover.seamless.{name}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return int(pid)
    return None


def end(name: str) -> None:
    """Kill the holder or the reader, and wait until it is gone."""
    pid = pid_of(name)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):  # the reader ends with the holder
            os.kill(pid, signal.SIGKILL)
        until(lambda: pid_of(name) != pid, f"the {name} killed")
