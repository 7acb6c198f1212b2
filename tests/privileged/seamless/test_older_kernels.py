"""Kernels that do not tell whose a connection is (before 6.16), nor ask again (before 6.9)."""

import contextlib
import os
import subprocess

import pytest

from recover.linux import mounts, refusal, syscalls
from recover.seamless import copies
from recover.seamless.client import Client
from tests.harness import Dataset, Node, until
from tests.harness.node import Container
from tests.harness.wirefuse import WireFuse
from tests.privileged.seamless.held import HeldHealing, go, holding, inside, said
from tests.sandbox import require

_LACKING = ("fuse_connection", "fuse_resend")
_BY_PATH = """
import os, sys
print("ready", flush=True)
sys.stdin.readline()
try: print(os.stat("/data/file").st_size, flush=True)
except OSError as error: print(error.strerror, flush=True)
"""
_BY_DESCRIPTOR = """
import os, sys
fd = os.open("/data/file", os.O_RDONLY)
print("ready", flush=True)
sys.stdin.readline()
try: print(os.read(fd, 100).decode(), flush=True)
except OSError as error: print(error.strerror, flush=True)
"""


@pytest.fixture(autouse=True)
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse both to us, and to the holder."""
    require("pidfd_getfd", "open_tree")
    for name in _LACKING:
        monkeypatch.setitem(refusal._refused, name, 0)
    monkeypatch.setenv("CSI_FLUID_REFUSE", ",".join(_LACKING))


@pytest.fixture
def heal(node: Node):
    with holding(node) as made:
        yield made


def left_unanswered(
    data: Dataset, heal: HeldHealing, main: Container, code: str, operation: str
) -> str:
    """Have a daemon die with a request that it had read; return what its caller saw at last."""
    filesystem = data.daemon.filesystem
    assert isinstance(filesystem, WireFuse)
    with inside(main, code) as process:
        filesystem.rule(operation, "hang")
        go(process)
        until(lambda: filesystem.has_left_one, "the request was read")
        filesystem.rule(operation, "")
        data.daemon.kill()
        heal.await_held(data)
        data.daemon.restart()
        return said(process)


@pytest.mark.parametrize(
    ("code", "operation"), [(_BY_PATH, "LOOKUP"), (_BY_DESCRIPTOR, "READ")], ids=["path", "read"]
)
def test_what_the_dead_daemon_had_read_is_asked_again(
    node: Node, heal: HeldHealing, code: str, operation: str
):
    data = node.dataset("demo", WireFuse)
    main = heal.container(node, data)

    assert left_unanswered(data, heal, main, code, operation) == "1"


def test_old_descriptors_read_on_after_two_crashes(node: Node, heal: HeldHealing):
    data = node.dataset("demo", files={"file": b"1"})
    main = heal.container(node, data)
    with inside(main, _BY_DESCRIPTOR) as process:
        for _ in range(2):
            data.daemon.kill()
            heal.await_held(data)
            data.daemon.restart()
            heal.await_served(data)
            heal.await_kept(data)
        go(process)
        assert said(process) == "1"


def test_where_a_daemon_sees_other_mounts_nothing_is_held_and_the_status_says_why(
    node: Node, heal: HeldHealing
):
    data, _ = node.dataset("demo"), node.dataset("other")
    heal.publish(node.pod(), data)

    until(lambda: "other FUSE mounts" in heal.held(data).lack, "a reason")
    assert not heal.held(data).connections


@pytest.mark.timeout(60)
def test_a_connection_of_another_superblock_is_served_to_nobody_and_let_go(node: Node):
    """The guess is wrong: what is taken for the one daemon's is the other's."""
    data, other = node.dataset("demo", WireFuse), node.dataset("other", WireFuse)
    source = str(data.volume.source)
    with (
        holding(node) as heal,
        contextlib.closing(Client(heal.client.socket, starts=True)) as client,
        contextlib.ExitStack() as ends,
    ):
        assert client.ensured().has_reader

        def adopt(pid: int) -> str:
            dev = node.sees.layers(source)[-1].dev
            with mounts.closing(os.open(source, os.O_PATH | os.O_CLOEXEC)) as root:
                client.adopt(source, dev, (pid,), root, 20.0)
            until(lambda: heal.held(data).has_root, "the reader has the root")
            return dev

        pin = os.open(source, os.O_PATH | os.O_CLOEXEC)  # or the number may be the next one's
        ends.callback(os.close, pin)
        adopt(other.daemon.pid)
        other.daemon.kill()
        data.daemon.kill()
        data.daemon.restart()
        client.serve(source, adopt(data.daemon.pid))
        with pytest.raises(OSError, match=r"not connected|abort"):  # it would be "file" of data
            os.stat(other.volume.source / "file")

        until(lambda: "does not serve" in heal.held(data).lack, "the reason")
        assert heal.held(data).counts["served"] == 0


def test_an_heir_is_told_by_the_open_file_that_it_shares():
    with (
        mounts.closing(os.open("/dev/fuse", os.O_RDWR)) as fd,
        mounts.closing(os.open("/dev/fuse", os.O_RDWR)) as other,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[fd]) as heir,
    ):
        nobody = frozenset({os.getpid()})
        assert list(copies.heirs(1, fd, nobody)) == [heir.pid]
        assert list(copies.heirs(1, other, nobody)) == []


def test_a_handle_needs_no_flag_that_came_later(node: Node, monkeypatch: pytest.MonkeyPatch):
    data = node.dataset("demo")
    with mounts.closing(os.open(data.volume.source, os.O_PATH)) as fd:
        newer = syscalls.name_to_handle_at(fd)
        monkeypatch.setattr(syscalls, "AT_HANDLE_FID", 1 << 30)  # EINVAL
        assert syscalls.name_to_handle_at(fd) == newer
