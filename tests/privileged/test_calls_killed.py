"""Whatever step of a call kill -9 hits, kubelet's next try makes it true, and nothing is left over.

Healing has the same in test_heal_killed.py, the agent in test_agent_killed.py, the migration of the
state file in tests/unit/store/test_migration.py.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from recover.anchors.anchor import FOLDER, is_anchor
from recover.linux import mountinfo
from recover.linux.probe import Prober
from recover.rows import Method, Publication
from tests.harness import Dataset, Node, until
from tests.privileged.healing import Healing, healing, only_layer, whole
from tests.privileged.nursery import DIED, Nursery

FILES = {"a.txt": b"1", "sub/b.txt": b"1"}
MOST = 200


class Mortals:
    """Processes that make a call and die in it (tests/privileged/dyingcalls.py)."""

    def __init__(self, nursery: Nursery) -> None:
        self._nursery = nursery

    def call(self, name: str, given: object, number: int) -> bool:
        """Have a call made that ends before its nth change; tell whether it had fewer."""
        self._nursery.bear(name, given, number)
        end = self._nursery.hear()
        assert end in {"ended 0", DIED}
        return end != DIED


@pytest.fixture
def mortals(node: Node) -> Iterator[Mortals]:
    with contextlib.closing(Nursery("dyingcalls", node)) as nursery:
        yield Mortals(nursery)


@pytest.fixture
def prober() -> Prober:
    """Return what asks the daemons in all of a test: its process takes long to start in a VM."""
    return Prober()


@pytest.fixture
def data(node: Node) -> Dataset:
    return node.dataset("demo", files=FILES, read_only=False)


def as_json(row: Publication) -> dict[str, object]:
    return dataclasses.asdict(row)


def check_shown(node: Node, target: Path, names: set[str]) -> None:
    """Fail if a target shows anything but the volume, read-only, or nothing at all."""
    if layers := node.sees.layers(target):
        assert len(layers) == 1
        assert layers[0].read_only
        assert node.sees.names(target) == names


def check_gone(node: Node, heal: Healing, target: Path) -> None:
    """Fail if anything of a target, or of its anchors, is left."""
    assert not target.exists()
    assert not target.is_symlink()
    assert not node.sees.layers(target)
    assert not heal.store.publications()
    assert not (node.machine.kubelet / "plugin" / FOLDER).exists()
    until(lambda: not heal.store.generations(), "the generations are forgotten")


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("sub_path", "least"), [("", 20), ("sub", 20)], ids=["whole", "sub path"])
def test_a_publish_killed_before_any_step(
    node: Node, data: Dataset, mortals: Mortals, prober: Prober, sub_path: str, least: int
):
    names = {"b.txt"} if sub_path else {"a.txt", "sub"}
    for number in range(MOST):
        pod = node.pod()
        with healing(node, prober=prober) as heal:
            row = heal.publication(pod, data, sub_path=sub_path, read_only=True)
        target = Path(row.target)
        is_done = mortals.call("publish", as_json(row), number)
        check_shown(node, target, names)

        with healing(node, prober=prober) as heal:
            heal.put(row)
            assert only_layer(node.sees, target).read_only
            assert node.sees.names(target) == names
            assert len(heal.store.publications()) == 1
            heal.crash(data)
            assert whole(node, node.sees, target, data)
            heal.unpublish(target)
            check_gone(node, heal, target)
        if is_done:
            break
    assert number >= least


@pytest.mark.timeout(120)
def test_a_publish_over_a_dead_mount_killed_before_any_step(
    node: Node, data: Dataset, mortals: Mortals, prober: Prober
):
    for number in range(MOST):
        pod = node.pod()
        with healing(node, prober=prober) as heal:
            row = heal.publication(pod, data, read_only=True)
            heal.put(row)
        target = Path(row.target)
        data.daemon.kill()
        data.daemon.restart()
        is_done = mortals.call("publish", as_json(row), number)
        assert 1 <= len(node.sees.layers(target)) <= 2
        assert all(layer.read_only for layer in node.sees.layers(target))

        with healing(node, prober=prober) as heal:
            heal.put(row)
            assert whole(node, node.sees, target, data)
            heal.unpublish(target)
            check_gone(node, heal, target)
        if is_done:
            break
    assert number >= 15


@pytest.mark.timeout(120)
def test_a_publish_as_a_link_killed_before_any_step(
    node: Node, data: Dataset, mortals: Mortals, prober: Prober
):
    for number in range(MOST):
        pod = node.pod()
        with healing(node, prober=prober) as heal:
            row = heal.publication(pod, data, method=Method.SYMLINK)
        target = Path(row.target)
        is_done = mortals.call("publish", as_json(row), number)

        with healing(node, prober=prober) as heal:
            heal.put(row)
            assert target.readlink() == data.volume.source
            heal.unpublish(target)
            check_gone(node, heal, target)
        if is_done:
            break
    assert number >= 10


@pytest.mark.timeout(120)
def test_the_last_unpublish_killed_before_any_step(
    node: Node, data: Dataset, mortals: Mortals, prober: Prober
):
    """Of a volume that crashed, so that two anchors go with it."""
    for number in range(MOST):
        with healing(node, prober=prober) as heal:
            row = heal.publication(node.pod(), data, read_only=True)
            heal.put(row)
            heal.crash(data)
        target = Path(row.target)
        is_done = mortals.call("unpublish", str(target), number)

        with healing(node, prober=prober) as heal:
            heal.unpublish(target)
            check_gone(node, heal, target)
        if is_done:
            break
    assert number >= 20


@pytest.mark.timeout(120)
def test_an_unpublish_that_drops_older_anchors_killed_before_any_step(
    node: Node, data: Dataset, mortals: Mortals, prober: Prober
):
    for number in range(MOST):
        late = node.pod("late")
        with healing(node, prober=prober) as heal:
            early = heal.publication(node.pod("early"), data, read_only=True)
            heal.put(early)
            heal.crash(data)
            wanted = heal.publication(late, data, read_only=True)
            heal.put(wanted)
        main = late.container("main", {"/data": Path(wanted.target)})
        is_done = mortals.call("unpublish", early.target, number)
        assert whole(node, main.sees, "/data", data)

        with healing(node, prober=prober) as heal:
            heal.unpublish(early.target)
            assert not node.sees.layers(early.target)
            heal.crash(data)
            assert whole(node, main.sees, "/data", data)
            assert len(anchors()) == 2
            late.close()
            heal.unpublish(wanted.target)
            check_gone(node, heal, Path(wanted.target))
        if is_done:
            break
    assert number >= 10


@pytest.mark.timeout(120)
@pytest.mark.parametrize("whose", ["ours", "another plugin's"])
def test_an_adoption_killed_before_any_step(
    node: Node, data: Dataset, mortals: Mortals, prober: Prober, whose: str
):
    for number in range(MOST):
        pod = node.pod()
        if whose == "ours":
            with healing(node, prober=prober) as heal:
                row = heal.publication(pod, data, read_only=True)
                heal.put(row)
            lose_state(node)
            target = Path(row.target)
        else:
            target = pod.bind(data)
        main = pod.container("main", {"/data": target})
        is_done = mortals.call("reconcile", "", number)

        with healing(node, prober=prober) as heal:
            (adopted,) = heal.store.publications()
            assert (adopted.target, adopted.source) == (str(target), str(data.volume.source))
            heal.crash(data)
            assert whole(node, main.sees, "/data", data)
            pod.close()
            heal.unpublish(target)
            check_gone(node, heal, target)
        if is_done:
            break
    assert number >= 3


def lose_state(node: Node) -> None:
    """Remove the state file, as a new disk does."""
    for path in node.machine.state.parent.iterdir():
        path.unlink()


def anchors() -> set[str]:
    return {m.mount_point for m in mountinfo.read() if is_anchor(m.mount_point)}
