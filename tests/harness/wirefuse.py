"""A FUSE server that speaks the wire itself, so that each request can be left without an answer.

It shows one file, "file", and one directory, "sub", with that file again.  What it does about a
request is looked up in a folder of rules, when the request comes: a file named by the operation, or
"ALL", whose text is "hang", a number of seconds to wait first, or the name of an errno.  A request
that hangs was read: the kernel then waits for the answer where no signal reaches the caller.
`rawfuse` is the one for errors, on a thread of the test.
"""

import contextlib
import errno
import os
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

# <linux/fuse.h>
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, INIT, OPENDIR, READDIR = (
    1,
    2,
    3,
    14,
    15,
    17,
    26,
    27,
    28,
)
RELEASE, FLUSH, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET, STATX = 18, 25, 29, 36, 38, 42, 52
NAMES = {
    LOOKUP: "LOOKUP",
    GETATTR: "GETATTR",
    OPEN: "OPEN",
    READ: "READ",
    STATFS: "STATFS",
    OPENDIR: "OPENDIR",
    READDIR: "READDIR",
    STATX: "STATX",
}
_SILENT = frozenset({FORGET, BATCH_FORGET, INTERRUPT, DESTROY})  # which take no answer
_DONE = frozenset({RELEASE, FLUSH, RELEASEDIR})
_UNWATCHED = frozenset({RELEASE, RELEASEDIR})  # whose answer no caller waits for

_IN = struct.Struct("=IIQQIIII")
_OUT = struct.Struct("=IiQ")
_ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
_ROOT, _SUB, _FILE = 1, 2, 3
_MODES = {_ROOT: stat.S_IFDIR | 0o755, _SUB: stat.S_IFDIR | 0o755, _FILE: stat.S_IFREG | 0o644}
_CHILDREN = {_ROOT: {b"file": _FILE, b"sub": _SUB}, _SUB: {b"file": _FILE}}
_CONTENT = b"1"
_LEFT = "left"  # in the folder of rules
_INIT_EXT, _ALLOW_IDMAP = 1 << 30, 1 << (40 - 32)  # flags, flags2; Linux 6.12 maps ids


class WireFuse:
    """The server as a file system of the demonstration (`csi_fluid.testbed.filesystems`)."""

    name = "wirefuse"
    fs_type = "fuse"
    ready = ""

    def __init__(self, folder: Path, *, read_only: bool = True) -> None:
        self.rules = folder / "rules"
        self.rules.mkdir()

    def command(self, mount_point: Path) -> list[str]:
        """Return the command."""
        return [sys.executable, __file__, str(mount_point), str(self.rules)]

    def rule(self, operation: str, what: str) -> None:
        """Have an operation, or "ALL", treated so from now on."""
        fresh = self.rules / f".{operation}"
        fresh.write_text(what)
        fresh.rename(self.rules / operation)

    @property
    def has_left_one(self) -> bool:
        """Tell whether a request was read that gets no answer: no signal ends a wait for that."""
        return (self.rules / _LEFT).exists()

    def put(self, name: str, data: bytes) -> None:
        """Take no data."""

    def close(self) -> None:
        """Serve nothing else."""


class _Server:
    def __init__(self, mount_point: str, rules: Path) -> None:
        self._fd = os.open("/dev/fuse", os.O_RDWR)
        self._rules = rules
        options = (
            f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        )
        command = ["mount", "-i", "-t", "fuse", "-o", options, "wirefuse", mount_point]
        subprocess.run(command, check=True, pass_fds=[self._fd])

    def serve(self) -> None:
        """Answer until the connection ends."""
        while True:
            try:
                request = os.read(self._fd, 1 << 20)
            except OSError as error:
                if error.errno in {errno.EINTR, errno.ENOENT}:
                    continue
                return
            length, operation, number, node, *_ = _IN.unpack_from(request)
            if operation not in _SILENT:
                self._treat(operation, number, node, request[_IN.size : length])

    def _treat(self, operation: int, number: int, node: int, body: bytes) -> None:
        rule = self._rule(operation)
        if rule == "hang":
            if operation not in _UNWATCHED:
                (self._rules / _LEFT).touch()
            return
        if rule.replace(".", "").isdigit():
            answer = lambda: self._answer(number, *_answer(operation, node, body))  # noqa: E731
            threading.Timer(float(rule), answer).start()
        elif rule:
            self._answer(number, getattr(errno, rule), b"")
        else:
            self._answer(number, *_answer(operation, node, body))

    def _rule(self, operation: int) -> str:
        if operation == INIT:
            return ""
        for name in (NAMES.get(operation, str(operation)), "ALL"):
            with contextlib.suppress(FileNotFoundError):
                return (self._rules / name).read_text()
        return ""

    def _answer(self, number: int, error: int, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the caller was killed meanwhile
            os.write(self._fd, _OUT.pack(_OUT.size + len(data), -error, number) + data)


def _answer(operation: int, node: int, body: bytes) -> tuple[int, bytes]:
    """Return the errno, 0 for none, and the data of an answer."""
    if operation in _DONE:
        return 0, b""
    makers: dict[int, Callable[[int, bytes], bytes]] = {
        INIT: _init,
        LOOKUP: _lookup,
        GETATTR: lambda node, _: struct.pack("=QII", 0, 0, 0) + _attributes(node),
        OPEN: lambda *_: struct.pack("=QII", 1, 0, 0),
        OPENDIR: lambda *_: struct.pack("=QII", 1, 0, 0),
        READ: lambda *_: _CONTENT,
        READDIR: _readdir,
        STATFS: lambda *_: struct.pack("=5Q4I", 100, 50, 50, 10, 5, 4096, 255, 4096, 0) + bytes(24),
    }
    try:
        return 0, makers[operation](node, body)
    except KeyError:  # an operation, or a name, that is not here
        return (errno.ENOENT if operation == LOOKUP else errno.ENOSYS), b""


def _init(_: int, body: bytes) -> bytes:
    _, minor, read_ahead, _ = struct.unpack_from("=4I", body)
    options = _INIT_EXT, _ALLOW_IDMAP
    return struct.pack(
        "=4IHHIIHHI28x",
        7,
        min(minor, 42),
        read_ahead,
        options[0],
        12,
        10,
        65536,
        1,
        32,
        0,
        options[1],
    )


def _lookup(node: int, body: bytes) -> bytes:
    child = _CHILDREN[node][body.rstrip(b"\0")]
    return struct.pack("=4Q2I", child, 0, 0, 0, 0, 0) + _attributes(child)


def _attributes(node: int) -> bytes:
    size = len(_CONTENT) if node == _FILE else 4096
    return _ATTRIBUTES.pack(node, size, 8, 1, 1, 1, 0, 0, 0, _MODES[node], 1, 0, 0, 0, 4096, 0)


def _readdir(node: int, body: bytes) -> bytes:
    _, offset, _ = struct.unpack_from("=QQI", body)
    entries = list(_CHILDREN[node].items())[offset:]
    parts = []
    for place, (name, child) in enumerate(entries, offset + 1):
        entry = struct.pack("=QQII", child, place, len(name), _MODES[child] >> 12) + name
        parts.append(entry + bytes(-len(entry) % 8))
    return b"".join(parts)


if __name__ == "__main__":
    _Server(sys.argv[1], Path(sys.argv[2])).serve()
