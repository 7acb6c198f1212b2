"""Crashes at the moments where Kubernetes itself makes them hard."""

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.plugin import Plugin
from tests.cluster.scene import Scene
from tests.cluster.waiting import wait_for

CRASHES = 10


@pytest.fixture
def slow_kubelet(cluster: Cluster) -> Iterator[None]:
    """Have a kubelet that backs off by 5 s, with the code by which it backs off by 300 s."""
    settings = cluster.kubelet_settings
    cluster.restart_kubelet(max_restart_period="5s")
    yield
    cluster.restart_kubelet(max_restart_period=settings.max_restart_period)


@pytest.mark.timeout(480)
def test_an_application_survives_ten_crashes_in_a_row(scene: Scene, slow_kubelet: None):
    """See after each one: data, two mounts at the most in container and target, no restart."""
    scene.start("app", propagation="HostToContainer")
    scene.start("private")
    before = scene.uid("app"), scene.uid("private")

    for _ in range(CRASHES):
        scene.crash_and_heal("app", "private")
        assert scene.is_flat("app", "private")

    assert (scene.uid("app"), scene.uid("private")) == before
    assert scene.restarts("app") == scene.restarts("private") == 0


@pytest.mark.timeout(480)
def test_with_the_rights_of_fluids_chart_five_crashes_leave_two_layers(
    plugin: Plugin, scene: Scene, slow_kubelet: None
):
    """See the plugin without hostPID heal what hangs off its anchors, a subPath too."""
    plugin.hide_host_processes()
    names = "app", "partial"
    scene.start("app", propagation="HostToContainer")
    scene.start("partial", sub_path="sub", propagation="HostToContainer")

    for _ in range(5):
        scene.crash_and_heal(*names)
        assert scene.layers("app") == (2, 2)
        assert scene.is_flat("partial")

    assert [scene.restarts(name) for name in names] == [0, 0]


def test_a_container_that_restarts_while_its_target_is_dead_starts_after_the_heal(scene: Scene):
    scene.start()
    before = scene.uid("app")
    scene.take_down()

    scene.cluster.kill_container("app", "main", namespace=scene.spec.namespace)

    wait_for(lambda: waits_for_its_mount(scene), "kubelet's complaint about the dead target")
    scene.bring_back()
    scene.await_heal()
    assert scene.uid("app") == before
    assert scene.is_flat("app")
    scene.crash_and_heal("app")


def waits_for_its_mount(scene: Scene) -> bool:
    state = scene.cluster.container_status("app", "main", scene.spec.namespace)["state"]
    return "not connected" in str(state)


def test_a_pod_that_is_created_while_the_daemon_is_down_starts_when_it_is_back(scene: Scene):
    scene.start()
    scene.take_down()

    scene.create("late")

    wait_for(lambda: is_being_published(scene, "late"), "kubelet's call to publish")
    scene.bring_back()
    scene.await_heal("app")
    scene.cluster.wait_ready("late", scene.spec.namespace)
    assert scene.reads("late")
    assert scene.is_flat("late")
    scene.crash_and_heal("app", "late")


def is_being_published(scene: Scene, name: str) -> bool:
    """Say whether kubelet wrote down the volume that it is about to have published."""
    record = f"{scene.target(name).removesuffix('mount')}vol_data.json"
    return "driverName" in scene.cluster.enter("cat", record, check=False)


def test_a_pod_with_a_dead_mount_can_be_deleted(plugin: Plugin, scene: Scene):
    scene.start("app")
    scene.start("partial", sub_path="sub")
    folders = [scene.folder(scene.uid(name)) for name in ("app", "partial")]
    scene.take_down()

    scene.delete("app")
    scene.delete("partial")

    wait_for(lambda: scene.gone("app") and scene.gone("partial"), "the end of the pods")
    assert [scene.cluster.mounts(folder) for folder in folders] == [[], []]
    wait_for(lambda: dataset_of(scene) not in plugin.status(), "the end of the publications")


def dataset_of(scene: Scene) -> str:
    return f"{scene.spec.namespace}/{scene.spec.name}"
