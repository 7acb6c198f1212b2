"""A switch for tests: what this kernel has and is to be refused, as an older one would.

CSI_FLUID_REFUSE names facilities, separated by commas: "open_tree,openat2".  Each then fails as on
a kernel without it; "open_tree=EPERM" as a seccomp profile answers.  "all" means each of them.
Unlike a seccomp filter it holds for this process alone, not for the daemons that it starts.
"""

import errno
import os

OPTIONAL = {
    "open_tree": errno.ENOSYS,
    "move_mount": errno.ENOSYS,
    "move_mount_beneath": errno.EINVAL,  # a flag
    "mount_setattr": errno.ENOSYS,
    "openat2": errno.ENOSYS,
    "statx_mnt_id": 0,  # a field that is not filled
    "statx_mnt_id_unique": 0,
    "statmount": errno.ENOSYS,
    "fanotify_mnt": errno.EINVAL,
    "pidfd_open": errno.ENOSYS,
    "pidfd_getfd": errno.ENOSYS,
    "fsopen": errno.ENOSYS,
    "fuse_connection": 0,
    "fuse_resend": 0,
}
"""Every facility that can be refused, and how a kernel without it answers."""


def parse(text: str) -> dict[str, int]:
    """Return the errno for each facility that is to be refused; raises ValueError."""
    refused: dict[str, int] = {}
    for word in filter(None, text.split(",")):
        name, _, answer = word.partition("=")
        names = OPTIONAL.keys() if name == "all" else {name}
        for each in names:
            if each not in OPTIONAL:
                raise ValueError(f"CSI_FLUID_REFUSE: {each!r} is none of {', '.join(OPTIONAL)}")
            refused[each] = int(getattr(errno, answer)) if answer else OPTIONAL[each]
    return refused


_refused = parse(os.environ.get("CSI_FLUID_REFUSE", ""))


def is_refused(facility: str) -> bool:
    """Return whether a facility is to be refused."""
    return facility in _refused


def check(facility: str, path: str | bytes = "") -> None:
    """Raise the OSError of a kernel without this facility if it is to be refused."""
    if facility in _refused:
        number = _refused[facility]
        raise OSError(number, os.strerror(number), os.fsdecode(path))
