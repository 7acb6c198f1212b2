"""The wire of /dev/fuse: requests are parsed strictly, replies are built; nothing is read here.

<linux/fuse.h> (7.39) has the numbers and structures.  What comes off the device was made by the
kernel, but out of what a container asked for: a message that is not exactly as it should be is
`Malformed`, and is answered EIO.
"""

import enum
import errno
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

ROOT = 1  # FUSE_ROOT_ID
FOPEN_KEEP_CACHE = 2
RESEND = struct.pack("=IiQ", 16, 7, 0)  # FUSE_NOTIFY_RESEND, 6.9+
MARK = 0xF51D  # an ioctl(2) that nobody knows, and which brings nothing along
RESENT = 1 << 63  # in `unique`, of a request that the dead daemon had read
NAME_MAX = 255


class Malformed(ValueError):
    """A message is not as <linux/fuse.h> says."""


class Op(enum.IntEnum):
    """What the kernel asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


UNANSWERED = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT, Op.DESTROY, Op.NOTIFY_REPLY})
DONE_AT_ONCE = frozenset({Op.FLUSH, Op.RELEASE, Op.RELEASEDIR, Op.FSYNC, Op.FSYNCDIR, Op.SYNCFS})
WRITES = frozenset(
    {
        *(Op.SETATTR, Op.SYMLINK, Op.MKNOD, Op.MKDIR, Op.UNLINK, Op.RMDIR, Op.RENAME, Op.LINK),
        *(Op.WRITE, Op.SETXATTR, Op.REMOVEXATTR, Op.CREATE, Op.FALLOCATE, Op.RENAME2, Op.TMPFILE),
    }
)
SERVED = frozenset(
    {
        *(Op.LOOKUP, Op.GETATTR, Op.READLINK, Op.STATFS, Op.GETXATTR, Op.LISTXATTR, Op.ACCESS),
        *(Op.OPEN, Op.READ, Op.LSEEK, Op.OPENDIR, Op.READDIR, Op.READDIRPLUS),
    }
)
UNDER_LOCK = frozenset({Op.LOOKUP, Op.READDIR, Op.READDIRPLUS})
"""What keeps a directory's lock while it waits: move_mount(2) onto that directory waits with it."""
STAT_LIKE = frozenset(
    {
        *(Op.LOOKUP, Op.GETATTR, Op.READLINK, Op.STATFS, Op.GETXATTR, Op.LISTXATTR, Op.ACCESS),
        Op.STATX,
    }
)
BY_PATH = STAT_LIKE | {Op.OPENDIR}
"""What is asked of a volume's root by who walks there; some of it by an open directory as well."""

_HEAD = struct.Struct("=IIQQIIIHH")  # fuse_in_header
_REPLY = struct.Struct("=IiQ")  # fuse_out_header
_ATTR = struct.Struct("=3Q3q10I")  # fuse_attr, with times before 1970
_ENTRY = struct.Struct("=4Q2I")  # fuse_entry_out without its attr
_DIRENT = struct.Struct("=QQII")
_STATFS = struct.Struct("=5Q10I")
_READ = struct.Struct("=QQIIQII")
_IOCTL = struct.Struct("=QIIQII")  # fuse_ioctl_in
_LSEEK = struct.Struct("=QQII")
_FORGET_ONE = struct.Struct("=QQ")
_TWO = struct.Struct("=II")
HEADER = _HEAD.size


@dataclass(frozen=True, slots=True)
class Request:
    """One request: node is what it is about, uid, gid and pid are the caller's (pid 0: unknown)."""

    op: int
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    body: bytes


def parse(message: bytes | memoryview) -> Request:
    """Return what one read of the device brought; raises Malformed."""
    if len(message) < HEADER:
        raise Malformed(f"{len(message)} bytes are no request")
    length, op, unique, node, uid, gid, pid, extensions, _ = _HEAD.unpack_from(message)
    if length != len(message):
        raise Malformed(f"a request of {length} bytes came as {len(message)}")
    end = length - 8 * extensions
    if end < HEADER:
        raise Malformed(f"{extensions} extensions in {length} bytes")
    return Request(op, unique, node, uid, gid, pid, bytes(message[HEADER:end]))


def unique_of(message: bytes | memoryview) -> int:
    """Return the number by which even a malformed request is to be answered, 0 for none."""
    return int(_HEAD.unpack_from(message)[2]) if len(message) >= HEADER else 0


def mark_name(mark: int) -> str:
    """Return the extended attribute by which a mark shows; asking for it needs no right."""
    return f"system.csi-fluid-{mark:x}"


def is_mark(request: Request, mark: int) -> bool:
    """Tell whether a request names this number, which nobody else knows.

    By an extended attribute of that name, as the number of an ioctl, or as the offset where a
    directory is read on.  Raises Malformed.
    """
    if request.op == Op.GETXATTR:
        return xattr(request.body)[1] == mark_name(mark).encode()
    if request.op == Op.IOCTL:
        return _exactly(_IOCTL, request.body)[2:] == (MARK, mark, 0, 0)
    return request.op in {Op.READDIR, Op.READDIRPLUS} and span(request.body).offset == mark


def name(body: bytes) -> bytes:
    """Return the one name of a LOOKUP, which is a single component; raises Malformed."""
    found, end, rest = body.partition(b"\0")
    if not end or rest.strip(b"\0") or not 0 < len(found) <= NAME_MAX or b"/" in found:
        raise Malformed("not a name")
    return found


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a file or listing that is asked for: handle, where, how much."""

    handle: int
    offset: int
    size: int


def span(body: bytes) -> Span:
    """Return what a READ, READDIR or READDIRPLUS asks for; raises Malformed."""
    handle, offset, size, *_ = _exactly(_READ, body)
    return Span(handle, offset, size)


def read(unique: int, node: int, offset: int) -> bytes:
    """Return a READ of our own making, of as much as there is room for."""
    body = _READ.pack(0, offset, 0, 0, 0, 0, 0)
    return _HEAD.pack(HEADER + len(body), Op.READ, unique, node, 0, 0, 0, 0, 0) + body


@dataclass(frozen=True, slots=True)
class Seek:
    """What an LSEEK asks for."""

    offset: int
    whence: int


def seek(body: bytes) -> Seek:
    """Return what an LSEEK asks for; raises Malformed."""
    _, offset, whence, _ = _exactly(_LSEEK, body)
    return Seek(offset, whence)


def handle(body: bytes) -> int:
    """Return the handle that a RELEASE or RELEASEDIR ends; raises Malformed."""
    if len(body) != 24:
        raise Malformed("not a release")
    return int.from_bytes(body[:8], "little")


def open_flags(body: bytes) -> int:
    """Return the flags of an OPEN or OPENDIR, as of open(2); raises Malformed."""
    return int(_exactly(_TWO, body)[0])


def access_mask(body: bytes) -> int:
    """Return what an ACCESS asks for, as of access(2); raises Malformed."""
    return int(_exactly(_TWO, body)[0])


def xattr(body: bytes) -> tuple[int, bytes]:
    """Return the room (0: only the size is wanted) and name of a GETXATTR; raises Malformed."""
    if len(body) < 8:
        raise Malformed("not a getxattr")
    return _TWO.unpack_from(body)[0], name(body[8:])


def xattr_room(body: bytes) -> int:
    """Return the room of a LISTXATTR (0: only the size is wanted); raises Malformed."""
    return int(_exactly(_TWO, body)[0])


def interrupted(body: bytes) -> int:
    """Return which request an INTERRUPT is about; raises Malformed."""
    if len(body) != 8:
        raise Malformed("not an interrupt")
    return int.from_bytes(body, "little")


def forgotten(request: Request) -> Iterator[tuple[int, int]]:
    """Yield nodes and how many lookups of each the kernel gives back; raises Malformed."""
    if request.op == Op.FORGET:
        if len(request.body) != 8:
            raise Malformed("not a forget")
        yield request.node, int.from_bytes(request.body, "little")
        return
    if len(request.body) < 8:
        raise Malformed("not a batch of forgets")
    count, _ = _TWO.unpack_from(request.body)
    if len(request.body) != 8 + count * _FORGET_ONE.size:
        raise Malformed(f"{count} forgets in {len(request.body)} bytes")
    yield from _FORGET_ONE.iter_unpack(request.body[8:])


def _exactly(layout: struct.Struct, body: bytes) -> tuple[int, ...]:
    if len(body) != layout.size:
        raise Malformed(f"{len(body)} bytes where {layout.size} belong")
    return layout.unpack(body)


# ---- replies


def reply(unique: int, error: int, length: int = 0) -> bytes:
    """Return the head of a reply with an errno (0: none), before a body of length bytes."""
    return _REPLY.pack(_REPLY.size + length, -error, unique)


def attributes(found: os.stat_result, ino: int = 0) -> bytes:
    """Return `struct fuse_attr`; ino replaces the inode number that was found, 0 keeps it."""
    times = (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
    parts = [divmod(at, 1_000_000_000) for at in times]
    return _ATTR.pack(
        *(ino or found.st_ino, found.st_size, found.st_blocks),
        *(seconds for seconds, _ in parts),
        *(rest for _, rest in parts),
        *(found.st_mode, found.st_nlink, found.st_uid, found.st_gid),
        *(_device(found.st_rdev), found.st_blksize, 0),
    )


def _device(rdev: int) -> int:
    """Return a device number as new_encode_dev() of the kernel has it."""
    major, minor = os.major(rdev), os.minor(rdev)
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def entry(node: int, generation: int, valid_s: int, attr: bytes) -> bytes:
    """Return the answer to a LOOKUP, which the kernel may trust for valid_s."""
    return _ENTRY.pack(node, generation, valid_s, valid_s, 0, 0) + attr


def attr_out(valid_s: int, attr: bytes) -> bytes:
    """Return the answer to a GETATTR, which the kernel may trust for valid_s."""
    return struct.pack("=QII", valid_s, 0, 0) + attr


def opened(number: int, flags: int = 0) -> bytes:
    """Return the answer to an OPEN or OPENDIR: a handle, and FOPEN_* flags."""
    return struct.pack("=QII", number, flags, 0)


def position(offset: int) -> bytes:
    """Return the answer to an LSEEK."""
    return struct.pack("=Q", offset)


def sized(room: int, data: bytes) -> bytes:
    """Return the answer to a GETXATTR or LISTXATTR; raises OSError where the room is too small."""
    if not room:
        return _TWO.pack(len(data), 0)
    if len(data) > room:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return data


def statistics(found: os.statvfs_result) -> bytes:
    """Return the answer to a STATFS."""
    counts = (found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree)
    sizes = (found.f_bsize, found.f_namemax, found.f_frsize)
    return _STATFS.pack(*counts, *sizes, *([0] * 7))


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a listing: cookie is where the next one begins."""

    name: bytes
    ino: int
    kind: int  # DT_*
    cookie: int


def listing(entries: Iterable[Entry], room: int, *, plus: bool) -> bytes:
    """Return as many entries as fit; with plus, each without attributes (node 0: no lookup)."""
    out = bytearray()
    for each in entries:
        head = _DIRENT.pack(each.ino, each.cookie, len(each.name), each.kind)
        record = bytes(_ENTRY.size + _ATTR.size if plus else 0) + head + each.name
        record += bytes(-len(record) % 8)
        if len(out) + len(record) > room:
            break
        out += record
    return bytes(out)
