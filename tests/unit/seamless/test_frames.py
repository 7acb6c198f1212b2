"""What holder, reader and plugin take from each other: anything, and none of it ends the holder."""

import array
import contextlib
import errno
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from recover.seamless.channel import Broken, Channel, Message
from recover.seamless.line import SLOT_BYTES
from recover.seamless.link import Answer, Link
from tests.harness import until

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
_ORDERS = st.fixed_dictionaries(
    {"do": st.sampled_from(["adopt", "serve", "release", "status", "x"]) | _JSON},
    optional={
        "source": st.sampled_from(["/a", ""]) | _JSON,
        "dev": st.sampled_from(["0:9", "0:", ":", "x", "0:99999999999"]) | _JSON,
        "pids": st.lists(st.integers(), max_size=3) | _JSON,
        "hold_s": st.floats() | _JSON,
    },
)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def send(to: socket.socket, data: bytes, fds: int = 0) -> None:
    rights = array.array("i", [to.fileno()] * fds)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else []
    to.sendmsg([data], ancillary)


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@given(
    st.binary(min_size=1, max_size=300) | _JSON.map(lambda it: json.dumps(it).encode()),
    st.integers(0, 9),
)
def test_a_frame_is_an_object_or_broken_and_leaves_no_descriptor(data: bytes, fds: int):
    before = descriptors()
    with pair() as (ours, theirs):
        send(theirs, data, fds)
        try:
            message = Channel(ours).receive()
        except Broken:
            pass
        else:
            assert len(message.fds) == fds <= 4
            message.close()
    assert descriptors() == before


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 20_000, b"{}" + b" " * 132_000])
def test_a_frame_that_is_too_deep_or_too_long_is_broken(data: bytes):
    with pair() as (ours, theirs):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        send(theirs, data)
        with pytest.raises(Broken):
            Channel(ours).receive()


@given(_JSON)
def test_no_time_is_without_end_and_no_number_too_large_for_the_kernel(found):
    message = Message({"hold_s": found, "pids": found, "dev": found})

    assert 0 <= message.seconds("hold_s") <= 86_400
    assert all(0 < pid < 1 << 22 for pid in message.pids())
    with contextlib.suppress(Broken):
        assert int(message.dev().removeprefix("0:")) >= 0


def test_a_message_without_its_descriptors_is_broken():
    with pair() as (ours, theirs):
        send(theirs, b"{}", 1)
        message = Channel(ours).receive()
        with pytest.raises(Broken):
            message.descriptors(2)


@given(st.binary(max_size=64))
def test_any_answer_of_a_reader_can_be_given_to_the_kernel_or_ends_the_link(data: bytes):
    link, theirs = Link.pair()
    with contextlib.closing(link), theirs:
        theirs.send(data)
        with contextlib.suppress(EOFError):
            answer = link.answered()
            assert 0 <= answer.error < 512
            assert answer.shared <= SLOT_BYTES


@pytest.mark.parametrize("number", [-1, 512, -(1 << 31)])
def test_an_errno_that_the_kernel_would_not_take_ends_the_link(number: int):
    """The kernel refuses such a reply, and whoever waits for it would wait on."""
    link, theirs = Link.pair()
    with contextlib.closing(link), theirs:
        theirs.send(struct.pack("=QiI", 1, number, 0))
        with pytest.raises(EOFError):
            link.answered()


def fill(link: Link) -> None:
    for _ in range(100_000):
        link.ask(bytes(4096))


def test_a_reader_that_takes_nothing_keeps_nobody_waiting():
    link, theirs = Link.pair()
    with contextlib.closing(link), theirs, pytest.raises(BlockingIOError):
        fill(link)


def test_an_answer_comes_as_it_was_sent():
    link, theirs = Link.pair()
    with contextlib.closing(link), contextlib.closing(Link(theirs, os.dup(link.memory_fd))) as far:
        far.answer(Answer(7, errno.EIO, b"body", 3))
        assert link.answered() == Answer(7, errno.EIO, b"body", 3)


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a holder; return its socket."""
    place = tmp_path_factory.mktemp("holder") / "s"
    command = [sys.executable, "-m", "recover.seamless.holder", str(place)]
    with subprocess.Popen(command) as process:
        until(place.exists, "the holder")
        yield place
        assert process.poll() is None, "something ended it"
        process.kill()


def answers(holder: Path) -> bool:
    with contextlib.closing(Channel.connect(holder, "plugin", 5.0)) as channel:
        return channel.ask({"do": "status"}).words["ok"] is True


@given(orders=st.lists(_ORDERS, max_size=5), fds=st.integers(0, 5), raw=st.binary(max_size=50))
def test_no_order_ends_the_holder(holder: Path, orders, fds: int, raw: bytes):
    channel = Channel.connect(holder, "plugin", 5.0)
    with contextlib.closing(channel), contextlib.suppress(OSError), open(os.devnull) as null:
        for order in orders:
            channel.ask(order, [null.fileno()] * fds).close()
    with pair_to(holder) as sock, contextlib.suppress(OSError):
        sock.send(raw)
    assert answers(holder)


@contextlib.contextmanager
def pair_to(holder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(5.0)
        sock.connect(str(holder))
        yield sock


@given(st.lists(_ORDERS, max_size=5))
def test_a_reader_that_talks_nonsense_is_let_go_and_another_one_is_welcome(holder: Path, words):
    channel = Channel.connect(holder, "reader", 5.0)
    with contextlib.closing(channel), contextlib.suppress(OSError):
        for each in words:
            channel.send(each)
    assert answers(holder)
