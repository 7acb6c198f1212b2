"""The first file system of a machine: a cpio archive, as the kernel unpacks it at its start.

Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import gzip
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

_END = "TRAILER!!!"


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return an archive of executable files by their paths, with the folders that they need."""
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    parts = [_entry(name, stat.S_IFDIR, b"") for name in sorted(folders)]
    parts += [_entry(name, stat.S_IFREG, content) for name, content in files.items()]
    parts.append(_entry(_END, 0, b""))
    return gzip.compress(b"".join(parts), compresslevel=1)


def _entry(name: str, kind: int, content: bytes) -> bytes:
    path = name.encode() + b"\0"
    mode = kind | 0o755 if kind else 0
    # inode, mode, user, group, links, mtime, size, device, device of a node, name, checksum
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(f"{number:08x}".encode() for number in numbers)
    return b"".join(_padded((head + path, content)))


def _padded(parts: tuple[bytes, ...]) -> Iterator[bytes]:
    for part in parts:
        yield part + b"\0" * (-len(part) % 4)
