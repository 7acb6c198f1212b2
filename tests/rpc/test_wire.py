"""The bytes on the socket: what a peer may send, must not send, and sends to do harm."""

import socket
import struct
import threading
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from csi_fluid._pb import csi_pb2
from csi_fluid.demo.plugin import Client
from csi_fluid.rpc import hpack, http2, unary
from tests import sandbox
from tests.rpc.serving import Serving, refusal, serving

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0,
    1,
    *range(3, 5),
    *range(6, 10),
)
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def plugin(tmp_path) -> Iterator[tuple[Serving, Client]]:
    with serving(tmp_path) as pair:
        yield pair


def frame(kind: int, flags: int = 0, number: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">L", len(payload))[1:] + struct.pack(">BBL", kind, flags, number) + payload


def asking(path: bytes = b"/csi.v1.Identity/Probe", **more: bytes) -> bytes:
    """Return the header block of a call."""
    headers = {b":method": b"POST", b":scheme": b"http", b":path": path}
    headers |= {b"content-type": b"application/grpc", b"te": b"trailers"}
    headers |= {name.replace("_", "-").encode(): value for name, value in more.items()}
    return hpack.encode(headers.items())


def message(body: bytes = b"") -> bytes:
    return struct.pack(">BL", 0, len(body)) + body


class Peer:
    """A client that sends what it is told, byte by byte."""

    def __init__(self, plugin: Serving, settings: bytes = b"") -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(5)
        self._socket.connect(str(plugin.socket))
        self._file = self._socket.makefile("rb")
        self._decoder = hpack.Decoder(1 << 16)
        self.send(PREFACE + frame(SETTINGS, payload=settings))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def hear(self) -> tuple[int, int, int, bytes]:
        """Return the next frame that is an answer; raises EOFError at the end."""
        while True:
            head = self._file.read(9)
            if len(head) < 9:
                raise EOFError
            length = int.from_bytes(head[:3], "big")
            kind, flags, number = struct.unpack(">BBL", head[3:])
            payload = self._file.read(length)
            if kind not in {SETTINGS, WINDOW_UPDATE}:
                return kind, flags, number, payload

    def trailers(self) -> dict[bytes, bytes]:
        """Return the last headers of the next answer."""
        while True:
            kind, flags, _, payload = self.hear()
            if kind == HEADERS:
                headers = dict(self._decoder.decode(payload))
                if flags & END_STREAM:
                    return headers

    def goes(self) -> int:
        """Return the reason with which the server ends the connection."""
        kind, _, _, payload = self.hear()
        assert kind == GOAWAY
        with pytest.raises(EOFError):
            self.hear()
        return int.from_bytes(payload[4:8], "big")

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()


def call(number: int, block: bytes, body: bytes) -> bytes:
    return frame(HEADERS, END_HEADERS, number, block) + frame(DATA, END_STREAM, number, body)


def test_a_call_in_its_plainest_form(plugin):
    with Peer(plugin[0]) as peer:
        peer.send(call(1, asking(), message()))

        assert peer.trailers() == {b"grpc-status": b"0"}


def test_headers_and_data_may_come_in_pieces_padded_and_with_a_priority(plugin):
    block = asking()
    with Peer(plugin[0]) as peer:
        peer.send(frame(HEADERS, PADDED | 0x20, 3, b"\x02" + b"\0\0\0\0\x10" + block[:7] + b"\0\0"))
        peer.send(frame(CONTINUATION, 0, 3, block[7:20]))
        peer.send(frame(CONTINUATION, END_HEADERS, 3, block[20:]))
        peer.send(frame(DATA, PADDED, 3, b"\x01" + message()[:2] + b"\0"))
        peer.send(frame(PING, 0, 0, b"12345678") + frame(DATA, END_STREAM, 3, message()[2:]))

        assert peer.hear() == (PING, END_STREAM, 0, b"12345678")
        assert peer.trailers()[b"grpc-status"] == b"0"


def test_an_answer_comes_as_slowly_as_its_peer_makes_room(plugin):
    small = struct.pack(">HL", 4, 3)  # three bytes for each stream at the beginning
    with Peer(plugin[0], small) as peer:
        peer.send(call(1, asking(b"/csi.v1.Identity/GetPluginInfo"), message()))
        peer.hear()
        body = b""
        while len(body) < 10:
            kind, _, _, piece = peer.hear()
            assert (kind, len(piece)) == (DATA, 3)
            body += piece
            peer.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">L", 3)))
        while (heard := peer.hear())[0] == DATA:
            body += heard[3]
            peer.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">L", 3)))

        info = csi_pb2.GetPluginInfoResponse.FromString(body[5:])
        assert info.name == "fuse.csi.fluid.io"


def test_a_call_that_was_reset_is_not_answered_and_others_are(plugin):
    with Peer(plugin[0]) as peer:
        peer.send(frame(HEADERS, END_HEADERS, 1, asking()))
        peer.send(frame(RST_STREAM, 0, 1, b"\0\0\0\x08") + frame(DATA, END_STREAM, 1, message()))
        peer.send(call(3, asking(), message()))

        assert peer.hear()[2] == 3


@pytest.mark.parametrize(
    ("block", "body", "status"),
    [
        (asking(b"/csi.v1.Identity/Nothing"), message(), b"12"),
        (asking(b"nothing\xff"), message(), b"12"),
        (asking(), b"", b"3"),
        (asking(), message() + b"more", b"3"),
        (asking(), b"\x01\0\0\0\x01x", b"12"),
        (asking(grpc_timeout=b"9" * 5000 + b"S"), message(), b"0"),
        (asking(grpc_timeout=b"soon"), message(), b"0"),
    ],
    ids=["no method", "no path", "no message", "two", "compressed", "a long timeout", "no timeout"],
)
def test_a_call_that_cannot_be_is_answered_with_a_status(plugin, block, body, status):
    with Peer(plugin[0]) as peer:
        peer.send(call(1, block, body))

        assert peer.trailers()[b"grpc-status"] == status


def test_what_is_no_call_of_grpc_is_told_so_in_http(plugin):
    with Peer(plugin[0]) as peer:
        peer.send(call(1, asking(content_type=b"text/html"), b"<html>"))

        assert peer.trailers() == {b":status": b"415"}


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (frame(DATA, END_STREAM, 1, b""), 1),
        (frame(HEADERS, END_HEADERS, 2, asking()), 1),
        (frame(HEADERS, END_HEADERS, 1, b"\x80"), 9),
        (frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff"), 1),
        (frame(HEADERS, 0, 1, asking()) + frame(PING, 0, 0, b"12345678"), 1),
        (frame(CONTINUATION, END_HEADERS, 1, asking()), 1),
        (frame(5, 0, 1, b""), 1),
        (frame(PING, 0, 0, b"1"), 6),
        (frame(SETTINGS, 0, 0, b"1"), 6),
        (frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), 3),
        (b"\xff\xff\xff\0\0\0\0\0\0", 6),
        (frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"\0" * 16_384) * 2, 11),
    ],
)
def test_a_peer_that_breaks_the_rules_is_told_and_let_go(plugin, frames, reason):
    with Peer(plugin[0]) as peer:
        peer.send(frames)

        assert peer.goes() == reason


def test_streams_beyond_the_limit_are_refused_and_may_be_tried_again(plugin):
    with Peer(plugin[0]) as peer:
        for number in range(1, 2 * http2.MAX_STREAMS + 2, 2):
            peer.send(frame(HEADERS, END_HEADERS, number, asking()))
        kind, _, number, payload = peer.hear()

        assert (kind, number) == (RST_STREAM, 2 * http2.MAX_STREAMS + 1)
        assert payload == b"\0\0\0\x07"
        peer.send(frame(DATA, END_STREAM, 1, message()))
        assert peer.trailers()[b"grpc-status"] == b"0"


def test_a_request_that_is_too_large_is_refused_before_it_has_ended(plugin):
    _, client = plugin
    with refusal(grpc.StatusCode.RESOURCE_EXHAUSTED) as refused:
        client.node.NodePublishVolume(
            csi_pb2.NodePublishVolumeRequest(volume_id="v" * 5_000_000), timeout=10
        )

    assert "larger than 4194304 bytes" in refused.message
    assert client.ready()


@pytest.mark.expects_log("INVALID_ARGUMENT")
def test_a_large_request_passes(plugin):
    _, client = plugin
    with refusal(grpc.StatusCode.INVALID_ARGUMENT):
        client.node.NodePublishVolume(
            csi_pb2.NodePublishVolumeRequest(volume_id="v" * 4_000_000), timeout=10
        )


def test_a_compressed_request_is_refused_by_its_name(plugin):
    _, client = plugin
    with refusal(grpc.StatusCode.UNIMPLEMENTED) as refused:
        client.node.NodeUnpublishVolume(
            csi_pb2.NodeUnpublishVolumeRequest(volume_id="v" * 1_000),
            compression=grpc.Compression.Gzip,
            timeout=5,
        )

    assert "compression" in refused.message


@pytest.mark.expects_log("INVALID_ARGUMENT")
def test_a_message_of_any_text_arrives(plugin):
    _, client = plugin
    with refusal(grpc.StatusCode.INVALID_ARGUMENT) as refused:
        client.node.NodeUnpublishVolume(
            csi_pb2.NodeUnpublishVolumeRequest(volume_id="v", target_path="100% übel\n")
        )

    assert "100% übel" in refused.message


def test_five_hundred_calls_at_once_are_answered(plugin):
    _, client = plugin
    calls = [client.identity.Probe.future(csi_pb2.ProbeRequest(), timeout=30) for _ in range(500)]

    assert all(call.result().ready.value for call in calls)


def test_silent_peers_take_no_place_from_those_who_ask(plugin):
    serving_, client = plugin
    assert client.ready()
    before = threading.active_count()
    silent = [socket.socket(socket.AF_UNIX) for _ in range(200)]
    try:
        for each in silent:
            each.connect(str(serving_.socket))
        # Its connection was the oldest idle one; it makes another.
        sandbox.wait_until(client.ready, "a client is answered")
        assert threading.active_count() <= before + unary.MAX_CONNECTIONS
    finally:
        for each in silent:
            each.close()
    sandbox.wait_until(lambda: threading.active_count() <= before + 2, "their threads end")


def test_a_call_under_way_is_answered_when_the_server_stops(tmp_path):
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> bool:
        begun.set()
        return go_on.wait(5)

    with serving(tmp_path) as (plugin, client), futures.ThreadPoolExecutor(1) as stopper:
        plugin.ready = wait
        probe = client.identity.Probe.future(csi_pb2.ProbeRequest(), timeout=5)
        assert begun.wait(5)
        stopping = stopper.submit(plugin.server.stop, 5)
        sandbox.wait_until(lambda: not plugin.socket.exists(), "the server stops")
        go_on.set()

        assert probe.result().ready.value
        stopping.result(5)


def test_a_socket_that_another_plugin_made_at_our_path_stays(tmp_path):
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
def test_no_bytes_keep_the_server_from_answering_others(plugin, data):
    serving_, client = plugin
    with Peer(serving_) as peer:
        try:
            peer.send(data)
            peer._socket.shutdown(socket.SHUT_WR)
            while True:
                peer.hear()
        except (EOFError, ConnectionError):
            pass
        assert client.ready()
