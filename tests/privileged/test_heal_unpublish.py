"""Unpublish wins: no heal begins on a target that is unpublished, and none brings it back."""

import random
import threading

import pytest

from csi_fluid.testbed import programs
from recover import events
from tests.harness import Node, until
from tests.privileged.healing import Healing, Trap, healing


def test_a_target_that_is_unpublished_while_its_heal_begins_stays_gone(node: Node):
    trap = Trap()
    with healing(node, locks=trap) as heal:
        data = node.dataset("demo")
        target = heal.publish(node.pod(), data)
        heal.await_looked(data)

        data.daemon.kill()
        until(lambda: heal.ear.of(events.Broken), "the break is told")
        trap.spring = lambda: heal.unpublish(target)
        data.daemon.restart()
        until(lambda: trap.spring is None and not heal.store.publications(), "the unpublish")
        heal.stop()

        assert not target.exists()
        assert not node.sees.layers(target)


def test_what_an_unpublish_has_not_unmounted_yet_is_not_healed(node: Node):
    with healing(node, period_s=0.05) as heal:
        data = node.dataset("demo")
        heal.publish(node.pod("keep"), data)
        target = heal.publish(node.pod(), data)
        heal.crash(data)

        with heal.parts.locks.hold(str(target)):  # as an unpublish does, which takes its time
            heal.store.remove_publication(str(target))
            programs.run("umount", target)  # the live layer; the dead one is still there
            heal.await_ticks(10)
            left = node.sees.layers(target)
            programs.run("umount", target)

        assert len(left) == 1
        assert len(heal.heals(data)) == 1


def test_a_subpath_that_kubelet_is_removing_is_not_healed_again(node: Node):
    with healing(node, period_s=0.05) as heal:
        data = node.dataset("demo", files={"sub/b.txt": b"1"})
        pod = node.pod()
        place = pod.subpath(heal.publish(pod, data), "sub")
        heal.crash(data)
        heal.await_whole(data, node.sees, place)

        programs.run("umount", place)  # kubelet tries once, finds another mount, and tries again
        heal.await_ticks(10)
        left = node.sees.layers(place)

        assert len(left) == 1
        assert len(heal.heals(data)) == 1
        programs.run("umount", place)
        assert not node.sees.layers(place)


def test_a_bare_target_that_is_unpublished_meanwhile_is_not_mounted(node: Node):
    trap = Trap()
    with healing(node, locks=trap) as heal:
        data = node.dataset("demo")
        target = heal.publish(node.pod(), data)
        heal.publish(node.pod("other"), data)  # so there is something that could be mounted
        heal.await_looked(data)

        data.daemon.kill()
        until(lambda: heal.ear.of(events.Broken), "the break is told")
        programs.run("umount", "-l", target)
        # What an unpublish does first; the directory is that of the next pod.
        trap.key = str(target)
        trap.spring = lambda: heal.store.remove_publication(trap.key)
        data.daemon.restart()
        until(lambda: trap.spring is None and len(heal.store.publications()) == 1, "the unpublish")
        heal.stop()

        assert not node.sees.layers(target)


@pytest.mark.timeout(180)
def test_unpublish_racing_with_heals_resurrects_nothing(node: Node, heal: Healing):
    data = node.dataset("demo")
    pod = node.pod()
    keep = heal.publish(node.pod("keep"), data)
    chance = random.Random(7)

    for _ in range(60):
        target = heal.publish(pod, data)
        data.daemon.kill()
        data.daemon.restart(stack=chance.random() < 0.5)
        threading.Event().wait(chance.uniform(0, 0.006))
        heal.unpublish(target)

        assert not target.exists()
        heal.await_whole(data, node.sees, keep)
        assert not node.sees.layers(target)
        assert heal.store.publication(str(target)) is None
