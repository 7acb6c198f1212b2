"""Lines of JSON between the processes of the bench."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, Any


def tell(stream: IO[str], **what: Any) -> None:
    """Send one message."""
    print(json.dumps(what), file=stream, flush=True)


def hear(stream: IO[str]) -> dict[str, Any]:
    """Return the next message; raises EOFError when the other side has ended."""
    line = stream.readline()
    if not line:
        raise EOFError("the process at the other end has ended")
    message: dict[str, Any] = json.loads(line)
    return message


def orders() -> Iterator[dict[str, Any]]:
    """Yield what this process is told, until the other side ends."""
    for line in sys.stdin:
        yield json.loads(line)


def answer(**what: Any) -> None:
    """Answer the one who started this process."""
    tell(sys.stdout, **what)


class Servant:
    """Another module of the bench as a process that is told things and answers."""

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def tell(self, **what: Any) -> None:
        """Send one message and return at once."""
        assert self._process.stdin is not None
        tell(self._process.stdin, **what)

    def hear(self) -> dict[str, Any]:
        """Return the next answer; raises EOFError when the process has ended."""
        assert self._process.stdout is not None
        return hear(self._process.stdout)
