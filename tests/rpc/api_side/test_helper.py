"""The process that makes the calls: its credentials, its end, its replacement."""

import http.server
import os
import signal
import threading
from pathlib import Path

import pytest

from csi_fluid.errors import Unavailable
from csi_fluid.kube import helper
from csi_fluid.kube.access import Access
from csi_fluid.kube.cluster import Cluster
from csi_fluid.kube.helper import Helper
from csi_fluid.testbed.waiting import until
from tests.harness.apiserver import NODE
from tests.rpc.api_side.world import World, soon


def test_a_token_that_was_rotated_is_read_again(world: World):
    world.cluster.volume("ns-demo", soon())
    world.server.token = "second-token"
    world.server.account_config()

    assert world.cluster.volume("ns-demo", soon()) is not None
    assert world.starts == 1


def test_a_token_that_the_server_takes_no_more_is_read_again(world: World):
    config, token = world.server.token_file_config()
    own = Helper(Access(account=str(config)), lambda *_: None, lambda: None)
    try:
        assert Cluster(own, NODE).volume("ns-demo", soon()) is not None
        world.server.token = "second-token"
        token.write_text(world.server.token)
        assert Cluster(own, NODE).volume("ns-demo", soon()) is not None
    finally:
        own.close()


def test_a_certificate_that_was_rotated_is_used(world: World):
    world.cluster.label_node("a/b", soon())
    new = world.server.authority.issue("system:node:other", world.server.folder / "new.pem")
    link = world.server.folder / "current.new"
    link.symlink_to(new)
    link.rename(world.server.folder / "kubelet-client-current.pem")

    with pytest.raises(Unavailable, match="403"):
        world.cluster.label_node("c/d", soon())
    assert world.server.asked[-1][0] == "system:node:other"


def test_a_credential_given_inline_leaves_no_file_behind(world: World, tmp_path: Path):
    inline = world.server.inline_config()
    own = Helper(Access(str(inline)), lambda *_: None, lambda: None)
    try:
        Cluster(own, NODE).label_node("a/b", soon())
        (folder,) = {Path(path).parent for path in _open_folders(own)}
        assert list(folder.iterdir())
    finally:
        own.close()
    assert not folder.exists()


def _open_folders(own: Helper) -> list[str]:
    words = Path(f"/proc/{own.pid}/cmdline").read_text(encoding="utf-8").split("\0")
    return [f"{words[-2]}/x"]


def test_a_credential_that_cannot_be_used_is_named(world: World, tmp_path: Path):
    broken = tmp_path / "broken.conf"
    broken.write_text("current-context: nothing\n")
    own = Helper(Access(str(broken)), lambda *_: None, lambda: None)
    try:
        with pytest.raises(Unavailable, match=r"cannot use the credential .*broken\.conf"):
            Cluster(own, NODE).label_node("a/b", soon())
    finally:
        own.close()


def test_a_credential_made_by_a_command_that_is_not_here_is_told(world: World):
    config = world.server.exec_config("no-such-command")
    own = Helper(Access(str(config)), lambda *_: None, lambda: None)
    try:
        with pytest.raises(Unavailable, match="no-such-command"):
            Cluster(own, NODE).label_node("a/b", soon())
    finally:
        own.close()


# ---- The helper process


def test_the_helper_ends_when_it_is_idle_and_is_started_again(world: World):
    world.helper._idle_s = 0.5
    world.cluster.label_node("a/b", soon())
    pid = world.pid
    until(lambda: world.helper.pid is None, "the helper ends")
    until(lambda: not Path(f"/proc/{pid}").exists(), "the process is gone")

    world.cluster.label_node("a/b", soon())

    assert world.starts == 2


def test_a_helper_that_is_killed_is_replaced_and_its_call_made_again(world: World):
    gate = threading.Event()

    def wait_once(_: http.server.BaseHTTPRequestHandler) -> bool:
        return world.starts == 1 and not gate.wait(10)

    world.server.fault = wait_once
    thread = threading.Thread(target=world.cluster.label_node, args=("a/b", soon()))
    thread.start()
    try:
        until(lambda: bool(world.server.asked), "the call arrives")
        os.kill(world.pid, signal.SIGKILL)
        until(lambda: world.starts == 2, "another helper starts")
    finally:
        gate.set()
        thread.join()

    assert world.server.labels == {"a/b": "true"}


@pytest.mark.expects_log("it keeps no time limit")
def test_a_helper_that_hangs_is_killed(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(helper, "_GRACE_S", 0.2)
    world.cluster.label_node("a/b", soon())
    pid = world.pid
    os.kill(pid, signal.SIGSTOP)

    with pytest.raises(Unavailable, match="no answer within"):
        world.cluster.label_node("c/d", soon(0.5))
    until(lambda: not Path(f"/proc/{pid}").exists(), "the process is gone")
    world.cluster.label_node("e/f", soon())

    assert set(world.server.labels) >= {"a/b", "e/f"}
