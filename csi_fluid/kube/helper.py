"""The plugin's side of the helper process: started when first needed, ended when it is idle.

A call waits in the caller's thread until its time limit.  A helper that died is replaced and the
call made again, once: every call may be made twice (labels are set, events have names of ours).  A
helper that does not keep the time limit is killed, because something in it hangs.
"""

import contextlib
import itertools
import logging
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from csi_fluid.errors import Unavailable
from csi_fluid.kube import wire
from csi_fluid.kube.access import Access
from csi_fluid.kube.wire import Request, Response

CALL_S = 10.0  # the longest that one call may take
_GRACE_S = 5.0  # on top of it, for the helper's own start and for a machine under load
_IDLE_S = 30.0
_END_S = 2.0
_CLOSE_S = 0.3
_COMMAND = (sys.executable, "-m", "csi_fluid.kube.child")
_NEXT = "look at the API server and at the plugin's credentials"

_log = logging.getLogger(__name__)


class _Ended(Exception):
    """The helper went away before it answered."""


class _Call:
    """A call under way."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: Response | None = None

    def end(self, answer: Response | None) -> None:
        self.answer = answer
        self.done.set()


class _Life:
    """One helper process, from start to end; a thread of its own reads what it answers."""

    def __init__(self, access: Access, idle_s: float) -> None:
        """Start the process; raises OSError."""
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._calls: dict[int, _Call] = {}
        self._numbers = itertools.count()
        self._ended = False
        # Its own, and removed here: kubernetes writes certificates given inline to files.
        self._folder = tempfile.mkdtemp(prefix="csi-fluid-")
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process: subprocess.Popen[bytes] = subprocess.Popen(
                    [*_COMMAND, access.of("node"), access.of("account"), self._folder],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                )
        except BaseException:
            self._socket.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._socket.settimeout(_END_S)  # for sending: the pipe of a stopped process fills up
        self.thread = threading.Thread(target=self._run, name="kube", daemon=True)
        self.thread.start()

    @property
    def pid(self) -> int:
        """Return the process id of the helper."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Return whether no call can be made any more."""
        with self._lock:
            return self._ended

    def ask(self, request: Request, timeout_s: float) -> Response:
        """Make a call; raises _Ended where the process went away, TimeoutError where it hangs."""
        call = _Call()
        with self._lock:
            if self._ended:
                raise _Ended
            number = next(self._numbers)
            self._calls[number] = call
        try:
            with self._sending:
                self._socket.sendall(wire.pack(number, timeout_s, request))
            if not call.done.wait(timeout_s + _GRACE_S):
                raise TimeoutError
        except OSError as error:
            self.kill()
            if isinstance(error, TimeoutError):
                _log.warning("the helper for the API server is replaced: it keeps no time limit")
                raise
            raise _Ended from error
        finally:
            with self._lock:
                self._calls.pop(number, None)
        if call.answer is None:
            raise _Ended
        return call.answer

    def kill(self) -> None:
        """End the process, whatever it does; the thread that reads does the rest."""
        self._process.kill()

    def close(self) -> None:
        """End the process in order, and wait for it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(_CLOSE_S)
        if self.thread.is_alive():
            self.kill()
            self.thread.join(_CLOSE_S)

    def _run(self) -> None:
        try:
            self._read()
        except OSError:
            _log.debug("the helper for the API server went away", exc_info=True)
        except wire.Garbled as error:
            _log.warning("the helper for the API server is replaced: it sent %s", error)
        finally:
            self._finish()

    def _read(self) -> None:
        """Hand out answers until the process ends, or nobody wanted anything for a time."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        buffer = bytearray()
        while True:
            if not poll.poll(self._idle_s * 1000):
                if self._end_if_idle():
                    return
                continue
            data = self._socket.recv(65536)
            if not data:
                return
            buffer += data
            for line in wire.lines(buffer):
                number, answer = wire.unpack_response(line)
                with self._lock:
                    call = self._calls.pop(number, None)
                if call is not None:
                    call.end(answer)

    def _end_if_idle(self) -> bool:
        with self._lock:
            self._ended = not self._calls
            return self._ended

    def _finish(self) -> None:
        with self._lock:
            self._ended = True
            calls, self._calls = list(self._calls.values()), {}
        self._socket.close()  # which is the process's sign to end
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        for call in calls:
            call.end(None)


class Helper:
    """Makes calls through a helper process; safe to use from any thread."""

    def __init__(
        self,
        access: Access,
        told: Callable[[Request, Response], None],
        started: Callable[[], None],
        *,
        idle_s: float = _IDLE_S,
    ) -> None:
        """Take the credentials, who is told of calls and of helpers, and when an idle one ends."""
        self._access = access
        self._told = told
        self._started = started
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._life: _Life | None = None

    @property
    def pid(self) -> int | None:
        """Return the process id of the helper, None while there is none."""
        with self._lock:
            return self._life.pid if self._life and not self._life.ended else None

    def ask(self, request: Request, until: float) -> Response:
        """Make a call and return what the API server answered, an error status included.

        Raises Unavailable where it answered nothing before the monotonic time until.
        """
        answer = self._ask(request, until)
        self._told(request, answer)
        if answer.status == 0:
            raise Unavailable(f"{_described(request)} failed: {answer.error}; {_NEXT}")
        return answer

    def close(self) -> None:
        """End the helper."""
        with self._lock:
            life, self._life = self._life, None
        if life is not None:
            life.close()

    def _ask(self, request: Request, until: float) -> Response:
        for _ in range(2):
            timeout_s = min(CALL_S, until - time.monotonic())
            if timeout_s <= 0:
                return Response(0, {}, "no time was left for it")
            try:
                return self._alive().ask(request, timeout_s)
            except _Ended:
                continue
            except TimeoutError:
                return Response(0, {}, f"no answer within {timeout_s + _GRACE_S:.0f} s")
            except OSError as error:
                return Response(0, {}, f"the helper process cannot be started: {error}")
        return Response(0, {}, "the helper process ended twice before it answered")

    def _alive(self) -> _Life:
        with self._lock:
            if self._life is None or self._life.ended:
                self._life = _Life(self._access, self._idle_s)
                self._started()
            return self._life


def _described(request: Request) -> str:
    return f"{request.method} {request.path.partition('?')[0]} of the API server"
