"""Bind a directory with other owners, as runtimes do for pods with users of their own."""

import ctypes
import os
import platform
import subprocess
from pathlib import Path

from recover.linux import syscalls
from recover.linux.mounts import closing

# of the call mount_setattr
_MOUNT_ATTR_IDMAP = 0x00100000
_SETATTR = 442


def is_there_for_fuse() -> bool:
    """Tell whether the kernel maps the ids of FUSE mounts (Linux 6.12)."""
    return tuple(map(int, platform.release().split(".")[:2])) >= (6, 12)


def bind(source: Path, place: Path, first: int) -> None:
    """Bind source at place, where user and group 0 are shown as first, 1 as the next ..."""
    tree = syscalls.open_tree(
        syscalls.AT_FDCWD, str(source), syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
    )
    with closing(tree), closing(_user_namespace(first)) as users:
        _map(tree, users)
        to = os.open(place, os.O_PATH)
        with closing(to):
            flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH
            syscalls.move_mount(tree, "", to, "", flags)


def _user_namespace(first: int) -> int:
    with subprocess.Popen(["unshare", "--user", "cat"], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("here\n")
        process.stdin.flush()
        process.stdout.readline()  # it is in its namespace
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{name}").write_text(f"0 {first} 65536")
        return os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY)


def _map(tree: int, users: int) -> None:
    wanted = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_IDMAP, 0, 0, users)
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.syscall(
        _SETATTR, tree, b"", syscalls.AT_EMPTY_PATH, wanted, ctypes.c_size_t(ctypes.sizeof(wanted))
    )
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "MOUNT_ATTR_IDMAP")
