"""NodeGetVolumeStats and NodeGetVolumeHealth of real volumes: live, dead, hung, without a path."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import grpc
import pytest

from csi_fluid._pb import csi_pb2
from csi_fluid.testbed import programs
from csi_fluid.testbed.waiting import PACE
from tests.harness import Dataset, Node, Rclone
from tests.privileged.publishing import Publishing
from tests.rpc.serving import refusal

pytestmark = pytest.mark.usefixtures("grpc_up")
INACCESSIBLE = 2
FILES = {"a.txt": b"one\n", "sub/b.txt": b"two\n"}


@pytest.fixture
def data(node: Node) -> Dataset:
    return node.dataset("demo", files=FILES, read_only=False)


def health(on: Publishing, data: Dataset, path: str = "") -> dict[str, tuple[int, str]]:
    """Return what is wrong: status and message by reason."""
    request = csi_pb2.NodeGetVolumeHealthRequest(
        volume_id=data.volume.volume_id, volume_publish_path=path
    )
    answer = on.client.node.NodeGetVolumeHealth(request, timeout=10 * PACE).volume_health
    assert answer.volume_id == data.volume.volume_id
    assert len({entry.reason for entry in answer.health_statuses}) == len(answer.health_statuses)
    return {entry.reason: (entry.status, entry.message) for entry in answer.health_statuses}


# ---- Stats


def test_stats_are_those_of_the_file_system(on: Publishing, data: Dataset):
    on.publish(data)
    found = os.statvfs(data.volume.source)
    in_bytes, in_inodes = on.client.stats(data.volume, on.target).usage

    assert (in_bytes.unit, in_bytes.total) == (1, found.f_blocks * found.f_frsize)
    assert 0 < in_bytes.available <= in_bytes.total - in_bytes.used
    assert (in_inodes.unit, in_inodes.total) == (2, found.f_files)


def test_an_object_store_claims_more_than_fits_and_is_cut(on: Publishing, node: Node):
    data = node.dataset("bucket", Rclone)
    on.publish(data)
    (in_bytes, _) = on.client.stats(data.volume, on.target).usage

    assert in_bytes.total > 2**40
    assert in_bytes.used >= 0


@pytest.mark.clock
@pytest.mark.parametrize("hung", [False, True], ids=["dead", "hung"])
def test_stats_of_a_broken_volume_are_unavailable_in_bounded_time(
    on: Publishing, data: Dataset, hung: bool
):
    on.publish(data)
    on.hang(data) if hung else data.daemon.kill()
    with refusal(grpc.StatusCode.UNAVAILABLE) as refused:
        on.client.stats(data.volume, on.target)
    data.daemon.kill(signal.SIGCONT) if hung else None

    assert refused.seconds < 2
    assert ("does not answer" if hung else "is dead") in refused.message


def test_a_bare_target_has_no_stats(on: Publishing, data: Dataset):
    """Those of the node's disk would be a lie."""
    on.publish(data)
    programs.run("umount", on.target)
    with refusal(grpc.StatusCode.NOT_FOUND):
        on.client.stats(data.volume, on.target)


def test_stats_need_the_right_volume_and_path(on: Publishing, data: Dataset):
    on.publish(data)
    with refusal(grpc.StatusCode.NOT_FOUND):
        on.client.stats(replace(data.volume, volume_id="other"), on.target)
    with refusal(grpc.StatusCode.NOT_FOUND):
        on.client.stats(data.volume, data.volume.source)


# ---- Health


def killed(on: Publishing, data: Dataset) -> None:
    data.daemon.kill()


def unmounted(on: Publishing, data: Dataset) -> None:
    data.daemon.kill(signal.SIGTERM)


def stopped(on: Publishing, data: Dataset) -> None:
    on.hang(data)


def without_sub_path(on: Publishing, data: Dataset) -> None:
    (data.volume.source / "sub" / "b.txt").unlink()
    (data.volume.source / "sub").rmdir()


def not_healed_yet(on: Publishing, data: Dataset) -> None:
    data.daemon.kill()
    data.daemon.restart()


def lost(on: Publishing, data: Dataset) -> None:
    programs.run("umount", on.target)


STATES: dict[Callable[[Publishing, Dataset], None], set[str]] = {
    killed: {"FuseNotConnected"},
    unmounted: {"FuseNotMounted", "FuseNotConnected"},
    stopped: {"FuseHung"},
    without_sub_path: {"SubPathMissing"},
    not_healed_yet: {"FuseNotConnected"},
    lost: {"FuseNotMounted"},
}


@pytest.mark.parametrize(
    ("state", "reasons"), STATES.items(), ids=[state.__name__ for state in STATES]
)
def test_what_is_wrong_is_told(
    on: Publishing,
    data: Dataset,
    state: Callable[[Publishing, Dataset], None],
    reasons: set[str],
):
    on.publish(data, sub_path="sub")
    assert health(on, data) == {}
    state(on, data)
    started = time.monotonic()
    found = health(on, data)

    assert time.monotonic() - started < 2 * PACE
    assert set(found) == reasons
    assert {status for status, _ in found.values()} == {INACCESSIBLE}
    assert all(message for _, message in found.values())
    if state is stopped:
        data.daemon.kill(signal.SIGCONT)


def test_health_clears_when_the_volume_is_well_again(on: Publishing, data: Dataset):
    on.publish(data)
    data.daemon.kill()
    data.daemon.restart()
    assert health(on, data)
    on.publish(data)

    assert health(on, data) == {}


def test_a_live_old_generation_is_well(on: Publishing, data: Dataset, node: Node):
    """A daemon upgrade that mounts beside the first is not a crash."""
    on.publish(data)
    programs.run("umount", "-l", data.volume.source)
    assert set(health(on, data)) == {"FuseNotMounted"}
    newer = node.dataset("demo-2", files=FILES)
    programs.run("mount", "--bind", newer.volume.source, data.volume.source)

    assert health(on, data) == {}


def test_a_path_narrows_the_question(on: Publishing, data: Dataset):
    other = on.target.parent / "other"
    on.publish(data)
    on.publish(data, other)
    programs.run("umount", other)

    assert set(health(on, data)) == {"FuseNotMounted"}
    assert health(on, data, str(on.target)) == {}
    with refusal(grpc.StatusCode.NOT_FOUND):
        health(on, data, str(on.target.parent))


def test_health_of_a_link_and_of_a_plain_directory(on: Publishing, data: Dataset):
    on.publish(data, attributes={"node_publish_method": "symlink"})
    assert health(on, data) == {}
    on.unpublish(data)
    data.daemon.close()
    on.publish(data, attributes={"fluid.io/skip-check-mount-ready-target": "All"})

    assert health(on, data) == {}
