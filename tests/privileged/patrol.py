"""A process that goes from place to place at full speed, and tells each new thing that it sees.

`Patrol` starts it.  The second half of this file runs there, by itself, with nothing but the
standard library.  A place is a path as some process sees it, looked at through /proc/PID/root: what
is listed there, whose it is and with which flags, whether a canary beneath the mount shows, whether
a file can be made, and what is mounted there.  It reads a line of JSON for each place that comes or
goes, and ends when its standard input does.
"""

import contextlib
import errno
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

CANARY = "canary"  # lies in the directory beneath a mount
GONE = frozenset({errno.errorcode[errno.ENOTCONN], errno.errorcode[errno.ECONNABORTED]})
_MOST_LAYERS = 2


class Patrol:
    """The process; use it as a context manager."""

    def __init__(self) -> None:
        """Begin, without a place."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._before: dict[str, set[str]] = {}
        self._seen: dict[str, set[str]] = {}
        self.rounds = 0

    def add(self, name: str, pid: int, path: str | Path, bare: str | Path) -> set[str]:
        """Go to one more place, and return what is seen there now: as it is to stay.

        bare is a directory of the file system that lies beneath the mount.
        """
        self._seen[name] = set()
        self._tell({"name": name, "pid": pid, "path": str(path), "bare": os.stat(bare).st_dev})
        self._before[name] = set(self._seen[name])
        return self._before[name]

    def remove_last(self) -> None:
        """Go no more to the place that was added last."""
        self._tell({"name": next(reversed(self._seen))})

    def surprises(self) -> dict[str, set[str]]:
        """Return what was seen, by place, that was not so at first, but for errors of the dead."""
        self._tell({})
        found = {name: seen - self._before[name] - GONE for name, seen in self._seen.items()}
        return {name: left for name, left in found.items() if left}

    def _tell(self, line: dict[str, Any]) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(line) + "\n")
        process.stdin.flush()
        for answer in process.stdout:
            name, outcome = json.loads(answer)
            if not name:
                self.rounds = int(outcome)
                return
            self._seen[name].add(outcome)
        raise AssertionError(f"the patrol ended with status {process.wait()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


# ---- what runs in the process


class Place:
    """One place, and what was seen there."""

    def __init__(self, name: str, pid: int, path: str, bare: int) -> None:
        self.name = name
        self._place = f"/proc/{pid}/root{path}"
        self._table = f"/proc/{pid}/mountinfo"
        self._point = path.encode()
        self._bare = bare
        self._seen: set[str] = set()

    def visit(self) -> None:
        """Look, and tell what is new."""
        for look in (self._beneath, self._listed, self._beneath, self._written):
            self._note(_outcome(look))
        for outcome in self._mounted():
            self._note(outcome)

    def _note(self, outcome: str) -> None:
        if outcome and outcome not in self._seen:
            self._seen.add(outcome)
            tell(self.name, outcome)

    def _listed(self) -> str:
        fd = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            names, found, flags = sorted(os.listdir(fd)), os.fstat(fd), os.fstatvfs(fd).f_flag
        finally:
            os.close(fd)
        if found.st_dev == self._bare:
            return f"the bare directory, with {names}"
        return f"{names} of {found.st_uid}:{found.st_gid}, mode {found.st_mode:o}, flags {flags:x}"

    def _beneath(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            os.stat(f"{self._place}/{CANARY}")
            return "the canary beneath"
        return ""

    def _written(self) -> str:
        os.close(os.open(f"{self._place}/probe", os.O_WRONLY | os.O_CREAT))
        return "written"

    def _mounted(self) -> set[str]:
        with open(self._table, "rb", buffering=0) as file:
            lines = [line.split() for line in (file.read() or b"").splitlines()]
        layers = [line for line in lines if line[4] == self._point]
        kinds = {" ".join(_kinds(line)) for line in layers}
        # a long table comes in pieces, between which the layers may change
        is_whole = len(lines) < 40
        if is_whole and len(layers) > _MOST_LAYERS:
            kinds.add(f"{len(layers)} layers, of {b' '.join(line[2] for line in layers).decode()}")
        return kinds


def _kinds(line: list[bytes]) -> list[str]:
    """Return flags and propagation of a mount."""
    tags = [tag.partition(b":")[0].decode() for tag in line[6 : line.index(b"-")]]
    return [line[5].decode(), *tags]


def _outcome(look: Any) -> str:
    try:
        return str(look())
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def tell(name: str, outcome: str) -> None:
    sys.stdout.write(json.dumps([name, outcome]) + "\n")
    sys.stdout.flush()


def main() -> None:
    places: dict[str, Place] = {}
    rounds, rest = 0, b""
    while True:
        for place in places.values():
            place.visit()
        rounds += 1
        if not select.select([0], [], [], 0 if places else None)[0]:
            continue
        if not (data := os.read(0, 65536)):
            return
        *lines, rest = (rest + data).split(b"\n")
        for wanted in map(json.loads, lines):
            places.pop(wanted.get("name", ""), None)
            if "pid" in wanted:
                places[wanted["name"]] = Place(**wanted)
                places[wanted["name"]].visit()
            tell("", str(rounds))


if __name__ == "__main__":
    main()
