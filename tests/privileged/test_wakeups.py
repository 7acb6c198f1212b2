"""What wakes recovery up on the real kernel: mounts, ends of daemons, pokes, stand-ins."""

import errno
import functools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from csi_fluid.testbed import programs
from recover import events
from recover.linux import facilities, fanotify, fuse, mounts, procevents, refusal
from recover.linux.owntable import OwnTable
from recover.linux.wakeups import WakeUps
from tests import sandbox
from tests.harness import Dataset, Node, View, until
from tests.privileged.healing import healing, whole

SOON_S = 5.0
HEALED_S = 10.0  # what a heal may take on a busy machine, long before a tick is due

Door = Callable[..., Any]


def refuse(*_: object) -> "fanotify.MountEvents":
    raise OSError(errno.EINVAL, "an older kernel")


def forbid(_: int) -> int:
    raise PermissionError(errno.EPERM, "a seccomp filter")


DOORS: dict[str, dict[str, Door]] = {
    "all": {},
    "no fanotify": {"mount_events": refuse},
    "no pidfd": {"pidfd_open": forbid},
    "neither": {"mount_events": refuse, "pidfd_open": forbid},
}


@pytest.fixture
def wakeups(request: pytest.FixtureRequest) -> Iterator[WakeUps]:
    made = WakeUps(**getattr(request, "param", {}))
    yield made
    made.close()


def dev_of(node: Node, path: Path) -> str:
    return node.sees.layers(path)[-1].dev


def await_whole(node: Node, data: Dataset, places: list[tuple[View, str | Path]]) -> None:
    """Fail unless the places show a dataset's present mount soon after it answered."""
    left_s = data.daemon.answered_at + HEALED_S - time.monotonic()
    until(
        lambda: all(whole(node, view, path, data) for view, path in places),
        "a heal",
        timeout_s=left_s,
    )


def test_a_mount_wakes_with_its_path(node: Node, wakeups: WakeUps):
    sandbox.require("fanotify_mnt")
    place = node.machine.folder("a b\n\\c")
    programs.run("mount", "-t", "tmpfs", "none", place)

    wake = wakeups.wait(SOON_S)

    assert wake.by == {"fanotify"}
    assert str(place) in wake.mounted
    assert wakeups.names[0] == "fanotify"


@pytest.mark.parametrize("wakeups", [{"mount_events": refuse}], indirect=True)
def test_a_mount_wakes_where_there_is_no_fanotify(node: Node, wakeups: WakeUps):
    own = OwnTable()
    own.current()
    place = node.machine.folder("place")
    programs.run("mount", "-t", "tmpfs", "none", place)

    wake = wakeups.wait(SOON_S)

    assert wake.by == {"mountinfo poll"}
    assert wake.everything
    assert own.current().at(str(place)) is not None
    assert wakeups.wait(0).by == frozenset()
    assert wakeups.names[0] == "mountinfo poll"
    own.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_a_daemon_wakes_with_its_superblock(
    node: Node, wakeups: WakeUps, number: signal.Signals
):
    sandbox.require("pidfd_open")
    data = node.dataset("demo")
    dev = dev_of(node, data.volume.source)

    assert wakeups.watch(dev)
    assert wakeups.watch(dev)  # again: nothing new
    wakeups.wait(0)
    of_mounts = {"mountinfo poll"} & {*wakeups.names}  # tells of unmounts: by SIGTERM it does so
    data.daemon.kill(number)
    wake = wakeups.wait(SOON_S)
    while of_mounts and wake.by == of_mounts:
        wake = wakeups.wait(SOON_S)

    assert wake.by - of_mounts == {"pidfd"}
    assert wake.ended == {dev}
    assert not wakeups.wait(0).ended


def test_a_stopped_daemon_wakes_nobody(node: Node, wakeups: WakeUps):
    data = node.dataset("demo")
    wakeups.watch(dev_of(node, data.volume.source))
    wakeups.wait(0)

    data.daemon.kill(signal.SIGSTOP)

    assert not wakeups.wait(0.1).ended
    data.daemon.kill(signal.SIGCONT)


def test_a_superblock_without_a_process_is_not_said_to_be_watched(node: Node, wakeups: WakeUps):
    data = node.dataset("demo")
    dev = dev_of(node, data.volume.source)
    data.daemon.kill()

    assert not wakeups.watch(dev)


def test_what_was_forgotten_wakes_nobody(node: Node, wakeups: WakeUps):
    sandbox.require("pidfd_open")
    kept, forgotten = node.dataset("kept"), node.dataset("forgotten")
    devs = [dev_of(node, each.volume.source) for each in (kept, forgotten)]
    for dev in devs:
        wakeups.watch(dev)

    wakeups.forget({devs[0]})
    forgotten.daemon.kill()
    wakeups.wait(0.1)
    kept.daemon.kill()
    wake = wakeups.wait(SOON_S)

    assert wake.ended == {devs[0]}


@pytest.mark.parametrize("wakeups", [{"pidfd_open": forbid}], indirect=True)
def test_without_pidfds_and_process_events_that_is_said(node: Node, wakeups: WakeUps):
    data = node.dataset("demo")  # a sandbox has its own PID namespace: no process events

    assert not wakeups.watch(dev_of(node, data.volume.source))
    assert wakeups.names[1] == "none for daemon exits"


def test_process_events_are_refused_at_once_in_another_pid_namespace():
    began = time.monotonic()

    with pytest.raises(PermissionError):
        procevents.ProcessExits()

    assert time.monotonic() - began < 0.5


def test_a_poke_from_another_thread_ends_the_wait(wakeups: WakeUps):
    timer = threading.Timer(0.05, wakeups.poke)
    timer.start()
    began = time.monotonic()

    wake = wakeups.wait(SOON_S)

    timer.join()
    assert time.monotonic() - began < SOON_S
    assert not wake.by


def test_many_pokes_are_one(wakeups: WakeUps):
    for _ in range(100_000):  # more than a pipe holds
        wakeups.poke()

    wakeups.wait(0)
    while wakeups._epoll.poll(0):
        wakeups.wait(0)

    assert not wakeups.wait(0).by


def test_a_wait_ends_when_its_time_is_up(wakeups: WakeUps):
    began = time.monotonic()

    wake = wakeups.wait(0.05)

    assert 0.05 <= time.monotonic() - began < SOON_S
    assert not wake.everything


def test_more_mounts_than_the_queue_holds_mean_everything(node: Node, wakeups: WakeUps):
    sandbox.require("fanotify_mnt")
    limit = int(Path("/proc/sys/fs/fanotify/max_queued_events").read_text("ascii"))
    place = str(node.machine.folder("place"))
    for _ in range(limit + 1):
        with (
            mounts.clone(place, "", mounts.Attributes()) as clone,
            mounts.closing(mounts.open_path(place)) as at,
        ):
            mounts.attach(clone, at)
        mounts.unmount_all(place)

    until(lambda: wakeups.wait(0).everything, "the overflow is told")


def test_the_daemon_of_a_superblock_is_found(node: Node):
    sandbox.require("fuse_connection")
    data, other = node.dataset("demo"), node.dataset("other")

    assert fuse.daemons(dev_of(node, data.volume.source)) == (data.daemon.pid,)
    assert fuse.daemons(dev_of(node, other.volume.source)) == (other.daemon.pid,)
    assert fuse.connection_of("0:123") == 123


def test_a_process_that_has_not_mounted_yet_serves_nothing(node: Node):
    sandbox.require("fuse_connection")
    """Watched in the place of a daemon that just ended, it would never tell of that end."""
    data = node.dataset("demo")
    dev = dev_of(node, data.volume.source)

    with mounts.closing(os.open("/dev/fuse", os.O_RDWR)):
        assert fuse.daemons(dev) == (data.daemon.pid,)
        data.daemon.kill()
        assert fuse.daemons(dev) == ()


def test_where_the_kernel_does_not_tell_whoever_has_the_device_may_serve(
    node: Node, monkeypatch: pytest.MonkeyPatch
):
    data = node.dataset("demo")
    monkeypatch.setitem(refusal._refused, "fuse_connection", 0)
    facilities.lack.cache_clear()

    with mounts.closing(os.open("/dev/fuse", os.O_RDWR)):
        assert set(fuse.daemons(dev_of(node, data.volume.source))) == {data.daemon.pid, os.getpid()}


@pytest.mark.parametrize("doors", DOORS.values(), ids=DOORS)
def test_a_crash_heals_long_before_the_tick(node: Node, doors: dict[str, Door]):
    data = node.dataset("demo")
    with healing(node, period_s=30.0, wake_ups=functools.partial(WakeUps, **doors)) as heal:
        main = node.pod().container("main", {"/data": heal.publish(node.pod(), data)})
        heal.await_looked(data)

        for delay_s in (0.0, 0.3):  # back before its end was seen, and after
            data.daemon.kill()
            data.daemon.restart(delay_s)
            await_whole(node, data, [(main.sees, "/data")])

        assert heal.recovery is not None
        told_of = {
            "fanotify": facilities.has("fanotify_mnt") and "mount_events" not in doors,
            "pidfd": facilities.has("pidfd_open") and "pidfd_open" not in doors,
        }
        assert {name: name in heal.recovery.wakeups for name in told_of} == told_of


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stack", [False, True])
def test_of_a_hundred_crashes_at_any_time_each_heals_at_once(node: Node, *, stack: bool):
    sandbox.require("pidfd_open", "statmount")
    data = node.dataset("demo")
    chance = random.Random(1)
    with healing(node, period_s=60.0) as heal:
        target = heal.publish(node.pod(), data)
        main = node.pod().container("main", {"/data": target})
        for _ in range(100):
            threading.Event().wait(chance.choice([0, chance.uniform(0, 0.1)]))
            data.daemon.kill()
            data.daemon.restart(chance.choice([0, chance.uniform(0, 0.02)]), stack=stack)
            await_whole(node, data, [(node.sees, target), (main.sees, "/data")])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("doors", DOORS.values(), ids=DOORS)
def test_bursts_of_crashes_heal_and_mix_up_no_datasets(node: Node, doors: dict[str, Door]):
    """A daemon that dies before its mount was cloned frees its device number for the next mount."""
    sandbox.require("pidfd_open", "statmount")
    datasets = [node.dataset(name) for name in ("one", "two")]
    pod = node.pod()
    with healing(node, period_s=60.0, wake_ups=functools.partial(WakeUps, **doors)) as heal:
        targets = [heal.publish(pod, data) for data in datasets]
        volumes = {f"/{number}": target for number, target in enumerate(targets)}
        containers = [pod.container(name, volumes) for name in ("main", "side")]

        def torment(number: int) -> None:
            chance, data = random.Random(number), datasets[number]
            inside = [(each.sees, f"/{number}") for each in containers]
            for _ in range(25):
                for _ in range(chance.randint(1, 6)):
                    threading.Event().wait(chance.choice([0, 0, chance.uniform(0, 0.012)]))
                    data.daemon.kill(chance.choice([signal.SIGKILL, signal.SIGTERM]))
                    data.daemon.restart()
                await_whole(node, data, [(node.sees, targets[number]), *inside])

        with ThreadPoolExecutor() as threads:
            list(threads.map(torment, range(2)))


def test_a_daemon_that_is_slow_to_answer_is_healed_when_it_does(node: Node):
    sandbox.require("pidfd_open", "statmount")
    data = node.dataset("demo")
    with healing(node, period_s=60.0, probe_timeout_s=0.2) as heal:
        target = heal.publish(node.pod(), data)
        heal.await_looked(data)
        while not heal.ear.of(events.Hung):  # it may answer before it is stopped
            breaks = len(heal.ear.of(events.Broken))
            data.daemon.kill()
            until(lambda: len(heal.ear.of(events.Broken)) > breaks, "the break is told")  # noqa: B023
            with ThreadPoolExecutor() as threads:
                halted = threads.submit(halt_at_mount, node, data)
                data.daemon.restart()
                halted.result()
            await_whole(node, data, [(node.sees, target)])


def halt_at_mount(node: Node, data: Dataset) -> None:
    """Stop a daemon as soon as it has mounted, and let it go on 0.6 s later."""
    source, before = data.volume.source, set(node.sees.layers(data.volume.source))
    until(lambda: set(node.sees.layers(source)) - before, "a new mount")
    data.daemon.kill(signal.SIGSTOP)
    threading.Event().wait(0.6)
    data.daemon.kill(signal.SIGCONT)


def test_nothing_stays_open(node: Node):
    data = node.dataset("demo")
    before = set(os.listdir("/proc/self/fd"))
    wakeups = WakeUps()
    wakeups.watch(dev_of(node, data.volume.source))

    wakeups.close()

    assert set(os.listdir("/proc/self/fd")) == before
