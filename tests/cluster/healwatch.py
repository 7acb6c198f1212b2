"""Run on the node: say when a FUSE mount answers again, and each container's view of it.

    python healwatch.py SOURCE FILE PID...

SOURCE is a path on the node, FILE a path in the root of every process PID. Prints "watching" when
all are broken, then a line of JSON: the milliseconds from SOURCE's first answer to each FILE's.
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
    _await(lambda: not any(map(_answers, [source, *paths])), deadline)
    _say("watching")
    _await(lambda: _answers(source), deadline)
    start = time.monotonic()
    after_ms: list[float] = []
    while paths and time.monotonic() < deadline:
        healed = [path for path in paths if _answers(path)]
        after_ms += [(time.monotonic() - start) * 1000] * len(healed)
        paths = [path for path in paths if path not in healed]
        time.sleep(_PAUSE_S)  # noqa: TID251 -- a mount that answers is no event
    _say(json.dumps({"after_ms": after_ms, "broken": len(paths)}))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _await(condition, deadline: float) -> None:
    while not condition() and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)  # noqa: TID251


def _answers(path: str) -> bool:
    try:
        os.stat(path)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
