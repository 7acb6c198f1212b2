"""Kinds of programs that read a volume over and over, and count what went wrong.

`Readers` starts them in a container.  The second half of this file runs there, by itself: a program
with nothing but the standard library, that reads until its standard input ends.
"""

import contextlib
import hashlib
import json
import mmap
import multiprocessing
import multiprocessing.connection
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

KINDS = ("oldfd", "mmap", "cp", "tar", "grep", "walk", "cwd", "exec", "find")
LOADER = "loader"  # one more, with processes of its own
FOLDERS, FILES = 8, 12


def tree() -> dict[str, bytes]:
    """Return the content of a volume that the readers know how to check."""
    files = {"big": bytes(range(256)) * 4 * 1024 * 16}  # 16 MiB
    for folder in range(FOLDERS):
        for file in range(FILES):
            files[f"tree/d{folder}/f{file}"] = f"{folder} {file} needle\n".encode() * 50
    return files


class Readers:
    """One process of each kind in the namespaces of a process; use it as a context manager."""

    def __init__(self, pid: int, volume: str, kinds: tuple[str, ...] = KINDS) -> None:
        # Not in the PID namespace: nsenter would fork for that, and we would kill nsenter.
        enter = ["nsenter", f"--target={pid}", "--mount", "--root", "--wd"]
        python = os.path.realpath(sys.executable)
        code = Path(__file__).read_text(encoding="utf-8")
        self._processes = {
            kind: subprocess.Popen(
                [*enter, python, "-c", code, kind, volume],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            )
            for kind in kinds
        }
        for process in self._processes.values():  # each has opened what it keeps
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"

    def results(self, timeout_s: float = 20.0) -> dict[str, dict[str, object]]:
        """Stop them; return passes, errors and the longest pass in seconds of each."""
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
        return {kind: self._result(kind, timeout_s) for kind in self._processes}

    def _result(self, kind: str, timeout_s: float) -> dict[str, object]:
        process = self._processes[kind]
        try:
            out, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{kind} does not end; {_sleepers()}") from error
        result: dict[str, object] = json.loads(out)
        return result

    def close(self) -> None:
        """Kill those that still run."""
        for process in self._processes.values():
            process.kill()
            process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sleepers() -> str:
    """Return which threads wait in a FUSE mount, and where."""
    found = []
    for stack in Path("/proc").glob("[0-9]*/task/*/stack"):
        with contextlib.suppress(OSError):
            text = stack.read_text("ascii")
            if "fuse" in text or "folio" in text:
                name = stack.with_name("comm").read_text("utf-8").strip()
                call = stack.with_name("syscall").read_text("ascii").strip()
                found.append(f"{stack.parent} {name} in {call}:\n{text}")
    return "\n".join(found)


# ---- what runs in the container


class Wrong(Exception):
    """What was read is not what the volume holds."""


def expect(what: str, is_right: bool) -> None:
    if not is_right:
        raise Wrong(what)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expect(f"{command[0]}: {done.returncode} {done.stderr.strip()[:3000]}", not done.returncode)
    return done.stdout


def oldfd(volume: str) -> Iterator[None]:
    fd = os.open(f"{volume}/big", os.O_RDONLY)
    right = hashlib.md5(os.pread(fd, 1 << 30, 0)).digest()
    while True:
        yield
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        found, at = hashlib.md5(), 0
        while block := os.pread(fd, 1 << 20, at):
            found.update(block)
            at += len(block)
        expect(f"checksum after {at} bytes", found.digest() == right)


def mapped(volume: str) -> Iterator[None]:
    with open(f"{volume}/big", "rb") as file:
        pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    right = hashlib.md5(pages).digest()
    while True:
        yield
        pages.madvise(mmap.MADV_DONTNEED)
        expect("checksum of the mapping", hashlib.md5(pages).digest() == right)


def copied(volume: str) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        while True:
            yield
            run("cp", "-r", f"{volume}/tree", f"{folder}/copy")
            run("rm", "-r", f"{folder}/copy")


def packed(volume: str) -> Iterator[None]:
    while True:
        yield
        run("tar", "-C", volume, "-cf", "/dev/null", "tree")


def searched(volume: str) -> Iterator[None]:
    while True:
        yield
        found = run("grep", "-rl", "needle", f"{volume}/tree").split()
        expect(f"grep found {len(found)} files", len(found) == FOLDERS * FILES)


def walked(volume: str) -> Iterator[None]:
    while True:
        yield
        found = 0
        for folder, _, names in os.walk(f"{volume}/tree", onerror=fail):
            for name in names:
                found += os.stat(f"{folder}/{name}").st_size > 0
        expect(f"walk found {found} files", found == FOLDERS * FILES)


def fail(error: OSError) -> None:
    raise error


def below(volume: str) -> Iterator[None]:
    os.chdir(f"{volume}/tree/d0")
    while True:
        yield
        with open("f0", "rb") as file:
            expect("content", file.read().endswith(b"needle\n"))
        expect("names", len(os.listdir("../d1")) == FILES)


def executed(volume: str) -> Iterator[None]:
    while True:
        yield
        run("/bin/sh", "-c", f"cat {volume}/tree/d1/f1 >/dev/null && test -r {volume}/big")


def found(volume: str) -> Iterator[None]:
    while True:
        yield
        names = run("find", f"{volume}/tree", "-type", "f").split()
        expect(f"find found {len(names)} files", len(names) == FOLDERS * FILES)


def digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.md5(file.read()).digest()


def work(paths: list[str], results: multiprocessing.connection.Connection) -> None:
    try:
        results.send([digest(path) for path in paths])
    except OSError as error:
        results.send(error)


def loaded(volume: str) -> Iterator[None]:
    """Read all files in a random order by four processes, new ones for each epoch."""
    paths = [
        f"{volume}/tree/d{folder}/f{file}" for folder in range(FOLDERS) for file in range(FILES)
    ]
    right = {path: digest(path) for path in paths}
    while True:
        yield
        random.shuffle(paths)
        workers = []
        for number in range(4):  # not by a pool: a container may have no /dev/shm for its locks
            ours, theirs = multiprocessing.Pipe()
            share = paths[number::4]
            worker = multiprocessing.Process(target=work, args=(share, theirs))
            worker.start()
            workers.append((worker, share, ours))
        outcomes = [(share, ours.recv()) for _, share, ours in workers]
        for worker, _, _ in workers:
            worker.join()
        for share, found in outcomes:
            if isinstance(found, OSError):
                raise found
            expect("checksums", found == [right[path] for path in share])


PROGRAMS: dict[str, Callable[[str], Iterator[None]]] = dict(
    zip(
        KINDS,
        (oldfd, mapped, copied, packed, searched, walked, below, executed, found),
        strict=True,
    ),
    **{LOADER: loaded},
)


def main() -> None:
    passes, errors, longest_s = 0, [], 0.0
    program = PROGRAMS[sys.argv[1]](sys.argv[2])
    next(program)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], 0.005)[0]:
        began = time.monotonic()
        try:
            next(program)
            passes += 1
        except (OSError, Wrong) as error:
            errors.append(f"{passes}: {error!r}")
            program = PROGRAMS[sys.argv[1]](sys.argv[2])
        longest_s = max(longest_s, time.monotonic() - began)
    sys.stdout.write(json.dumps({"passes": passes, "errors": errors, "longest_s": longest_s}))


if __name__ == "__main__":
    main()
