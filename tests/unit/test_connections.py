"""Connections of strangers: bounded, and the silent ones go first."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from csi_fluid.connections import Connections, Listener
from csi_fluid.testbed.waiting import until

LIMIT = 3


class Echo:
    """Answers each byte with itself; serving is who is being served now."""

    def __init__(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.address = listening.getsockname()
        self.serving: list[int] = []
        self.listener = Listener(listening, self._serve, name="echo", limit=LIMIT)

    def _serve(self, peer: socket.socket) -> None:
        number = peer.getpeername()[1]
        self.serving.append(number)
        try:
            while data := peer.recv(1):
                peer.sendall(data)
        finally:
            self.serving.remove(number)


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    made.listener.start()
    yield made
    made.listener.stop()
    assert not made.serving


@contextlib.contextmanager
def connected(echo: Echo) -> Iterator[socket.socket]:
    with socket.create_connection(echo.address, timeout=5) as made:
        number = made.getsockname()[1]
        until(lambda: number in echo.serving, "the connection is served")
        yield made


def is_served(connection: socket.socket) -> bool:
    connection.sendall(b"x")
    return connection.recv(1) == b"x"


def test_the_oldest_idle_connection_makes_room(echo: Echo):
    with contextlib.ExitStack() as ends:
        first, *others = (ends.enter_context(connected(echo)) for _ in range(LIMIT + 1))

        assert first.recv(1) == b""
        assert all(map(is_served, others))
        assert len(echo.serving) == LIMIT


def test_many_silent_connections_make_no_more_threads(echo: Echo):
    before = threading.active_count()
    with contextlib.ExitStack() as ends:
        for _ in range(50):
            ends.enter_context(socket.create_connection(echo.address, timeout=5))
        with connected(echo) as late:
            assert is_served(late)
        assert threading.active_count() <= before + LIMIT


def test_one_that_is_being_answered_stays_and_a_newer_idle_one_goes():
    connections = Connections(2)
    pairs = [socket.socketpair() for _ in range(3)]
    (busy, _), (idle, other_end), (new, _) = pairs
    connections.add(busy)
    connections.add(idle)
    connections.begin(busy)

    def close() -> None:
        idle.recv(1)
        connections.remove(idle)

    closing = threading.Thread(target=close)
    closing.start()

    assert connections.add(new)
    closing.join(5)
    assert other_end.recv(1) == b""
    connections.begin(new)
    with pytest.raises(OSError, match="all 2 connections are in use"):
        connections.add(idle)
    for each in (end for pair in pairs for end in pair):
        each.close()


def test_the_end_waits_for_answers_under_way():
    connections = Connections(1)
    ours, theirs = socket.socketpair()
    connections.add(ours)
    connections.begin(ours)

    def answer() -> None:
        assert theirs.recv(1) == b"?"
        ours.sendall(b"!")
        connections.done(ours)
        ours.recv(1)
        connections.remove(ours)

    answering = threading.Thread(target=answer)
    answering.start()
    ours.sendall(b"?")
    connections.end(5)
    answering.join(5)

    assert theirs.recv(1) in {b"!", b""}
    ours.close()
    theirs.close()


def test_a_listener_that_was_stopped_closed_its_socket(echo: Echo):
    with connected(echo) as open_:
        echo.listener.stop()

        assert open_.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(echo.address)
