"""Programs that load a volume as jobs do, for a container: only the standard library.

python -c CODE large FILE MIB      read it once by one descriptor, telling of each tenth
python -c CODE crowd FOLDER N      N threads read at the same time, when told to
python -c CODE steady FILE         read it until something else comes than its first byte
python -c CODE mapped FILE         the same by a mapping
"""

import collections
import errno
import hashlib
import json
import mmap
import os
import sys
import threading
from collections.abc import Callable

_BLOCK = 1 << 20


def block(number: int) -> bytes:
    """Return a block of the file for `large`, unlike all other ones."""
    digest = hashlib.sha256(str(number).encode()).digest()
    return digest * (_BLOCK // len(digest))


def files(folder: str, count: int) -> dict[str, bytes]:
    """Return what `crowd` reads."""
    return {f"{folder}/{number}": f"{number}\n".encode() for number in range(count)}


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def large(path: str, mib: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    found, at, tenth = hashlib.md5(), 0, max(int(mib) * _BLOCK // 10, 1)
    tell("ready")
    while data := os.pread(fd, _BLOCK, at):
        found.update(data)
        if (at + len(data)) // tenth > at // tenth:
            tell("a tenth")
        at += len(data)
    tell(found.hexdigest())


def crowd(folder: str, count: str) -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    going, lock = threading.Event(), threading.Lock()

    def read(number: int) -> None:
        going.wait()
        outcome = "right"
        try:
            with open(f"{folder}/{number}", "rb") as file:
                if file.read() != f"{number}\n".encode():
                    outcome = "wrong"
        except OSError as error:
            outcome = errno.errorcode.get(error.errno or 0, "?")
        with lock:
            outcomes[outcome] += 1

    threading.stack_size(64 * 1024)
    threads = [threading.Thread(target=read, args=(number,)) for number in range(int(count))]
    for thread in threads:
        thread.start()
    tell("ready")
    sys.stdin.readline()
    going.set()
    for thread in threads:
        thread.join()
    tell(json.dumps(outcomes))


def steady(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    first, size = os.pread(fd, 1, 0), os.fstat(fd).st_size
    tell("ready")
    while True:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for at in range(0, size, 4096):
            try:
                data = os.pread(fd, 4096, at)
            except OSError as error:
                tell(errno.errorcode[error.errno or 0])
                return
            if data.strip(first):
                tell("mixed")
                return


def mapped(path: str) -> None:
    with open(path, "rb") as file:
        pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        first = pages[:1]
        tell("ready")
        while not bytes(pages).strip(first):
            pages.madvise(mmap.MADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    tell("mixed")


PROGRAMS: dict[str, Callable[..., None]] = {
    "large": large,
    "crowd": crowd,
    "steady": steady,
    "mapped": mapped,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
