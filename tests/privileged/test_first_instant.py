"""A read-only volume is so from its first instant, whichever calls the kernel lacks.

Three write all the time: one on the host, one where mounts arrive from the host, one in the pod.
"""

import dataclasses
import os
import signal
import subprocess
from pathlib import Path

import pytest

from csi_fluid.testbed import pods
from tests.harness import Dataset, Node, until
from tests.harness.node import Container

WRITER = """
import os, sys
place = sys.argv[1] + "/sub/" + sys.argv[2]
print("looking", flush=True)
while True:
    try:
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT))
    except OSError:
        continue
"""
OLD = {
    "nothing": "",
    "mount_setattr": "mount_setattr",
    "mount_setattr, by seccomp": "mount_setattr=EPERM,move_mount_beneath=EPERM",
    "open_tree": "open_tree",
    "move_mount": "move_mount=EPERM",
    "all": "all",
}
ROUNDS = 10


def writer(path: Path | str, name: str) -> list[str]:
    return [pods.PYTHON, "-I", "-c", WRITER, str(path), name]


@pytest.fixture
def writable(node: Node) -> Dataset:
    return node.dataset("demo", files={"sub/a.txt": b"1"}, read_only=False)


@pytest.mark.parametrize("missing", OLD.values(), ids=OLD)
def test_nobody_writes_to_what_is_published_and_healed(node: Node, writable: Dataset, missing: str):
    plugin = node.plugin(strategy="auto", environ={"CSI_FLUID_REFUSE": missing})
    volume = dataclasses.replace(writable.volume, read_only=True)
    pod = node.pod()
    target, below = pod.target(volume.volume_id), node.machine.kubelet / "pods"
    inside = Path("/pods", target.relative_to(below))
    follows = pod.container("follows", {"/pods": below}, command=writer(inside, "by-follows"))
    with subprocess.Popen(writer(target, "by-host"), stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == "looking\n"
        for _ in range(ROUNDS):
            plugin.client.publish(volume, target)
            plugin.client.unpublish(volume, target)
        plugin.client.publish(volume, target)
        main = pod.container("main", {"/data": target}, command=writer("/data", "by-main"))
        for number in range(3):
            new = b"%d" % number
            writable.daemon.kill()
            writable.put("sub/a.txt", new)
            writable.daemon.restart()
            await_content(new, main, "/data")
            await_content(new, follows, inside)

        assert written(node, writable) == set()
        plugin.client.unpublish(volume, target)
        plugin.client.publish(writable.volume, target)
        # the control: all of them would have
        until(lambda: {"by-host", "by-follows"} <= written(node, writable), "they write")
        host.kill()
    for container in (main, follows):
        os.kill(container.pid, signal.SIGKILL)
    plugin.client.unpublish(volume, target)


def await_content(content: bytes, container: Container, path: Path | str) -> None:
    place = Path(path, "sub", "a.txt")
    until(lambda: container.sees.read(place) == content, f"{path} is healed")


def written(node: Node, data: Dataset) -> set[str]:
    names = node.sees.names(data.volume.source / "sub")
    assert isinstance(names, set)
    return names - {"a.txt"}
