"""The plugin's side of the holder: what to hold, when to serve, what is held.

The messages, each answered with {"ok": true} or an errno and an error:

    adopt    source, dev, pids, hold_s, and a copy of the mount: the daemon that came last
    cleared  source, dev: that dead mount stands no more where the next daemon mounts
    serve    source, dev: every mount shows that superblock, so answer whoever waits
    lack     source, why: its daemon's connection cannot be kept, which `status` tells
    release  source: let go of everything
    status   what is held

Holder and reader are started here where nobody else does; they outlive the plugin.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recover.seamless.channel import Channel, Json, Message

_PATIENCE_S = 2.0
_START_S = 5.0
_RETRY_S = 2.0  # between two tries to start what is missing


@dataclass(frozen=True, slots=True)
class Held:
    """What the holder says of one source; times in s.

    connections has "live", "held" or "served" by superblock; waits_s is how long callers wait
    already, None if nobody has to; lack is why the newest daemon is not kept, "" if it is.
    """

    newest: str = ""
    has_root: bool = False
    serving: bool = False
    failing: bool = False
    waits_s: float | None = None
    lack: str = ""
    connections: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Status:
    """What the holder says; problem is why it says nothing, "" if it does."""

    sources: Mapping[str, Held]
    has_reader: bool = False
    problem: str = ""

    def of(self, source: str) -> Held:
        """Return what is held of a source."""
        return self.sources.get(source, Held())

    @property
    def dead(self) -> frozenset[str]:
        """Return the superblocks of dead daemons whose callers are kept waiting, or are served."""
        return frozenset(
            dev
            for held in self.sources.values()
            for dev, state in held.connections.items()
            if state != "live"
        )


class Client:
    """Talks to the holder; safe for several threads."""

    def __init__(self, socket: Path, *, starts: bool) -> None:
        """Take the holder's socket, and whether both processes are to be started if missing."""
        self.socket = socket
        self._starts = starts
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._again_at = 0.0  # monotonic

    def adopt(self, source: str, dev: str, pids: tuple[int, ...], root: int, hold_s: float) -> None:
        """Have a daemon's connection kept from now on; raises OSError where that is refused."""
        words: dict[str, Json] = {"do": "adopt", "source": source, "dev": dev, "hold_s": hold_s}
        self._ask({**words, "pids": list(pids)}, (root,))

    def cleared(self, source: str, dev: str) -> None:
        """Say that a source's dead mount was taken away, for who waits by it; raises OSError."""
        self._ask({"do": "cleared", "source": source, "dev": dev})

    def serve(self, source: str, dev: str) -> None:
        """Say that all mounts show a superblock; raises OSError if its daemon has ended again."""
        self._ask({"do": "serve", "source": source, "dev": dev})

    def lack(self, source: str, why: str) -> None:
        """Say why the daemon of a source is not kept, for people who look; raises OSError."""
        self._ask({"do": "lack", "source": source, "why": why})

    def release(self, source: str) -> None:
        """Let go of a source; raises OSError."""
        self._ask({"do": "release", "source": source})

    def status(self) -> Status:
        """Return what is held; never raises."""
        try:
            words = self._ask({"do": "status"}).words
        except OSError as error:
            return Status({}, problem=str(error))
        found = words.get("sources")
        assert isinstance(found, dict)
        sources = {source: _held(facts) for source, facts in found.items()}
        return Status(sources, words.get("reader") is True)

    @property
    def is_hung_up(self) -> bool:
        """Whether the holder that was asked last has ended, as far as the kernel tells."""
        with self._lock:
            return self._channel is None or self._channel.is_over

    def _ask(self, words: Mapping[str, Json], fds: tuple[int, ...] = ()) -> Message:
        with self._lock:
            try:
                answer = self._connected().ask(words, fds)
            except OSError:
                self._hang_up()
                answer = self._connected().ask(words, fds)
        if answer.words.get("ok") is not True:
            number = answer.words.get("errno")
            raise OSError(number if isinstance(number, int) else 0, answer.text("error"))
        return answer

    def _connected(self) -> Channel:
        if self._channel is None:
            self._channel = Channel.connect(self.socket, "plugin", _PATIENCE_S)
        return self._channel

    def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def ensured(self) -> Status:
        """Return what is held; what is missing of holder and reader is started, if we are to."""
        status = self.status()
        if not self._starts or status.has_reader or time.monotonic() < self._again_at:
            return status
        self._again_at = time.monotonic() + _RETRY_S
        try:
            if status.problem:  # also one that lives and was slow to answer: it is found again
                self._start("holder")
                status = self._await(lambda found: not found.problem)
            if not status.has_reader:
                self._start("reader")
                status = self._await(lambda found: found.has_reader)
        except (OSError, subprocess.SubprocessError) as error:
            return Status({}, problem=str(error))
        if status.has_reader:
            self._again_at = 0.0
        return status

    def _start(self, name: str) -> None:
        self.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.socket.with_suffix(f".{name}.log").open("ab") as log:
            subprocess.run(
                [sys.executable, "-m", "recover.seamless.start", name, str(self.socket)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                check=True,
                timeout=_START_S,
            )

    def _await(self, is_there: Callable[[Status], bool]) -> Status:
        """Ask until something is there, for a bounded time; return the last answer."""
        end, pause = time.monotonic() + _START_S, threading.Event()
        while not is_there(status := self.status()) and time.monotonic() < end:
            pause.wait(0.02)
        return status

    def close(self) -> None:
        """Hang up; what is held stays."""
        with self._lock:
            self._hang_up()


def _held(facts: Json) -> Held:
    assert isinstance(facts, dict)
    waits, connections = facts.get("waits_s"), facts.get("connections")
    assert isinstance(connections, dict)
    return Held(
        newest=str(facts.get("newest")),
        has_root=facts.get("has_root") is True,
        serving=facts.get("serving") is True,
        failing=facts.get("failing") is True,
        waits_s=float(waits) if isinstance(waits, int | float) else None,
        lack=str(facts.get("lack", "")),
        connections={dev: str(state) for dev, state in connections.items()},
        counts={
            key: value
            for key, value in facts.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        },
    )
