"""The reader: a process that answers for dead daemons from the files of the newest mount.

    python -m recover.seamless.reader SOCKET [stay]

With `stay`, as in a container of its own, it waits for the next holder at its end.
It owns files of FUSE mounts, so a thread of it may hang, and it may have to wait at its end for a
daemon to answer FLUSH: that is why it is not the holder.  All it knows can be found again from the
kernel; when it ends what it was asked waits for the next one.
"""

import contextlib
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from recover.linux import syscalls
from recover.seamless import handles
from recover.seamless.channel import Channel, Message
from recover.seamless.files import Owned, Root
from recover.seamless.handles import Anchor
from recover.seamless.line import NO_SLOT, SLOTS
from recover.seamless.link import Link
from recover.seamless.standin import Dataset, StandIn

_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_STACK = 512 * 1024
_CONNECT_S = 5.0
_SPARE_S = 2  # how long a thread waits beside another one that does
_PAUSE_S = 0.5  # before the next holder is looked for
_NOTED_S = 2.0
_AGAIN_S = 1.0  # after a swap, when nobody waits for us any more
_ANCHORED_S = 30.0  # how often it is looked whether somebody still uses an old connection


class Workers:
    """The threads that answer for one connection: one, and more for a while when all are busy.

    Each connection has its own: one that reads in a mount whose daemon is dead waits for another
    connection's.
    """

    def __init__(self, link: Link, standin: StandIn) -> None:
        """Own the link."""
        self._link = link
        self._standin = standin
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._spawn()

    def _spawn(self) -> None:
        with self._lock:
            if self._threads >= SLOTS:
                return
            self._threads += 1
        threading.Thread(target=self._work, name=f"for {self._standin.dev}", daemon=True).start()

    def _work(self) -> None:
        try:
            while self._serve_one():
                pass
        except (OSError, EOFError):  # the connection is over, or the holder has ended
            pass
        finally:
            with self._lock:
                self._threads -= 1
                is_last = not self._threads
            if is_last:
                self._link.close()

    def _serve_one(self) -> bool:
        """Answer the next request; False where nothing came for long and others wait for it too."""
        with self._lock:
            self._link.settimeout(_SPARE_S if self._idle else 0)
            self._idle += 1
        message, slot, want = b"", NO_SLOT, 0
        try:
            message, slot, want = self._link.next_request()
        except BlockingIOError:
            pass
        finally:
            with self._lock:
                self._idle -= 1
                is_alone = not self._idle
        if not message:
            return is_alone
        if is_alone:
            self._spawn()
        answer = self._standin.answer(message, self._room(slot, want))
        if answer is not None:
            self._link.answer(answer)
        return True

    def _room(self, slot: int, want: int) -> memoryview | None:
        return None if slot == NO_SLOT else self._link.slot(slot, want)

    def stop(self) -> None:
        """Let the threads end that wait for a request."""
        with contextlib.suppress(OSError):
            self._link.shut()


class Reader:
    """Does what the holder says, until that ends."""

    def __init__(self, channel: Channel) -> None:
        """Own the connection to the holder."""
        self._channel = channel
        self._datasets: dict[str, Dataset] = {}
        self._roots: dict[tuple[str, str], Owned] = {}  # by source and superblock
        self._opening: dict[tuple[str, str], Owned] = {}  # with O_PATH, until it is one of those
        self._standins: dict[tuple[str, str], StandIn] = {}
        self._workers: dict[tuple[str, str], Workers] = {}
        self._looking = threading.Lock()

    def run(self) -> None:
        """Serve until the holder has ended; raises OSError then."""
        threading.Thread(target=self._let_go, name="anchors", daemon=True).start()
        while True:
            message = self._channel.receive()
            self._do(message, message.text("source"), message.text("dev"))

    def _do(self, message: Message, source: str, dev: str) -> None:
        match message.text("do"):
            case "root":
                dataset = self._datasets.setdefault(source, Dataset())
                dataset.coming = dev
                args = source, dev, dataset, Owned(*message.descriptors(1))
                threading.Thread(target=self._root, args=args, daemon=True).start()
            case "serve":
                self._serve(source, dev, message)
            case "swapped":
                self._swapped(source)
            case "over":
                self._over(source, dev)
            case "release":
                self._release(source)
            case _:  # of a newer holder
                message.close()

    def _root(self, source: str, dev: str, dataset: Dataset, copy: Owned) -> None:
        """Open the root of a copy of the newest mount, which asks its daemon."""
        self._opening[source, dev] = copy
        try:
            root = Root(dev, os.open(".", _ROOT, dir_fd=copy.fd))
        except OSError:  # it died meanwhile
            return
        finally:
            self._opening.pop((source, dev), None)
        if dataset.coming != dev:
            return
        had_root = dataset.root is not None  # else we are new, and know not who was sent before
        dataset.root, dataset.is_swapped = root, False
        dataset.is_sending = had_root
        dataset.swapped_at = time.monotonic()
        self._roots[source, dev] = root.owned
        with contextlib.suppress(OSError):  # the holder has ended
            self._channel.send({"do": "rooted", "source": source, "dev": dev})

    def _serve(self, source: str, dev: str, message: Message) -> None:
        link_fd, memory_fd = message.descriptors(2)
        dataset = self._datasets.setdefault(source, Dataset())
        ours = message.words.get("pids") is True
        standin = self._standins.get((source, dev))
        if standin is None:
            standin = StandIn(dev, dataset, ids_are_ours=ours)
            root = self._roots.pop((source, dev), None)
            standin.anchor = None if root is None else Anchor(root)
            self._standins[source, dev] = standin
            threading.Thread(target=self._note, args=([standin],), daemon=True).start()
        sock = socket.socket(fileno=link_fd)
        sock.settimeout(None)
        self._workers[source, dev] = Workers(Link(sock, memory_fd), standin)
        mark = message.words.get("mark")
        if isinstance(mark, int):
            proof = mark, self._opening.get((source, dev))
            threading.Thread(target=standin.prove, args=proof, daemon=True).start()

    def _swapped(self, source: str) -> None:
        dataset = self._datasets.setdefault(source, Dataset())
        dataset.swapped_at, dataset.is_swapped = time.monotonic(), True
        threading.Thread(target=self._settle, args=(self._of(source),), daemon=True).start()

    def _of(self, source: str) -> list[StandIn]:
        return [standin for (of, _), standin in self._standins.items() if of == source]

    def _note(self, standins: list[StandIn]) -> None:
        """Learn what processes hold of connections, and what is above that if we may ask for it."""
        for standin in standins:
            standin.borrow_anchor()
        known = {standin.dev: standin for standin in standins}
        for dev, fd in handles.held(frozenset(known)) if known else ():
            with contextlib.suppress(OSError):
                known[dev].learn(fd)
        for standin in standins:
            standin.noted.set()
            if standin.may_ask:
                standin.climb()

    def _settle(self, standins: list[StandIn]) -> None:
        """Learn what lies above what is held, and close what is open in older mounts."""
        for standin in standins:
            standin.noted.wait(_NOTED_S)  # that look may ask a daemon that does not answer
            standin.climb()
        for standin in standins:
            standin.settle()
        threading.Event().wait(_AGAIN_S)
        self._note(standins)  # a name in the kernel's memory may have been entered without asking

    def _over(self, source: str, dev: str) -> None:
        self._roots.pop((source, dev), None)
        self._standins.pop((source, dev), None)
        workers = self._workers.pop((source, dev), None)
        if workers is not None:
            workers.stop()

    def _release(self, source: str) -> None:
        for of, dev in {*self._standins, *self._roots}:
            if of == source:
                self._over(of, dev)
        self._datasets.pop(source, None)

    def _let_go(self) -> None:
        """Close what is open for connections that nobody else uses, or those would never end."""
        pause = threading.Event()
        while not pause.wait(_ANCHORED_S):
            idle_since = time.monotonic() - _ANCHORED_S  # we may be the only one who reads there
            standins = list(self._standins.values())
            anchored = {
                s.dev: s for s in standins if s.anchor is not None and s.asked_at < idle_since
            }
            if anchored:
                used = {dev for dev, _ in handles.held(frozenset(anchored))}
                for dev in anchored.keys() - used:
                    anchored[dev].anchor = None
                    anchored[dev].backings.keep_only(None)


def main() -> None:
    """Serve a holder, and where we are to stay the next one."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    syscalls.keep_memory_small()
    threading.stack_size(_STACK)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.setgroups([])  # a caller's groups are not ours
    _serve_one(Path(sys.argv[1]))
    if sys.argv[2:] == ["stay"]:
        threading.Event().wait(_PAUSE_S)
        os.execv(  # noqa: S606  a process whose threads may hang is replaced as a whole
            sys.executable, (sys.executable, "-m", "recover.seamless.reader", *sys.argv[1:])
        )


def _serve_one(place: Path) -> None:
    """Serve a holder until it has ended."""
    with contextlib.suppress(OSError):
        channel = Channel.connect(place, "reader", _CONNECT_S)
        channel.settimeout(None)
        Reader(channel).run()


if __name__ == "__main__":
    main()
