"""Every operation on a file system, begun while its daemon is dead: a program for a container.

Each runs in a process of its own, which does it once before the crash, says so, and does it again
when told to; what it gets then is compared with what it got before.  Only the standard library.
"""

import errno
import fcntl
import json
import mmap
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable

Operation = Callable[[str], Callable[[], object]]


def by_path(call: Callable[[str], object], name: str = "file") -> Operation:
    return lambda volume: lambda: call(f"{volume}/{name}")


def status(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_mode, found.st_size, int(found.st_mtime)


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def old_file(call: Callable[[int], object], flags: int = os.O_RDONLY) -> Operation:
    def prepare(volume: str) -> Callable[[], object]:
        fd = os.open(f"{volume}/file", flags)

        def act() -> object:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return call(fd)

        return act

    return prepare


def old_folder(call: Callable[[int], object]) -> Operation:
    def prepare(volume: str) -> Callable[[], object]:
        fd = os.open(f"{volume}/folder", os.O_RDONLY | os.O_DIRECTORY)
        return lambda: call(fd)

    return prepare


def old_cwd(call: Callable[[], object]) -> Operation:
    def prepare(volume: str) -> Callable[[], object]:
        os.chdir(f"{volume}/folder")
        return call

    return prepare


def mapped(volume: str) -> Callable[[], object]:
    with open(f"{volume}/file", "rb") as file:
        pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def fault() -> bytes:
        pages.madvise(mmap.MADV_DONTNEED)
        return bytes(pages)

    return fault


def in_mid_listing(volume: str) -> Callable[[], object]:
    entries = os.scandir(f"{volume}/many")
    first = {next(entries).name for _ in range(3)}
    rest: list[set[str]] = []

    def go_on() -> int:
        if not rest:
            rest.append({entry.name for entry in entries})
            return 0  # what the kernel had read before counts for nothing: the second pass does
        return len({*os.listdir(f"{volume}/many")} - first - rest[0])

    return go_on


def direct(fd: int) -> bytes:
    room = mmap.mmap(-1, 4096)
    os.preadv(fd, [room], 0)
    return bytes(room)


def sent(fd: int) -> bytes:
    one, other = socket.socketpair()
    with one, other:
        os.sendfile(one.fileno(), fd, 0, 4096)
        return other.recv(8192)


def polled(fd: int) -> object:
    try:
        poll = select.epoll()
        poll.register(fd, select.EPOLLIN)
    except PermissionError:
        return "a plain file is not polled"
    return poll.poll(0)


def closed(fd: int) -> object:
    copy = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.close(copy)
    return None


def locked(fd: int) -> object:
    fcntl.flock(fd, fcntl.LOCK_SH)
    fcntl.flock(fd, fcntl.LOCK_UN)
    return None


def ran(path: str) -> object:
    return subprocess.run(["/bin/sh", path], capture_output=True, check=False).stdout


def seek_ends(fd: int) -> object:
    return os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 0, os.SEEK_HOLE), os.lseek(fd, 0, 2)


RIGHTS = os.O_RDWR | os.O_CREAT

OPERATIONS: dict[str, Operation] = {
    "stat": by_path(lambda path: status(os.stat(path))),
    "lstat, readlink of a link": by_path(lambda p: (status(os.lstat(p)), os.readlink(p)), "link"),
    "stat of a missing name": by_path(os.stat, "missing"),
    "access": by_path(lambda path: os.access(path, os.R_OK)),
    "statfs": by_path(lambda path: os.statvfs(path).f_bsize),
    "listxattr": by_path(os.listxattr),
    "getxattr of a missing one": by_path(lambda path: os.getxattr(path, "user.none")),
    "open, read": by_path(content),
    "listdir": by_path(lambda path: sorted(os.listdir(path)), "many"),
    "walk": by_path(lambda path: [sorted(f) for _, _, f in os.walk(path)], "folder"),
    "run a script": by_path(ran, "script"),
    "chdir": by_path(os.chdir, "folder"),
    "create": by_path(lambda path: os.open(path, RIGHTS), "new"),
    "open to write": by_path(lambda path: os.open(path, os.O_WRONLY)),
    "unlink": by_path(os.unlink),
    "mkdir": by_path(os.mkdir, "newfolder"),
    "pread, old descriptor": old_file(lambda fd: os.pread(fd, 1 << 20, 0)),
    "preadv, old descriptor": old_file(lambda fd: os.preadv(fd, [bytearray(8192)], 4096)),
    "O_DIRECT read, old descriptor": old_file(direct, os.O_RDONLY | os.O_DIRECT),
    "sendfile, old descriptor": old_file(sent),
    "page fault, old mapping": mapped,
    "fstat, old descriptor": old_file(lambda fd: status(os.fstat(fd))),
    "fstatfs, old descriptor": old_file(lambda fd: os.fstatvfs(fd).f_bsize),
    "flistxattr, old descriptor": old_file(os.listxattr),
    "SEEK_DATA, SEEK_HOLE, SEEK_END, old descriptor": old_file(seek_ends),
    "fsync, old descriptor": old_file(os.fsync),
    "poll, old descriptor": old_file(polled),
    "flock, old descriptor": old_file(locked),
    "reopen by /proc/self/fd, close": old_file(closed),
    "list, old directory": old_folder(lambda fd: sorted(os.listdir(fd))),
    "go on in the middle of a listing": in_mid_listing,
    "fstatat, old directory": old_folder(lambda fd: status(os.stat("inner", dir_fd=fd))),
    "openat, old directory": old_folder(lambda fd: os.pread(os.open("inner", 0, dir_fd=fd), 9, 0)),
    "open, old working directory": old_cwd(lambda: content("inner")),
    "open .., old working directory": old_cwd(lambda: content("../file")),
    "getcwd, old working directory": old_cwd(os.getcwd),
}


def files() -> dict[str, bytes]:
    """Return what a volume must hold for them."""
    many = {f"many/{number:04}": b"x" for number in range(60)}
    inner = {"folder/inner": b"inner\n", "script": b"echo ran\n"}
    return {"file": bytes(range(256)) * 512, **inner, **many}


def outcome(act: Callable[[], object]) -> str:
    try:
        return repr(act())
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")


def child(operation: Operation, volume: str, go: int, tell: int) -> None:
    act = operation(volume)
    before = outcome(act)
    os.write(tell, b"ready\n")
    os.read(go, 1)
    began = time.monotonic()
    after = outcome(act)
    same = "as before" if after == before else f"{after[:60]} (before: {before[:60]})"
    os.write(tell, json.dumps([same, time.monotonic() - began]).encode())


def main() -> None:
    volume, running = sys.argv[1], {}
    for name, operation in OPERATIONS.items():
        go, tell = os.pipe(), os.pipe()
        pid = os.fork()  # noqa: TID251 -- there is one thread
        if not pid:
            status = 1
            try:
                child(operation, volume, go[0], tell[1])
                status = 0
            finally:
                os._exit(status)
        os.close(tell[1])
        running[name] = go[1], tell[0]
        assert os.read(tell[0], 6) == b"ready\n", name
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for go_on, _ in running.values():
        os.write(go_on, b"!")
    found = {name: os.read(answer, 4096) for name, (_, answer) in running.items()}
    words = {name: json.loads(text) if text else ["died", 0] for name, text in found.items()}
    sys.stdout.write(json.dumps(words))


if __name__ == "__main__":
    main()
