"""The process in which calls may hang: see `probehelper`.

It has no socket, lock or state of the one that started it, nor its standard streams.  Each line to
it has a thread, on which one call after the other is made; when its starter has gone it ends, as
far as the kernel lets a thread end that waits for a FUSE daemon.  Such a thread must not keep the
other lines open after a kill, so each has a table of descriptors of its own, with its line alone.
"""

import os
import signal
import socket
import threading

from recover.linux import message, probe, resolve, syscalls
from recover.linux.message import Closed

_STACK_BYTES = 256 * 1024
_CALLED = (probe, resolve)  # here before the first call, whose time is counted
_MOST = 1 << 20  # beyond any number of a descriptor here


def main() -> None:
    """Serve whoever holds the other end of the socket that is our standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    os.chdir("/")
    threading.stack_size(_STACK_BYTES)
    with socket.socket(fileno=os.dup(0)) as control:
        os.dup2(1, 0)  # /dev/null
        message.send(control, "ready")
        try:
            while True:
                _, (number,) = message.receive(control)
                taken = threading.Event()
                threading.Thread(target=_serve, args=(number, taken), daemon=True).start()
                taken.wait()
                os.close(number)
        except Closed:
            os._exit(0)


def _serve(number: int, taken: threading.Event) -> None:
    syscalls.unshare(syscalls.CLONE_FILES)
    taken.set()
    os.closerange(0, number)
    os.closerange(number + 1, _MOST)
    with socket.socket(fileno=number) as line:
        try:
            while True:
                _answer(line)
        except Closed:
            return


def _answer(line: socket.socket) -> None:
    """Make one call.  Descriptors that came with it are closed after it, and those it returns."""
    lent: list[int] = []
    try:
        (func, arguments), lent = message.receive(line)
        value, error = func(*arguments), None
    except Closed:
        raise
    except Exception as raised:  # noqa: BLE001  for the caller, in whose process it is raised
        value, error = None, raised
    finally:
        for number in lent:
            os.close(number)
    for number in message.send(line, (value, error)):
        os.close(number)


if __name__ == "__main__":
    main()
