"""Calls in another process, which can be left behind when a call in it hangs.

A thread whose request a FUSE daemon has read and does not answer sleeps where no signal reaches it.
As long as it does, its process cannot end: it stays a zombie with all its descriptors, sockets and
locks, whoever kills it.  So such requests are made by a process that has none of these: a small
Python without the rest of the program (`probechild`), started before it is needed.  Where a call in
it hangs it leaves the control groups of our container, which could not be ended with it.

A *line* is a channel to a thread of that process, on which one call after the other is made; the
caller itself waits for the answer, so a call costs one message each way.
"""

import contextlib
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

from recover.errors import Unstarted
from recover.linux import controlgroups, message, procself
from recover.linux.message import Closed, Descriptor, Late

T = TypeVar("T")

_log = logging.getLogger(__name__)

_START_S = 30.0  # a busy machine
_END_S = 0.3
_SPARE = 4  # lines that are kept when their call has ended
# nothing but `recover` and the standard library, which take memory enough
_COMMAND = (sys.executable, "-E", "-s", "-S", "-m", "recover.linux.probechild")
_ROOT = Path(__file__).parents[2]  # where `recover` is found

_left_behind: list[subprocess.Popen[bytes]] = []  # until they can be reaped
_bound = threading.local()  # .helper: where the requests of this thread are made


def there(func: Callable[..., T], *arguments: object) -> T:
    """Return func(*arguments), made in the helper that the calling thread is bound to, if any.

    A descriptor that is lent is a `message.Descriptor`, for func a number.
    """
    helper: ProbeHelper | None = getattr(_bound, "helper", None)
    if helper is not None:
        return helper.call(func, arguments, None)
    return func(*(a.number if isinstance(a, Descriptor) else a for a in arguments))


def open_there(func: Callable[..., int], *arguments: object) -> int:
    """Do what `there` does with a function that opens something; return a descriptor of our own."""
    return there(given, func, *arguments) if is_bound() else there(func, *arguments)


def given(func: Callable[..., int], *arguments: object) -> int:
    """Open something over there, for the one who calls: the number is that of its descriptor."""
    return cast("int", Descriptor(func(*arguments)))


def is_bound() -> bool:
    """Tell whether `there` is another process for the calling thread."""
    return getattr(_bound, "helper", None) is not None


@contextlib.contextmanager
def bound(helper: "ProbeHelper | None") -> Iterator[None]:
    """Have the requests that the calling thread makes in a block be made in a helper."""
    _bound.helper = helper
    try:
        yield
    finally:
        _bound.helper = None


class Asleep(Exception):
    """A call was not answered in time; on its line the answer is still to come."""

    def __init__(self, line: "Line") -> None:
        super().__init__("no answer in time")
        self.line = line


class Line:
    """A thread of the other process, for one call at a time."""

    def __init__(self, control: socket.socket) -> None:
        """Open a line through the channel that all lines of a process come from; raises Closed."""
        self.control = control
        self._channel, theirs = message.pair()
        try:
            with theirs:
                message.send(control, Descriptor(theirs.fileno()))
        except BaseException:
            self._channel.close()
            raise

    def call(
        self, func: Callable[..., T], arguments: tuple[object, ...], timeout_s: float | None
    ) -> T:
        """Return func(*arguments) or raise what it raises; raises Late, or Closed."""
        self._channel.settimeout(timeout_s)
        message.send(self._channel, (func, arguments))
        (value, error), _ = message.receive(self._channel)
        if error is not None:
            raise error
        return cast("T", value)

    def has_ended(self) -> bool:
        """Tell whether the answer has come that was not waited for, or the process has gone."""
        return procself.is_readable(self._channel.fileno())

    def close(self) -> None:
        """End the thread, after its call; what that still returns is closed by the kernel."""
        self._channel.close()


class ProbeHelper:
    """The other process: started when first needed, and anew when it has gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_ready = False
        self._is_closed = False
        self._spare: list[Line] = []

    @property
    def pid(self) -> int:
        """Return the number of the process, 0 while there is none."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start the process unless it runs; it is not waited for.  Raises Unstarted."""
        with self._lock, self._started():
            self._start()

    def ready(self) -> None:
        """Return when the process can take calls; raises Unstarted."""
        self._keep(self._line())

    def call(
        self, func: Callable[..., T], arguments: tuple[object, ...], timeout_s: float | None
    ) -> T:
        """Return func(*arguments) or raise what it raises; func is found over there by its name.

        It is called again, once, if the process goes away under it.  Raises Asleep, Unstarted.
        """
        for is_last in (False, True):
            try:
                line = self._line()
            except Unstarted:  # or it went away since it was last used
                if is_last:
                    raise
                continue
            try:
                value = line.call(func, arguments, timeout_s)
            except Late as error:
                self.set_apart()
                raise Asleep(line) from error
            except Closed:
                self._lose(line)
            except BaseException:
                self._keep(line)
                raise
            else:
                self._keep(line)
                return value
        raise Unstarted(" ".join(_COMMAND))

    def set_apart(self) -> None:
        """Take the process, in which a call hangs, out of what is ended with our container."""
        if self._process is not None:
            controlgroups.leave(self._process.pid)

    def close(self) -> None:
        """Let the process end for good; one in which calls hang is left behind."""
        with self._lock:
            self._is_closed = True
            self._end()

    def __del__(self) -> None:
        self._end()

    def _line(self) -> Line:
        with self._lock:
            if self._spare:
                return self._spare.pop()
            with self._started():
                return self._open()

    @contextlib.contextmanager
    def _started(self) -> Iterator[None]:
        try:
            yield
        except (Closed, Late, OSError) as error:
            self._end()
            raise Unstarted(" ".join(_COMMAND)) from error

    def _open(self) -> Line:
        control = self._start()
        if not self._is_ready:
            control.settimeout(_START_S)
            message.receive(control)
            self._is_ready = True
        return Line(control)

    def _start(self) -> socket.socket:
        if self._control is None:
            # Within a visit it would run a container's programs.
            if self._is_closed or not procself.is_home():
                raise Closed
            _left_behind[:] = [each for each in _left_behind if each.poll() is None]
            self._control, theirs = message.pair()
            with theirs:
                self._process = subprocess.Popen(
                    _COMMAND,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=_ROOT,
                )
        return self._control

    def _keep(self, line: Line) -> None:
        """Keep a line whose call has ended for the next one."""
        with self._lock:
            if len(self._spare) < _SPARE and self._control is line.control:
                self._spare.append(line)
            else:
                line.close()

    def _lose(self, line: Line) -> None:
        """Take note that a process has gone."""
        line.close()
        with self._lock:
            if self._control is line.control:
                _log.warning("the process that asks the FUSE daemons went away; starting another")
                self._end()

    def _end(self) -> None:
        for line in self._spare:
            line.close()
        self._spare.clear()
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                controlgroups.leave(self._process.pid)
                _left_behind.append(self._process)
        self._process, self._control, self._is_ready = None, None, False
