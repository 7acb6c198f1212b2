"""A daemon that answers nothing, and kubelet, which waits for it to remove a subPath."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.fluid import Datasets, Fluid
from tests.cluster.plugin import Plugin
from tests.cluster.scene import Scene
from tests.cluster.waiting import wait_for
from tests.harness import wirefuse


def test_a_pod_with_a_subpath_of_a_hung_daemon_goes_when_the_connection_is_aborted(
    plugin: Plugin, scene: Scene
):
    plugin.add_arguments("--hung-abort-after=6s")
    scene.start("partial", sub_path="sub")
    folder = scene.folder(scene.uid("partial"))

    with scene.hung():
        scene.delete("partial")
        wait_for(lambda: scene.told("FuseHung"), "word of the hung daemon")
        assert not scene.gone("partial")

        wait_for(lambda: scene.told("FuseAborted"), "word of the abort")
        wait_for(lambda: scene.gone("partial"), "the end of the pod")

    assert scene.cluster.mounts(folder) == []


def test_without_an_abort_a_hung_daemon_keeps_its_own_pods_and_no_others(
    cluster: Cluster, fluid: Fluid, dataset: Datasets, scene: Scene
):
    scene.start("partial", sub_path="sub")
    other = Scene(cluster, fluid, dataset("other"))
    other.start("reader")

    with scene.hung():
        scene.delete("partial")
        wait_for(lambda: scene.told("FuseHung"), "word of the hung daemon")
        other.crash_and_heal("reader")
        other.start("late", sub_path="sub")
        other.delete("late")
        wait_for(lambda: other.gone("late"), "the end of another pod")
        assert not scene.gone("partial")
        assert not scene.told("FuseAborted")

    wait_for(lambda: scene.gone("partial"), "the end of the pod")


def test_the_plugin_is_replaced_while_a_daemon_never_answers(
    plugin: Plugin, scene: Scene, tmp_path: Path
):
    """A process that waits for the answer to a request which was read cannot be killed."""
    scene.start("app")
    first = plugin.pod()

    with silent(scene, tmp_path):
        wait_for(lambda: scene.told("FuseHung"), "word of the hung daemon")
        assert waiting(scene.cluster)

        assert plugin.replace() != first
        assert waiting(scene.cluster)  # who asked was left behind

    wait_for(lambda: not waiting(scene.cluster), "the end of who was left behind")
    scene.crash_and_heal("app")


@contextlib.contextmanager
def silent(scene: Scene, folder: Path) -> Iterator[None]:
    """Mount over the dataset a file system whose server reads all requests and answers none."""
    (folder / "ALL").write_text("hang")
    (place,) = {
        line.split()[4]
        for line in scene.cluster.mounts("/runtime-mnt")
        if f"/{scene.spec.namespace}/{scene.spec.name}/" in line.split()[4]
    }
    script = 'setsid "$@" >/dev/null 2>&1 & echo $!'
    command = (sys.executable, wirefuse.__file__, place, folder)
    pid = scene.cluster.enter("sh", "-c", script, "sh", *command).strip()
    try:
        yield
    finally:
        scene.cluster.enter("kill", "-KILL", pid)
        scene.cluster.enter("umount", "--lazy", place)


def waiting(cluster: Cluster) -> bool:
    """Tell whether a thread of the node waits for an answer that no signal spares it."""
    return "request_wait_answer" in cluster.enter("sh", "-c", "cat /proc/*/task/*/wchan || true")
