"""Stage and unstage against an API server over TLS: label, clean policy, users."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_fluid._pb import csi_pb2
from csi_fluid.kube.access import Access
from csi_fluid.kube.cluster import Cluster
from csi_fluid.kube.helper import Helper
from csi_fluid.rpc.client import Client
from csi_fluid.testbed.waiting import until
from csi_fluid.volumes import targets
from recover.errors import Busy
from recover.rows import Publication
from tests.harness import apiserver
from tests.harness.apiserver import ACCOUNT, NODE, ApiServer
from tests.rpc.serving import Serving, capability, refusal, serving

LABEL = "fluid.io/f-ns-demo"
FOLDER = "pods/u1/volumes/kubernetes.io~csi/ns-demo"


class World:
    """A plugin with a server behind it; kubelet's directory and the mount root are its folder."""

    def __init__(self, folder: Path, server: ApiServer, plugin: Serving, client: Client) -> None:
        self.folder = folder
        self.server = server
        self.plugin = plugin
        self.client = client

    def stage(self, **context: str) -> None:
        self.client.node.NodeStageVolume(
            csi_pb2.NodeStageVolumeRequest(
                volume_id="ns-demo",
                staging_target_path="/staging",
                volume_capability=capability(),
                volume_context=context,
            )
        )

    def unstage(self) -> None:
        self.client.node.NodeUnstageVolume(
            csi_pb2.NodeUnstageVolumeRequest(volume_id="ns-demo", staging_target_path="/staging")
        )

    def volume_of_kubelet(self, handle: str = "ns-demo", pv: str = "ns-demo") -> Path:
        folder = self.folder / FOLDER.replace("ns-demo", pv)
        folder.mkdir(parents=True)
        data = {"driverName": "fuse.csi.fluid.io", "volumeHandle": handle, "specVolID": pv}
        (folder / "vol_data.json").write_text(json.dumps(data))
        return folder

    def generations(self, running: str | None, wanted: str | None) -> None:
        self.server.dataset("ns", "demo", kind="juicefs", policy="OnFuseChanged")
        if wanted is not None:
            claim = self.server.objects["/api/v1/namespaces/ns/persistentvolumeclaims/demo"]
            claim["metadata"]["labels"]["fuse.runtime.fluid.io/generation"] = wanted
        if running is not None:
            folder = self.folder / "juicefs/ns/demo/.meta/fuse"
            folder.mkdir(parents=True)
            text = f'app="x"\nfuse.runtime.fluid.io/generation="{running}"\n'
            (folder / "labels").write_text(text)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    files = tmp_path / "server"
    files.mkdir()
    with apiserver.running(files) as server:
        server.dataset("ns", "demo", policy="OnDemand")
        access = Access(str(server.kubelet_config()), str(server.account_config()))
        helper = Helper(access, lambda *_: None, lambda: None)
        try:
            with serving(tmp_path, kube=Cluster(helper, NODE)) as (plugin, client):
                yield World(tmp_path, server, plugin, client)
        finally:
            helper.close()


def test_a_volume_comes_and_goes_with_its_label(world: World):
    world.stage()
    assert world.server.labels == {LABEL: "true"}

    world.unstage()
    world.unstage()
    assert world.server.labels == {}


def test_a_label_that_a_controller_removed_is_no_error(world: World):
    world.unstage()

    assert world.server.labels == {}


@pytest.mark.parametrize("policy", ["", "OnRuntimeDeleted"])
def test_the_label_stays_until_the_runtime_is_deleted(world: World, policy: str):
    world.server.dataset("ns", "demo", policy=policy)
    world.stage()
    world.unstage()

    assert world.server.labels == {LABEL: "true"}


@pytest.mark.expects_log("UNAVAILABLE: .*clean policy 'Sometimes'")
def test_an_unknown_clean_policy_is_told(world: World):
    world.server.dataset("ns", "demo", policy="Sometimes")
    with refusal(grpc.StatusCode.UNAVAILABLE):
        world.unstage()


@pytest.mark.parametrize(
    ("running", "wanted", "goes"),
    [("1", "2", True), ("2", "2", False), (None, "2", False), ("1", None, False), ("", "2", False)],
)
def test_on_fuse_changed_the_label_goes_if_the_generations_differ(
    world: World, running: str | None, wanted: str | None, goes: bool
):
    world.generations(running, wanted)
    world.stage()
    world.unstage()

    assert world.server.labels == ({} if goes else {LABEL: "true"})


@pytest.mark.expects_log("FAILED_PRECONDITION: volume ns-demo is still published")
@pytest.mark.parametrize("pv", ["ns-demo", "team-reference"])
def test_a_symbolic_link_of_an_earlier_plugin_is_a_user(world: World, pv: str):
    (world.volume_of_kubelet(pv=pv) / "mount").symlink_to("/nowhere")
    world.stage()
    with refusal(grpc.StatusCode.FAILED_PRECONDITION):
        world.unstage()

    assert world.server.labels == {LABEL: "true"}


def test_what_is_not_mounted_or_of_another_volume_is_no_user(world: World):
    world.volume_of_kubelet()
    (world.volume_of_kubelet(handle="other", pv="other") / "mount").symlink_to("/nowhere")
    world.unstage()


@pytest.mark.expects_log("FAILED_PRECONDITION")
def test_another_volume_of_the_same_source_is_a_user(world: World):
    source = "/runtime-mnt/jindo/ns/demo/jindo-fuse"
    world.plugin.store.put_publication(Publication("/t", "ns-demo", source))
    with refusal(grpc.StatusCode.FAILED_PRECONDITION):
        world.unstage()


def test_publish_and_unstage_of_a_volume_keep_each_other_out():
    claims = targets.Claims()
    with claims.hold("/t", "v"), pytest.raises(Busy), claims.bar("v"):
        pass
    with claims.bar("v"):
        with pytest.raises(Busy), claims.hold("/t", "v"):
            pass
        with claims.hold("/t", "other"):
            pass
    with claims.hold("/t", "v"):
        pass


@pytest.mark.expects_log("NodeStageVolume UNAVAILABLE: .*answered 403", "NodeUnstageVolume UNAVAIL")
def test_a_refusal_of_the_api_server_is_told_as_unavailable(world: World):
    world.server.rules = {}
    with refusal(grpc.StatusCode.UNAVAILABLE):
        world.stage()
    with refusal(grpc.StatusCode.UNAVAILABLE):
        world.unstage()


@pytest.mark.expects_log("NodeStageVolume UNAVAILABLE: .*refused")
def test_a_server_that_is_down_is_told_as_unavailable(world: World):
    world.server.stop()
    with refusal(grpc.StatusCode.UNAVAILABLE):
        world.stage()


@pytest.mark.expects_log("INVALID_ARGUMENT", "NOT_FOUND")
def test_names_that_would_lead_elsewhere_reach_no_path(world: World):
    with refusal(grpc.StatusCode.INVALID_ARGUMENT):
        world.stage(efc_sessmgr_workdir="/a/../b")
    with refusal(grpc.StatusCode.NOT_FOUND):
        world.stage(runtime_namespace="n" * 40, runtime_name="../../../api/v1/secrets/" + "d" * 40)
    assert not any("secrets" in path for _, _, path in world.server.asked)


def test_efcs_session_manager_is_brought_first_and_awaited(world: World):
    world.server.rules[ACCOUNT] = ()
    sessions = world.folder / "efc-sock"
    sessions.mkdir()
    context: dict[str, Any] = {"efc_sessmgr_workdir": str(sessions)}
    thread = threading.Thread(
        target=lambda: world.stage(mount_pod_node_selector_key=LABEL, **context)
    )
    thread.start()
    until(lambda: bool(world.server.labels), "its label is set")
    assert world.server.labels == {"fluid.io/efc-sessmgr": "true"}

    (sessions / "sessmgrd.sock").touch()
    thread.join(10)

    assert world.server.labels == {"fluid.io/efc-sessmgr": "true", LABEL: "true"}


@pytest.mark.expects_log("UNAVAILABLE: EFC's session manager does not listen")
def test_a_session_manager_that_does_not_come_is_told_before_the_caller_gives_up(world: World):
    request = csi_pb2.NodeStageVolumeRequest(
        volume_id="ns-demo",
        staging_target_path="/staging",
        volume_capability=capability(),
        volume_context={"efc_sessmgr_workdir": str(world.folder)},
    )
    with refusal(grpc.StatusCode.UNAVAILABLE):
        world.client.node.NodeStageVolume(request, timeout=3)


@pytest.mark.expects_log("NodeUnstageVolume ABORTED: .*volume ns-demo", "NodePublishVolume")
def test_a_volume_that_is_being_published_keeps_its_label(world: World):
    world.stage()
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id="ns-demo",
        target_path=str(world.folder / "target"),
        volume_capability=capability(),
        volume_context={"fluid_path": str(world.folder / "not-mounted-yet")},
    )
    publish = world.client.node.NodePublishVolume.future(request, timeout=30)
    until(lambda: _is_published(world.plugin), "the publish waits")
    with refusal(grpc.StatusCode.ABORTED):
        world.unstage()
    publish.cancel()

    assert world.server.labels == {LABEL: "true"}
    until(lambda: not _is_published(world.plugin), "the publish ends")


def _is_published(plugin: Serving) -> bool:
    """Tell whether a publish of the volume is under way."""
    try:
        with plugin.claims.bar("ns-demo"):
            return False
    except Busy:
        return True
