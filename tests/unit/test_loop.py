"""What a source's worker remembers between two runs: whose ends will be told."""

from typing import cast

import pytest

from recover import loop
from recover.heal import Healer
from recover.linux.wakeups import WakeUps


class FakeHealer:
    source = "/source"
    is_healing = is_waiting = False

    def __init__(self, *serving: str) -> None:
        self.serving = frozenset(serving)
        self.runs = 0

    def run(self) -> float | None:
        self.runs += 1
        return None


class FakeWakeUps:
    def __init__(self, *, finds: bool = True) -> None:
        self.finds = finds
        self.watched: list[str] = []

    def watch(self, dev: str) -> bool:
        self.watched.append(dev)
        return self.finds

    def poke(self) -> None: ...


class NoDescriptors(FakeWakeUps):
    def watch(self, dev: str) -> bool:
        raise OSError(24, "Too many open files")


def worker_of(healer: FakeHealer, wakeups: FakeWakeUps) -> loop._Worker:
    return loop._Worker(cast("Healer", healer), cast("WakeUps", wakeups))


def run(worker: loop._Worker) -> None:
    worker.kick("/source")
    assert worker.join(5)


def test_each_daemon_is_watched_once():
    wakeups = FakeWakeUps()
    worker = worker_of(FakeHealer("0:50", "0:51"), wakeups)

    run(worker)
    run(worker)

    assert sorted(wakeups.watched) == ["0:50", "0:51"]
    assert not worker.wants_mounts


def test_a_daemon_that_got_the_device_number_of_one_that_ended_is_watched_too():
    wakeups = FakeWakeUps()
    worker = worker_of(FakeHealer("0:50"), wakeups)

    run(worker)
    concerned = worker.concerns(frozenset({"0:50"}))
    wanted = worker.wants_mounts
    run(worker)

    assert concerned
    assert wanted
    assert wakeups.watched == ["0:50", "0:50"]
    assert not worker.wants_mounts


def test_a_daemon_that_may_have_ended_unseen_means_one_more_run():
    healer = FakeHealer("0:50")
    worker = worker_of(healer, FakeWakeUps(finds=False))

    run(worker)

    assert healer.runs == 2
    assert worker.wants_mounts


def test_the_end_of_another_sources_daemon_does_not_concern():
    worker = worker_of(FakeHealer("0:50"), FakeWakeUps())
    run(worker)

    assert not worker.concerns(frozenset({"0:51"}))
    assert not worker.wants_mounts


@pytest.mark.expects_log("fault in this program")
def test_a_fault_while_watching_leaves_the_worker_able_to_run_again():
    healer = FakeHealer("0:50")
    worker = worker_of(healer, NoDescriptors())

    run(worker)
    run(worker)

    assert healer.runs == 2
    assert worker.due is not None
    assert not worker.is_busy
