"""A FUSE daemon that answers each kind of request as a test wants it: the wire alone, no library.

linux/fuse.h has the numbers and structures.
"""

import errno
import os
import stat
import struct
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from recover.linux import syscalls

LOOKUP, GETATTR, STATFS, INIT = 1, 3, 17, 26
_UNANSWERED = frozenset({2, 36, 42})  # FORGET, INTERRUPT, BATCH_FORGET
_ROOM = 64 * 1024
_IN = struct.Struct("=IIQQIIII")
_OUT = struct.Struct("=IiQ")
_VERSION = struct.Struct("=II")


class RawFuse:
    """Serves one mount whose root is an empty directory, or a file; use it as a context manager.

    refusals holds the errno for a kind of request, and may be changed while it serves.
    """

    def __init__(
        self, place: Path, *, root_mode: int = stat.S_IFDIR | 0o755, uid: int = 0, options: str = ""
    ) -> None:
        """Mount at a place that is there; uid is whose daemon it is."""
        self.refusals: Mapping[int, int] = {}
        self._place = place
        self._mode = root_mode
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        words = f"fd={self._fd},rootmode={root_mode:o},user_id={uid},group_id={uid}{options}"
        command = ("mount", "-i", "-t", "fuse", "-o", words, "raw", str(place))
        subprocess.run(command, pass_fds=[self._fd], check=True, timeout=10)
        self._thread = threading.Thread(target=self._serve, name="raw FUSE", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, _ROOM)
            except OSError:  # unmounted
                return
            _, kind, unique, *_ = _IN.unpack_from(request)
            if kind in _UNANSWERED:
                continue
            number = self.refusals.get(kind, 0)
            body = self._answer(kind, request)
            if number or body is None:
                number, body = number or errno.ENOSYS, b""
            os.write(self._fd, _OUT.pack(_OUT.size + len(body), -number, unique) + body)

    def _answer(self, kind: int, request: bytes) -> bytes | None:
        if kind == INIT:
            version = _VERSION.unpack_from(request, _IN.size)
            return struct.pack("=IIIIHHII32x", *version, 0, 0, 1, 1, 4096, 1)
        if kind == GETATTR:
            attributes = struct.pack("=6Q10I", 1, 0, 0, *[0] * 3, *[0] * 3, self._mode, 1, *[0] * 5)
            return bytes(16) + attributes  # valid for no time: each question reaches us
        if kind == STATFS:
            return struct.pack("=5Q10I", 9, 5, 5, 9, 5, 4096, 255, 4096, *[0] * 7)
        return None

    def close(self) -> None:
        """Unmount, and end; copies of the mount are dead then."""
        syscalls.umount2(str(self._place), syscalls.MNT_DETACH)
        os.close(self._fd)
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
