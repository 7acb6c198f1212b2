"""The API server is no part of publishing and healing; and who uses a volume, with real mounts."""

import errno
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml

from csi_fluid._pb import csi_pb2
from csi_fluid.kubelet import Kubelet
from csi_fluid.testbed import programs
from csi_fluid.testbed.plugin import Plugin
from csi_fluid.volumes.users import Users
from recover.store import Store
from tests.harness import Node, until
from tests.rpc.serving import capability


@pytest.fixture(params=["down", "hung"])
def kubeconfig(request: pytest.FixtureRequest, workdir: Path) -> Iterator[Path]:
    """Write a kubeconfig of a server that refuses connections, or takes them and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "hung":
            server.listen(64)
        address = f"https://127.0.0.1:{server.getsockname()[1]}"
        path = workdir / "account.conf"
        path.write_text(
            yaml.safe_dump(
                {
                    "clusters": [{"name": "c", "cluster": {"server": address}}],
                    "users": [{"name": "u", "user": {"token": "t"}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        yield path


def stage(plugin: Plugin, timeout_s: float) -> None:
    request = csi_pb2.NodeStageVolumeRequest(
        volume_id="default-demo",
        staging_target_path="/staging",
        volume_capability=capability(),
        volume_context={"mount_pod_node_selector_key": "fluid.io/f-default-demo"},
    )
    plugin.client.node.NodeStageVolume(request, timeout=timeout_s)


def test_without_an_api_server_volumes_are_published_and_heal(node: Node, kubeconfig: Path):
    data = node.dataset("demo")
    plugin = node.plugin(options=("--kube=account", f"--kubeconfig={kubeconfig}"))
    with pytest.raises(grpc.RpcError) as refused:
        stage(plugin, 30)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "API server" in str(refused.value.details())

    pod = node.pod()
    main = pod.container("main", {"/data": pod.publish(data)})
    data.daemon.kill()
    assert main.sees.error("/data") == errno.ENOTCONN
    data.daemon.restart()
    until(lambda: main.sees.names("/data") == {"a.txt"}, "the container sees its data")

    pod.close()
    started = time.monotonic()
    assert plugin.stop() == 0
    assert time.monotonic() - started < 5
    log = plugin.log.read_text()
    assert "events were not sent" in log, log


def test_mounts_that_are_in_no_state_file_are_users(node: Node):
    """Those of an earlier plugin: a bind, its sub path, and one of a reference dataset."""
    data = node.dataset("demo", files={"sub/a.txt": b"1"})
    source, volume_id = str(data.volume.source), data.volume.volume_id
    users = Users(Store(), Kubelet(str(node.machine.kubelet)))
    assert users.of(volume_id, source) == ""

    pod = node.pod()
    target = pod.bind(data)
    sub_path = pod.subpath(target, "sub")

    assert users.of(volume_id, source) in {str(target), str(sub_path)}
    data.daemon.kill()
    assert users.of(volume_id, source) in {str(target), str(sub_path)}
    note = {"driverName": "fuse.csi.fluid.io", "volumeHandle": volume_id}
    Path(target).with_name("vol_data.json").write_text(json.dumps(note))
    programs.run("umount", target)
    assert users.of(volume_id, "") == str(sub_path)  # by its place alone, beside the note
    pod.close()
    assert users.of(volume_id, source) == ""
