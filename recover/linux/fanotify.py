"""Mount events: fanotify(7) with FAN_REPORT_MNT, Linux 6.15+.

One event costs the same whatever the size of the mount table.
"""

import contextlib
import os
import struct
from dataclasses import dataclass

from recover.linux import syscalls
from recover.linux.mounts import closing

_HEADER = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata
_INFO = struct.Struct("=BBH4xQ")  # struct fanotify_event_info_mnt, as the kernel lays it out
_FAN_Q_OVERFLOW = 0x4000


@dataclass(frozen=True, slots=True)
class MountEvent:
    """A mount was attached (mount_point says where) or detached; overflow: events were lost."""

    attached: bool
    mount_point: str = ""
    overflow: bool = False


class MountEvents:
    """The attachments and detachments in this process's mount namespace."""

    def __init__(self) -> None:
        """Start listening; raises OSError where the kernel or the privileges do not allow it."""
        flags = syscalls.FAN_CLOEXEC | syscalls.FAN_NONBLOCK | syscalls.FAN_REPORT_MNT
        self._fd = syscalls.fanotify_init(flags, os.O_RDONLY)
        try:
            with closing(os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as namespace:
                syscalls.fanotify_mark(
                    self._fd,
                    syscalls.FAN_MARK_ADD | syscalls.FAN_MARK_MNTNS,
                    syscalls.FAN_MNT_ATTACH,
                    namespace,
                )
        except OSError:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._fd

    def read(self) -> list[MountEvent]:
        """Return what happened since the last call; never blocks."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return []
        events = []
        offset = 0
        while offset < len(data):
            length, _, _, header_size, mask, _, _ = _HEADER.unpack_from(data, offset)
            events.append(_event(data, offset + header_size, mask))
            offset += length
        return events

    def drain(self) -> None:
        """Forget what happened since the last call; never blocks."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 65536)

    def close(self) -> None:
        """Stop listening."""
        os.close(self._fd)


def _event(data: bytes, offset: int, mask: int) -> MountEvent:
    if mask & _FAN_Q_OVERFLOW:
        return MountEvent(attached=False, overflow=True)
    (_, _, _, mnt_id) = _INFO.unpack_from(data, offset)
    try:
        return MountEvent(attached=True, mount_point=syscalls.statmount(mnt_id).mount_point)
    except OSError:  # gone again already
        return MountEvent(attached=False)
