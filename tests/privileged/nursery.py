"""Where the processes come from that die in the middle of what they do, and how they are heard."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.harness import Node

DIED = "ended 137"


class Nursery:
    """A process of a module that has children, one after the other (tests/privileged/dying.py)."""

    def __init__(self, module: str, node: Node) -> None:
        machine = node.machine
        places = (str(p) for p in (machine.state, machine.kubelet, machine.mount_root))
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.privileged.{module}", *places],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._child: int | None = None

    def bear(self, *given: object) -> None:
        """Let a child live by what it is given."""
        assert self._process.stdin is not None
        print(json.dumps(given), file=self._process.stdin, flush=True)
        alive, pid = self.hear().split()
        assert alive == "alive"
        self._child = int(pid)

    def hear(self) -> str:
        """Wait for what the child says, or for "ended" and its exit status."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        assert said, "it ended"
        if said.startswith("ended"):
            self._child = None
        return said

    def kill(self) -> None:
        """End the child, if it lives."""
        while (child := self._child) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            self.hear()

    def close(self) -> None:
        """End the child and the process."""
        self.kill()
        self._process.communicate()
