"""Each test tries to break one of the promises that docs/architecture.md makes."""

import contextlib
import errno
import signal
import time
from pathlib import Path

import pytest

from csi_fluid.testbed import programs
from recover import events
from recover.batch import Done, Failed, Result
from recover.linux import mountinfo, mounts, namespaces
from recover.linux.probe import Prober
from recover.rows import Generation
from recover.visits import tour
from recover.visits.plan import Act, Peel
from recover.visits.trip import Arrived
from tests.harness import BedError, Daemon, Dataset, Node, Propagation, until
from tests.privileged.healing import Healing, Trap, healing, shown, whole
from tests.privileged.watching import GONE, Watch
from tests.unit.handmade import copy

Place = tuple[int, str | Path]  # a process, and a path as it sees it
RESTARTS = pytest.mark.parametrize("stack", [False, True])
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


# 1. No bare directory, ever.


@pytest.mark.timeout(180)  # watches at full speed, on machines of two processors
@RESTARTS
def test_nobody_ever_sees_the_bare_directory(node: Node, heal: Healing, *, stack: bool):
    data = node.dataset("demo", files={"sub/b.txt": b"1"})
    pod = node.pod()
    target = heal.publish(pod, data)
    volumes = {"/data": target, "/part": pod.subpath(target, "sub")}
    slave = pod.container("slave", volumes)
    places: list[Place] = [(node.sees.pid, target), (slave.pid, "/data"), (slave.pid, "/part")]
    wanted = [{"sub"}, {"sub"}, {"b.txt"}]
    if namespaces.can_mount_inside():
        private = pod.container("private", volumes, Propagation.NONE)
        places.append((private.pid, "/part"))
        wanted.append({"b.txt"})

    with contextlib.ExitStack() as ends:
        watches = [ends.enter_context(Watch(pid, "look", path)) for pid, path in places]
        for _ in range(40):
            heal.crash(data, stack=stack)
        seen = [watch.outcomes() for watch in watches]

    assert [names - GONE for names in seen] == wanted


# 2. No writable instant of a read-only volume.


@pytest.mark.timeout(180)
@RESTARTS
def test_nobody_can_ever_write_to_a_read_only_volume(node: Node, heal: Healing, *, stack: bool):
    data = node.dataset("demo", read_only=False)
    pod = node.pod()
    target = heal.publish(pod, data, read_only=True)
    slave = pod.container("slave", {"/data": target})
    places: list[Place] = [(node.sees.pid, target), (slave.pid, "/data")]
    if namespaces.can_mount_inside():
        private = pod.container("private", {"/data": target}, Propagation.NONE)
        places.append((private.pid, "/data"))

    with contextlib.ExitStack() as ends:
        watches = [ends.enter_context(Watch(pid, "write", path)) for pid, path in places]
        for _ in range(40):
            heal.crash(data, stack=stack)
        seen = [watch.outcomes() - GONE for watch in watches]

    assert all(outcomes == {"EROFS"} for outcomes in seen)
    assert node.sees.names(data.volume.source) == {"a.txt"}


# 4. A FUSE path may hang (tests/privileged/test_heal_hung.py has the others).


def test_a_container_whose_paths_hang_does_not_delay_the_others(node: Node):
    with healing(node, probe_timeout_s=2.0) as heal:
        hung, data = node.dataset("hung", files={"in/i": b"1"}), node.dataset("demo")
        pod = node.pod()
        target = heal.publish(pod, data)
        over = {"/a": heal.publish(pod, hung), "/a/in": target}
        stuck = [pod.container(f"stuck{n}", over) for n in range(2)]
        free = [pod.container(f"free{n}", {"/data": target}) for n in range(4)]
        hung.daemon.kill(signal.SIGSTOP)
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 1.1, "the kernel forgets the names under /a")

        data.daemon.kill()
        data.daemon.restart()
        for container in free:
            heal.await_whole(data, container.sees, "/data")

        assert time.monotonic() - data.daemon.answered_at < heal.prober.timeout_s
        hung.daemon.kill(signal.SIGCONT)
        for container in stuck:
            heal.await_whole(data, container.sees, "/a/in")


# 5. Success is what was verified.


def test_a_swap_whose_new_mount_died_meanwhile_is_no_success(node: Node):
    trap = Trap()
    with healing(node, locks=trap) as heal:
        data = node.dataset("demo")
        target = heal.publish(node.pod(), data)
        heal.await_looked(data)

        data.daemon.kill()
        until(lambda: heal.ear.of(events.Broken), "the break is told")
        trap.spring = data.daemon.kill  # the new one, after it answered and before the swap
        with contextlib.suppress(BedError):  # it may be gone before anybody sees it answer
            data.daemon.restart()
        until(lambda: trap.spring is None, "the heal has begun")
        until(lambda: not data.daemon.alive, "the new one is dead")
        until(lambda: node.sees.error(target) == errno.ENOTCONN, "the target is, too")

        assert not heal.heals(data)
        assert not heal.store.heals()
        data.daemon.start()
        heal.healed(data)
        assert whole(node, node.sees, target, data)


def test_a_path_that_does_not_answer_after_the_swap_is_no_success(node: Node):
    data = node.dataset()
    path = str(data.volume.source)
    live = node.sees.layers(path)[-1].dev
    assert isinstance(_seen_through(path, live), Done)
    assert "shows superblock" in _why(_seen_through(path, "0:0"))
    data.daemon.kill()
    assert "is dead" in _why(_seen_through(path, live))


def _seen_through(path: str, live: str) -> Result[Act]:
    """Return what becomes of a step by the answer through the path that it healed."""
    step = Peel(copy(path=path))
    with mounts.closing(mounts.open_path(path)) as fd:
        (reply,) = Prober().ask_all("key", [fd])
        return tour.judged(Arrived(step, 1, fd), reply, live)


def _why(result: Result[Act]) -> str:
    assert isinstance(result, Failed)
    assert not result.stale
    return str(result.error)


# 6. Only what is ours.


def bound_by_somebody(node: Node, data: Dataset) -> Path:
    """Bind a dataset at a place that is nobody's target."""
    place = node.machine.folder("theirs")
    programs.run("mount", "--bind", "-o", "ro", data.volume.source, place)
    return place


def test_a_dead_mount_of_somebody_else_is_never_touched(node: Node, heal: Healing):
    data, foreign = node.dataset("demo"), node.dataset("foreign")
    pod = node.pod()
    theirs = bound_by_somebody(node, foreign)
    main = pod.container("main", {"/data": heal.publish(pod, data), "/theirs": theirs})
    before = node.sees.layers(theirs), main.sees.layers("/theirs")

    foreign.daemon.kill()
    for _ in range(3):
        heal.crash(data)

    assert whole(node, main.sees, "/data", data)
    assert (node.sees.layers(theirs), main.sees.layers("/theirs")) == before
    assert node.sees.layers(foreign.volume.source)


def test_a_device_number_that_was_given_away_is_no_copy_of_ours(node: Node, heal: Healing):
    data, foreign = node.dataset("demo"), node.dataset("foreign")
    pod = node.pod()
    theirs = bound_by_somebody(node, foreign)
    main = pod.container("main", {"/data": heal.publish(pod, data), "/theirs": theirs})
    heal.await_looked(data)
    reused = shown(node.sees, theirs)
    before = node.sees.layers(theirs), main.sees.layers("/theirs")

    source = str(data.volume.source)
    row = Generation(source, reused.dev, "/", reused.fs_type, "/of/ours", BOOT_ID, 1.0, 2.0)
    heal.store.put_generation(row)
    foreign.daemon.kill()
    heal.crash(data)

    assert whole(node, main.sees, "/data", data)
    assert (node.sees.layers(theirs), main.sees.layers("/theirs")) == before


def test_generations_of_an_earlier_boot_mean_nothing(node: Node, heal: Healing):
    data, foreign = node.dataset("demo"), node.dataset("foreign")
    theirs = bound_by_somebody(node, foreign)
    target = heal.publish(node.pod(), data)
    heal.await_looked(data)
    heal.stop()
    mount = shown(node.sees, theirs)

    row = Generation(
        str(data.volume.source), mount.dev, "/", mount.fs_type, mount.source, "another boot", 1.0
    )
    heal.store.put_generation(row)
    foreign.daemon.kill()
    heal.start()
    heal.crash(data)

    assert whole(node, node.sees, target, data)
    assert node.sees.layers(theirs) == (mount,)


def test_what_somebody_mounted_over_a_copy_stays_there(node: Node, heal: Healing):
    data = node.dataset("demo")
    pod = node.pod()
    target = heal.publish(pod, data)
    main = pod.container("main", {"/data": target, "/other": target})
    data.daemon.kill()
    until(lambda: heal.ear.of(events.Broken), "the break is told")
    main.run("mount", "-t", "tmpfs", "theirs", "/data")
    before = main.sees.layers("/data")[-1]

    data.daemon.restart()
    heal.healed(data)

    heal.await_whole(data, main.sees, "/other")
    assert main.sees.layers("/data")[-1].mnt_id == before.mnt_id  # what was dead heals beneath it


@pytest.mark.parametrize("kind", ["shared", "private"])
def test_the_sources_own_mounts_are_never_touched(node: Node, heal: Healing, kind: str):
    programs.run("mount", f"--make-{kind}", node.machine.mount_root)
    data = node.dataset("demo")
    target = heal.publish(node.pod(), data)

    for _ in range(3):
        before = node.sees.layers(data.volume.source)
        heal.crash(data, stack=True)

        assert [m.mnt_id for m in node.sees.layers(data.volume.source)[:-1]] == [
            m.mnt_id for m in before
        ]

    live = node.sees.layers(data.volume.source)[-1].dev
    assert shown(node.sees, target).dev == live


def test_a_peer_of_the_source_keeps_its_layers_rather_than_lose_the_source(
    node: Node, heal: Healing
):
    data = node.dataset("demo")
    target = node.pod().target("default-demo")
    target.mkdir()
    programs.run("mount", "--bind", data.volume.source, target)  # as Fluid's plugin does
    main = node.pod().container("main", {"/data": target})
    heal.stop()

    data.daemon.kill()
    data.daemon.restart(stack=True)  # the kernel passes it on to the target
    heal.start()
    heal.await_looked(data)
    until(lambda: main.sees.error("/data") == 0, "the container sees its data")

    assert node.sees.error(data.volume.source) == 0
    assert node.sees.error(target) == 0
    heal.unpublish(target)


def test_a_container_that_swaps_its_path_for_a_link_gets_nothing_mounted_elsewhere(node: Node):
    trap = Trap()
    with healing(node, locks=trap) as heal:
        data = node.dataset("demo")
        pod = node.pod()
        target = heal.publish(pod, data)
        main = pod.container("main", {"/top": node.machine.folder("top")})
        main.run("mkdir", "/top/data", "/top/elsewhere")
        bound = pod.container("bound", {"/top": node.machine.folder("top"), "/top/data": target})
        before = _points(bound.pid)

        def swap_for_a_link() -> None:
            main.run("mv", "/top/data", "/top/moved")  # in one's own namespace it would be busy
            main.run("ln", "-s", "/top/elsewhere", "/top/data")

        data.daemon.kill()
        until(lambda: heal.ear.of(events.Broken), "the break is told")
        trap.spring = swap_for_a_link  # after the copy was found, before it is touched
        data.daemon.restart()
        heal.healed(data)

        assert whole(node, node.sees, target, data)
        assert _points(bound.pid) - before <= {"/top/moved"}
        heal.await_whole(data, bound.sees, "/top/moved")


def _points(pid: int) -> set[str]:
    return {mount.mount_point for mount in mountinfo.read(pid)}


# 7. Unpublish wins: tests/privileged/test_heal_unpublish.py.  8. Kill -9: test_heal_killed.py.


# 9. A live old generation is left alone.


@RESTARTS
def test_an_old_daemon_that_lives_keeps_its_copies(node: Node, heal: Healing, *, stack: bool):
    data = node.dataset("demo")
    pod = node.pod()
    target = heal.publish(pod, data)
    main = pod.container("main", {"/data": target})
    heal.await_looked(data)
    before = node.sees.layers(target), main.sees.layers("/data")

    after = Daemon(data.daemon.filesystem, data.volume.source, node.machine.folder("second"))
    after.start(stack=stack)
    heal.stop()
    heal.start()  # looks at everything
    heal.await_looked(data)
    other = heal.publish(node.pod("new"), data)
    untouched = node.sees.layers(target), main.sees.layers("/data")
    data.daemon.kill()
    heal.healed(data)

    assert untouched == before
    heal.await_whole(data, node.sees, target)
    heal.await_whole(data, main.sees, "/data")
    assert whole(node, node.sees, other, data)
    after.close()


# 10. Nothing to do costs nothing.


@pytest.mark.parametrize("crashed", [False, True])
def test_a_tick_at_rest_costs_the_same_for_any_number_of_publications(node: Node, *, crashed: bool):
    # Healing by propagation leaves the dead layers, so they must not cost anything either.
    strategy = "propagation" if crashed else "namespace"
    with healing(node, period_s=0.02, strategy=strategy) as heal:
        data = node.dataset("demo")
        heal.publish(node.pod("first"), data)
        cost_of_one = _tick_s(heal)
        for number in range(300):
            heal.publish(node.pod(str(number)), data)
        if crashed:
            heal.crash(data)

        cost_of_many = _tick_s(heal)

        assert cost_of_many < 1.5 * cost_of_one + 0.0002


def _tick_s(heal: Healing) -> float:
    """Return the processor time in s of a tick at rest: the best of some, others work here too."""
    heal.await_ticks(3)  # the first ones may still look at what was published
    heal.ear.events.clear()  # which are counted in that time as well
    best = 1.0
    for _ in range(5):
        began, ticks = time.process_time(), _ticks(heal)
        heal.await_ticks(10)
        best = min(best, (time.process_time() - began) / (_ticks(heal) - ticks))
    return best


def _ticks(heal: Healing) -> int:
    return heal.ear.events.count(events.Woken("tick"))
