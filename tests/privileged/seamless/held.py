"""The plugin's inside with seamless recovery on, and its holder and reader."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from recover.seamless.client import Client, Held
from tests.harness import Dataset, Node, until
from tests.privileged.healing import Healing


class HeldHealing(Healing):
    """Publishes, heals and holds."""

    def __init__(self, node: Node, hold_s: float = 20.0, **options: object) -> None:
        super().__init__(node, hold_s=hold_s, **options)  # type: ignore[arg-type]
        self.client = Client(node.machine.folder("hold") / "s", starts=False)

    def held(self, data: Dataset) -> Held:
        """Return what the holder says of a dataset."""
        return self.client.status().sources.get(str(data.volume.source), Held())


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
        os.kill(pid, signal.SIGKILL)
        until(lambda: pid_of(name) != pid, f"the {name} killed")
