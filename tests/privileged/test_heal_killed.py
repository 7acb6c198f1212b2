"""Whatever line of a heal kill -9 hits, nobody sees anything new, and the next start repairs it."""

import errno
import random
import threading
from collections.abc import Iterator

import pytest

from recover.linux import namespaces
from recover.linux.probe import Prober
from tests.harness import Node, Propagation, View
from tests.privileged.healing import healing, shown
from tests.privileged.nursery import DIED, Nursery

NEVER = 10**6


class Mortal:
    """A process that heals the node until it dies (tests/privileged/dyingheal.py)."""

    def __init__(self, nursery: Nursery, number: int) -> None:
        self._nursery = nursery
        nursery.bear(number)
        assert nursery.hear() == "broken"

    def heals(self) -> bool:
        """Wait for its end, or for the end of its heal, and tell which it was."""
        said = self._nursery.hear()
        assert said in {"healed", DIED}
        return said == "healed"

    def kill(self) -> None:
        """End it."""
        self._nursery.kill()


class Scene:
    """A node with a volume in its containers, healed once, and all its places."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.data = node.dataset("demo", files={"sub/b.txt": b"1", "cache/c.txt": b"1"})
        self._empty = node.machine.folder("empty-dir")
        (self._empty / "kept").touch()
        self._nursery = Nursery("dyingheal", node)
        self._prober = Prober()  # one, as its process takes long to start in a VM
        self._begin()

    def _begin(self) -> None:
        node, empty = self.node, self._empty
        pod = self._pod = node.pod()
        with healing(node, prober=self._prober) as heal:
            target = self._target = heal.publish(pod, self.data)
            pod._ends.pop_all()  # the pod is closed without a plugin
            place = pod.subpath(target, "sub")
            slave = pod.container("slave", {"/data": target, "/sub": place})
            self.places: list[tuple[View, str, set[str]]] = [
                (node.sees, str(target), {"sub", "cache"}),
                (node.sees, str(place), {"b.txt"}),
                (slave.sees, "/data", {"sub", "cache"}),
                (slave.sees, "/sub", {"b.txt"}),
            ]
            if namespaces.can_mount_inside():
                nested = pod.container("nested", {"/data": target, "/data/cache": empty})
                volumes = {"/data": target, "/sub": place}
                private = pod.container("private", volumes, Propagation.NONE)
                self.places += [
                    (nested.sees, "/data", {"sub", "cache"}),
                    (nested.sees, "/data/cache", {"kept"}),
                    (private.sees, "/data", {"sub", "cache"}),
                    (private.sees, "/sub", {"b.txt"}),
                ]
            heal.crash(self.data)

    def renew(self) -> None:
        """Let another pod take the place of this one: the generations so far are not needed."""
        self._pod.close()
        with healing(self.node, prober=self._prober) as heal:
            heal.unpublish(self._target)
        self._begin()

    def crash_under(self, number: int) -> Mortal:
        """Crash the daemon under a healer that dies before its nth change, and start it again."""
        self.data.daemon.kill()
        mortal = Mortal(self._nursery, number)
        self.data.daemon.restart()
        return mortal

    def lose_state(self) -> None:
        """Remove the state file, as a new disk does."""
        for path in self.node.machine.state.parent.iterdir():
            path.unlink()

    def check(self) -> None:
        """Fail if a place shows anything but data or a dead mount, or more than two layers.

        Nobody looks into the nested mount: a walk over its place in a dead FUSE mount, once the
        kernel has to ask about the name again, makes the kernel unmount it (d_invalidate).
        """
        for view, path, names in self.places:
            if path == "/data/cache":
                continue
            assert view.names(path) in (names, errno.ENOTCONN), path
            assert 1 <= len(view.layers(path)) <= 2, view.layers(path)

    def repair(self) -> None:
        """Start another recovery, and fail unless it makes all places whole."""
        with healing(self.node, prober=self._prober) as heal:
            for view, path, names in self.places:
                if path != "/data/cache":
                    heal.await_whole(self.data, view, path)
                    assert shown(view, path).read_only
                assert view.names(path) == names

    def close(self) -> None:
        """End what heals."""
        self._nursery.close()


@pytest.fixture
def scene(node: Node) -> Iterator[Scene]:
    made = Scene(node)
    yield made
    made.close()


@pytest.mark.timeout(300)
def test_killed_before_any_change_the_next_start_repairs(scene: Scene):
    for number in range(NEVER):
        mortal = scene.crash_under(number)
        has_healed = mortal.heals()
        mortal.kill()
        scene.check()
        scene.repair()
        if has_healed:
            break
        scene.renew()

    # of each copy: to clone, to set, to enter, to attach, to detach; without visits far fewer
    assert number > (45 if namespaces.can_mount_inside() else 20)


@pytest.mark.timeout(300)
def test_killed_at_any_moment_the_next_start_repairs(scene: Scene):
    chance = random.Random(11)

    for _ in range(60):
        mortal = scene.crash_under(NEVER)
        threading.Event().wait(chance.uniform(0, 0.008))
        mortal.kill()
        scene.check()
        scene.repair()
        scene.renew()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", range(14, 34, 4))
def test_killed_with_nothing_but_the_dead_mounts_to_go_by_the_next_start_repairs(
    scene: Scene, number: int
):
    """After the targets were healed only the state file says which dead mounts are ours."""
    scene.lose_state()

    mortal = scene.crash_under(number)
    mortal.heals()
    mortal.kill()
    scene.check()

    scene.repair()
