"""The bytes on the socket: what a peer may send, and sends to do harm."""

import socket
import struct
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from csi_fluid._pb import csi_pb2
from csi_fluid.rpc.client import Client
from csi_fluid.testbed.waiting import until
from tests.rpc.serving import Serving, refusal, serving

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, 3.4
SETTINGS = 4
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[tuple[Serving, Client]]:
    with serving(tmp_path) as pair:
        yield pair


def frame(kind: int, flags: int = 0, number: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">L", len(payload))[1:] + struct.pack(">BBL", kind, flags, number) + payload


def asking() -> bytes:
    """Return the header block of a call, as plain as RFC 7541, 6.2.2 allows."""
    headers = {b":method": b"POST", b":scheme": b"http", b":path": b"/csi.v1.Identity/Probe"}
    headers |= {b"content-type": b"application/grpc", b"te": b"trailers"}
    return b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in headers.items()
    )


def message(body: bytes = b"") -> bytes:
    return struct.pack(">BL", 0, len(body)) + body


def test_a_request_that_is_too_large_is_refused(plugin: tuple[Serving, Client]):
    _, client = plugin
    with refusal(grpc.StatusCode.RESOURCE_EXHAUSTED):
        client.node.NodePublishVolume(
            csi_pb2.NodePublishVolumeRequest(volume_id="v" * 5_000_000), timeout=10
        )

    assert client.ready()


@pytest.mark.expects_log("INVALID_ARGUMENT")
def test_a_large_request_passes(plugin: tuple[Serving, Client]):
    _, client = plugin
    with refusal(grpc.StatusCode.INVALID_ARGUMENT):
        client.node.NodePublishVolume(
            csi_pb2.NodePublishVolumeRequest(volume_id="v" * 4_000_000), timeout=10
        )


@pytest.mark.expects_log("INVALID_ARGUMENT")
def test_a_message_of_any_text_arrives(plugin: tuple[Serving, Client]):
    _, client = plugin
    with refusal(grpc.StatusCode.INVALID_ARGUMENT) as refused:
        client.node.NodeUnpublishVolume(
            csi_pb2.NodeUnpublishVolumeRequest(volume_id="v", target_path="100% übel\n")
        )

    assert "100% übel" in refused.message


def test_five_hundred_calls_at_once_are_answered(plugin: tuple[Serving, Client]):
    _, client = plugin
    calls = [client.identity.Probe.future(csi_pb2.ProbeRequest(), timeout=30) for _ in range(500)]

    assert all(call.result().ready.value for call in calls)


def test_silent_peers_take_no_place_from_those_who_ask(plugin: tuple[Serving, Client]):
    serving_, client = plugin
    silent = [socket.socket(socket.AF_UNIX) for _ in range(200)]
    try:
        before = threading.active_count()
        for each in silent:
            each.connect(str(serving_.socket))

        assert client.ready()
        assert threading.active_count() <= before + 1
    finally:
        for each in silent:
            each.close()


def test_a_call_under_way_is_answered_when_the_server_stops(tmp_path: Path):
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> bool:
        begun.set()
        return go_on.wait(5)

    with serving(tmp_path) as (plugin, client), futures.ThreadPoolExecutor(1) as stopper:
        plugin.ready = wait
        probe = client.identity.Probe.future(csi_pb2.ProbeRequest(), timeout=5)
        assert begun.wait(5)
        stopping = stopper.submit(plugin.server.stop, 5)
        until(lambda: not plugin.socket.exists(), "the server stops")
        go_on.set()

        assert probe.result().ready.value
        stopping.result(5)


def test_a_socket_that_another_plugin_made_at_our_path_stays(tmp_path: Path):
    with serving(tmp_path) as (plugin, _), socket.socket(socket.AF_UNIX) as other:
        plugin.socket.unlink()
        other.bind(str(plugin.socket))
        plugin.server.stop(0)

        assert plugin.socket.exists()


FRAMES = strategies.builds(
    frame,
    strategies.integers(0, 11),
    strategies.integers(0, 255),
    strategies.sampled_from([0, 1, 1, 2, 3, 5, 2**31, 2**32 - 1]),
    strategies.one_of(
        strategies.binary(max_size=40),
        strategies.just(asking()),
        strategies.just(message()),
        strategies.builds(message, strategies.binary(max_size=40)),
    ),
)


@FUZZ
@given(strategies.one_of(strategies.binary(max_size=200), strategies.lists(FRAMES).map(b"".join)))
def test_no_bytes_keep_the_server_from_answering_others(
    plugin: tuple[Serving, Client], data: bytes
):
    serving_, client = plugin
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(str(serving_.socket))
        try:
            peer.sendall(PREFACE + frame(SETTINGS) + data)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(4096):
                pass
        except ConnectionError:
            pass
        assert client.ready()
