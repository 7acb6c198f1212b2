"""Process exits by the kernel's process connector: pyroute2's ProcEventSocket.

Works only in the host's PID and network namespaces, and costs a message for every fork, exec and
exit on the machine; it stands in where pidfd_open(2) is missing or refused.
pyroute2 is imported when first needed: it costs 9 MiB of resident memory.
"""

from typing import Any

_PROC_EVENT_EXIT = 0x80000000


class ProcessExits:
    """Exits of the processes that are watched."""

    def __init__(self) -> None:
        """Subscribe; raises OSError where the connector is out of reach."""
        from pyroute2 import ProcEventSocket

        self._socket: Any = ProcEventSocket()
        try:
            self._socket.bind()
            self._socket.control(listen=True)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        number: int = self._socket.fileno()
        return number

    def read(self) -> list[int]:
        """Return the process ids that ended, of the messages at hand."""
        return [
            int(message["process_tgid"])
            for message in self._socket.get()
            if message.get("what") == _PROC_EVENT_EXIT
            and message.get("process_pid") == message.get("process_tgid")
        ]

    def close(self) -> None:
        """Unsubscribe."""
        self._socket.close()
