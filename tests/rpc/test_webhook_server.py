"""The webhook's server, in this process: whatever comes, the next review is answered."""

import contextlib
import functools
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from csi_fluid.testbed.waiting import until
from csi_fluid.webhook import review, rules
from csi_fluid.webhook.certificates import Material, Terms, renew
from csi_fluid.webhook.keeper import Identity
from csi_fluid.webhook.review import Malformed
from csi_fluid.webhook.server import Server
from csi_fluid.webhook.sources import Served
from tests.unit import webhooks
from tests.unit.webhooks import SERVER, question

FAULTS = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)
MATERIAL = renew(Material(), Terms((SERVER,), 3600), time.time())


class Asked:
    """What the server was asked, and what it is to answer."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, body: bytes) -> bytes:
        self.bodies.append(body)
        self.go.wait(10)
        if not body.startswith(b"{"):
            raise Malformed("no review")
        return b'{"answer":1}'


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def server(asked: Asked) -> Iterator[Server]:
    identity = Identity()
    identity.use(Served(MATERIAL.certificate, MATERIAL.key, MATERIAL.authorities))
    made = Server(("127.0.0.1", 0), identity, asked, lambda: True)
    made.start()
    yield made
    asked.go.set()
    made.stop(1)


def client(server: Server) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=MATERIAL.authorities)
    plain = socket.create_connection(("127.0.0.1", server.port), 5)
    plain.settimeout(5)
    return context.wrap_socket(plain, server_hostname=SERVER)


def said(server: Server, data: bytes) -> bytes:
    """Send bytes; return what comes until the end of the answer's head."""
    answer = b""
    with client(server) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        while b"\r\n\r\n" not in answer and (part := connection.recv(65536)):
            answer += part
    return answer


def post(body: bytes, *headers: bytes, path: bytes = b"/mutate") -> bytes:
    length = b"Content-Length: %d" % len(body)
    lines = (b"POST " + path + b" HTTP/1.1", b"Host: x", *(headers or (length,)))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (post(b"{}"), 200),
        (post(b"{}", path=b"/mutate?timeout=5s"), 200),
        (post(b"nonsense"), 400),
        (post(b"{}", path=b"/other"), 404),
        (post(b"{}", b"Transfer-Encoding: chunked"), 411),
        (post(b"{}", b"Content-Length: -2"), 411),
        (post(b"{}", b"Content-Length: 4194305"), 413),
        (post(b"{}", b"Content-Length: " + b"9" * 4000), 413),
        (post(b"{}", b"X: " + b"a" * 70_000), 431),
        (b"PUT /mutate HTTP/1.1\r\n\r\n", 501),
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 200),
        (b"GET /mutate HTTP/1.1\r\n\r\n", 404),
    ],
)
def test_every_request_is_answered_with_its_status(server: Server, data: bytes, status: int):
    assert b" %d " % status in said(server, data).partition(b"\r\n")[0]


@settings(max_examples=60, deadline=None, suppress_health_check=FAULTS)
@given(st.binary(max_size=200), st.booleans())
def test_whatever_comes_the_next_client_is_served(server: Server, data: bytes, as_post: bool):
    with client(server) as connection, contextlib.suppress(OSError):
        connection.sendall(post(data) if as_post else data)

    assert b" 200 " in said(server, post(b"{}"))


@pytest.fixture
def reviewing() -> Iterator[Server]:
    """Serve what the webhook answers."""
    identity = Identity()
    identity.use(Served(MATERIAL.certificate, MATERIAL.key, MATERIAL.authorities))
    decide = functools.partial(rules.decide, image=webhooks.IMAGE)
    made = Server(
        ("127.0.0.1", 0), identity, lambda body: review.answer(body, decide).body, lambda: True
    )
    made.start()
    yield made
    made.stop(1)


REVIEW = question(webhooks.injected(webhooks.pod("demo-dataset")))
HEADERS = st.sampled_from(["Content-Length", "Transfer-Encoding", "Expect", "Connection", "X"])
VALUES = st.one_of(
    st.sampled_from(["0", "7", str(len(REVIEW)), "9" * 20, "+3", "chunked", "100-continue"]),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=20),
)


@settings(max_examples=80, deadline=None, suppress_health_check=FAULTS)
@given(
    head=st.sampled_from(
        ["POST /mutate", "POST /mutate?timeout=\xff", "PUT /mutate", "GET /x", "A"]
    ),
    headers=st.lists(st.tuples(HEADERS, VALUES), max_size=4),
    cut=st.integers(0, len(REVIEW)),
    put=st.binary(max_size=8),
)
def test_whatever_request_and_review_come_the_next_review_is_answered(
    reviewing: Server, head: str, headers: list[tuple[str, str]], cut: int, put: bytes
):
    body = REVIEW[:cut] + put + REVIEW[cut + len(put) :]
    lines = [f"{head} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    with client(reviewing) as connection, contextlib.suppress(OSError):
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    assert b" 200 " in said(reviewing, post(REVIEW))


def test_bytes_that_are_no_tls_delay_nobody(server: Server):
    with socket.create_connection(("127.0.0.1", server.port), 5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)

        assert b" 200 " in said(server, post(b"{}"))


def test_a_client_that_never_begins_its_handshake_delays_nobody(server: Server):
    with socket.create_connection(("127.0.0.1", server.port), 5):
        assert b" 200 " in said(server, post(b"{}"))


def test_more_connections_than_there_may_be_end_the_oldest_not_the_newest(server: Server):
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(client(server)) for _ in range(40)]

        assert b" 200 " in said(server, post(b"{}"))
        assert idle[0].recv(1) == b""


def test_a_small_review_waits_for_no_large_one(server: Server, asked: Asked):
    large = b"{" + b" " * 300_000
    asked.go.clear()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(client(server)).sendall(post(large))
        until(lambda: large in asked.bodies, "a large one is being answered")
        small = stack.enter_context(client(server))
        small.sendall(post(b"{}"))

        until(lambda: b"{}" in asked.bodies, "the small one is being answered too")
        assert asked.bodies.count(large) == 1
        asked.go.set()
        assert b" 200 " in small.recv(65536)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csi_fluid.webhook.server._WAIT_S", 0.05)


def test_a_review_that_gets_no_turn_in_time_is_told_so(
    impatient: None, server: Server, asked: Asked
):
    asked.go.clear()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(client(server)).sendall(post(b"{}"))
        until(lambda: len(asked.bodies) == 4, "all turns are taken")

        assert b" 503 " in said(server, post(b"{}"))


def test_stopping_lets_the_answer_under_way_go_out(server: Server, asked: Asked):
    asked.go.clear()
    with client(server) as connection:
        connection.sendall(post(b"{}"))
        until(lambda: bool(asked.bodies), "the answer is under way")
        stopping = threading.Thread(target=server.stop, args=(5,))
        stopping.start()
        asked.go.set()

        assert b'{"answer":1}' in connection.recv(65536)
        stopping.join(5)
        assert not stopping.is_alive()


def test_a_key_of_another_certificate_is_not_served_and_the_old_one_stays():
    identity = Identity()
    other = renew(Material(), Terms((SERVER,), 3600), time.time())
    identity.use(Served(MATERIAL.certificate, MATERIAL.key, ""))
    context = identity.context

    with pytest.raises(ssl.SSLError):
        identity.use(Served(other.certificate, MATERIAL.key, ""))

    assert identity.context is context
