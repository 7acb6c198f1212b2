"""Mount surgery by descriptors: clone, attach, swap, detach.

Nothing here resolves a path twice.  A mount is opened once with O_PATH, compared with what
detection saw, and then only the descriptor is used: a container may rename or symlink below us at
any time. O_PATH opens of a mount point, clones, attachments beneath and unmounts make no request to
a FUSE daemon and so do not hang; `clone` of a sub-directory does (it looks names up): call it
through a Prober. `detach` and `swap` need the thread context that `namespaces.visit` gives.
"""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recover.errors import Covered
from recover.linux import mountinfo, syscalls
from recover.linux.mountinfo import Mount

_FLAGS = {
    "ro": syscalls.MOUNT_ATTR_RDONLY,
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC,
    "nodiratime": syscalls.MOUNT_ATTR_NODIRATIME,
    "nosymfollow": syscalls.MOUNT_ATTR_NOSYMFOLLOW,
}
_ALL_FLAGS = sum(_FLAGS.values())
_ATIME = {
    "relatime": syscalls.MOUNT_ATTR_RELATIME,
    "noatime": syscalls.MOUNT_ATTR_NOATIME,
}
_NO_LINKS = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_EMPTY = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH


@dataclass(frozen=True, slots=True)
class Attributes:
    """Per-mount flags, set on a clone before it is attached, so that no instant lacks them.

    flags are mount options as in mountinfo; propagation is "private", "slave" (of the
    source), "shared" (a group of its own) or "peer" (of the source).
    """

    flags: frozenset[str] = frozenset()
    propagation: str = "private"
    keep: bool = False  # keep the source's flags too (a first bind), instead of exactly these

    @classmethod
    def of(cls, mount: Mount, *, read_only: bool = False) -> "Attributes":
        """Return the attributes of a mount that is to be replaced; read_only forces "ro"."""
        flags = mount.options & (_FLAGS.keys() | _ATIME.keys())
        kind = "shared" if mount.shared else "slave" if mount.master else "private"
        return cls(flags | ({"ro"} if read_only else frozenset()), kind)


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Own a descriptor for the length of a block."""
    try:
        yield fd
    finally:
        os.close(fd)


def open_path(path: str, root_fd: int = syscalls.AT_FDCWD) -> int:
    """Open a place with O_PATH, no symbolic link allowed anywhere (ELOOP).

    With root_fd the path is taken inside that root, as a process with this root would see it.
    """
    if root_fd == syscalls.AT_FDCWD:
        return syscalls.openat2(root_fd, path, os.O_PATH, _NO_LINKS)
    return syscalls.openat2(root_fd, path, os.O_PATH, _NO_LINKS | syscalls.RESOLVE_IN_ROOT)


def clone(source: str, inner: str, attributes: Attributes, dev: str = "") -> int:
    """Return a detached copy of the mount at source, of its sub-path inner ("" for the whole).

    inner stays on the same superblock and follows no link: what lies inside belongs to a pod.
    dev is the superblock that has to be there, if one has to.  The caller owns the descriptor;
    closing it unattached dissolves the copy.  Raises Covered or OSError.
    """
    with closing(open_path(source)) as source_fd:
        if dev and (found := mountinfo.superblock(source_fd)) != dev:
            raise Covered(f"{source} shows superblock {found}, not {dev}: it changed meanwhile")
        if not inner.strip("/"):
            return _clone_fd(source_fd, attributes)
        resolve = _NO_LINKS | syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV
        with closing(syscalls.openat2(source_fd, inner.strip("/"), os.O_PATH, resolve)) as inner_fd:
            return _clone_fd(inner_fd, attributes)


def _clone_fd(fd: int, attributes: Attributes) -> int:
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH
    copy = syscalls.open_tree(fd, "", flags)
    try:
        _set_attributes(copy, attributes)
    except OSError:
        os.close(copy)
        raise
    return copy


def _set_attributes(fd: int, attributes: Attributes) -> None:
    attr_set = sum(_FLAGS.get(flag, 0) for flag in attributes.flags)
    attr_clr = 0 if attributes.keep else _ALL_FLAGS & ~attr_set
    atime = next((_ATIME[flag] for flag in attributes.flags if flag in _ATIME), None)
    if atime is not None:
        attr_set |= atime
        attr_clr |= syscalls.MOUNT_ATTR__ATIME
    # A clone is a peer of its source.  Private first: "shared" must mean a group of its own, or a
    # mount made inside a container would appear on the host; "slave" keeps the source as master.
    first = {"slave": syscalls.MS_SLAVE, "peer": 0}.get(attributes.propagation, syscalls.MS_PRIVATE)
    syscalls.mount_setattr(fd, attr_set=attr_set, attr_clr=attr_clr, propagation=first)
    if attributes.propagation == "shared":
        syscalls.mount_setattr(fd, attr_set=0, attr_clr=0, propagation=syscalls.MS_SHARED)


def attach(clone_fd: int, target_fd: int, *, beneath: bool = False, about: str = "") -> None:
    """Attach a detached copy at a place, on top of what is there or beneath the mount there."""
    flags = _EMPTY | (syscalls.MOVE_MOUNT_BENEATH if beneath else 0)
    syscalls.move_mount(clone_fd, "", target_fd, "", flags, about=about)


def detach(fd: int) -> None:
    """Unmount exactly the mount behind a descriptor, lazily; needs the context of a visit.

    The working directory is this process's /proc/self/fd, so the name is a magic link to the mount
    itself: no path that a container could bend is walked.
    """
    syscalls.umount2(str(fd), syscalls.MNT_DETACH)


def open_exactly(path: str, expected: Mount, root_fd: int) -> int:
    """Open the topmost mount at path and make sure it is the expected one; raises Covered."""
    fd = open_path(path, root_fd)
    found = mountinfo.mount_id(fd), mountinfo.superblock(fd)
    if found != (expected.mnt_id, expected.dev):
        os.close(fd)
        raise Covered(
            f"{path} shows mount {found[0]} of superblock {found[1]}, "
            f"not {expected.mnt_id} of {expected.dev}: it changed meanwhile"
        )
    return fd


def pin(path: str, expected: Mount) -> int:
    """Return a detached copy of a dead mount of our own namespace, to keep its superblock.

    A descriptor of the mount itself would make a plain umount(2) of it fail with EBUSY, and others
    unmount here too: kubelet its volume-subpaths.  Raises Covered or OSError.
    """
    with closing(open_exactly(path, expected, syscalls.AT_FDCWD)) as fd:
        return _clone_fd(fd, Attributes())


def pin_all(stack: Sequence[Mount]) -> dict[str, int]:
    """Return what `pin` does for each mount of a stack, the covered ones too, by superblock.

    To see them it takes them off one by one, bottom last, in a mount namespace of its own that
    nothing is passed on from.  Leaves the calling thread there: for a thread of `Prober.run`.
    Raises Covered or OSError.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    with closing(open_path("/")) as root:
        syscalls.mount_setattr(
            root,
            attr_set=0,
            attr_clr=0,
            propagation=syscalls.MS_PRIVATE,
            flags=syscalls.AT_RECURSIVE,
        )
    pins: dict[str, int] = {}
    with contextlib.ExitStack() as kept:
        for mount in reversed(stack):
            if mount.dev not in pins:
                pins[mount.dev] = clone(mount.mount_point, "", Attributes(), mount.dev)
                kept.callback(os.close, pins[mount.dev])
            flags = syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW
            syscalls.umount2(mount.mount_point, flags)
        kept.pop_all()
    return pins


def close_all(pins: dict[str, int]) -> None:
    """Close what `pin_all` returned."""
    for fd in pins.values():
        os.close(fd)


def part(expected: Mount, root_fd: int) -> None:
    """Put a copy with a peer group of its own in a mount's place, so no peer's mounts reach it.

    In all the namespaces to which its parent passes mounts on.  Raises Covered or OSError.
    """
    path = expected.mount_point
    attributes = Attributes(expected.options & _FLAGS.keys())
    with closing(open_exactly(path, expected, root_fd)) as fd:
        copy = _clone_fd(fd, attributes)
    with closing(copy):
        swap(copy, (expected,), root_fd)


def swap(
    clone_fd: int, stack: tuple[Mount, ...], root_fd: int, late: Sequence["Nested"] = ()
) -> int:
    """Put a detached copy in the place of a stack of dead mounts; return the layers that remain.

    All mounts of the stack (bottom first) stand at one path.  The upper ones are peeled; the copy
    is attached beneath the last, which is then detached, so the path shows the dead mount or the
    new one and never the directory below.  Where the kernel refuses to go beneath (before 6.5, or a
    mount locked by a user namespace), the copy goes on top and the rest stays covered.  late are
    mounts inside the copy that could not be attached while it was detached. Raises
    Covered or OSError; a mount that is gone gives FileNotFoundError or Covered.
    """
    path = stack[-1].mount_point
    top, left = _peel(stack, root_fd)
    with closing(top):
        try:
            attach(clone_fd, top, beneath=True, about=path)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            os.close(open_exactly(path, stack[left - 1], root_fd))  # refused, or just gone?
            attach(clone_fd, top, about=path)
            nest(late)
            return left + 1
        nest(late)
        try:
            detach(top)
        except OSError as error:  # taken away by another namespace's swap, which propagated here
            if error.errno != errno.EINVAL:
                raise
    return left


def peel(stack: tuple[Mount, ...], root_fd: int) -> int:
    """Detach all mounts of a stack but the bottom one; return the layers that remain."""
    bottom, left = _peel(stack, root_fd)
    os.close(bottom)
    return left


def cover(clone_fd: int, stack: tuple[Mount, ...], root_fd: int) -> int:
    """Attach a detached copy on top of a stack; return how many layers then stand there.

    Where the top is shared, the kernel passes the new mount on to its peers and slaves.
    """
    path = stack[-1].mount_point
    with closing(open_exactly(path, stack[-1], root_fd)) as top:
        attach(clone_fd, top, about=path)
    return len(stack) + 1


def attach_bare(clone_fd: int, path: str, root_fd: int) -> None:
    """Attach a detached copy at a path that shows no mount; raises Covered if it does."""
    with (
        closing(open_path(path, root_fd)) as fd,
        closing(open_path(os.path.dirname(path), root_fd)) as above,
    ):
        if mountinfo.mount_id(fd) != mountinfo.mount_id(above):
            raise Covered(f"{path} was mounted meanwhile")
        attach(clone_fd, fd, about=path)


def _peel(stack: tuple[Mount, ...], root_fd: int) -> tuple[int, int]:
    path, left = stack[-1].mount_point, len(stack)
    top = open_exactly(path, stack[-1], root_fd)
    while left > 1:
        try:
            detach(top)
        except OSError as error:
            if error.errno == errno.EINVAL:  # locked by a user namespace
                return top, left
            os.close(top)
            raise
        os.close(top)
        left -= 1
        top = open_exactly(path, stack[left - 1], root_fd)
    return top, left


@dataclass(frozen=True, slots=True)
class Nested:
    """A mount that stood inside a dead one: a detached copy, and its place in the new one.

    inner is the place's path within the new mount.
    """

    inner: str
    clone_fd: int
    place_fd: int

    def close(self) -> None:
        """Release both; a copy that was not attached dissolves."""
        os.close(self.clone_fd)
        os.close(self.place_fd)


def open_inside(fd: int, inner: str) -> int:
    """Open a place within a mount, following no link; asks its server: call it through a Prober."""
    resolve = _NO_LINKS | syscalls.RESOLVE_BENEATH
    return syscalls.openat2(fd, inner.strip("/") or ".", os.O_PATH, resolve)


def nest(extra: Sequence[Nested]) -> bool:
    """Attach each copy at its place; False where the kernel wants the places attached first.

    Before Linux 6.15 nothing can be mounted inside a detached mount.
    """
    try:
        for nested in extra:
            attach(nested.clone_fd, nested.place_fd, about=nested.inner)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


@dataclass(frozen=True, slots=True)
class Shown:
    """What a path shows: mount id and superblock, and whether it is the root of a mount."""

    mnt_id: int
    dev: str
    is_mount: bool


def shown(path: str) -> Shown | None:
    """Tell what a path shows without a request to it; None where nothing is.

    Costs the same however many mounts there are, unlike mountinfo.  The last component is not
    followed if it is a symbolic link.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with closing(fd), closing(os.open(os.path.dirname(path) or "/", os.O_PATH)) as above:
        mnt_id = mountinfo.mount_id(fd)
        return Shown(mnt_id, mountinfo.superblock(fd), mnt_id != mountinfo.mount_id(above))


def unmount_all(path: str) -> int:
    """Unmount everything at a path in this namespace, lazily and without following a link.

    Never hangs, whatever the daemon does; returns how many layers were removed.  Each layer is one
    call, so the loop ends: nothing but a publish mounts here, and that holds the same lock.
    """
    removed = 0
    while True:
        try:
            syscalls.umount2(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in {
                errno.EINVAL,
                errno.ENOENT,
                errno.ENOTDIR,
            }:  # nothing (more) is mounted
                return removed
            raise
        removed += 1
