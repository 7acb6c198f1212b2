"""Containers whose whole root is a FUSE mount, as fuse-overlayfs makes it where users run them.

Every way into them leads over its daemon; it is no dataset, whatever becomes of it.
"""

import contextlib
import errno
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_fluid.testbed import pods, programs
from recover import events
from recover.linux import mountinfo
from tests.harness import Bindfs, Daemon, Dataset, Node, Propagation, VolumeMount, until
from tests.harness.node import Container
from tests.privileged.healing import Healing, whole

Beside = tuple[Path, Container]


class Root(Bindfs):
    """Serves the tree of an image."""

    def __init__(self, image: Path) -> None:
        self._data = image
        self._options = []


class FuseImage(pods.Image):
    """An image below a FUSE mount, and its daemon."""

    def __init__(self, node: Node) -> None:
        place = node.machine.folder("roots")
        programs.run("mount", "-t", "tmpfs", "roots", place)
        programs.run("mount", "--make-private", place)
        self._place = place
        self.folder = place / "root"
        self.daemon = Daemon(Root(node.machine.image.folder), self.folder, place)
        self.daemon.start()

    def close(self) -> None:
        self.daemon.close()
        programs.run("umount", "-l", self._place)


@pytest.fixture
def image(node: Node) -> Iterator[FuseImage]:
    with contextlib.closing(FuseImage(node)) as image:
        yield image


@contextlib.contextmanager
def started(
    image: FuseImage, volumes: dict[str, Path], propagation: Propagation
) -> Iterator[Container]:
    wanted = [VolumeMount(source, path, propagation) for path, source in volumes.items()]
    with contextlib.closing(Container(image, "rootless", wanted, pods.PAUSE)) as container:
        container.ready()
        state = Path("/proc", str(container.pid), "stat")
        until(lambda: "(sleep) S" in state.read_text(), "its program is loaded")
        (root,) = container.sees.layers("/")[-1:]
        assert root.is_fuse
        yield container


@pytest.fixture
def beside(node: Node, heal: Healing, data: Dataset) -> Beside:
    """Return a target, and a container of another root that has it."""
    pod = node.pod()
    target = heal.publish(pod, data)
    return target, pod.container("other", {"/data": target}, Propagation.NONE)


def roots(container: Container) -> list[mountinfo.Mount]:
    return [mount for mount in mountinfo.read(container.pid) if mount.mount_point == "/"]


@pytest.mark.usefixtures("visits")
@pytest.mark.parametrize("propagation", [Propagation.NONE, Propagation.HOST_TO_CONTAINER])
def test_its_volumes_heal_and_its_root_is_left_alone(
    node: Node, heal: Healing, data: Dataset, image: FuseImage, propagation: Propagation
):
    pod = node.pod()
    target = heal.publish(pod, data)
    volumes = {"/data": target, "/part": pod.subpath(target, "sub")}
    with started(image, volumes, propagation) as main:
        before = roots(main)
        for _ in range(3):
            heal.crash(data)
            heal.await_whole(data, main.sees, "/data")
            until(lambda: main.sees.error("/part") == 0, "the sub path is healed")

        assert roots(main) == before
        assert len(main.sees.layers("/data")) <= 2
        assert not heal.ear.of(events.Adopted)


@pytest.mark.usefixtures("visits")
def test_a_root_that_hangs_keeps_nobody_else_waiting(
    node: Node, heal: Healing, data: Dataset, image: FuseImage, beside: Beside
):
    target, other = beside
    with started(image, {"/data": target}, Propagation.NONE) as main:
        image.daemon.kill(signal.SIGSTOP)
        data.daemon.kill()
        data.daemon.restart()

        heal.await_whole(data, other.sees, "/data")
        assert whole(node, node.sees, target, data)
        image.daemon.kill(signal.SIGCONT)
        heal.await_whole(data, main.sees, "/data")


@pytest.mark.usefixtures("visits")
def test_a_root_that_dies_is_no_broken_dataset(
    node: Node, heal: Healing, data: Dataset, image: FuseImage, beside: Beside
):
    target, other = beside
    with started(image, {"/data": target}, Propagation.NONE) as main:
        before = roots(main)
        image.daemon.kill()
        assert main.sees.error("/") == errno.ENOTCONN
        data.daemon.kill()
        data.daemon.restart()
        heal.await_whole(data, other.sees, "/data")

        # what the kernel remembers of the root may still lead there
        live = node.sees.layers(data.volume.source)[-1].dev
        until(
            lambda: heal.ear.of(events.HealFailed) or main.sees.layers("/data")[-1].dev == live,
            "it is healed, or told",
        )
        assert roots(main) == before
        assert main.sees.error("/") == errno.ENOTCONN
