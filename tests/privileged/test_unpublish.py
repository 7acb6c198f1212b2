"""Unpublishing on the real kernel: whatever stands at the target goes, and it always ends."""

import signal
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from csi_fluid.testbed import programs
from tests.harness import Dataset, Node, pause
from tests.privileged.publishing import Publishing
from tests.rpc.serving import refusal

pytestmark = pytest.mark.usefixtures("grpc_up")
FILES = {"a.txt": b"one\n", "sub/b.txt": b"two\n"}


@pytest.fixture
def data(node: Node) -> Dataset:
    return node.dataset("demo", files=FILES, read_only=False)


def live(on: Publishing, data: Dataset) -> None:
    on.publish(data)


def sub_path(on: Publishing, data: Dataset) -> None:
    on.publish(data, sub_path="sub")


def dead(on: Publishing, data: Dataset) -> None:
    on.publish(data)
    data.daemon.kill()


def source_unmounted(on: Publishing, data: Dataset) -> None:
    dead(on, data)
    programs.run("umount", data.volume.source)


def hung(on: Publishing, data: Dataset) -> None:
    on.publish(data)
    on.hang(data)


def stacked(on: Publishing, data: Dataset) -> None:
    on.publish(data)
    for _ in range(3):
        data.daemon.kill()
        data.daemon.restart()
        programs.run("mount", "--bind", data.volume.source, on.target)


def stacked_and_dead(on: Publishing, data: Dataset) -> None:
    stacked(on, data)
    data.daemon.kill()


def unrecorded(on: Publishing, data: Dataset) -> None:
    on.target.mkdir()
    programs.run("mount", "--bind", data.volume.source, on.target)


def unrecorded_and_dead(on: Publishing, data: Dataset) -> None:
    unrecorded(on, data)
    data.daemon.kill()


def unmounted_already(on: Publishing, data: Dataset) -> None:
    on.publish(data)
    programs.run("umount", on.target)


def nothing(on: Publishing, data: Dataset) -> None:
    assert not on.target.exists()


def link(on: Publishing, data: Dataset) -> None:
    on.publish(data, attributes={"node_publish_method": "symlink"})


def dangling_link(on: Publishing, data: Dataset) -> None:
    link(on, data)
    data.daemon.close()
    data.volume.source.rmdir()


def dead_link(on: Publishing, data: Dataset) -> None:
    link(on, data)
    data.daemon.kill()


def hung_link(on: Publishing, data: Dataset) -> None:
    link(on, data)
    on.hang(data)


STATES: dict[str, tuple[Callable[[Publishing, Dataset], None], ...]] = {
    "of a live daemon": (live, sub_path, stacked, unrecorded, unmounted_already, nothing),
    "of a broken daemon": (dead, source_unmounted, hung, stacked_and_dead, unrecorded_and_dead),
    "symbolic links": (link, dangling_link, dead_link, hung_link),
}


@pytest.mark.parametrize("states", STATES.values(), ids=STATES)
def test_unpublish_removes_whatever_is_there(
    on: Publishing, node: Node, states: tuple[Callable[[Publishing, Dataset], None], ...]
):
    for state in states:
        data = node.dataset(state.__name__, files=FILES, read_only=False)
        state(on, data)
        started = time.monotonic()
        for _ in range(3):
            on.unpublish(data)

        assert time.monotonic() - started < 2, state
        assert on.is_as_never_published(), state
        if data.daemon.alive:
            data.daemon.kill(signal.SIGCONT)
            assert on.sees.read(data.volume.source / "a.txt") == b"one\n", state


def test_unpublish_tells_recovery_once(on: Publishing, data: Dataset):
    on.publish(data)
    on.unpublish(data)
    on.unpublish(data)

    assert on.plugin.changed == [str(data.volume.source)] * 2


def test_other_pods_of_the_dataset_keep_their_volume(on: Publishing, data: Dataset):
    other = on.target.parent / "other"
    on.publish(data)
    on.publish(data, other)
    on.unpublish(data)

    assert on.sees.names(other) == {"a.txt", "sub"}
    assert [row.target for row in on.rows] == [str(other)]


def test_files_on_the_nodes_disk_are_kept_and_named(on: Publishing, data: Dataset):
    on.target.mkdir()
    (on.target / "precious").write_text("1", encoding="utf-8")
    on.publish(data)
    with refusal(grpc.StatusCode.FAILED_PRECONDITION) as refused:
        on.unpublish(data)

    assert "'precious'" in refused.message
    assert (on.target / "precious").read_text(encoding="utf-8") == "1"
    assert not on.layers
    assert not on.rows  # the mount is gone, and nobody must bring it back


def test_a_mount_that_was_never_a_volume_is_left_alone(
    on: Publishing, data: Dataset, workdir: Path
):
    """Unpublish of a path such as /home must not unmount it."""
    home = workdir / "home"
    home.mkdir()
    programs.run("mount", "-t", "tmpfs", "home", home)
    (home / "file").touch()
    with refusal(grpc.StatusCode.FAILED_PRECONDITION) as refused:
        on.unpublish(data, home)

    assert "tmpfs" in refused.message
    assert (home / "file").exists()
    programs.run("umount", home)


def test_the_source_of_a_volume_is_not_taken_for_a_target(on: Publishing, data: Dataset):
    on.publish(data)
    with refusal(grpc.StatusCode.FAILED_PRECONDITION):
        on.unpublish(data, data.volume.source)

    assert on.sees.names(on.target) == on.sees.names(data.volume.source) == {"a.txt", "sub"}


def test_an_unrecorded_plain_mount_in_a_pods_folder_goes(on: Publishing, data: Dataset):
    """As Fluid's own plugin leaves where readiness is unchecked, or after the state was lost."""
    on.target.mkdir()
    programs.run("mount", "-t", "tmpfs", "plain", on.target)
    on.unpublish(data)

    assert on.is_as_never_published()


def test_a_heal_that_holds_the_target_is_waited_for(on: Publishing, data: Dataset):
    on.publish(data)
    with futures.ThreadPoolExecutor(1) as pool:
        with on.plugin.locks.hold(str(on.target)):
            call = pool.submit(on.unpublish, data)
            pause(0.1)
            assert not call.done()
            assert on.rows  # what the heal will check under the lock is still true
        call.result(5)

    assert on.is_as_never_published()


def test_publish_after_unpublish_is_new(on: Publishing, data: Dataset):
    on.publish(data)
    on.unpublish(data)
    on.publish(data, sub_path="sub", read_only=False)

    assert on.sees.names(on.target) == {"b.txt"}
    assert not on.layers[0].read_only


def test_what_a_running_container_has_stays_until_it_ends(on: Publishing, data: Dataset):
    """kubelet unpublishes after the containers; one that lingers keeps its own copy."""
    on.publish(data)
    main = on.pod.container("main", {"/data": on.target})
    on.unpublish(data)

    assert main.sees.names("/data") == {"a.txt", "sub"}
    assert on.is_as_never_published()
