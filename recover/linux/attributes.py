"""Per-mount flags and propagation, and the two ways to set them: mount_setattr(2) and mount(2).

mount_setattr takes a mount that is attached nowhere; mount(2) one of the caller's namespace alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from recover.linux import facilities, mountinfo, procself, syscalls
from recover.linux.mountinfo import Mount

_FLAGS = {  # by option of mountinfo: as mount_setattr has it, as mount(2) has it
    "ro": (syscalls.MOUNT_ATTR_RDONLY, syscalls.MS_RDONLY),
    "nosuid": (syscalls.MOUNT_ATTR_NOSUID, syscalls.MS_NOSUID),
    "nodev": (syscalls.MOUNT_ATTR_NODEV, syscalls.MS_NODEV),
    "noexec": (syscalls.MOUNT_ATTR_NOEXEC, syscalls.MS_NOEXEC),
    "nodiratime": (syscalls.MOUNT_ATTR_NODIRATIME, syscalls.MS_NODIRATIME),
    "nosymfollow": (syscalls.MOUNT_ATTR_NOSYMFOLLOW, syscalls.MS_NOSYMFOLLOW),
}
_ATIME = {
    "relatime": (syscalls.MOUNT_ATTR_RELATIME, syscalls.MS_RELATIME),
    "noatime": (syscalls.MOUNT_ATTR_NOATIME, syscalls.MS_NOATIME),
}
_ALL_FLAGS = sum(attr for attr, _ in _FLAGS.values())

Propagation = Literal["private", "slave", "shared", "slave-shared", "peer"]

# What to do one after the other.  A copy is a peer of its source.  Private first where a group of
# its own is meant: else a mount made inside a container would appear on the host.
_STEPS: Mapping[Propagation, tuple[int, ...]] = {
    "private": (syscalls.MS_PRIVATE,),
    "slave": (syscalls.MS_SLAVE,),
    "shared": (syscalls.MS_PRIVATE, syscalls.MS_SHARED),
    "slave-shared": (syscalls.MS_SLAVE, syscalls.MS_SHARED),
    "peer": (),
}


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a copy gets before it is attached, so that no instant lacks it.

    flags are mount options as in mountinfo; propagation is "private", "slave" (of the source),
    "shared" (a group of its own), "slave-shared" (both of these) or "peer" (of the source).
    """

    flags: frozenset[str] = frozenset()
    propagation: Propagation = "private"
    keep: bool = False  # keep the source's flags too (a first bind), instead of exactly these

    @classmethod
    def of(cls, mount: Mount, *, read_only: bool = False) -> "Attributes":
        """Return the attributes of a mount that is to be replaced; read_only forces "ro"."""
        flags = mount.options & (_FLAGS.keys() | _ATIME.keys())
        kind: Propagation = "shared" if mount.shared else "slave" if mount.master else "private"
        return cls(flags | ({"ro"} if read_only else frozenset()), kind)

    @classmethod
    def of_part(cls, mount: Mount) -> "Attributes":
        """Return the attributes of a private copy of a mount."""
        return cls(mount.options & _FLAGS.keys())


def put_on_detached(fd: int, attributes: Attributes) -> None:
    """Set them on a mount that is attached nowhere, by mount_setattr(2)."""
    attr_set = sum(_FLAGS[flag][0] for flag in attributes.flags if flag in _FLAGS)
    attr_clr = 0 if attributes.keep else _ALL_FLAGS & ~attr_set
    atime = next((_ATIME[flag][0] for flag in attributes.flags if flag in _ATIME), None)
    if atime is not None:
        attr_set |= atime
        attr_clr |= syscalls.MOUNT_ATTR__ATIME
    first, *more = _STEPS[attributes.propagation] or (0,)
    syscalls.mount_setattr(fd, attr_set=attr_set, attr_clr=attr_clr, propagation=first)
    for kind in more:
        syscalls.mount_setattr(fd, attr_set=0, attr_clr=0, propagation=kind)


def put_on(fd: int, attributes: Attributes) -> None:
    """Set them on a mount of the calling thread's namespace, by mount(2)."""
    flags = attributes.flags
    if attributes.keep:
        flags |= mountinfo.here().by_id[mountinfo.mount_id(fd)].options
    bits = sum(bit for flag, (_, bit) in (_FLAGS | _ATIME).items() if flag in flags)
    name = procself.path(fd)
    syscalls.mount("", name, "", syscalls.MS_REMOUNT | syscalls.MS_BIND | bits)
    for kind in _STEPS[attributes.propagation]:
        syscalls.mount("", name, "", kind)


def set_propagation(fd: int, propagation: Propagation, *, recursive: bool = False) -> None:
    """Change how the mount behind a descriptor, and those in it, propagate: as in Attributes.

    The descriptor must be of the mount's root (else EINVAL), in the calling thread's namespace.
    """
    for kind in _STEPS[propagation]:
        if facilities.has("mount_setattr"):
            flags = syscalls.AT_RECURSIVE if recursive else 0
            syscalls.mount_setattr(fd, attr_set=0, attr_clr=0, propagation=kind, flags=flags)
        else:
            flags = syscalls.MS_REC if recursive else 0
            syscalls.mount("", procself.path(fd), "", kind | flags)
