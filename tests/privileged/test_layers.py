"""How many mounts a copy has after many crashes: the number that grows where a heal only adds."""

from collections.abc import Callable

import pytest

from recover.linux import mounts
from tests.harness import Node, Propagation
from tests.privileged.healing import Healing


@pytest.mark.timeout(180)
@pytest.mark.parametrize("crashes", [3, 30])
def test_no_copy_has_more_than_two_layers_after_any_number_of_crashes(
    node: Node, heal: Healing, record_property: Callable[[str, object], None], crashes: int
):
    data = node.dataset("demo", files={"sub/b.txt": b"1"})
    pod = node.pod()
    target = heal.publish(pod, data)
    place = pod.subpath(target, "sub")
    slave = pod.container("slave", {"/data": target})
    private = pod.container("private", {"/data": target, "/sub": place}, Propagation.NONE)
    copies = {"target": (node.sees, str(target)), "HostToContainer": (slave.sees, "/data")}
    if mounts.can_detach():  # else no container is entered
        copies |= {"None": (private.sees, "/data"), "subPath": (private.sees, "/sub")}

    for _ in range(crashes):
        heal.crash(data)

    for kind, (view, path) in copies.items():
        assert isinstance(view.names(path), set), f"{kind} is dead"
        layers = len(view.layers(path))
        record_property(f"layers {kind}", layers)
        assert layers <= 2, kind
