"""The plugin's side of the holder: what to hold, when to serve, what is held.

The messages, each answered with {"ok": true} or an errno and an error:

    adopt    source, dev, pids, hold_s, and the root as a descriptor: the daemon that came last
    serve    source, dev: every mount shows that superblock, so answer whoever waits
    release  source: let go of everything
    status   what is held

Holder and reader are started here where nobody else does, each in a session of its own and never
waited for: they outlive the plugin.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recover.seamless.channel import Broken, Channel, Json, Message

_PATIENCE_S = 2.0
_START_S = 5.0


@dataclass(frozen=True, slots=True)
class Held:
    """What the holder says of one source; times in s.

    connections has "live", "held" or "served" by superblock; waits_s is how long callers wait
    already, None if nobody has to.
    """

    newest: str = ""
    has_root: bool = False
    serving: bool = False
    failing: bool = False
    waits_s: float | None = None
    connections: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Status:
    """What the holder says; problem is why it says nothing, "" if it does."""

    sources: Mapping[str, Held]
    has_reader: bool = False
    problem: str = ""

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
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def adopt(self, source: str, dev: str, pids: tuple[int, ...], root: int, hold_s: float) -> None:
        """Have a daemon's connection kept from now on; raises OSError where that is refused."""
        words: dict[str, Json] = {"do": "adopt", "source": source, "dev": dev, "hold_s": hold_s}
        self._ask({**words, "pids": list(pids)}, (root,))

    def serve(self, source: str, dev: str) -> None:
        """Say that all mounts show a superblock; raises OSError if its daemon has ended again."""
        self._ask({"do": "serve", "source": source, "dev": dev})

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

    def ensure(self) -> None:
        """Start what is missing of holder and reader, if that is for us to do; raises OSError."""
        if not self._starts:
            return
        status = self.status()
        if status.problem and not self._runs("holder"):
            self._start("holder")
            self._await_holder()
        if not status.has_reader and not self._runs("reader"):
            self._start("reader")

    def _runs(self, name: str) -> bool:
        child = self._children.get(name)
        return child is not None and child.poll() is None

    def _start(self, name: str) -> None:
        self.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.socket.with_suffix(f".{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", f"recover.seamless.{name}", str(self.socket)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )

    def _await_holder(self) -> None:
        pause = threading.Event()
        for _ in range(int(_START_S / 0.02)):
            with contextlib.suppress(OSError):
                Channel.connect(self.socket, "plugin", _PATIENCE_S).close()
                return
            pause.wait(0.02)
        raise Broken("the holder did not begin to listen in time")

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
        connections={dev: str(state) for dev, state in connections.items()},
        counts={
            key: value
            for key, value in facts.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        },
    )
