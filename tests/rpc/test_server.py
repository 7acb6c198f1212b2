"""The server: its socket, its log, its answers to what no client of ours would send."""

import logging
import os
import platform
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import csi_fluid
from csi_fluid._pb import csi_pb2, csi_pb2_grpc
from csi_fluid.errors import EndpointInUse
from csi_fluid.rpc import sockets
from csi_fluid.rpc.client import Client
from csi_fluid.testbed.waiting import until
from tests.rpc.serving import Serving, capability, refusal, serving

METHODS = [
    "Node/NodeStageVolume",
    "Node/NodePublishVolume",
    "Node/NodeUnpublishVolume",
    "Node/NodeGetVolumeStats",
    "Node/NodeGetVolumeHealth",
    "Controller/CreateVolume",
]
NO_MESSAGE = {
    "a truncated field": b"\x0a\xff\xff\xff\xff\x0f",
    "a wrong wire type": b"\x0f\x00",
    "text that is not UTF-8": b"\x0a\x02\xff\xfe",
    "an endless varint": b"\x80" * 20,
    "noise": bytes(range(255, 0, -1)),
}


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[tuple[Serving, Client]]:
    with serving(tmp_path) as pair:
        yield pair


def raw(client: Client, method: str, data: bytes) -> None:
    """Call a method with bytes that need not be a message."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
    call = client._channel.unary_unary(f"/csi.v1.{method}")
    call(data, timeout=5)


@pytest.mark.expects_log("INVALID_ARGUMENT")
@pytest.mark.parametrize("data", NO_MESSAGE.values(), ids=NO_MESSAGE)
@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message_are_an_invalid_argument(
    plugin: tuple[Serving, Client], method: str, data: bytes
):
    _, client = plugin
    with refusal(grpc.StatusCode.INVALID_ARGUMENT) as refused:
        raw(client, method, data)

    assert "not a" in refused.message


def test_an_unknown_method_is_unimplemented(plugin: tuple[Serving, Client]):
    _, client = plugin
    with refusal(grpc.StatusCode.UNIMPLEMENTED):
        raw(client, "Node/NodeDance", b"")


@pytest.mark.expects_log("NodeExpandVolume UNIMPLEMENTED: .*see NodeGetCapabilities")
def test_a_method_that_is_not_offered_says_where_to_look(plugin: tuple[Serving, Client]):
    _, client = plugin
    with refusal(grpc.StatusCode.UNIMPLEMENTED) as refused:
        client.node.NodeExpandVolume(csi_pb2.NodeExpandVolumeRequest(volume_id="v"))

    assert "NodeGetCapabilities" in refused.message


def test_identity_says_who_it_is(plugin: tuple[Serving, Client]):
    _, client = plugin
    info = client.identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest())

    assert (info.name, info.vendor_version) == ("fuse.csi.fluid.io", csi_fluid.__version__)


def test_probe_is_not_ready_until_the_state_is_reconciled(plugin: tuple[Serving, Client]):
    serving_, client = plugin
    serving_.ready = lambda: False
    before = client.identity.Probe(csi_pb2.ProbeRequest()).ready
    serving_.ready = lambda: True

    assert (before.value, client.ready()) == (False, True)


def test_the_node_announces_exactly_what_it_offers(plugin: tuple[Serving, Client]):
    _, client = plugin
    info = client.node.NodeGetInfo(csi_pb2.NodeGetInfoRequest())
    answer = client.node.NodeGetCapabilities(csi_pb2.NodeGetCapabilitiesRequest())

    assert [capability.rpc.type for capability in answer.capabilities] == [1, 2, 7]
    assert (info.node_id, info.max_volumes_per_node) == ("node-1", 0)


# ---- The socket


def test_the_socket_is_for_root_alone_and_its_folder_is_made(tmp_path: Path):
    with serving(tmp_path / "deep" / "er") as (plugin, _):
        mode = stat.S_IMODE(plugin.socket.stat().st_mode)
        folder = stat.S_IMODE(plugin.socket.parent.stat().st_mode)

        assert (mode, folder) == (0o600, 0o755)
    assert not plugin.socket.exists()


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "csi.sock"))

    with serving(tmp_path) as (_, client):
        assert client.ready()


def test_a_socket_that_is_served_is_left_alone(tmp_path: Path):
    with serving(tmp_path) as (_, client):
        with (
            pytest.raises(EndpointInUse, match="another process serves at"),
            serving(tmp_path),
        ):
            pass
        assert client.ready()


LEFT_BEHIND = """
import ctypes, socket, sys, threading
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
threading.Thread(target=lambda: print("listening", flush=True) or threading.Event().wait()).start()
ctypes.CDLL(None).syscall(60)  # exit(2), of this thread alone
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of exit(2) is another one")
def test_a_socket_that_only_a_left_over_thread_keeps_is_free(tmp_path: Path):
    """As of a plugin that was killed while a FUSE daemon kept one of its threads."""
    path = tmp_path / "csi.sock"
    command = [sys.executable, "-c", LEFT_BEHIND, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        state = Path(f"/proc/{process.pid}/stat")
        until(lambda: " Z " in state.read_text(), "its main thread to end")

        assert sockets.check_free(path, "go elsewhere")
        process.kill()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path):
    (tmp_path / "csi.sock").write_text("precious")

    with pytest.raises(EndpointInUse, match="is not a socket"), serving(tmp_path):
        pass
    assert (tmp_path / "csi.sock").read_text() == "precious"


def test_the_umask_is_what_it_was(tmp_path: Path):
    before = os.umask(0o022)
    try:
        with serving(tmp_path):
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.expects_log("listening at .*: anybody who reaches it can mount volumes")
def test_a_network_address_is_served_with_a_warning(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    with serving(tmp_path, address=address), grpc.insecure_channel(address) as channel:
        stub = csi_pb2_grpc.IdentityStub(channel)
        info = stub.GetPluginInfo(csi_pb2.GetPluginInfoRequest(), timeout=5)

    assert info.name == "fuse.csi.fluid.io"


# ---- The log


SECRET = "hunter2-do-not-tell"


@pytest.mark.expects_log("NodePublishVolume INVALID_ARGUMENT")
def test_no_secret_reaches_the_log_or_an_answer(
    plugin: tuple[Serving, Client], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    _, client = plugin
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id="v1",
        target_path="/nowhere/mount",
        publish_context={"token": SECRET},
        secrets={"password": SECRET},
        volume_capability=capability(),
        volume_context={"fluid_path": "relative", "accessKey": SECRET, SECRET: "x"},
    )
    with refusal(grpc.StatusCode.INVALID_ARGUMENT) as refused:
        client.node.NodePublishVolume(request)
    client.controller.CreateVolume(
        csi_pb2.CreateVolumeRequest(
            name="v2",
            secrets={"password": SECRET},
            parameters={"accessKeySecret": SECRET},
            volume_capabilities=[capability()],
        )
    )

    told = "".join(str(vars(record)) for record in caplog.records)
    assert "v1" in told
    assert "v2" in told
    assert SECRET not in told + refused.message


def test_each_call_is_one_line_and_one_number(
    plugin: tuple[Serving, Client], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG, "csi_fluid")
    serving_, client = plugin
    caplog.clear()
    client.node.NodeUnpublishVolume(
        csi_pb2.NodeUnpublishVolumeRequest(volume_id="v1", target_path="/nowhere/mount")
    )
    client.ready()

    (first, second) = (record for record in caplog.records if record.name.endswith("server"))
    assert (first.levelname, first.getMessage()) == ("INFO", "NodeUnpublishVolume OK")
    context = vars(first)
    assert (context["volume"], context["target"], context["code"]) == ("v1", "/nowhere/mount", "OK")
    assert 0 < context["ms"] < 5000
    assert (second.levelname, second.getMessage()) == ("DEBUG", "Probe OK")
    assert [call[:2] for call in serving_.calls] == [("NodeUnpublishVolume", "OK"), ("Probe", "OK")]


@pytest.mark.expects_log("Probe INTERNAL: boom")
def test_what_nobody_foresaw_is_internal_with_a_traceback(
    plugin: tuple[Serving, Client], caplog: pytest.LogCaptureFixture
):
    serving_, client = plugin

    def explode() -> bool:
        raise ZeroDivisionError("boom")

    serving_.ready = explode
    with refusal(grpc.StatusCode.INTERNAL) as refused:
        client.identity.Probe(csi_pb2.ProbeRequest())

    assert "the plugin's log has the traceback" in refused.message
    (record,) = (r for r in caplog.records if r.levelno == logging.ERROR)
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError
