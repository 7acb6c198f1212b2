"""A daemon that hangs delays nobody else's heal, and is not mistaken for a dead one."""

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from csi_fluid.testbed import programs
from recover import events
from recover.anchors.execute import MOST_HANGING
from recover.linux.probe import Prober
from tests.harness import Daemon, Dataset, Node, Propagation, until
from tests.privileged.healing import Healing, healing, shown, whole

PATIENCE_S = 1.5  # the time limit of a probe here
BRIEF_S = 0.4  # where one after the other is waited for


@pytest.fixture
def heal(node: Node) -> Iterator[Healing]:
    with healing(node, probe_timeout_s=PATIENCE_S, period_s=0.2) as made:
        yield made


@pytest.fixture
def hung(node: Node) -> Iterator[Dataset]:
    """Make a dataset that tests stop; it goes on at the end, so that nothing keeps waiting."""
    data = node.dataset("hung", files={"h.txt": b"1", "in/i.txt": b"1"})
    yield data
    if data.daemon.alive:
        data.daemon.kill(signal.SIGCONT)


def test_a_hung_dataset_does_not_delay_the_heal_of_another(
    node: Node, heal: Healing, hung: Dataset
):
    data = node.dataset("demo")
    pod = node.pod()
    volumes = {"/h": heal.publish(pod, hung), "/data": heal.publish(pod, data)}
    main = pod.container("main", volumes)

    hung.daemon.kill(signal.SIGSTOP)
    until(lambda: heal.ear.of(events.Hung), "the hang is told")
    for _ in range(5):
        event = heal.crash(data)
        assert event.latency_s < PATIENCE_S

    assert whole(node, main.sees, "/data", data)


def test_a_hang_is_told_once_and_its_end_too(node: Node, heal: Healing, hung: Dataset):
    target = heal.publish(node.pod(), hung)
    before = shown(node.sees, target)

    hung.daemon.kill(signal.SIGSTOP)
    until(lambda: heal.ear.of(events.Hung), "the hang is told")
    heal.await_ticks(4)
    hung.daemon.kill(signal.SIGCONT)
    until(lambda: heal.ear.of(events.Answering), "the end is told")

    assert len(heal.ear.of(events.Hung)) == 1
    assert not heal.ear.of(events.Broken)
    assert shown(node.sees, target) == before


def test_a_hung_daemon_that_is_killed_is_healed_like_a_dead_one(
    node: Node, heal: Healing, hung: Dataset
):
    pod = node.pod()
    main = pod.container("main", {"/data": heal.publish(pod, hung)})

    hung.daemon.kill(signal.SIGSTOP)
    until(lambda: heal.ear.of(events.Hung), "the hang is told")
    heal.crash(hung)

    assert whole(node, main.sees, "/data", hung)


def test_a_hung_old_generation_does_not_delay_the_heal_of_another_dataset(
    node: Node, heal: Healing, hung: Dataset
):
    data = node.dataset("demo")
    pod = node.pod()
    old = heal.publish(pod, hung)
    main = pod.container("main", {"/h": old, "/data": heal.publish(pod, data)})
    before = shown(node.sees, old)._replace(options=frozenset())

    hung.daemon.kill(signal.SIGSTOP)
    after = _another_life(node, hung)
    until(lambda: _watches(heal, hung), "the new life is noticed")
    for _ in range(3):
        event = heal.crash(data)
        assert event.latency_s < PATIENCE_S

    assert whole(node, main.sees, "/data", data)
    assert node.sees.layers(old)[0].mnt_id == before.mnt_id
    hung.daemon.kill()
    heal.await_whole(hung, main.sees, "/h")
    after.close()


@pytest.mark.usefixtures("visits")
def test_a_path_over_a_hung_dataset_does_not_stop_the_other_paths(
    node: Node, heal: Healing, hung: Dataset
):
    data, third = node.dataset("demo"), node.dataset("third")
    pod = node.pod()
    target = heal.publish(pod, data)
    volumes = {
        "/a": heal.publish(pod, hung),
        "/a/in": target,
        "/b": target,
        "/c": heal.publish(pod, third),
    }
    stuck = pod.container("stuck", volumes)
    other = pod.container("other", {"/data": target}, Propagation.NONE)

    hung.daemon.kill(signal.SIGSTOP)
    until(lambda: heal.ear.of(events.Hung), "the hang is told")
    _let_names_expire()
    data.daemon.kill()
    data.daemon.restart()
    heal.await_whole(data, other.sees, "/data")
    heal.await_whole(data, stuck.sees, "/b")
    heal.crash(third)

    assert whole(node, stuck.sees, "/c", third)
    hung.daemon.kill(signal.SIGCONT)
    heal.await_whole(data, stuck.sees, "/a/in")


def test_a_path_of_the_node_over_a_hung_dataset_does_not_stop_the_targets(
    node: Node, heal: Healing, hung: Dataset
):
    data, third = node.dataset("demo"), node.dataset("third")
    targets = [heal.publish(node.pod(), each) for each in (data, third)]
    heal.publish(node.pod(), hung)
    place = hung.volume.source / "in"
    programs.run("mount", "--bind", data.volume.source, place)

    hung.daemon.kill(signal.SIGSTOP)
    until(lambda: heal.ear.of(events.Hung), "the hang is told")
    _let_names_expire()
    for _ in range(6):
        data.daemon.kill()
        data.daemon.restart()
        heal.await_whole(data, node.sees, targets[0])
        heal.crash(third)

    assert whole(node, node.sees, targets[1], third)
    assert heal.prober.abandoned <= 4  # the source, and one for each thing tried on the way there
    hung.daemon.kill(signal.SIGCONT)
    programs.run("umount", "-l", place)


def test_many_paths_of_the_node_over_a_hung_dataset_leave_the_others_alone(node: Node):
    """Their mounts are a dataset's own, in nobody's pod: the bound is that of the dataset."""
    places = [f"in{number}" for number in range(MOST_HANGING + 6)]
    hung = node.dataset("hung", files={f"{place}/i.txt": b"1" for place in places})
    data, third = node.dataset("demo"), node.dataset("third")
    prober = Prober(timeout_s=BRIEF_S, max_abandoned=len(places) + 1)
    with healing(node, prober=prober, period_s=0.2) as heal:
        targets = [heal.publish(node.pod(), each) for each in (data, third)]
        heal.publish(node.pod(), hung)
        for place in places:
            bound = hung.volume.source / place
            programs.run("mount", "--bind", "--make-private", data.volume.source, bound)

        hung.daemon.kill(signal.SIGSTOP)
        until(lambda: heal.ear.of(events.Hung), "the hang is told")
        _let_names_expire()
        data.daemon.kill()
        data.daemon.restart()
        crowded = "probes of hung FUSE paths still wait"
        told = heal.ear.of
        until(lambda: any(crowded in e.error for e in told(events.HealFailed)), "some are left")
        heal.crash(third)

        for target, each in zip(targets, (data, third), strict=True):
            heal.await_whole(each, node.sees, target)
        assert prober.abandoned <= MOST_HANGING + 3
        hung.daemon.kill(signal.SIGCONT)
        for place in places:
            programs.run("umount", "-l", hung.volume.source / place)


@pytest.mark.usefixtures("visits")
def test_many_pods_whose_paths_hang_leave_the_others_alone(node: Node, hung: Dataset):
    """A dataset within another one that is stopped: each visit to these pods sleeps there."""
    data, third = node.dataset("demo"), node.dataset("third")
    prober = Prober(timeout_s=BRIEF_S, max_abandoned=6, max_of_pods=6)
    with healing(node, prober=prober, period_s=0.2) as heal:
        volumes = {"/a": heal.publish(node.pod(), hung), "/a/in": heal.publish(node.pod(), data)}
        for number in range(12):
            node.pod().container(f"stuck-{number}", volumes, Propagation.NONE)
        target = heal.publish(node.pod(), third)

        hung.daemon.kill(signal.SIGSTOP)
        until(lambda: heal.ear.of(events.Hung), "the hang is told")
        _let_names_expire()
        data.daemon.kill()
        data.daemon.restart()
        until(lambda: prober.abandoned > 6, "as many visits sleep as may")

        heal.crash(third)
        assert whole(node, node.sees, target, third)
        heal.unpublish(heal.publish(node.pod(), third))
        hung.daemon.kill(signal.SIGCONT)


@pytest.mark.clock
def test_beside_fifty_hung_datasets_a_healthy_one_is_served(node: Node):
    with healing(node, probe_timeout_s=PATIENCE_S, period_s=0.5) as heal:
        before = threading.active_count()
        pod = node.pod()
        hung = [node.dataset(f"hung-{number}") for number in range(50)]
        for each in hung:
            heal.publish(pod, each)
        data = node.dataset("demo")
        target = heal.publish(pod, data)

        for each in hung:
            each.daemon.kill(signal.SIGSTOP)
        until(
            lambda: len(heal.ear.of(events.Hung)) == len(hung), "all hangs are told", timeout_s=30
        )
        for _ in range(3):
            assert heal.crash(data).latency_s < PATIENCE_S
            heal.unpublish(heal.publish(node.pod(), data))

        assert whole(node, node.sees, target, data)
        assert heal.prober.abandoned <= 2 * len(hung)
        for each in hung:
            each.daemon.kill(signal.SIGCONT)
        until(lambda: heal.prober.abandoned == 0, "the calls end")
    until(lambda: threading.active_count() <= before, "the threads end")


def test_abandoned_threads_stay_bounded_while_everything_hangs(
    node: Node, heal: Healing, hung: Dataset
):
    pod = node.pod()
    pod.container("main", {"/data": heal.publish(pod, hung)})

    hung.daemon.kill(signal.SIGSTOP)
    until(lambda: heal.ear.of(events.Hung), "the hang is told")
    seen = set()
    for _ in range(8):
        heal.await_ticks(1)
        seen.add(heal.prober.abandoned)

    assert max(seen) <= 2
    hung.daemon.kill(signal.SIGCONT)
    until(lambda: heal.prober.abandoned == 0, "the threads end")


def _another_life(node: Node, data: Dataset) -> Daemon:
    """Start a second daemon at the source while the first one is still there."""
    after = Daemon(data.daemon.filesystem, data.volume.source, node.machine.folder("second"))
    after.start()
    return after


def _watches(heal: Healing, data: Dataset) -> bool:
    generations = heal.store.generations(str(data.volume.source))
    return len(generations) == 2


def _let_names_expire() -> None:
    """Wait until the kernel has to ask the daemon about names again (libfuse: after 1 s)."""
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 1.1, "a second")
