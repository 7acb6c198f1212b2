"""Publishing on the real kernel with real FUSE daemons, without recovery beside it."""

import errno
import stat
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_fluid.testbed import programs
from recover.linux import mountinfo
from recover.rows import Publication
from recover.store import Store
from tests import sandbox
from tests.harness import Dataset, Node, pause, until
from tests.privileged.publishing import WORLD, Publishing, end, publishing, stopped
from tests.rpc.serving import SOON_S, refusal

pytestmark = pytest.mark.usefixtures("grpc_up")


# ---- Making


def test_a_volume_is_shown_and_recorded(on: Publishing, data: Dataset):
    on.publish(data)

    (layer,), (row,) = on.layers, on.rows
    assert on.sees.read(on.target / "a.txt") == b"one\n"
    assert (row.target, row.source) == (str(on.target), str(data.volume.source))
    assert (row.method, row.read_only, row.pod_name) == ("bind", True, "app")
    assert layer.read_only
    assert on.plugin.changed == [str(data.volume.source)]


def test_the_target_folder_is_closed_to_others(on: Publishing, data: Dataset):
    on.publish(data)
    programs.run("umount", on.target)

    assert stat.S_IMODE(on.target.stat().st_mode) == 0o750


def test_a_sub_path_shows_only_itself(on: Publishing, data: Dataset):
    on.publish(data, sub_path="sub")

    assert on.sees.names(on.target) == {"b.txt"}
    assert on.layers[0].root == "/sub"


def test_a_writable_volume_can_be_written_in_a_container(on: Publishing, writable: Dataset):
    on.publish(writable)
    main = on.pod.container("main", {"/data": on.target})

    assert main.sees.write("/data/new", b"3") == 0
    assert on.sees.read(writable.volume.source / "new") == b"3"


def test_the_sources_restrictions_are_kept(on: Publishing, writable: Dataset):
    flags = "remount,bind,nosuid,nodev,noexec"
    programs.run("mount", "-o", flags, writable.volume.source)
    on.publish(writable)

    assert {"rw", "nosuid", "nodev", "noexec"} <= on.layers[0].options


@pytest.mark.parametrize("mode", [3, 5], ids=["readers", "writers (control)"])
def test_a_read_only_volume_is_so_everywhere_from_the_first_instant(
    on: Publishing, writable: Dataset, mode: int
):
    """Two write all the time: one on the host, one where the mount arrives by propagation."""
    script = 'exec 2>/dev/null; while :; do true >"$0/sub/probe" && break; done; echo wrote'
    script += '; while :; do true >"$0/sub/probe"; done'  # says it once: nobody reads meanwhile
    inside = Path("/pods", on.target.relative_to(on.node.machine.kubelet / "pods"))
    pods = {"/pods": on.node.machine.kubelet / "pods"}
    writer = on.pod.container("writer", pods, command=["sh", "-c", script, str(inside)])
    for _ in range(20):
        on.publish(writable, read_only=mode == 3)
        error = on.sees.write(on.target / "sub" / "mine", b"1")
        pause(0.01)
        on.unpublish(writable)
        assert error == (errno.EROFS if mode == 3 else 0)
    end(writer)

    assert ("wrote" in set(writer.lines())) is (mode == 5)
    held = on.sees.names(writable.volume.source / "sub")
    assert held == ({"b.txt"} if mode == 3 else {"b.txt", "probe", "mine"})


def test_a_target_receives_nothing_from_its_source(on: Publishing, writable: Dataset):
    """A daemon that mounts over its dead mount must not pass a writable mount on to targets."""
    on.publish(writable, read_only=True)
    (before,) = on.layers
    writable.daemon.kill()
    writable.daemon.restart(stack=True)

    assert on.layers == (before,)
    assert before.read_only
    assert before.master not in {m.shared for m in on.sees.layers(writable.volume.source)}


def test_hostile_names_are_mounted_and_unmounted(on: Publishing, data: Dataset):
    for name in ("a b", "new\nline", "\N{SNOWMAN}", "n" * 255, "\\040'\"$()"):
        target = on.target.parent / name
        on.publish(data, target)
        assert on.sees.names(target) == WORLD
        assert len(on.sees.layers(target)) == 1

        on.unpublish(data, target)
        assert on.is_as_never_published()


# ---- Again


def test_what_kubelet_publishes_again_is_left_as_it_is(on: Publishing, data: Dataset):
    on.publish(data)
    before = on.layers, on.rows
    for _ in range(10):
        on.publish(data)

    assert (on.layers, on.rows) == before
    assert len(on.plugin.changed) == 1


def test_a_live_target_is_not_given_to_something_else(
    on: Publishing, writable: Dataset, node: Node
):
    other = node.dataset("other")
    on.publish(writable, read_only=True)
    before = on.layers, on.rows
    everything_else: tuple[dict[str, Any], ...] = (
        {"sub_path": "sub"},
        {"read_only": False},
        {"volume_id": "other"},
        {"source": other.volume.source},
    )
    for changes in everything_else:
        with refusal(grpc.StatusCode.ALREADY_EXISTS) as refused:
            on.publish(writable, **({"read_only": True} | changes))
        assert "unpublish it first" in refused.message

    assert (on.layers, on.rows) == before


def test_a_dead_target_may_be_given_to_another_source(on: Publishing, data: Dataset, node: Node):
    other = node.dataset("other", files={"o.txt": b"1"})
    on.publish(data)
    data.daemon.kill()
    on.publish(other)

    assert on.sees.names(on.target) == {"o.txt"}
    assert len(on.layers) == 1
    assert set(on.plugin.changed[1:]) == {str(d.volume.source) for d in (data, other)}


def test_a_restarted_plugin_goes_on_from_its_records(node: Node, data: Dataset, workdir: Path):
    with publishing(node, store=Store.open(workdir / "state.db")) as first:
        first.publish(data)
        target, before = first.target, first.layers
        first.plugin.store.close()
    with publishing(node, store=Store.open(workdir / "state.db")) as second:
        second.target = target
        second.publish(data)
        assert second.layers == before

        second.unpublish(data)
        assert second.is_as_never_published()
        second.plugin.store.close()


# ---- Waiting


def test_a_publish_ends_soon_after_the_mount_appears(on: Publishing, node: Node):
    data = node.dataset("late", start=False)
    ended: list[float] = []
    with futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(on.publish, data)
        call.add_done_callback(lambda _: ended.append(time.monotonic()))
        pause(0.3)
        data.daemon.start()
        call.result(5)

    assert ended[0] - data.daemon.answered_at < 0.5


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("absent", "no FUSE daemon has mounted there yet"),
        ("bare", "nothing is mounted at"),
        ("dead", "is dead"),
        ("of another type", "not of fuse.other"),
        ("without the sub path", "sub path 'lost' .* does not exist"),
    ],
)
def test_what_is_not_ready_is_said_and_leaves_nothing(
    on: Publishing, data: Dataset, state: str, words: str
):
    changes: dict[str, Any] = {}
    if state in {"absent", "bare"}:
        data.daemon.close()
        if state == "absent":
            data.volume.source.rmdir()
    elif state == "dead":
        data.daemon.kill()
    elif state == "of another type":
        changes = {"mount_type": "fuse.other"}
    else:
        changes = {"sub_path": "lost"}
    with refusal(grpc.StatusCode.UNAVAILABLE) as refused:
        on.publish(data, **changes)

    assert refused.seconds >= SOON_S  # it waited for it
    assert any(piece in refused.message for piece in words.split(" .* "))
    assert on.is_as_never_published()


@pytest.mark.clock
def test_a_hung_daemon_is_told_in_bounded_time_and_concerns_nobody_else(
    on: Publishing, data: Dataset, node: Node
):
    other = node.dataset("other")
    places = [on.target.parent / str(number) for number in range(8)]
    with stopped(on, data), futures.ThreadPoolExecutor(8) as pool:
        started = time.monotonic()
        calls = [pool.submit(on.publish, data, place) for place in places]
        on.publish(other)
        assert time.monotonic() - started < 0.45  # before the first one was given up
        for call in calls:
            with refusal(grpc.StatusCode.UNAVAILABLE) as refused:
                call.result()
            assert "does not answer" in refused.message
        assert time.monotonic() - started < 2
        sleeping = [thread.name for thread in threading.enumerate() if "thin-fuse" in thread.name]
        assert len(sleeping) == 1  # however many wanted it
        on.unpublish(other)
        assert on.is_as_never_published()
    until(lambda: not on.plugin.prober.abandoned, "the sleeping thread ended")
    on.publish(data)


@pytest.mark.clock
def test_a_hung_sub_path_lookup_is_bounded_too(on: Publishing, data: Dataset):
    on.publish(data, sub_path="sub")
    on.unpublish(data)
    with stopped(on, data), refusal(grpc.StatusCode.UNAVAILABLE) as refused:
        on.publish(data, sub_path="sub")

    assert refused.seconds < 2


@pytest.mark.usefixtures("hurried")
def test_a_mount_at_a_longer_path_is_not_taken_for_the_source(
    on: Publishing, node: Node, data: Dataset
):
    """Fluid's own check looks for the path anywhere in a line of the mount table."""
    shorter = Path(str(data.volume.source).removesuffix("-fuse"))
    shorter.mkdir()
    with refusal(grpc.StatusCode.UNAVAILABLE):
        on.publish(data, source=shorter)

    assert on.is_as_never_published()


def test_the_type_is_matched_as_fluid_does(on: Publishing, data: Dataset):
    """By nothing, the type, a part of the path, or of the mount's source."""
    for mount_type in ("", "fuse", "thin", "data-demo"):
        on.publish(data, mount_type=mount_type)
        assert on.sees.names(on.target) == WORLD
        on.unpublish(data)


@pytest.mark.usefixtures("hurried")
def test_a_type_that_is_no_fuse_is_taken_by_its_name(on: Publishing, data: Dataset):
    """Fluid's thin runtimes mount NFS and Ceph too."""
    data.daemon.close()
    programs.run("mount", "-t", "tmpfs", "a-file-server", data.volume.source)
    with refusal(grpc.StatusCode.UNAVAILABLE):
        on.publish(data, mount_type="thin")
    on.publish(data, mount_type="tmpfs")

    assert on.layers[0].source == "a-file-server"


def test_an_unchecked_source_may_be_a_plain_directory(on: Publishing, data: Dataset):
    data.daemon.close()
    (data.volume.source / "plain").mkdir()
    skip = {"fluid.io/skip-check-mount-ready-target": "MountPod"}
    on.publish(data, attributes=skip)
    on.publish(data, attributes=skip)

    assert on.sees.names(on.target) == {"plain"}
    assert len(on.layers) == 1
    on.unpublish(data)
    assert on.is_as_never_published()
    assert (data.volume.source / "plain").is_dir()


@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_mounted_in_a_plain_directory_later_appears_unless_it_could_be_written_to(
    on: Publishing, data: Dataset, read_only: bool
):
    data.daemon.close()
    place = data.volume.source / "later"
    place.mkdir()
    skip = {"fluid.io/skip-check-mount-ready-target": "MountPod"}
    on.publish(data, attributes=skip, read_only=read_only)

    programs.run("mount", "-t", "tmpfs", "later", place)
    (place / "file").touch()

    assert on.sees.names(on.target / "later") == (set() if read_only else {"file"})
    on.unpublish(data)
    programs.run("umount", place)
    assert on.is_as_never_published()


# ---- Refused


def test_a_symbolic_link_in_the_volume_is_not_followed(on: Publishing, writable: Dataset):
    for to in ("/etc", "../../..", "sub"):
        (writable.volume.source / "way-out").symlink_to(to)
        with refusal(grpc.StatusCode.INVALID_ARGUMENT) as refused:
            on.publish(writable, sub_path="way-out")
        (writable.volume.source / "way-out").unlink()

        assert "symbolic link" in refused.message
        assert on.is_as_never_published()


class BrokenStore(Store):
    """Refuses to remember anything."""

    def put_publication(self, publication: Publication) -> None:
        raise OSError(errno.EIO, "the disk is on fire")


def test_a_failed_publish_takes_back_what_it_made(node: Node, data: Dataset):
    with publishing(node, store=BrokenStore()) as on:
        with refusal(grpc.StatusCode.INTERNAL) as refused:
            on.publish(data, on.target.parent / "a" / "b" / "mount")

        assert "the disk is on fire" in refused.message
        assert on.is_as_never_published()


def test_a_heal_that_holds_the_target_is_waited_for(on: Publishing, data: Dataset):
    with futures.ThreadPoolExecutor(1) as pool:
        with on.plugin.locks.hold(str(on.target)):
            call = pool.submit(on.publish, data)
            pause(0.1)
            assert not call.done()
        call.result(5)

    assert on.sees.names(on.target) == WORLD


def test_an_unpublish_ends_a_publish_that_waits(on: Publishing, node: Node):
    data = node.dataset("late", start=False)
    with futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(on.publish, data)
        until(lambda: str(on.target) in on.plugin.claims._held, "the publish is under way")
        on.unpublish(data)
        with refusal(grpc.StatusCode.ABORTED):
            call.result(5)
    data.daemon.start()

    assert on.is_as_never_published()


# ---- Symbolic links


def test_a_symlink_publish_shows_the_source(on: Publishing, data: Dataset):
    link = {"node_publish_method": "symlink"}
    on.publish(data, attributes=link, sub_path="sub")

    assert on.target.readlink() == data.volume.source / "sub"
    assert on.sees.names(on.target) == {"b.txt"}
    data.daemon.kill()
    data.daemon.restart()
    on.publish(data, attributes=link, sub_path="sub")
    assert on.sees.names(on.target) == {"b.txt"}


def test_a_bind_stays_a_bind_when_the_method_changes(on: Publishing, data: Dataset):
    on.publish(data)
    data.daemon.kill()
    data.daemon.restart()
    on.publish(data, attributes={"node_publish_method": "symlink"})

    assert on.sees.names(on.target) == WORLD
    assert [row.method for row in on.rows] == ["bind"]
    assert len(on.layers) == 1


# ---- Cost


def test_a_publish_does_not_read_the_mount_table(on: Publishing, data: Dataset, workdir: Path):
    """Its cost must not grow with the number of mounts; the first one of a generation reads it."""
    sandbox.require("statx_mnt_id_unique", "mount_setattr")
    many = workdir / "many"
    (many / "deep").mkdir(parents=True)
    programs.run("mount", "-t", "tmpfs", "--make-private", "many", many)
    for number in range(9):  # doubles what is mounted each time
        (many / str(number)).mkdir()
        programs.run("mount", "--rbind", "--make-private", many, many / str(number))
    size = len(mountinfo.read_bytes())
    on.publish(data)
    on.unpublish(data)
    before = _bytes_read()
    for _ in range(3):
        on.publish(data)
        on.publish(data)
        on.unpublish(data)

    assert size > 40_000
    assert _bytes_read() - before < size
    programs.run("umount", "-l", many)


class CountingStore(Store):
    """Counts how often it is asked for the record of a target."""

    asked = 0

    def publication(self, target: str) -> Publication | None:
        self.asked += 1
        return super().publication(target)


def test_a_publish_looks_for_the_record_once_before_each_wait(node: Node, data: Dataset):
    store = CountingStore()
    with publishing(node, store=store) as on:
        on.publish(data)
        assert store.asked == 3  # before the source is waited for, after it, under the lock

        on.publish(data)
        assert store.asked == 5  # nothing is to be made, so nothing is locked


def _bytes_read() -> int:
    """Return how many bytes this process has read, from procfs too: proc_pid_io(5)."""
    return int(Path("/proc/self/io").read_text(encoding="ascii").split()[1])
