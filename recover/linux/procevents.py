"""Process exits by the kernel's process connector: pyroute2's ProcEventSocket.

Works only in the host's PID and network namespaces, and costs a message for every fork, exec and
exit on the machine; it stands in where pidfd_open(2) is refused.
pyroute2 is imported when first needed: it costs 9 MiB of resident memory.  Its socket, with an
event loop inside, belongs to the thread that made it: so it subscribes and is closed at once, and
the messages are read from a copy of its descriptor.
"""

import errno
import os
import select
import socket
import struct
import threading
from typing import Any

_INITIAL_PID_NS = 0xEFFFFFFC  # PROC_PID_INIT_INO, <linux/proc_ns.h>
_NETLINK_CONNECTOR = 11  # <linux/netlink.h>
_EVENT_MS = 1000  # within which the kernel tells an event
_MESSAGE_BYTES = 65536


class ProcessExits:
    """The ends of all processes of the machine."""

    def __init__(self) -> None:
        """Subscribe; raises OSError where the connector is out of reach, ImportError without it."""
        if int(os.readlink("/proc/self/ns/pid")[5:-1]) != _INITIAL_PID_NS:
            raise PermissionError(errno.EPERM, "process events need the host's PID namespace")
        _knock()
        from pyroute2.netlink.connector import cn_proc

        self._exit = cn_proc.PROC_EVENT_EXIT
        self._marshal: Any = cn_proc.ProcEventMarshal()
        self._fd = _subscribe(cn_proc)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._fd

    def read(self) -> list[int]:
        """Return the process ids that ended since the last call; never blocks.

        Raises OSError (ENOBUFS) where the kernel had to drop messages.
        """
        ended: list[int] = []
        while True:
            try:
                data = os.read(self._fd, _MESSAGE_BYTES)
            except BlockingIOError:
                return ended
            ended += [
                int(message["process_pid"])
                for message in self._marshal.parse(data)
                if message["what"] == self._exit
                and message["process_pid"] == message["process_tgid"]  # not just a thread
            ]

    def close(self) -> None:
        """Unsubscribe."""
        os.close(self._fd)


def _knock() -> None:
    """Raise ConnectionRefusedError outside of the host's network namespace.

    There pyroute2 would raise it too, but leave its event loop logging tracebacks.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR) as door:
        door.send(struct.pack("=IHHII", 16, 1, 0, 0, 0))  # NLMSG_NOOP, which the kernel passes over


def _subscribe(cn_proc: Any) -> int:
    """Return a descriptor on which the events arrive."""
    request = cn_proc.proc_event_control()
    request["action"] = cn_proc.PROC_CN_MCAST_LISTEN
    request["idx"], request["val"] = cn_proc.CN_IDX_PROC, cn_proc.CN_VAL_PROC
    request["len"] = 4
    with cn_proc.ProcEventSocket() as events:
        events.bind()
        # Not events.control(): it waits for an answer, and the kernel refuses by silence.
        events.put(request, cn_proc.NLMSG_DONE, msg_flags=0, msg_seq=0)
        fd = os.dup(events.fileno())
    os.set_blocking(fd, False)
    if not _is_served(fd):
        os.close(fd)
        raise PermissionError(errno.EPERM, "the kernel tells no process events here")
    return fd


def _is_served(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    thread = threading.Thread(target=int)  # the start of a thread is an event too
    thread.start()
    thread.join()
    return bool(poll.poll(_EVENT_MS))
