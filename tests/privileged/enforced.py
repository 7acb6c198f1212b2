"""Under a security module that enforces, which CONFINED_BY names; tests/kernels starts the machine.

Neither AppArmor nor SELinux is active on the machine that runs the other tests.
"""

import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from csi_fluid.testbed import plugin as plugins
from recover.anchors import anchor
from recover.linux import mountinfo
from tests.harness import Container, Dataset, Node, Propagation
from tests.kernels.security import MODULES

MODULE = os.environ["CONFINED_BY"]
LABEL = MODULES[MODULE].label.removeprefix("exec ")
BLAMED = f"{MODULE} ({'as' if MODULE == 'SELinux' else 'profile'} {LABEL}"
CONFINED = (
    *("sh", "-c", 'printf %s "$0" >/proc/self/attr/exec && exec "$@"'),
    MODULES[MODULE].label,
)
WATCH = """
look() { cat "$0" >/dev/null 2>&1; }
until look; do sleep 0.1; done; echo reads, as "$(cat /proc/self/attr/current)"
while look; do sleep 0.1; done; echo lost
until look; do sleep 0.1; done; echo reads again
exec sleep infinity
"""


@pytest.fixture
def data(node: Node) -> Dataset:
    return node.dataset("demo", files={"sub/file": b"data\n"})


def test_a_publish_that_it_forbids_says_so_and_leaves_nothing(node: Node, data: Dataset):
    plugin = node.plugin(command=(*CONFINED, *plugins.COMMAND))
    target = node.machine.target("uid", data.volume.volume_id)

    with pytest.raises(grpc.RpcError) as refused:
        plugin.client.publish(data.volume, target, timeout_s=100)

    assert BLAMED in (refused.value.details() or "")
    assert not node.sees.layers(target)
    assert not target.exists()
    assert not [m for m in mountinfo.read() if anchor.is_anchor(m.mount_point)]


def test_doctor_blames_it():
    doctor = (*CONFINED, sys.executable, "-m", "csi_fluid", "doctor", "--kube=none", "--json")
    done = subprocess.run(doctor, stdout=subprocess.PIPE, timeout=60, check=False)

    assert done.returncode == 1
    assert BLAMED in done.stdout.decode()


def test_what_confined_containers_see_heals_and_keeps_its_label(node: Node, data: Dataset):
    node.plugin()
    pod = node.pod()
    target = pod.publish(data)
    mounts = {
        "follows": (target, Propagation.HOST_TO_CONTAINER),
        "private": (target, Propagation.NONE),
        "sub-path": (pod.subpath(target, "sub"), Propagation.NONE),
    }
    watchers = [
        pod.container(name, {"/data": source}, propagation, watching(source == target))
        for name, (source, propagation) in mounts.items()
    ]
    said = [watcher.lines() for watcher in watchers]
    assert all(LABEL in next(lines) for lines in said)
    before = [label_of(watcher) for watcher in watchers]

    data.daemon.kill()
    assert [next(lines) for lines in said] == ["lost"] * len(said)
    data.daemon.restart()

    assert [next(lines) for lines in said] == ["reads again"] * len(said)
    assert [label_of(watcher) for watcher in watchers] == before
    assert all(b"fusefs_t" in label for label in before if MODULE == "SELinux")


def watching(whole: bool) -> tuple[str, ...]:
    return (*CONFINED, "sh", "-c", WATCH, "/data/sub/file" if whole else "/data/file")


def label_of(container: Container) -> bytes:
    if MODULE != "SELinux":
        return b""  # files have none
    return os.getxattr(Path("/proc", str(container.pid), "root", "data"), "security.selinux")
