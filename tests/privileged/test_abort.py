"""A daemon that has been silent for too long loses its connection, and no other daemon does."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from csi_fluid.testbed import programs
from recover import events
from recover.linux import fuse
from tests.harness import Daemon, Dataset, Node, until
from tests.privileged.healing import Healing, healing, only_layer, whole

PATIENCE_S = 0.7
ABORT_S = 2.0


@pytest.fixture
def heal(node: Node) -> Iterator[Healing]:
    options = {"probe_timeout_s": PATIENCE_S, "period_s": 0.2, "hung_abort_after_s": ABORT_S}
    with healing(node, **options) as made:
        yield made


@pytest.fixture
def hung(node: Node) -> Iterator[Dataset]:
    data = node.dataset("hung", files={"h.txt": b"1"})
    yield data
    if data.daemon.alive:
        data.daemon.kill(signal.SIGCONT)


def stop(heal: Healing, data: Dataset) -> float:
    """Stop a dataset's daemon, wait until that is noticed, and return when it was stopped."""
    before = len(heal.ear.of(events.Hung))
    stopped = time.monotonic()
    data.daemon.kill(signal.SIGSTOP)
    until(lambda: len(heal.ear.of(events.Hung)) > before, "the hang is told")
    return stopped


def aborted(heal: Healing) -> events.Aborted:
    until(lambda: heal.ear.of(events.Aborted), f"an abort, not only {heal.ear.events}")
    return heal.ear.of(events.Aborted)[0]


def wait(seconds: float) -> None:
    began = time.monotonic()
    until(lambda: time.monotonic() - began > seconds, f"{seconds} s")


def test_whoever_waits_for_a_silent_daemon_goes_on_with_an_error(
    node: Node, heal: Healing, hung: Dataset
):
    target = heal.publish(node.pod(), hung)
    stopped = stop(heal, hung)
    reader = subprocess.Popen(["cat", target / "h.txt"], stderr=subprocess.PIPE)

    event = aborted(heal)
    _, said = reader.communicate(timeout=5)

    assert time.monotonic() - stopped >= ABORT_S
    assert event.silent_s >= ABORT_S
    assert [p.target for p in event.publications] == [str(target)]
    assert reader.returncode == 1
    assert said
    assert node.sees.error(target) == errno.ENOTCONN


def test_the_volume_heals_when_a_new_daemon_mounts_after_the_abort(
    node: Node, heal: Healing, hung: Dataset
):
    main = node.pod().container("main", {"/data": heal.publish(node.pod(), hung)})
    stop(heal, hung)
    aborted(heal)
    until(lambda: heal.ear.of(events.Broken), "it counts as broken")

    heal.crash(hung)

    assert whole(node, main.sees, "/data", hung)
    assert len(heal.ear.of(events.Aborted)) == 1


def test_a_daemon_that_answers_is_never_aborted(node: Node, heal: Healing, hung: Dataset):
    data = node.dataset("demo")
    target = heal.publish(node.pod(), data)
    heal.publish(node.pod(), hung)
    before = only_layer(node.sees, target)
    stop(heal, hung)

    aborted(heal)

    assert [e.source for e in heal.ear.of(events.Aborted)] == [str(hung.volume.source)]
    assert only_layer(node.sees, target) == before


def test_a_daemon_that_answers_again_in_time_starts_the_clock_anew(
    node: Node, heal: Healing, hung: Dataset
):
    target = heal.publish(node.pod(), hung)
    before = only_layer(node.sees, target)

    began = time.monotonic()
    while time.monotonic() - began < 2.5 * ABORT_S:  # never silent for ABORT_S
        hung.daemon.kill(signal.SIGSTOP)
        wait(0.6 * ABORT_S)
        hung.daemon.kill(signal.SIGCONT)
        # a moment of answers, no longer than it takes to answer what waits
        until(lambda: not heal.prober.abandoned, "the daemon answers")

    assert heal.ear.of(events.Hung)
    assert not heal.ear.of(events.Aborted)
    assert only_layer(node.sees, target) == before


def test_nothing_is_aborted_unless_somebody_asked_for_it(node: Node, hung: Dataset):
    with healing(node, probe_timeout_s=PATIENCE_S, period_s=0.2) as heal:
        target = heal.publish(node.pod(), hung)
        before = only_layer(node.sees, target)
        stop(heal, hung)
        wait(2 * ABORT_S)
        hung.daemon.kill(signal.SIGCONT)
        until(lambda: heal.ear.of(events.Answering), "it answers again")

        assert not heal.ear.of(events.Aborted)
        assert only_layer(node.sees, target) == before


def test_a_dataset_without_publications_is_left_alone(node: Node, heal: Healing, hung: Dataset):
    stranger = node.dataset("stranger")
    heal.publish(node.pod(), hung)
    stranger.daemon.kill(signal.SIGSTOP)
    stop(heal, hung)
    aborted(heal)
    wait(ABORT_S)
    stranger.daemon.kill(signal.SIGCONT)

    assert node.sees.error(stranger.volume.source) == 0


def test_a_silent_old_generation_is_aborted_and_the_new_one_goes_on(
    node: Node, heal: Healing, hung: Dataset
):
    target = heal.publish(node.pod(), hung)
    old = only_layer(node.sees, target).dev
    hung.daemon.kill(signal.SIGSTOP)
    after = Daemon(hung.daemon.filesystem, hung.volume.source, node.machine.folder("second"))
    after.start()

    event = aborted(heal)
    heal.await_whole(hung, node.sees, target)

    assert event.dev == old
    assert node.sees.error(hung.volume.source) == 0
    hung.daemon.kill()
    after.close()


def test_a_path_over_a_hung_mount_does_not_cost_another_daemon_its_connection(
    node: Node, heal: Healing, hung: Dataset
):
    """The daemon at a path answers; it is the way to it that hangs."""
    within = node.dataset("demo")
    stranger = node.dataset("stranger", files={"in/i.txt": b"1"})
    place = stranger.volume.source / "in"
    programs.run("mount", "--bind", within.volume.source, place)
    row = heal.publication(node.pod(), within, source=str(place))
    heal.put(row)
    try:
        stranger.daemon.kill(signal.SIGSTOP)
        wait(2.5 * ABORT_S)

        assert not heal.ear.of(events.Aborted)
        assert node.sees.error(row.target) == 0
    finally:
        stranger.daemon.kill(signal.SIGCONT)
        heal.unpublish(row.target)
        programs.run("umount", "-l", place)


def test_a_kernel_that_refuses_is_told_once(
    node: Node, heal: Healing, hung: Dataset, monkeypatch: pytest.MonkeyPatch
):
    def refuse(dev: str) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(fuse, "abort", refuse)
    heal.publish(node.pod(), hung)
    stop(heal, hung)
    until(lambda: heal.ear.of(events.AbortFailed), "the refusal is told")
    wait(2.5 * ABORT_S)

    assert "not permitted" in heal.ear.of(events.AbortFailed)[0].error
    assert len(heal.ear.of(events.AbortFailed)) == 1


def test_a_number_that_no_connection_has_is_an_error():
    with pytest.raises(FileNotFoundError):
        fuse.abort("0:999999")
    with pytest.raises(OSError, match="no number of a FUSE connection"):
        fuse.abort("8:1")
