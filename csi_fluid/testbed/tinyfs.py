"""The smallest FUSE file system that can be crashed: one flat folder, read-only.

For where none of the daemons that people use is installed, as in the plugin's own image.  It speaks
the wire of /dev/fuse (include/uapi/linux/fuse.h, 7.31) itself, answers one request after the other,
and knows no more than it takes to list the folder and to read a file.

    python -m csi_fluid.testbed.tinyfs FOLDER MOUNT_POINT
"""

import enum
import errno
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


class Opcode(enum.IntEnum):
    """What the kernel asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    DESTROY = 38
    BATCH_FORGET = 42


_UNANSWERED = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.DESTROY})
_HEADER = struct.Struct("<IIQQIIIHH")  # fuse_in_header
_REPLY = struct.Struct("<IiQ")  # fuse_out_header
_ATTR = struct.Struct("<6Q10I")  # fuse_attr
_VERSION = (7, 31)
_ROOT = 1
_BUFFER = 1 << 17  # more than the 4 KiB and a request of our max_write that the kernel asks for
_MAX_WRITE = 4096
_BLOCK = 4096
_INITIAL = struct.pack("<4I2HII2HI7I", *_VERSION, *([0] * 4), _MAX_WRITE, *([0] * 11))
_STATISTICS = struct.pack("<5Q10I", *([0] * 5), _BLOCK, 255, _BLOCK, *([0] * 7))


class TinyFs:
    """The files of a folder behind a descriptor of /dev/fuse; node numbers are places in a list."""

    def __init__(self, folder: Path, device: int) -> None:
        self._folder = folder
        self._device = device
        self._names: list[str] = []
        self._replies: dict[int, Callable[[int, bytes], bytes]] = {
            Opcode.INIT: lambda *_: _INITIAL,
            Opcode.LOOKUP: self._look_up,
            Opcode.GETATTR: lambda node, _: struct.pack("<QII", 0, 0, 0) + self._attributes(node),
            Opcode.OPEN: lambda *_: bytes(16),
            Opcode.OPENDIR: lambda *_: bytes(16),
            Opcode.READ: self._read,
            Opcode.READDIR: self._list,
            Opcode.STATFS: lambda *_: _STATISTICS,
            Opcode.RELEASE: lambda *_: b"",
            Opcode.FLUSH: lambda *_: b"",
            Opcode.RELEASEDIR: lambda *_: b"",
        }

    def serve(self) -> None:
        """Answer until the file system is unmounted (ENODEV)."""
        while True:
            try:
                request = os.read(self._device, _BUFFER)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in {errno.EINTR, errno.ENOENT}:  # the caller has given it up
                    continue
                raise
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
        if opcode in _UNANSWERED:
            return
        status, reply = -errno.ENOSYS, b""
        try:
            if opcode in self._replies:
                reply = self._replies[opcode](node, request[_HEADER.size :])
                status = 0
        except OSError as error:
            status = -(error.errno or errno.EIO)
        os.write(self._device, _REPLY.pack(_REPLY.size + len(reply), status, unique) + reply)

    def _look_up(self, _: int, body: bytes) -> bytes:
        number = self._number(os.fsdecode(body.rstrip(b"\0")))
        return struct.pack("<4Q2I", number, 0, 0, 0, 0, 0) + self._attributes(number)

    def _number(self, name: str) -> int:
        (self._folder / name).lstat()  # raises ENOENT
        if name not in self._names:
            self._names.append(name)
        return _ROOT + 1 + self._names.index(name)

    def _path(self, node: int) -> Path:
        return self._folder if node == _ROOT else self._folder / self._names[node - _ROOT - 1]

    def _attributes(self, node: int) -> bytes:
        found = self._path(node).stat()
        mode = stat.S_IFDIR | 0o555 if node == _ROOT else stat.S_IFREG | 0o444
        seconds = int(found.st_mtime)
        blocks = -(-found.st_size // 512)
        times = (seconds, seconds, seconds, 0, 0, 0)
        owner = (mode, 1, 0, 0, 0, _BLOCK, 0)
        return _ATTR.pack(node, found.st_size, blocks, *times, *owner)

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        with self._path(node).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _list(self, _: int, body: bytes) -> bytes:
        _, first, size = struct.unpack_from("<QQI", body)
        entries = b""
        for place, path in enumerate(sorted(self._folder.iterdir())):
            name = os.fsencode(path.name)
            entry = struct.pack(
                "<QQII", _ROOT + 1 + place, place + 1, len(name), stat.S_IFREG >> 12
            )
            entry += name + bytes(-len(name) % 8)
            if place >= first and len(entries) + len(entry) <= size:
                entries += entry
        return entries


def mount(device: int, mount_point: Path) -> None:
    """Mount what a descriptor of /dev/fuse will serve; raises subprocess.CalledProcessError."""
    options = f"ro,fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    command = ("mount", "-i", "-t", "fuse", "-o", options, "tinyfs", str(mount_point))
    subprocess.run(command, check=True, timeout=10, pass_fds=[device])


def main() -> None:
    """Serve until unmounted."""
    folder, mount_point = map(Path, sys.argv[1:])
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    mount(device, mount_point)
    TinyFs(folder, device).serve()


if __name__ == "__main__":
    main()
