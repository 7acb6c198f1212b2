"""Run on the node: say when a FUSE mount answers again, and each container's view of it.

    python healwatch.py SOURCE FILE PID...

SOURCE is a path on the node, FILE a path in the root of every process PID. Prints "watching" when
it knows which superblock each shows, then a line of JSON: the milliseconds from SOURCE's first
answer from another one to each FILE's.
It knows nothing of the project, so that it starts at once and takes no processor time from others.
"""

import json
import os
import sys
import time

_PAUSE_S = 0.0005
_LONGEST_S = 90.0


def main(source: str, file: str, pids: list[str]) -> None:
    """Watch until all answer, or the longest time has passed."""
    deadline = time.monotonic() + _LONGEST_S
    paths = [f"/proc/{pid}/root{file}" for pid in pids]
    before = {path: _superblock(path) for path in (source, *paths)}
    _say("watching")

    # An answer of the next superblock, not the error in between, which may be over too soon.
    def is_back(path: str) -> bool:
        return _superblock(path) not in {None, before[path]}

    while not is_back(source) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)  # noqa: TID251 -- a mount that answers is no event
    start = time.monotonic()
    after_ms: list[float] = []
    while paths and time.monotonic() < deadline:
        healed = [path for path in paths if is_back(path)]
        after_ms += [(time.monotonic() - start) * 1000] * len(healed)
        paths = [path for path in paths if path not in healed]
        time.sleep(_PAUSE_S)  # noqa: TID251
    _say(json.dumps({"after_ms": after_ms, "broken": len(paths)}))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _superblock(path: str) -> int | None:
    """Return the number of what answers at a path, None while nothing does."""
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
