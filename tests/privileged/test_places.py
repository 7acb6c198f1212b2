"""kubelet's directory and MOUNT_ROOT as nodes have them: links, bound twice, disks of their own.

A volume is served and healed there, or refused with the value that would be right; never published
where nobody sees it.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi_fluid.kubelet import Kubelet
from csi_fluid.testbed import plugin as plugins, programs
from recover.linux import mountinfo
from tests.harness import Dataset, Node, Plugin, Propagation, View, until

IN_A_CONTAINER = ("unshare", "--mount", "--propagation", "unchanged", "sh", "-ec")


def in_a_container(node: Node, script: str, *, strategy: str = "auto") -> Plugin:
    """Start the plugin in a mount namespace of its own, after a script made changes there."""
    machine = node.machine
    paths = (str(machine.kubelet), str(machine.mount_root))
    begin = f'kubelet=$1 mount_root=$2; shift 2; {script}; exec "$@"'
    return node.plugin(
        strategy=strategy, command=(*IN_A_CONTAINER, begin, "sh", *paths, *plugins.COMMAND)
    )


def own_disk(place: Path) -> None:
    programs.run("mount", "-t", "tmpfs", "disk", place)
    programs.run("mount", "--make-shared", place)


@pytest.fixture(params=["plain", "pods", "plugins", "mount root", "all", "kubelet", "sources"])
def odd(node: Node, request: pytest.FixtureRequest) -> Iterator[Node]:
    """Return a node some of whose directories are disks of their own, or bound once more."""
    machine, kind = node.machine, request.param
    disks = {
        "pods": [machine.kubelet / "pods"],
        "plugins": [machine.socket.parent],
        "mount root": [machine.mount_root],
        "all": [machine.kubelet / "pods", machine.socket.parent, machine.mount_root],
    }
    twice = {"kubelet": machine.kubelet, "sources": machine.mount_root}
    with contextlib.ExitStack() as ends:
        for place in disks.get(kind, []):
            own_disk(place)
            ends.callback(programs.run, "umount", "-l", place)
        if kind in twice:
            other = machine.folder("other")
            programs.run("mount", "--rbind", twice[kind], other)
            ends.callback(programs.run, "umount", "-l", other)
        yield node


@pytest.mark.parametrize("strategy", ["namespace", "propagation"])
def test_volumes_are_served_and_healed(odd: Node, strategy: str):
    data, pod = odd.dataset("demo"), odd.pod()
    in_a_container(odd, 'mount --make-rslave "$mount_root"', strategy=strategy)
    before = fuse_mounts()
    target = pod.publish(data)
    main = pod.container("main", {"/data": target}, Propagation.HOST_TO_CONTAINER)

    for number in range(2):
        new = b"%d" % number
        data.daemon.kill()
        data.put("a.txt", new)
        data.daemon.restart()
        await_content(new, main.sees, "/data")
        await_content(new, odd.sees, target)
        assert len(main.sees.layers("/data")) <= 2

    pod.close()
    until(lambda: fuse_mounts() == before, "nothing but the source is left")


def await_content(content: bytes, sees: View, path: Path | str) -> None:
    until(lambda: sees.read(Path(path, "a.txt")) == content, f"{path} is healed")


def fuse_mounts() -> set[str]:
    return {mount.mount_point for mount in mountinfo.read() if mount.is_fuse}


def test_volumes_are_served_and_healed_by_the_links_that_people_have(node: Node):
    """On MicroK8s /var/lib/kubelet may be a link; MOUNT_ROOT often is one to a larger disk."""
    machine = node.machine
    links = machine.folder("links")
    (links / "kubelet").symlink_to(machine.kubelet)
    (links / "mount-root").symlink_to(machine.mount_root)
    data, pod = node.dataset("demo"), node.pod()
    linked = f"KUBELET_ROOTDIR={links}/kubelet MOUNT_ROOT={links}/mount-root"
    plugin = in_a_container(node, f"export {linked}")
    target = pod.target(data.volume.volume_id)
    spelt = links / "kubelet" / target.relative_to(machine.kubelet)
    source = links / "mount-root" / data.volume.source.relative_to(machine.mount_root)
    volume = dataclasses.replace(data.volume, source=source)
    plugin.client.publish(volume, spelt)
    main = pod.container("main", {"/data": target}, Propagation.HOST_TO_CONTAINER)

    data.daemon.kill()
    data.put("a.txt", b"2")
    data.daemon.restart()

    await_content(b"2", main.sees, "/data")
    await_content(b"2", node.sees, target)
    plugin.client.unpublish(volume, target)
    assert not node.sees.layers(target)
    assert not target.exists()


# ---- Refused


def refused(plugin: Plugin, data: Dataset, target: Path, *, timeout_s: float = 10) -> str:
    """Return why a publish is refused; one that is not answered in time is called again."""

    def answer() -> grpc.RpcError | None:
        with pytest.raises(grpc.RpcError) as caught:
            plugin.client.publish(data.volume, target, timeout_s=timeout_s)
        late = grpc.StatusCode.DEADLINE_EXCEEDED
        return None if caught.value.code() is late else caught.value

    error = until(answer, "an answer")
    assert not target.exists()
    return error.details() or ""


def test_a_kubelet_that_is_elsewhere_is_named(node: Node):
    data = node.dataset("demo")
    plugin = in_a_container(node, ":")
    k0s = "/var/lib/k0s/kubelet"

    said = refused(plugin, data, Path(Kubelet(k0s).target("uid", "volume")))

    assert f"csi.kubelet.rootDir={k0s}" in said
    assert f"KUBELET_ROOTDIR is {node.machine.kubelet}" in said


@pytest.mark.parametrize(
    "script",
    [
        'mount --make-rprivate "$kubelet"',
        'mount --make-rslave "$kubelet"',
        'mount --make-rprivate "$kubelet"; mount --make-rshared "$kubelet"',  # with nobody
    ],
    ids=["private", "slave", "shared with nobody"],
)
def test_what_is_not_passed_on_to_the_node_is_not_published(node: Node, script: str):
    data = node.dataset("demo")
    target = node.machine.target("uid", data.volume.volume_id)
    plugin = in_a_container(node, script)

    said = refused(plugin, data, target)

    assert "no pod would see the volume" in said
    assert "Bidirectional" in said
    assert not node.sees.layers(target)


@pytest.mark.parametrize(
    "script",
    ['mount --make-rprivate "$mount_root"', 'mount -t tmpfs other "$mount_root"'],
    ids=["private", "another directory"],
)
def test_a_source_that_this_container_does_not_get_is_told(node: Node, script: str):
    data = node.dataset("demo", start=False)
    target = node.machine.target("uid", data.volume.volume_id)
    plugin = in_a_container(node, f'mount --make-rslave "$mount_root"; {script}')
    data.daemon.start()

    said = refused(plugin, data, target, timeout_s=2)

    assert f"on the node its FUSE mount is at {data.volume.source}" in said
    assert "HostToContainer" in said


def test_a_source_that_is_nowhere_is_looked_for_in_its_pod(node: Node):
    data = node.dataset("demo", start=False)
    plugin = in_a_container(node, ":")

    said = refused(plugin, data, node.machine.target("uid", data.volume.volume_id), timeout_s=1)

    assert "look at the FUSE pod" in said
