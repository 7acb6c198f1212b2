"""A process that does one thing over and over in a container, and tells each new outcome."""

import errno
import subprocess
from pathlib import Path
from typing import Self

from csi_fluid.testbed.pods import PYTHON

_SCRIPT = """
import ctypes, errno, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def look(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return " ".join(sorted(os.listdir(fd)))
    finally:
        os.close(fd)
def write(path):
    os.close(os.open(path + "/probe", os.O_WRONLY | os.O_CREAT))
    return "written"
def remount(path):
    # MS_REMOUNT | MS_BIND without MS_RDONLY
    if libc.mount(None, os.fsencode(path), None, 32 | 4096, None):
        raise OSError(ctypes.get_errno(), path)
    return "remounted"
def end():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=end, daemon=True).start()
act, path, seen = globals()[sys.argv[1]], sys.argv[2], set()
while True:
    try:
        outcome = act(path)
    except OSError as error:
        outcome = errno.errorcode[error.errno]
    if outcome not in seen:
        seen.add(outcome)
        print(outcome, flush=True)
"""

GONE = frozenset({errno.errorcode[errno.ENOTCONN], errno.errorcode[errno.ECONNABORTED]})


class Watch:
    """Does one of these as fast as it can.

    `look` lists a directory, `write` creates a file there, `remount` makes the mount writable.
    """

    def __init__(self, pid: int, act: str, path: str | Path, *, users: bool = False) -> None:
        """Begin in the namespaces and root of a process, that of its users only if asked."""
        enter = ["nsenter", f"--target={pid}", "--mount", "--pid", "--root"]
        enter += ["--user", "--preserve-credentials"] if users else []
        self._process = subprocess.Popen(
            [*enter, PYTHON, "-I", "-c", _SCRIPT, act, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._outcomes = {self._process.stdout.readline().rstrip("\n")}  # it has begun

    def outcomes(self) -> set[str]:
        """End, and return what was seen: names, errno names, "written"."""
        rest, _ = self._process.communicate(timeout=20)
        return self._outcomes | set(rest.splitlines())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
