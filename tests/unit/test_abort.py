"""When a silent daemon's connection is ended: only after a second request, too, got no answer."""

import os
import threading
from collections.abc import Iterator

import pytest

from csi_fluid.testbed.waiting import until
from recover import events
from recover.abort import Aborter
from recover.linux import fuse, mounts, probe
from recover.linux.mountinfo import Mount, MountTable
from recover.linux.probe import Answer, Prober, Reply
from recover.look import View
from recover.rows import Publication

DEV = "0:61"
ROW = Publication("/pods/a/mount", "v", "/s")
ROOT = Mount(1, 0, "0:1", "/", "/", frozenset(), 0, 0, "ext4", "disk")
SOURCE = Mount(2, 1, DEV, "/", "/s", frozenset(), 0, 0, "fuse.bindfs", "x")
AFTER_S = 0.3


class Own:
    def current(self) -> MountTable:
        return MountTable((ROOT, SOURCE))


class Daemon:
    """Answers every request but the first, which waits until the daemon is let go."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = threading.Event()
        self.answers_others = True

    def ask(self, fd: int) -> Reply:
        os.fstat(fd)  # it must be open for as long as the request lasts
        self.asked += 1
        if self.asked == 1 or not self.answers_others:
            self.may_answer.wait(20)
        return Reply(Answer.ALIVE, DEV)


class Scene:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.daemon = Daemon()
        self.ended: list[str] = []
        self.told: list[events.Event] = []
        monkeypatch.setattr(mounts, "pin", lambda *_: mounts.Clone(os.open("/", os.O_PATH)))
        monkeypatch.setattr(probe, "ask", self.daemon.ask)
        monkeypatch.setattr(probe, "ask_once", self.daemon.ask)
        monkeypatch.setattr(fuse, "abort", self.ended.append)
        self.prober = Prober(timeout_s=2)
        own: object = Own()
        self.aborter = Aborter(self.prober, own, self, AFTER_S)  # type: ignore[arg-type]

    def tell(self, event: events.Event) -> None:
        self.told.append(event)

    def consider(self, answer: Answer = Answer.HUNG) -> float | None:
        view = View("/s", (ROW,), (), Reply(answer), 0.0, verdicts={DEV: answer})
        return self.aborter.consider(view)

    def when_due(self) -> float | None:
        """Look again and again, as recovery does, until something comes of the silence."""
        last: float | None = AFTER_S

        def came_of_it() -> bool:
            nonlocal last
            last = self.consider()
            return not last

        until(came_of_it, "it is due")
        return last


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(monkeypatch)
    yield made
    made.daemon.may_answer.set()


def test_one_stuck_request_is_not_enough_where_others_are_answered(scene: Scene):
    assert scene.when_due() is None

    assert scene.daemon.asked == 2
    assert scene.ended == []


def test_a_daemon_that_answers_nothing_is_ended_once_and_looked_at_again_at_once(scene: Scene):
    scene.daemon.answers_others = False

    assert scene.when_due() == 0.0
    assert scene.ended == [DEV]
    assert [type(event) for event in scene.told] == [events.Aborted]


def test_the_time_that_is_left_is_told_to_whoever_waits(scene: Scene):
    first, second = scene.consider(), scene.consider()

    assert first == AFTER_S
    assert second is not None
    assert 0 < second < AFTER_S
    assert scene.daemon.asked == 1


def test_a_daemon_that_is_well_again_is_forgotten(scene: Scene):
    scene.consider()
    scene.consider(Answer.ALIVE)
    scene.daemon.may_answer.set()
    until(lambda: scene.prober.abandoned == 0, "the request ends")

    assert scene.consider() is None  # a new request, and it is answered
    assert scene.daemon.asked == 2


def test_nothing_is_asked_where_the_operator_did_not_ask_for_it(scene: Scene):
    own: object = Own()
    aborter = Aborter(scene.prober, own, scene, None)  # type: ignore[arg-type]
    view = View("/s", (ROW,), (), Reply(Answer.HUNG), 0.0, verdicts={DEV: Answer.HUNG})

    assert aborter.consider(view) is None
    assert scene.daemon.asked == 0
