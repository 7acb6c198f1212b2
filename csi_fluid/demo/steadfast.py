"""Runs inside the pod: reads by name, by a descriptor and by a mapping from before, for ever.

Each line of output is the monotonic time in ns, the way, how long that pass took in ns, and "ok",
"wrong" for a checksum that is not the first one's, or the error's number.  The page cache is
dropped first: each pass asks whoever serves the volume.  A mapping that fails ends the process with
SIGBUS.  Only the text of this file gets into the pod, so it imports nothing of ours.
"""

import hashlib
import mmap
import os
import select
import sys
import time
from collections.abc import Callable


def checksum(data: bytes | mmap.mmap) -> bytes:
    """Return what tells two contents apart."""
    return hashlib.sha256(data).digest()


def by_name(path: str) -> bytes:
    """Return the checksum of a file, opened now."""
    with open(path, "rb") as file:  # noqa: PTH123  pathlib would double the start of this reader
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return checksum(file.read())


def by_descriptor(fd: int) -> bytes:
    """Return the checksum of a file, open since the beginning."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return checksum(os.pread(fd, os.fstat(fd).st_size, 0))


def by_mapping(pages: mmap.mmap) -> bytes:
    """Return the checksum of a mapping, made at the beginning."""
    pages.madvise(mmap.MADV_DONTNEED)
    return checksum(pages)


def attempt(look: Callable[[], bytes], right: bytes) -> str:
    """Return how a pass went."""
    try:
        return "ok" if look() == right else "wrong"
    except OSError as error:
        return str(error.errno)


def watch(path: str) -> None:
    """Print every pass, for ever."""
    fd = os.open(path, os.O_RDONLY)
    pages = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    right = by_name(path)
    ways: dict[str, Callable[[], bytes]] = {
        "name": lambda: by_name(path),
        "descriptor": lambda: by_descriptor(fd),
        "mapping": lambda: by_mapping(pages),
    }
    while True:
        for way, look in ways.items():
            began = time.monotonic_ns()
            how = attempt(look, right)
            now = time.monotonic_ns()
            print(now, way, now - began, how, flush=True)
        select.select([], [], [], 0.01)


if __name__ == "__main__":
    watch(sys.argv[1])
