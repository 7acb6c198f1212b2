"""What a daemon answers is told as the daemon's, with the next step: never as a fault of ours."""

import errno
import os
import stat
from pathlib import Path

import grpc
import pytest

from csi_fluid.rpc.client import Volume
from tests.harness import Node
from tests.harness.rawfuse import GETATTR, STATFS, RawFuse
from tests.privileged.publishing import Publishing
from tests.rpc.serving import Refusal, refusal

ANSWERS = [errno.EIO, errno.EACCES, errno.EINTR, errno.ENOENT, errno.ENOSPC]
pytestmark = [
    pytest.mark.expects_log("UNAVAILABLE"),
    pytest.mark.usefixtures("grpc_up", "hurried"),
]


def make_place(node: Node, *, file: bool = False) -> Path:
    place = node.machine.source("raw")
    place.parent.mkdir(parents=True)
    place.touch() if file else place.mkdir()
    return place


def volume_at(place: Path) -> Volume:
    return Volume("default-raw", place, "fuse")


def publish(on: Publishing, place: Path) -> None:
    on.client.publish(volume_at(place), on.target)


def assert_tells(refused: Refusal, number: int) -> None:
    assert os.strerror(number) in refused.message
    assert "report" not in refused.message
    assert ("allow_other" in refused.message) is (number == errno.EACCES)


def test_statistics_that_a_daemon_refuses_are_unavailable(on: Publishing, node: Node):
    place = make_place(node)
    with RawFuse(place) as daemon:
        publish(on, place)
        for number in ANSWERS:
            daemon.refusals = {STATFS: number}
            with refusal(grpc.StatusCode.UNAVAILABLE) as refused:
                on.client.stats(volume_at(place), on.target)

            assert_tells(refused, number)


def test_a_publish_that_a_daemon_refuses_is_unavailable_and_makes_nothing(
    on: Publishing, node: Node
):
    place = make_place(node)
    with RawFuse(place) as daemon:
        for number in ANSWERS:
            daemon.refusals = {GETATTR: number}
            with refusal(grpc.StatusCode.UNAVAILABLE) as refused:
                publish(on, place)

            assert_tells(refused, number)
            assert on.is_as_never_published()


def test_a_daemon_of_another_user_is_told_about_allow_other(on: Publishing, node: Node):
    place = make_place(node)
    with RawFuse(place, uid=1_000), refusal(grpc.StatusCode.UNAVAILABLE) as refused:
        publish(on, place)

    assert_tells(refused, errno.EACCES)


def test_a_file_is_no_volume(on: Publishing, node: Node):
    place = make_place(node, file=True)
    with RawFuse(place, root_mode=stat.S_IFREG | 0o644):
        with refusal(grpc.StatusCode.UNAVAILABLE) as refused:
            publish(on, place)

        assert f"{place} is a file" in refused.message
        assert "look at the FUSE pod" in refused.message
        assert on.is_as_never_published()
