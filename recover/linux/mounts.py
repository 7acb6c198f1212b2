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
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from recover.errors import Covered
from recover.linux import (
    attributes,
    facilities,
    mountinfo,
    procself,
    resolve,
    syscalls,
    tuck,
    workshop,
)
from recover.linux.mountinfo import Mount
from recover.linux.scratch import Scratch

# What callers need beside the operations.
closing = procself.closing
open_path = resolve.open_path
Attributes = attributes.Attributes
set_propagation = attributes.set_propagation

_COPY = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH
_EMPTY = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH


class Clone:
    """A copy of a mount that nobody sees until it is attached; closed before, it dissolves.

    fd is an O_PATH descriptor of its root.  Where mounts cannot be detached (before Linux 5.2) the
    copy stands in a scratch meanwhile, and can be attached in our own namespace alone.
    """

    def __init__(self, fd: int = -1, scratch: Scratch | None = None) -> None:
        """Own a copy's descriptor (-1: none), and the scratch where it stands if it does."""
        self.fd = fd
        self._scratch = scratch

    @classmethod
    def of(cls, fd: int, wanted: Attributes) -> "Clone":
        """Copy the mount behind a descriptor, from there on; raises OSError."""
        if not can_detach():
            scratch = Scratch(fd, wanted)
            return cls(scratch.fd, scratch)
        copy = cls(syscalls.open_tree(fd, "", _COPY))
        try:
            if facilities.has("mount_setattr"):
                attributes.put_on_detached(copy.fd, wanted)
                return copy
            dressed = workshop.changed(copy.fd, lambda fd: attributes.put_on(fd, wanted))
        except BaseException:
            copy.close()
            raise
        copy.close()
        return cls(dressed)

    def attach(self, place_fd: int, *, beneath: bool) -> None:
        """Attach the copy; raises OSError (EINVAL where the kernel refuses to go beneath)."""
        if self._scratch is None:
            flags = _EMPTY | (syscalls.MOVE_MOUNT_BENEATH if beneath else 0)
            syscalls.move_mount(self.fd, "", place_fd, "", flags)
        elif beneath:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        else:
            self._scratch.move_to(place_fd)
            self.hide()

    def passing_on(self, late: Sequence["Nested"]) -> tuck.PassOn:
        """Return how the copy gets beneath a mount where it cannot be attached there."""
        if self._scratch is not None:
            nest(late)
            return self._scratch.pass_on
        return tuck.of_detached(self.fd, (lambda: nest(late)) if late else None)

    def hide(self) -> None:
        """Stand nowhere, if this is not to be attached (any more); it keeps its superblock."""
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            scratch.close()

    def handed_over(self) -> "Clone":
        """Return the same copy for another owner, such as a visit that may outlive this one."""
        other = Clone(self.fd, self._scratch)
        self.fd, self._scratch = -1, None
        return other

    def close(self) -> None:
        """Release the copy, which dissolves if it was not attached; may be called again."""
        self.hide()
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def can_detach() -> bool:
    """Return whether copies stand nowhere until they are attached, in any namespace (5.2+)."""
    return facilities.has("open_tree") and facilities.has("move_mount")


def clone(source: str, inner: str, wanted: Attributes, dev: str = "") -> Clone:
    """Return a copy of the mount at source, of its sub-path inner ("" for the whole).

    inner stays on the same superblock and follows no link: what lies inside belongs to a pod.
    dev is the superblock that has to be there, if one has to.  Raises Covered or OSError.
    """
    with closing(open_source(source, dev)) as source_fd:
        if not inner.strip("/"):
            return Clone.of(source_fd, wanted)
        with closing(open_beneath(source_fd, inner)) as inner_fd:
            return Clone.of(inner_fd, wanted)


def open_source(source: str, dev: str = "") -> int:
    """Open what is to be cloned, for `Clone.of`; raises Covered or OSError as `clone` does."""
    fd = open_path(source)
    if dev and (found := mountinfo.superblock(fd)) != dev:
        os.close(fd)
        raise Covered(f"{source} shows superblock {found}, not {dev}: it changed meanwhile")
    return fd


def open_beneath(fd: int, inner: str, flags: int = 0) -> int:
    """Open a place within a mount with O_PATH, on this mount itself and over no link.

    Asks its server: call it through a Prober.  Raises OSError: ELOOP at a link, EXDEV where the
    path leads out or over another mount.
    """
    rules = resolve.NO_LINKS | syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV
    return resolve.open_at(fd, inner.strip("/"), rules, flags)


def attach(clone: Clone, place_fd: int, *, beneath: bool = False, about: str = "") -> None:
    """Attach a copy at a place, on top of what is there or beneath the mount there.

    about names the place in the OSError.
    """
    try:
        clone.attach(place_fd, beneath=beneath)
    except OSError as error:
        raise OSError(error.errno, error.strerror, about or error.filename) from error


def detach(fd: int) -> None:
    """Unmount exactly the mount behind a descriptor, lazily; needs the context of a visit.

    The working directory is this process's /proc/self/fd, so the name is a magic link to the mount
    itself: no path that a container could bend is walked.
    """
    syscalls.umount2(str(fd), syscalls.MNT_DETACH)


def open_exactly(path: str, expected: Mount, root_fd: int) -> int:
    """Open the topmost mount at path and make sure it is the expected one; raises Covered."""
    fd = open_path(path, root_fd)
    found = mountinfo.identity(fd)
    if found != (expected.mnt_id, expected.dev):
        os.close(fd)
        raise Covered(
            f"{path} shows mount {found[0]} of superblock {found[1]}, "
            f"not {expected.mnt_id} of {expected.dev}: it changed meanwhile"
        )
    return fd


def pin(path: str, expected: Mount) -> Clone:
    """Return a hidden copy of a dead mount of our own namespace, to keep its superblock.

    A descriptor of the mount itself would make a plain umount(2) of it fail with EBUSY, and others
    unmount here too: kubelet its volume-subpaths.  Raises Covered or OSError.
    """
    with closing(open_exactly(path, expected, syscalls.AT_FDCWD)) as fd:
        return _pinned(Clone.of(fd, Attributes()))


def _pinned(copy: Clone) -> Clone:
    copy.hide()
    return copy


def pin_all(stack: Sequence[Mount]) -> dict[str, Clone]:
    """Return what `pin` does for each mount of a stack, the covered ones too, by superblock.

    To see them it takes them off one by one, bottom last, in a mount namespace of its own that
    nothing is passed on from.  Leaves the calling thread there: for a thread of `Prober.run`.
    Raises Covered or OSError.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    with closing(open_path("/")) as root:
        set_propagation(root, "private", recursive=True)
    pins: dict[str, Clone] = {}
    with contextlib.ExitStack() as kept:
        for mount in reversed(stack):
            if mount.dev not in pins:
                pins[mount.dev] = kept.enter_context(
                    _pinned(clone(mount.mount_point, "", Attributes(), mount.dev))
                )
            flags = syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW
            syscalls.umount2(mount.mount_point, flags)
        kept.pop_all()
    return pins


def close_all(pins: dict[str, Clone]) -> None:
    """Close what `pin_all` returned."""
    for clone in pins.values():
        clone.close()


def make_private(expected: Mount, root_fd: int) -> None:
    """Put a copy with a peer group of its own in a mount's place, so no peer's mounts reach it.

    In all the namespaces to which its parent passes mounts on.  Raises Covered or OSError.
    """
    path = expected.mount_point
    with closing(open_exactly(path, expected, root_fd)) as fd:
        copy = Clone.of(fd, Attributes.of_part(expected))
    with copy:
        swap(copy, (expected,), root_fd)


def swap(
    clone: Clone, stack: tuple[Mount, ...], root_fd: int, late: Sequence["Nested"] = ()
) -> int:
    """Put a copy in the place of a stack of dead mounts; return the layers that remain.

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
            exposed = _put_beneath(clone, top, stack[left - 1], root_fd, late)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            os.close(open_exactly(path, stack[left - 1], root_fd))  # refused, or just gone?
            attach(clone, top, about=path)
            nest(late)
            return left + 1
        try:
            detach(top)
        except OSError as error:  # taken away by another namespace's swap, which propagated here
            if error.errno != errno.EINVAL:
                raise
    if exposed:
        _withdraw(exposed, stack[left - 1], root_fd)
    return left


def _put_beneath(
    clone: Clone, top: int, dead: Mount, root_fd: int, late: Sequence["Nested"]
) -> int:
    """Return the id of what was put there if it is shared as no copy should be, else 0."""
    if can_detach() and facilities.has("move_mount_beneath"):
        attach(clone, top, beneath=True, about=dead.mount_point)
        nest(late)
        return 0
    return tuck.beneath(clone.passing_on(late), dead, root_fd)


def _withdraw(mnt_id: int, replaced: Mount, root_fd: int) -> None:
    """Give a mount that was tucked the propagation of the one it replaced, with what is in it."""
    if replaced.shared:
        return
    with closing(open_path(replaced.mount_point, root_fd)) as fd:
        if mountinfo.mount_id(fd) == mnt_id:
            set_propagation(fd, "slave" if replaced.master else "private", recursive=True)


def peel(stack: tuple[Mount, ...], root_fd: int) -> int:
    """Detach all mounts of a stack but the bottom one; return the layers that remain."""
    bottom, left = _peel(stack, root_fd)
    os.close(bottom)
    return left


def cover(clone: Clone, stack: tuple[Mount, ...], root_fd: int) -> int:
    """Attach a copy on top of a stack; return how many layers then stand there.

    Where the top is shared, the kernel passes the new mount on to its peers and slaves.
    """
    path = stack[-1].mount_point
    with closing(open_exactly(path, stack[-1], root_fd)) as top:
        attach(clone, top, about=path)
    return len(stack) + 1


def attach_bare(clone: Clone, path: str, root_fd: int) -> None:
    """Attach a copy at a path that shows no mount; raises Covered if it does."""
    with (
        closing(open_path(path, root_fd)) as fd,
        closing(open_path(os.path.dirname(path), root_fd)) as above,
    ):
        if mountinfo.mount_id(fd) != mountinfo.mount_id(above):
            raise Covered(f"{path} was mounted meanwhile")
        attach(clone, fd, about=path)


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
    """A mount that stood inside a dead one: a copy, and its place in the new one.

    inner is the place's path within the new mount.
    """

    inner: str
    clone: Clone
    place_fd: int

    def close(self) -> None:
        """Release both; a copy that was not attached dissolves."""
        self.clone.close()
        os.close(self.place_fd)


def open_inside(fd: int, inner: str) -> int:
    """Open a place within a mount, following no link; asks its server: call it through a Prober."""
    rules = resolve.NO_LINKS | syscalls.RESOLVE_BENEATH
    return resolve.open_at(fd, inner.strip("/") or ".", rules)


def nest(extra: Sequence[Nested]) -> bool:
    """Attach each copy at its place; False where the kernel wants the places attached first.

    Before Linux 6.15 nothing can be mounted inside a detached mount.
    """
    try:
        for nested in extra:
            attach(nested.clone, nested.place_fd, about=nested.inner)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def is_directory(fd: int) -> bool:
    """Return whether a descriptor is that of a directory, without asking its server."""
    flags = syscalls.AT_EMPTY_PATH | syscalls.AT_STATX_DONT_SYNC
    return stat.S_ISDIR(syscalls.statx(fd, "", flags, syscalls.STATX_TYPE).mode)


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
        mnt_id, dev = mountinfo.identity(fd)
        return Shown(mnt_id, dev, mnt_id != mountinfo.mount_id(above))


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
