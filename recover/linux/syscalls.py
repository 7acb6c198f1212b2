"""The system calls that Python 3.11 does not offer, one thin function each.

No policy here: every function is named as its man page, takes what the call takes, returns an owned
descriptor, a value or None, and raises OSError with errno and path.
Prototypes are bound once at import: a ctypes function object is shared by all threads, so changing
its argtypes later would be a data race.  `syscall(2)` is used throughout, because older C libraries
lack wrappers for the newer calls.
"""

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from typing import Any, NoReturn

from recover.linux import refusal

_COLUMN = {"x86_64": 0, "aarch64": 1}.get(os.uname().machine, 0)
_NUMBERS = {
    "mount": (165, 40)[_COLUMN],
    "umount2": (166, 39)[_COLUMN],
    "getdents64": (217, 61)[_COLUMN],
    "setfsuid": (122, 151)[_COLUMN],
    "setfsgid": (123, 152)[_COLUMN],
    "unshare": (272, 97)[_COLUMN],
    "fanotify_init": (300, 262)[_COLUMN],
    "fanotify_mark": (301, 263)[_COLUMN],
    "ioctl": (16, 29)[_COLUMN],
    "kcmp": (312, 272)[_COLUMN],
    "name_to_handle_at": (303, 264)[_COLUMN],
    "open_by_handle_at": (304, 265)[_COLUMN],
    "setns": (308, 268)[_COLUMN],
    "statx": (332, 291)[_COLUMN],
    # the same everywhere from 424 on
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "statmount": 457,
}

# <linux/fcntl.h>, <fcntl.h>
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000
AT_STATX_FORCE_SYNC = 0x2000
AT_STATX_DONT_SYNC = 0x4000
AT_RECURSIVE = 0x8000
AT_HANDLE_FID = 0x200
_KCMP_FILE = 0  # <linux/kcmp.h>

# <linux/mount.h>
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOVE_MOUNT_BENEATH = 0x200
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x00
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x200000
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MNT_DETACH = 2
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_CMD_CREATE = 6
UMOUNT_NOFOLLOW = 8

# <linux/openat2.h>
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

# <linux/sched.h>
CLONE_FS = 0x00000200
CLONE_FILES = 0x00000400
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000

# <linux/stat.h>
STATX_TYPE = 0x001
STATX_BASIC_STATS = 0x7FF
STATX_MNT_ID = 0x1000
STATX_MNT_ID_UNIQUE = 0x4000

# <linux/fanotify.h>
FAN_CLOEXEC = 0x1
FAN_NONBLOCK = 0x2
FAN_REPORT_MNT = 0x4000
FAN_MARK_ADD = 0x1
FAN_MARK_MNTNS = 0x110
FAN_MNT_ATTACH = 0x01000000
FAN_MNT_DETACH = 0x02000000

# <linux/mount.h>, struct statmount
STATMOUNT_SB_BASIC = 0x01
STATMOUNT_MNT_ROOT = 0x08
STATMOUNT_MNT_POINT = 0x10
STATMOUNT_FS_TYPE = 0x20
_HANDLE_ROOM = 128  # MAX_HANDLE_SZ
_STATMOUNT_STRINGS = 512  # where the strings begin, behind the fixed part
_STATX = struct.Struct("=I24xH2xQQ64xqI12xIIQ")  # mask, mode, ino, size, mtime, dev, mnt_id

_M_TRIM_THRESHOLD = -1  # <malloc.h>
_M_ARENA_MAX = -8

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_long = ctypes.c_long

_MNT_ID = 0 if refusal.is_refused("statx_mnt_id") else STATX_MNT_ID
_MNT_ID_UNIQUE = 0 if refusal.is_refused("statx_mnt_id_unique") else STATX_MNT_ID_UNIQUE


@dataclass(frozen=True, slots=True)
class Statx:
    """The part of `struct statx` that is read here; dev is "major:minor" as in mountinfo.

    mnt_id is the 64-bit id that is never reused, 0 where not asked for or before Linux 6.8;
    table_id is the one of mountinfo, 0 where the other was asked for or before Linux 5.8.
    """

    dev: str
    ino: int
    mode: int
    size: int
    mtime_ns: int
    mnt_id: int
    table_id: int


@dataclass(frozen=True, slots=True)
class StatMount:
    """The part of `struct statmount` that is read here; fs_type is without its subtype."""

    dev: str
    root: str
    mount_point: str
    fs_type: str


def keep_memory_small() -> None:
    """Have malloc(3) share one arena among all threads, and give back what is free: mallopt(3).

    Threads that live for one call would leave an arena each.  Before the first thread is made.
    """
    mallopt = getattr(_libc, "mallopt", None)  # not in every C library
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, 64 * 1024)


def _fail(path: str | bytes) -> NoReturn:
    errno = ctypes.get_errno()
    raise OSError(errno, os.strerror(errno), os.fsdecode(path))


def _call(name: str, path: str | bytes, *args: Any) -> int:
    refusal.check(name, path)
    result: int = _syscall(_long(_NUMBERS[name]), *args)
    if result < 0:
        _fail(path)
    return result


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """Return a descriptor of a mount, or with OPEN_TREE_CLONE of a detached copy: open_tree(2)."""
    name = os.fsencode(path)
    return _call("open_tree", name, _long(dirfd), name, _long(flags))


def move_mount(
    from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int, *, about: str = ""
) -> None:
    """Attach or move a mount: move_mount(2); `about` names the place in the error."""
    source, target = os.fsencode(from_path), os.fsencode(to_path)
    if flags & MOVE_MOUNT_BENEATH:
        refusal.check("move_mount_beneath", about or target)
    _call(
        "move_mount",
        about or target,
        _long(from_fd),
        source,
        _long(to_fd),
        target,
        _long(flags),
    )


def fsopen(fs_type: str, flags: int) -> int:
    """Return a context for making a superblock of a file system type: fsopen(2)."""
    name = os.fsencode(fs_type)
    return _call("fsopen", name, name, _long(flags))


def fsconfig(fd: int, command: int) -> None:
    """Give a command without key and value to a context: fsconfig(2)."""
    _call("fsconfig", b"", _long(fd), _long(command), None, None, _long(0))


def fsmount(fd: int, flags: int, attributes: int) -> int:
    """Return a detached mount of a context's superblock: fsmount(2)."""
    return _call("fsmount", b"", _long(fd), _long(flags), _long(attributes))


def mount_setattr(
    fd: int, *, attr_set: int, attr_clr: int, propagation: int, flags: int = 0
) -> None:
    """Change the attributes of the mount behind fd: mount_setattr(2); flags may be AT_RECURSIVE."""
    attr = struct.pack("QQQQ", attr_set, attr_clr, propagation, 0)
    flags |= AT_EMPTY_PATH
    _call("mount_setattr", b"", _long(fd), b"", _long(flags), attr, _long(len(attr)))


def openat2(dirfd: int, path: str, flags: int, resolve: int) -> int:
    """Open a path under RESOLVE_* rules: openat2(2).  O_CLOEXEC is added."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)
    name = os.fsencode(path)
    return _call("openat2", name, _long(dirfd), name, how, _long(len(how)))


def mount(source: str, target: str, fs_type: str, flags: int) -> None:
    """Mount, bind, move, or change a mount, as the flags say: mount(2)."""
    name = os.fsencode(target)
    _call("mount", name, os.fsencode(source), name, os.fsencode(fs_type), _long(flags), None)


def umount2(path: str, flags: int) -> None:
    """Unmount: umount2(2)."""
    name = os.fsencode(path)
    _call("umount2", name, name, _long(flags))


def setns(fd: int, nstype: int) -> None:
    """Move the calling thread into a namespace: setns(2); fd may be a pidfd (5.8+)."""
    _call("setns", b"", _long(fd), _long(nstype))


def unshare(flags: int) -> None:
    """Stop sharing parts of the calling thread's context: unshare(2)."""
    _call("unshare", b"", _long(flags))


def statx(dirfd: int, path: str, flags: int, mask: int) -> Statx:
    """Return file status: statx(2).  On FUSE this may hang for ever with FORCE_SYNC."""
    buffer = ctypes.create_string_buffer(256)
    name = os.fsencode(path)
    _call("statx", name, _long(dirfd), name, _long(flags), _long(mask), buffer)
    filled, mode, ino, size, mtime_s, mtime_ns, major, minor, mnt_id = _STATX.unpack_from(buffer)
    return Statx(
        dev=f"{major}:{minor}",
        ino=ino,
        mode=mode,
        size=size,
        mtime_ns=mtime_s * 1_000_000_000 + mtime_ns,
        mnt_id=mnt_id if filled & _MNT_ID_UNIQUE else 0,
        table_id=mnt_id if filled & _MNT_ID else 0,
    )


def fanotify_init(flags: int, event_flags: int) -> int:
    """Return a fanotify group: fanotify_init(2)."""
    if flags & FAN_REPORT_MNT:
        refusal.check("fanotify_mnt")
    return _call("fanotify_init", b"", _long(flags), _long(event_flags))


def fanotify_mark(group: int, flags: int, mask: int, fd: int) -> None:
    """Add a mark on what fd refers to: fanotify_mark(2) with a null path."""
    _call(
        "fanotify_mark",
        b"",
        _long(group),
        _long(flags),
        ctypes.c_uint64(mask),
        _long(fd),
        None,
    )


def pidfd_open(pid: int) -> int:
    """Return a descriptor of a process, which can be polled for its end: pidfd_open(2), 5.3+."""
    refusal.check("pidfd_open")
    return os.pidfd_open(pid)


def statmount(mnt_id: int) -> StatMount:
    """Return facts about the mount with this unique id in our own namespace: statmount(2), 6.8+."""
    wanted = STATMOUNT_SB_BASIC | STATMOUNT_MNT_ROOT | STATMOUNT_MNT_POINT | STATMOUNT_FS_TYPE
    request = struct.pack("IIQQQ", 32, 0, mnt_id, wanted, 0)
    buffer = ctypes.create_string_buffer(_STATMOUNT_STRINGS + 3 * 4096)
    _call("statmount", b"", request, buffer, _long(len(buffer)), _long(0))
    major, minor = struct.unpack_from("=II", buffer, 16)
    (fs_type,) = struct.unpack_from("=I", buffer, 36)
    root, mount_point = struct.unpack_from("=II", buffer, 104)

    def text(offset: int) -> str:
        return os.fsdecode(ctypes.string_at(ctypes.addressof(buffer) + _STATMOUNT_STRINGS + offset))

    return StatMount(f"{major}:{minor}", text(root), text(mount_point), text(fs_type))


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Return a copy of another process's descriptor: pidfd_getfd(2), 5.6+; O_CLOEXEC is set."""
    return _call("pidfd_getfd", b"", _long(pidfd), _long(fd), _long(0))


@dataclass(frozen=True, slots=True)
class Handle:
    """A file handle: its type, and the bytes that the file system gave for a file."""

    kind: int
    data: bytes


def name_to_handle_at(fd: int) -> Handle:
    """Return the handle of what a descriptor refers to, also of an O_PATH one: open(2) by handle.

    On FUSE this makes no request.
    """
    try:
        return _handle(fd, AT_EMPTY_PATH | AT_HANDLE_FID)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return _handle(fd, AT_EMPTY_PATH)  # before 6.5 what can be encoded can be opened, too


def _handle(fd: int, flags: int) -> Handle:
    buffer = ctypes.create_string_buffer(struct.pack("=Ii", _HANDLE_ROOM, 0), 8 + _HANDLE_ROOM)
    mount_id = ctypes.c_int()
    name = b"name_to_handle_at"
    _call(name.decode(), name, _long(fd), b"", buffer, ctypes.byref(mount_id), _long(flags))
    size, kind = struct.unpack_from("=Ii", buffer)
    return Handle(kind, buffer.raw[8 : 8 + size])


def open_by_handle_at(mount_fd: int, handle: Handle, flags: int) -> int:
    """Open a file by its handle, on the file system of mount_fd: open_by_handle_at(2).

    mount_fd must not be O_PATH.  On FUSE an inode that the kernel does not know is asked for.
    """
    data = struct.pack("=Ii", len(handle.data), handle.kind) + handle.data
    name = b"open_by_handle_at"
    return _call(name.decode(), name, _long(mount_fd), data, _long(flags | os.O_CLOEXEC))


def ioctl_by_value(fd: int, request: int, value: int) -> None:
    """Ask a driver or file system something with a number of 64 bits: ioctl(2)."""
    _call("ioctl", b"", _long(fd), _long(request), _long(value))


def is_same_file(pid: int, fd: int, other_pid: int, other: int) -> bool:
    """Tell whether descriptors of two processes are one open file: kcmp(2), KCMP_FILE.

    Raises OSError: EBADF, ESRCH, EPERM without the right to trace both.
    """
    found = _call("kcmp", b"", *map(_long, (pid, other_pid, _KCMP_FILE, fd, other)))
    return found == 0


def setfsuid(uid: int) -> None:
    """Let the calling thread touch files as this user: setfsuid(2); root's rights go with it."""
    _call("setfsuid", b"", _long(uid))


def setfsgid(gid: int) -> None:
    """Let the calling thread touch files as this group: setfsgid(2)."""
    _call("setfsgid", b"", _long(gid))


def getdents64(fd: int, buffer: bytearray) -> int:
    """Read directory entries with the file system's own offsets: getdents64(2); 0 at the end."""
    room = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    return _call("getdents64", b"", _long(fd), room, _long(len(buffer)))
