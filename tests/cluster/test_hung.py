"""A daemon that answers nothing, and kubelet, which waits for it to remove a subPath."""

from tests.cluster.cluster import Cluster
from tests.cluster.fluid import Datasets, Fluid
from tests.cluster.plugin import Plugin
from tests.cluster.scene import Scene
from tests.cluster.waiting import wait_for


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
