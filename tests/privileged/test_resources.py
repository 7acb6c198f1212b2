"""The machine around: a clock that is set, a storm of mounts, processes that come and go."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from recover import events
from recover.linux import fanotify, fuse, namespaces, syscalls
from recover.linux.probe import Prober, Reply
from recover.linux.wakeups import WakeUps
from tests import sandbox
from tests.harness import Node, Propagation, until
from tests.privileged.healing import Healing, healing, whole

DAY_S = 86_400.0
MANY = 10_000  # mounts of others
A_SECOND = 300  # mounts that others make meanwhile
STORM = """
import os, select, sys, time
from recover.linux import syscalls
place, each_s = sys.argv[1], 1 / float(sys.argv[2])
made, began = 0, time.monotonic()
while True:
    syscalls.mount(place, place, "", syscalls.MS_BIND)
    syscalls.umount2(place, syscalls.MNT_DETACH)
    made += 1
    if made % 30 == 0:
        os.write(1, b"%9d\\n" % made)
    select.select([], [], [], max(began + made * each_s - time.monotonic(), 0))
"""
BURST_S = 0.2  # in which recovery takes what comes together for one reason to look
CHURN = "while :; do for _ in 1 2 3 4 5 6; do unshare --mount true & done; wait; done"


# ---- The clock.  No namespace has one of its own, so that of this process alone is set.


@pytest.mark.parametrize("days", [-3650, -1, 1, 3650])
def test_a_clock_that_is_set_during_an_outage_changes_no_time_that_is_told(
    node: Node, heal: Healing, monkeypatch: pytest.MonkeyPatch, days: int
):
    data = node.dataset()
    target = heal.publish(node.pod(), data)
    heal.crash(data)
    real, real_ns = time.time, time.time_ns
    began = time.monotonic()

    data.daemon.kill()
    until(lambda: len(heal.ear.of(events.Broken)) > 1, "the break is told")
    monkeypatch.setattr(time, "time", lambda: real() + days * DAY_S)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(days * DAY_S * 1e9))
    data.daemon.restart()
    healed = heal.healed(data, before=1)

    assert healed.outage_s is not None
    assert 0 <= healed.latency_s <= healed.outage_s <= time.monotonic() - began
    newest, oldest = heal.store.heals()
    assert (newest.outage_s, newest.latency_s) == (healed.outage_s, healed.latency_s)
    assert newest.at - oldest.at == pytest.approx(days * DAY_S, abs=60)
    monkeypatch.undo()
    heal.crash(data)
    heal.stop()
    heal.start()
    assert [row.at > oldest.at - 1 for row in heal.store.heals()[::2]] == [True, True]
    heal.crash(data)
    assert whole(node, node.sees, target, data)


# ---- Mounts of others.


class Storm:
    """A process that mounts and unmounts at one place over and over; a context manager."""

    def __init__(self, place: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", STORM, str(place), str(A_SECOND)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def go_on(self, number: int) -> int:
        """Return when so many more mounts have come and gone, or a few more: how many."""
        begin = end = self._made()
        while end < begin + number:
            end = self._made()
        return end - begin

    def _made(self) -> int:
        """Return how many there were, as told last; what was told before is passed over."""
        assert self._process.stdout is not None
        return int(self._process.stdout.read(65536).split()[-1])

    def __enter__(self) -> Self:
        self.go_on(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def many_mounts(node: Node, number: int) -> Iterator[None]:
    """Have so many mounts in this mount namespace for a block."""
    top = node.machine.folder("many")
    subprocess.run(["mount", "-t", "tmpfs", "many", top], check=True)
    subprocess.run(["mount", "--make-private", top], check=True)
    for each in range(number):
        place = top / str(each)
        place.mkdir()
        syscalls.mount(str(place), str(place), "", syscalls.MS_BIND)
    yield
    subprocess.run(["umount", "-l", top], check=True)


def no_fanotify() -> fanotify.MountEvents:
    raise OSError("as on an older kernel")


@contextlib.contextmanager
def stormy(node: Node, number: int, **options: object) -> Iterator[tuple[Healing, Storm]]:
    """Heal beside so many mounts of others, and those that come and go, for a block."""
    with contextlib.ExitStack() as ends:
        ends.enter_context(many_mounts(node, number))
        heal = ends.enter_context(healing(node, **options))
        yield heal, ends.enter_context(Storm(node.machine.folder("storm")))


def heal_all(node: Node, heal: Healing, storm: Storm) -> None:
    """Fail unless some crashes are healed for each kind of copy."""
    data, pod = node.dataset(), node.pod()
    target = heal.publish(pod, data)
    slave = pod.container("slave", {"/data": target})
    private = pod.container("private", {"/data": target}, Propagation.NONE)
    for _ in range(5):
        heal.crash(data)
        storm.go_on(60)
        for view, path in ((node.sees, target), (slave.sees, "/data"), (private.sees, "/data")):
            heal.await_whole(data, view, path)


@pytest.mark.timeout(180)
def test_in_a_storm_of_mounts_of_others_heals_go_on_and_nothing_is_looked_at(node: Node):
    sandbox.require("fanotify_mnt")
    with stormy(node, MANY) as (heal, storm):
        heal_all(node, heal, storm)
        assert heal.recovery is not None
        looks, woken = heal.recovery._own._version, _woken(heal)
        made = storm.go_on(2 * A_SECOND)
        looks, woken = heal.recovery._own._version - looks, _woken(heal) - woken

    assert woken <= made + A_SECOND
    assert looks <= 5  # of one run that was under way


@pytest.mark.timeout(120)
def test_where_no_event_tells_what_was_mounted_a_storm_is_looked_at_now_and_then(node: Node):
    prober = CountingProber()
    with stormy(node, 100, prober=prober, wake_ups=lambda: WakeUps(no_fanotify)) as (heal, storm):
        heal_all(node, heal, storm)
        asked, began = prober.asked, time.monotonic()
        storm.go_on(2 * A_SECOND)
        asked, took_s = prober.asked - asked, time.monotonic() - began

    assert asked <= 2 * (2 + took_s / BURST_S)  # twice in a run


class CountingProber(Prober):
    """Counts how often a daemon is asked."""

    asked = 0

    def ask(self, path: str, timeout_s: float | None = None) -> Reply:
        self.asked += 1
        return super().ask(path, timeout_s)


def _woken(heal: Healing) -> int:
    return len(heal.ear.of(events.Woken))


# ---- Processes of others.


@contextlib.contextmanager
def churn() -> Iterator[None]:
    """Let processes with mount namespaces of their own come and go for a block."""
    with subprocess.Popen(["sh", "-c", CHURN], start_new_session=True) as process:
        yield
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.timeout(120)
def test_while_processes_come_and_go_everybody_is_found_and_healed(
    node: Node, heal: Healing, caplog: pytest.LogCaptureFixture
):
    data = node.dataset()
    pod = node.pod()
    target = heal.publish(pod, data)
    kinds = [(kind.name.lower(), {"/data": target}, kind) for kind in Propagation]
    views = [pod.container(*each).sees for each in kinds]
    with churn():
        for _ in range(10):
            heal.crash(data)
            for view in views:
                heal.await_whole(data, view, "/data")
        for _ in range(50):
            found = {namespace.inode for namespace in namespaces.others()}
            assert {_inode(view.pid) for view in views} <= found
            assert fuse.daemons(node.sees.layers(target)[-1].dev) == (data.daemon.pid,)
    assert not [record for record in caplog.records if record.exc_info]


def _inode(pid: int) -> int:
    return int(os.readlink(f"/proc/{pid}/ns/mnt")[5:-1])
