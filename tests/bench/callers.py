"""Readers of a volume in one container, for a process that obeys lines of JSON.

    python -c CODE threads FOLDER N    N readers, each with a descriptor and by path, in turn
    python -c CODE stream FILE         reads all of FILE when told to, by a descriptor or anew

Only the standard library, and `sys.stdin` and `sys.stdout`.
"""

import json
import os
import sys
import threading
import time

PAUSE_S = 0.05
_LONG_S = 0.005
_BLOCK = 128 * 1024


class Reader(threading.Thread):
    """Reads by path and by an old descriptor; notes errors, and calls that took long."""

    def __init__(self, folder: str) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._fd = os.open(f"{folder}/big0", os.O_RDONLY)
        self.errors: list[str] = []
        self.long: list[tuple[float, float]] = []  # monotonic begin and end of calls

    def run(self) -> None:
        pause = threading.Event()
        while True:
            for call in (self._by_path, self._by_descriptor):
                began = time.monotonic()
                try:
                    call()
                except OSError as error:
                    self.errors.append(repr(error))
                if time.monotonic() - began > _LONG_S:
                    self.long.append((began, time.monotonic()))
            pause.wait(PAUSE_S)

    def _by_path(self) -> None:
        with open(f"{self._folder}/a.txt", "rb") as file:
            file.read()

    def _by_descriptor(self) -> None:
        os.posix_fadvise(self._fd, 0, _BLOCK, os.POSIX_FADV_DONTNEED)
        os.pread(self._fd, _BLOCK, 0)


def threads(folder: str, count: str) -> None:
    readers = [Reader(folder) for _ in range(int(count))]
    for reader in readers:
        reader.start()
    answer({})
    for _ in sys.stdin:
        found = [(reader.errors, reader.long) for reader in readers]
        for reader in readers:
            reader.errors, reader.long = [], []
        answer(
            {"errors": [e for errors, _ in found for e in errors], "long": [w for _, w in found]}
        )


def stream(path: str) -> None:
    old = os.open(path, os.O_RDONLY)
    answer({})
    for line in sys.stdin:
        fd = old if json.loads(line)["old"] else os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        began, at = time.monotonic(), 0
        while data := os.pread(fd, _BLOCK, at):
            at += len(data)
        answer({"began": began, "ended": time.monotonic()})
        if fd != old:
            os.close(fd)


def answer(words: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "threads":
        threads(*sys.argv[2:])
    else:
        stream(*sys.argv[2:])
