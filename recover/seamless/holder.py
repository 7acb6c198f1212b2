"""The holder: a process that keeps the connections of dead FUSE daemons alive, and their callers.

    python -m recover.seamless.holder SOCKET

It owns copies of /dev/fuse descriptors and nothing of any FUSE mount, never forks, has one thread
and takes no lock: so it can be killed at any time, and its end is the end of every wait
(ENOTCONN).  It knows no names and no files: a reader connects to it and answers.  It outlives the
plugin, which finds it again by its socket.

All it does it does when told so (the messages are in `client`) or when a daemon ends.
"""

import contextlib
import functools
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from recover.linux import procself, syscalls
from recover.seamless import callers, copies, wire
from recover.seamless.channel import Broken, Channel, Json, Listener, Message
from recover.seamless.connection import Connection, Over, Tally
from recover.seamless.line import Waiting
from recover.seamless.link import Link

_LOOK_S = 0.1  # how often killed callers are looked for while anybody waits
_ASIDE_S = 0.004  # what a lookup in the volume's root waits for whoever mounts on that
_ELSEWHERE_S = 0.3  # and one in another directory, on which a sub path may be mounted
_PROOF_S = 10.0  # for what shows whose a connection is; that waits for nobody
_WHY = 500  # characters of a reason that are kept


@dataclass(slots=True)
class Dataset:
    """The connections of one source.

    newest is the superblock of the daemon that came last; has_root says that the reader was given
    its root, is_rooted that it has taken it.  serving says that callers of the older ones may be
    answered from it: every mount was swapped (is_swapped), and the newest lives.  Between the two
    the mounts are swapped, which needs the locks that waiting lookups keep: those go first.
    """

    source: str
    hold_s: float
    newest: str = ""
    has_root: bool = False
    is_rooted: bool = False
    rooted_at: float = 0.0  # monotonic
    is_swapped: bool = False
    serving: bool = False
    waits_since: float | None = None  # monotonic
    failing: bool = False
    lack: str = ""  # why the newest daemon is not kept
    connections: dict[str, Connection] = field(default_factory=dict)
    holds: int = 0
    past: Tally = field(default_factory=Tally)

    def held(self) -> list[Connection]:
        """Return the connections whose daemons are dead."""
        return [each for each in self.connections.values() if each.died_at is not None]

    def interrupt(self, now: float) -> None:
        """Take note that nobody can be served, until the next `serve`: everybody waits."""
        self.serving = self.is_swapped = False
        self.has_root = self.is_rooted = False
        if self.waits_since is None and self.held():
            self.waits_since = now
            self.holds += 1

    @property
    def swaps(self) -> bool:
        """Tell whether mounts are being swapped."""
        return self.is_rooted and not self.is_swapped and not self.failing

    def pump_all(self) -> None:
        """Hand the reader what it may be given now of all requests to dead daemons."""
        for connection in self.held():
            self.pump(connection)

    def pump(self, connection: Connection) -> None:
        """Hand the reader what it may be given now of a connection's requests."""
        if not connection.is_proven:
            return
        if self.serving:
            connection.pump()
        elif self.swaps:
            connection.pump(functools.partial(self._stands_in_the_way, time.monotonic()))

    def _stands_in_the_way(self, now: float, waiting: Waiting) -> bool:
        """Tell whether a request is to be answered for a swap to go on.

        Not at once: whoever mounts should wait for its end by then.  He comes first, and a caller
        who walks again finds the new mount.
        """
        request = waiting.request
        aside_s = _ASIDE_S if request.node == wire.ROOT else _ELSEWHERE_S
        return request.op in wire.UNDER_LOCK and now - max(waiting.since, self.rooted_at) >= aside_s

    def facts(self, now: float) -> dict[str, Json]:
        """Return what people and metrics want to know."""
        tally = Tally()
        for each in (self.past, *(c.tally for c in self.connections.values())):
            tally.add(each)
        waits_s = None if self.waits_since is None else round(now - self.waits_since, 3)
        states: dict[str, Json] = {
            dev: "live" if c.died_at is None else "served" if self.serving else "held"
            for dev, c in self.connections.items()
        }
        return {
            "newest": self.newest,
            "has_root": self.has_root,
            "serving": self.serving,
            "failing": self.failing,
            "waits_s": waits_s,
            "hold_s": self.hold_s,
            "lack": self.lack,
            "holds": self.holds,
            "connections": states,
            "waiting": sum(len(c.line) for c in self.connections.values()),
            "first_s": min((c.first_s for c in self.held() if c.first_s), default=0.0),
            **asdict(tally),
        }


class Holder:
    """The one thread; `run` returns at SIGTERM alone."""

    def __init__(self, listener: Listener) -> None:
        """Own the socket."""
        self._listener = listener
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._datasets: dict[str, Dataset] = {}
        self._reader: Channel | None = None
        self._buffer = bytearray((1 << 20) + 8192)
        self._looked_at = 0.0
        self._on(listener.fileno(), self._accept)

    def run(self) -> None:
        """Serve for ever."""
        while True:
            for fd, _ in self._epoll.poll(self._patience_s()):
                if handler := self._handlers.get(fd):
                    handler()
            for dataset in self._datasets.values():
                if dataset.swaps:
                    dataset.pump_all()
                for connection in dataset.held():
                    connection.sweep()
            now = time.monotonic()
            if now - self._looked_at >= _LOOK_S:
                self._looked_at = now
                self._look(now)

    def _patience_s(self) -> float | None:
        """Wait without end where nobody waits for us."""
        if any(c.unread for d in self._datasets.values() for c in d.held()):
            return 0.0
        if any(d.swaps and d.waits_since is not None for d in self._datasets.values()):
            return _ASIDE_S
        is_busy = any(
            d.waits_since is not None
            or any(len(c.line) or c.line.filled_at is not None for c in d.held())
            for d in self._datasets.values()
        )
        return _LOOK_S if is_busy else None

    def _on(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def _off(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # -- what time brings ------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        for dataset in self._datasets.values():
            since = dataset.waits_since
            if since is not None and not dataset.failing and now - since >= dataset.hold_s:
                dataset.failing = True
            for connection in dataset.held():
                connection.rest(now)
                if not connection.is_proven and now - (connection.asked_at or now) >= _PROOF_S:
                    dataset.lack = (
                        f"whoever was taken for the daemon of {connection.dev} does not serve it"
                    )
                    self._drop(dataset, connection)
                elif dataset.failing:
                    connection.fail_all()
                elif len(connection.line):
                    connection.let_killed_go()

    # -- daemons and their connections -----------------------------------------------------------

    def _watch(self, dataset: Dataset, connection: Connection, pid: int) -> None:
        pidfd = connection.adopt(pid)
        if pidfd is not None:
            self._on(pidfd, lambda: self._ended(dataset, connection, pidfd))

    def _ended(self, dataset: Dataset, connection: Connection, pidfd: int) -> None:
        """Hold what a daemon served that has ended, unless another process serves it still."""
        self._off(pidfd)
        pid = connection.daemons.pop(pidfd)
        os.close(pidfd)
        if connection.daemons:
            return
        besides = frozenset({os.getpid(), pid})
        for heir in copies.heirs(connection.number, connection.fileno(), besides):
            with contextlib.suppress(OSError):
                self._watch(dataset, connection, heir)
        if connection.daemons:
            return
        connection.hold()  # from now on one of those held
        if dataset.newest == connection.dev:
            dataset.interrupt(time.monotonic())
        self._on(connection.fileno(), lambda: self._read(dataset, connection))
        self._link(dataset, connection)
        self._read(dataset, connection)

    def _check(self, dataset: Dataset, connection: Connection) -> None:
        """Look whether daemons have ended that the kernel has not told of yet, or have cloned."""
        for pidfd, pid in list(connection.daemons.items()):
            if select.select([pidfd], [], [], 0)[0]:
                self._ended(dataset, connection, pidfd)
            else:
                with contextlib.suppress(OSError):
                    connection.adopt(pid)

    def _read(self, dataset: Dataset, connection: Connection) -> None:
        try:
            connection.read(self._buffer)
        except Over:
            self._drop(dataset, connection)
            return
        if dataset.failing:
            connection.fail_all()
        else:
            dataset.pump(connection)

    def _drop_if_over(self, dataset: Dataset, dev: str) -> None:
        """Let go of a connection whose superblock is gone: its number may be another one's by now.

        What the reader is told of the one must not come after what it is told of the other.
        """
        connection = dataset.connections.get(dev)
        if connection is not None and connection.died_at is not None:
            self._read(dataset, connection)

    def _drop(self, dataset: Dataset, connection: Connection) -> None:
        """Let go of a connection."""
        self._unlink(connection)
        for fd in (*connection.daemons, *connection.copies[:1]):
            self._off(fd)
        connection.close()
        dataset.past.add(connection.tally)
        dataset.connections.pop(connection.dev, None)
        self._tell_reader({"do": "over", "source": dataset.source, "dev": connection.dev})

    # -- the reader ------------------------------------------------------------------------------

    def _link(self, dataset: Dataset, connection: Connection) -> None:
        if self._reader is None or connection.link is not None or connection.died_at is None:
            return
        link, theirs = Link.pair()
        words: dict[str, Json] = {
            "do": "serve",
            "source": dataset.source,
            "dev": connection.dev,
            # A caller whose request was ended has gone through his one more walk already.
            "pids": connection.ids_are_ours and connection.is_resent,
        }
        if not connection.is_proven:
            words["mark"], connection.asked_at = connection.mark, time.monotonic()
        with contextlib.closing(theirs):
            is_sent = self._tell_reader(words, (theirs.fileno(), link.memory_fd))
        if not is_sent:
            link.close()
            return
        connection.link = link
        self._on(link.fileno(), lambda: self._answered(dataset, connection))

    def _unlink(self, connection: Connection) -> None:
        if connection.link is not None:
            self._off(connection.link.fileno())
            connection.cut()

    def _answered(self, dataset: Dataset, connection: Connection) -> None:
        link = connection.link
        fd = link.fileno() if link is not None else -1
        connection.answered()
        if connection.link is None:
            self._forget(fd)  # closed: the kernel has unregistered it
        else:
            dataset.pump(connection)

    def _forget(self, fd: int) -> None:
        self._handlers.pop(fd, None)

    def _tell_reader(self, words: dict[str, Json], fds: tuple[int, ...] = ()) -> bool:
        if self._reader is None:
            return False
        try:
            self._reader.send(words, fds)
        except OSError:  # it is gone, or so far behind that it will not come back
            self._lose_reader()
            return False
        return True

    def _lose_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            self._off(reader.fileno())
            reader.close()
        for dataset in self._datasets.values():
            dataset.interrupt(time.monotonic())
            for connection in dataset.connections.values():
                self._unlink(connection)

    def _welcome_reader(self, channel: Channel) -> None:
        self._lose_reader()
        self._reader = channel
        for dataset in list(self._datasets.values()):
            for connection in dataset.held():
                self._link(dataset, connection)

    # -- what we are told ------------------------------------------------------------------------

    def _rooted(self, message: Message) -> None:
        """Take note that the reader has taken a root."""
        dataset = self._datasets.get(message.text("source"))
        if dataset is not None and message.text("dev") == dataset.newest and dataset.has_root:
            dataset.is_rooted, dataset.rooted_at = True, time.monotonic()
            self._begin(dataset)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            channel = self._listener.accept()
            if channel is not None:
                self._on(channel.fileno(), lambda: self._hear(channel))

    def _hear(self, channel: Channel) -> None:
        try:
            message = channel.receive()
        except BlockingIOError:
            return
        except OSError:
            self._hang_up(channel)
            return
        try:
            if channel is self._reader:
                self._rooted(message)
                return
            if message.text("do") == "hello":
                if message.text("role") == "reader":
                    self._welcome_reader(channel)
                return
            channel.send(self._do(message))
        except OSError:
            self._hang_up(channel)
        finally:
            message.close()

    def _hang_up(self, channel: Channel) -> None:
        if channel is self._reader:
            self._lose_reader()
            return
        self._off(channel.fileno())
        channel.close()

    def _do(self, message: Message) -> dict[str, Json]:
        acts: dict[str, Callable[[Message, str], dict[str, Json] | None]] = {
            "adopt": self._adopt,
            "cleared": self._cleared,
            "lack": self._lack,
            "release": self._release,
            "serve": self._serve,
            "status": self._status,
        }
        name = message.text("do")
        try:
            if name not in acts:
                raise Broken(f"nothing is called {name!r}")
            return acts[name](message, message.text("source")) or {"ok": True}
        except OSError as error:
            return {"ok": False, "errno": error.errno or 0, "error": str(error)}

    def _cleared(self, message: Message, source: str) -> None:
        """Let go whoever came by a dead mount that was taken away, as the next daemon may.

        Who tells us swaps no mount before he has the answer: a pod has the dead one still.
        """
        dataset = self._datasets.get(source)
        connection = dataset and dataset.connections.get(message.text("dev"))
        if dataset and connection and connection.died_at is not None:
            self._read(dataset, connection)
            if connection.copies:  # it is not over
                connection.have_walked_again(callers.strays)

    def _lack(self, message: Message, source: str) -> None:
        dataset = self._datasets.setdefault(source, Dataset(source, 0.0))
        dataset.lack = message.text("why")[:_WHY]

    def _adopt(self, message: Message, source: str) -> None:
        """Copy what the newest daemon has; with it comes the root of its mount, for the reader."""
        dev = message.dev()
        dataset = self._datasets.setdefault(source, Dataset(source, 0.0))
        dataset.hold_s = message.seconds("hold_s")
        self._drop_if_over(dataset, dev)
        connection = dataset.connections.get(dev) or Connection(
            source, dev, is_proven=copies.are_told()
        )
        if connection.died_at is not None:
            raise ProcessLookupError(f"the daemon of {dev} has ended")
        if dev != dataset.newest:
            dataset.newest, dataset.serving, dataset.is_swapped = dev, False, False
            dataset.has_root = dataset.is_rooted = False
        if message.fds and not dataset.has_root:
            words: dict[str, Json] = {"do": "root", "source": source, "dev": dev}
            dataset.has_root = self._tell_reader(words, message.fds[:1])
        for pid in message.pids():
            self._watch(dataset, connection, pid)
            dataset.connections[dev], dataset.lack = connection, ""

    def _serve(self, message: Message, source: str) -> None:
        """Answer from the newest daemon whoever waits: nobody can meet an older mount any more."""
        dev = message.text("dev")
        dataset = self._datasets.get(source)
        if dataset is None or dataset.newest != dev or not dataset.has_root:
            raise ProcessLookupError(f"{dev} is not the newest superblock of {source}")
        connection = dataset.connections.get(dev)
        if connection is not None and connection.died_at is not None:
            raise ProcessLookupError(f"the daemon of {dev} has ended")
        dataset.is_swapped = True
        self._begin(dataset)

    def _begin(self, dataset: Dataset) -> None:
        """Serve, if the reader has the root: before, it would read in the dead mount itself."""
        if not (dataset.is_swapped and dataset.is_rooted):
            return
        dataset.serving, dataset.failing, dataset.waits_since = True, False, None
        self._tell_reader({"do": "swapped", "source": dataset.source})
        for each in dataset.held():
            each.line.close_windows()
            each.served_at, each.first_s = time.monotonic(), 0.0
            self._link(dataset, each)
            dataset.pump(each)

    def _release(self, _: Message, source: str) -> None:
        dataset = self._datasets.pop(source, None)
        if dataset is None:
            return
        for connection in list(dataset.connections.values()):
            self._drop(dataset, connection)
        self._tell_reader({"do": "release", "source": source})

    def _status(self, _: Message, __: str) -> dict[str, Json]:
        for dataset in list(self._datasets.values()):
            for connection in list(dataset.connections.values()):
                self._check(dataset, connection)
                self._drop_if_over(dataset, connection.dev)
        now = time.monotonic()
        facts: dict[str, Json] = {s: d.facts(now) for s, d in self._datasets.items()}
        return {"ok": True, "reader": self._reader is not None, "sources": facts}


def main() -> None:
    """Hold until killed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    syscalls.keep_memory_small()
    Path("/proc/self/comm").write_text(procself.HOLDER, encoding="ascii")
    Holder(Listener(Path(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
