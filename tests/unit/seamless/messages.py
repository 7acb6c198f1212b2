"""Requests as the kernel writes them to /dev/fuse: <linux/fuse.h>, built apart from the parser."""

import struct

from recover.seamless.wire import Op

USER, GROUP, PROCESS = 1, 2, 3  # whose each request is


def message(op: int, unique: int = 7, body: bytes = b"", *, node: int = 1, claim: int = 0) -> bytes:
    """Return a request; claim is how many bytes its length says too much."""
    length = 40 + len(body) + claim
    caller = USER, GROUP, PROCESS
    return struct.pack("=IIQQIIIHH", length, op, unique, node, *caller, 0, 0) + body


def read(unique: int, offset: int, size: int = 4096, *, node: int = 1) -> bytes:
    """Return a READ of a file, whose handle has its number, too."""
    return message(Op.READ, unique, _read_in(node, offset, size), node=node)


def listing(unique: int, offset: int) -> bytes:
    """Return a READDIR, from where an earlier one ended."""
    return message(Op.READDIR, unique, _read_in(1, offset, 4096))


def _read_in(handle: int, offset: int, size: int) -> bytes:
    return struct.pack("=QQIIQII", handle, offset, size, 0, 0, 0, 0)
