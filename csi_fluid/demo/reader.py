"""Runs inside the pod: opens a file again and again, and says when that begins to work or to fail.

Each line of output is the monotonic time in ns and "ok" or the error's number.  A look every 10 ms,
every 1 ms while it fails: opening asks the FUSE daemon each time, nothing is answered from a cache.
Only the text of this file gets into the pod, so it imports nothing of ours.
"""

import select
import sys
import time


def look(path: str) -> str:
    """Return "ok", or the number of the error."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  pathlib would double the start of this reader
            file.read(1)
    except OSError as error:
        return str(error.errno)
    return "ok"


def watch(path: str) -> None:
    """Print every change, for ever."""
    last = ""
    while True:
        now = look(path)
        if now != last:
            print(time.monotonic_ns(), now, flush=True)
        last = now
        select.select([], [], [], 0.01 if now == "ok" else 0.001)


if __name__ == "__main__":
    watch(sys.argv[1])
