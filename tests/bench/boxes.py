"""A machine for one subject and one experiment, from the side that gives the orders.

The box is a mount and a PID namespace; when its first process ends the kernel ends all others in
it, and the mounts go with them.  Outside it has one folder on a real disk, for the state file.
"""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.bench import processes, wire
from tests.bench.subjects import Spec

_ROOT = Path(__file__).parents[2]
_INIT = "tests/bench/init.sh"
_DISK = "/var/tmp"  # /tmp may be memory, where fsync(2) costs nothing
_END_S = 30.0
# Each link of the chain dies with the one before it, whatever ended that.
_NAMESPACES = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("--propagation", "private"),
)


class BoxError(Exception):
    """What went wrong in a box: the last line says it, all lines are for the record."""


class Box:
    """A box; use it as a context manager, nothing of it is left afterwards.

    It may be left before `start` was called, or in the middle of it.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._folder = Path(_DISK, f"csi-bench-{uuid.uuid4()}")
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Make the namespaces and start the stage."""
        (self._folder / "state").mkdir(parents=True)
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *_NAMESPACES,
                    "sh",
                    _INIT,
                    self._folder,
                    sys.executable,
                    "-m",
                    "tests.bench.stage",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=_ROOT,
                start_new_session=True,  # Ctrl-C in a terminal is for us alone
            )

    def prepare(self, part: str, subject: Spec, arguments: dict[str, Any]) -> None:
        """Set the stage; raises BoxError."""
        self._ask(
            disk=str(self._folder / "state"),
            part=part,
            subject=dataclasses.asdict(subject),
            arguments=arguments,
        )

    def round(self, arguments: dict[str, Any]) -> dict[str, list[float]]:
        """Have one round played and return its samples; raises BoxError."""
        return self._ask(**arguments)

    def _ask(self, **order: Any) -> dict[str, Any]:
        process = self._process
        assert process is not None, "not started"
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            wire.tell(process.stdin, **order)
            while "say" in (heard := wire.hear(process.stdout)):
                self._say(heard["say"])
        except (EOFError, BrokenPipeError):
            log = (self._folder / "log").read_text("utf-8", "replace")
            raise BoxError(log.strip() or "the box ended and said nothing") from None
        if "error" in heard:
            raise BoxError(heard["error"].strip())
        result: dict[str, Any] = heard["result"]
        return result

    def close(self) -> None:
        """End everything in the box and wait until it is gone."""
        if self._process is not None:
            _end(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _end(process: subprocess.Popen[str]) -> None:
    # Not unshare but its child, the first process of the namespace: unshare ends after it, and it
    # after all others, so that nobody writes into the folder any more.
    inside = processes.children(process.pid)
    for pid in inside:
        os.kill(pid, signal.SIGKILL)
    if not inside:
        process.kill()
    process.wait(_END_S)
