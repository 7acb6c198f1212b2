"""The node service over the wire, without privileges: symbolic links to plain directories."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_fluid._pb import csi_pb2
from csi_fluid.demo.plugin import Client
from csi_fluid.demo.waiting import pause
from csi_fluid.kube import Fuse, Volume
from tests.rpc.serving import Serving, capability, refusal, serving
from tests.sandbox import wait_until

Mode = csi_pb2.VolumeCapability.AccessMode
SKIP_CHECK = "fluid.io/skip-check-mount-ready-target"


class World:
    """A plugin, a dataset that is a plain directory, and a place for targets."""

    def __init__(self, folder: Path, plugin: Serving, client: Client) -> None:
        self.plugin, self.client, self.node = plugin, client, client.node
        self.source = folder / "source"
        (self.source / "sub").mkdir(parents=True)
        self.pods = folder / "pods"
        self.pods.mkdir()
        self.target = self.pods / "mount"

    def request(self, **changes: Any) -> csi_pb2.NodePublishVolumeRequest:
        """Return a publish that succeeds, but for the changes; attributes adds to the context."""
        attributes = {
            "fluid_path": str(self.source),
            "node_publish_method": "symlink",
            SKIP_CHECK: "All",
        } | changes.pop("attributes", {})
        fields = {
            "volume_id": "vol-1",
            "target_path": str(self.target),
            "staging_target_path": "/staging",
            "volume_capability": capability(),
            "volume_context": attributes,
        } | changes
        return csi_pb2.NodePublishVolumeRequest(**fields)

    def publish(self, *, timeout: float = 10, **changes: Any) -> None:
        self.node.NodePublishVolume(self.request(**changes), timeout=timeout)

    def publish_later(
        self, pool: futures.Executor, *, timeout: float = 10, **changes: Any
    ) -> "futures.Future[None]":
        """Publish what is not mounted; return when the call waits."""
        name = f"absent-{len(self.waiting)}"
        before = len(self.waiting)
        attributes = {"fluid_path": str(self.source / name), SKIP_CHECK: ""}
        call = pool.submit(self.publish, timeout=timeout, attributes=attributes, **changes)
        wait_until(lambda: len(self.waiting) > before or call.done(), "the publish waits")
        return call

    @property
    def waiting(self) -> list[str]:
        """Return the mount tables open in this process: one for each publish that waits."""
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return [link for link in links if os.path.lexists(link) and _is_table(link)]

    def unpublish(self, target: Path | None = None, volume_id: str = "vol-1") -> None:
        path = str(target or self.target)
        self.node.NodeUnpublishVolume(
            csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=path), timeout=10
        )

    def everything(self) -> list[str]:
        return sorted(str(path) for path in self.pods.rglob("*"))


def _is_table(link: str) -> bool:
    try:
        return os.readlink(link).endswith("/mountinfo")
    except FileNotFoundError:
        return False


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(tmp_path) as (plugin, client):
        yield World(tmp_path, plugin, client)


@pytest.fixture
def pool() -> Iterator[futures.Executor]:
    with futures.ThreadPoolExecutor(16) as executor:
        yield executor


def test_a_published_volume_is_recorded_with_its_pod(world: World):
    world.publish(
        attributes={
            "fluid_sub_path": "sub/",
            "mount_type": "fuse.demo",
            "runtime_namespace": "default",
            "runtime_name": "demo",
            "csi.storage.k8s.io/pod.name": "app",
            "csi.storage.k8s.io/pod.namespace": "shop",
            "csi.storage.k8s.io/pod.uid": "u-1",
            "fuse.csi.fluid.io/recover-writable": "true",
        }
    )

    (row,) = world.plugin.store.publications()
    assert world.target.readlink() == world.source / "sub"
    assert (row.target, row.source) == (str(world.target), str(world.source))
    assert (row.sub_path, row.mount_type, row.method) == ("sub", "fuse.demo", "symlink")
    assert (row.runtime_namespace, row.runtime_name) == ("default", "demo")
    assert (row.pod_namespace, row.pod_name, row.pod_uid) == ("shop", "app", "u-1")
    assert (row.read_only, row.recover_writable, row.adopted) == (True, True, False)
    assert abs(row.published_at - time.time()) < 60
    assert world.plugin.changed == [str(world.source)]


def test_publishing_the_same_again_changes_nothing(world: World):
    world.publish(attributes={"csi.storage.k8s.io/pod.name": "app"})
    before = world.target.lstat(), world.plugin.store.publications()
    for _ in range(10):
        world.publish(attributes={"csi.storage.k8s.io/pod.name": "app"})

    assert (world.target.lstat(), world.plugin.store.publications()) == before
    assert len(world.plugin.changed) == 1


@pytest.mark.expects_log("NodePublishVolume ALREADY_EXISTS")
@pytest.mark.parametrize(
    "changes",
    [
        {"volume_id": "vol-2"},
        {"attributes": {"fluid_sub_path": "sub"}},
        {"volume_capability": capability(Mode.MULTI_NODE_MULTI_WRITER)},
    ],
    ids=["volume", "sub path", "writable"],
)
def test_a_live_target_is_not_given_to_something_else(world: World, changes: dict[str, Any]):
    world.publish()
    with refusal(grpc.StatusCode.ALREADY_EXISTS) as refused:
        world.publish(**changes)

    assert "unpublish it first" in refused.message
    assert world.target.readlink() == world.source


@pytest.mark.expects_log("mount options 'noexec,size=1' have no effect")
def test_mount_options_that_do_nothing_are_told(world: World):
    flagged = capability()
    flagged.mount.mount_flags.extend(["rw,noexec", "size=1"])
    world.publish(volume_capability=flagged)

    assert world.target.readlink() == world.source


def test_reader_modes_and_flags_all_mean_read_only(world: World):
    writer = capability(Mode.SINGLE_NODE_WRITER)
    flagged = capability(Mode.SINGLE_NODE_WRITER)
    flagged.mount.mount_flags.append("ro")
    cases: dict[str, tuple[dict[str, Any], bool]] = {
        "reader": ({"volume_capability": capability(Mode.SINGLE_NODE_READER_ONLY)}, True),
        "readers": ({"volume_capability": capability(Mode.MULTI_NODE_READER_ONLY)}, True),
        "readonly": ({"volume_capability": writer, "readonly": True}, True),
        "flag": ({"volume_capability": flagged}, True),
        "writer": ({"volume_capability": writer}, False),
    }
    for name, (changes, _) in cases.items():
        world.publish(target_path=str(world.pods / name), **changes)

    found = {Path(row.target).name: row.read_only for row in world.plugin.store.publications()}
    assert found == {name: expected for name, (_, expected) in cases.items()}


# ---- Symbolic links


@pytest.mark.parametrize("standing", ["nothing", "link", "dangling", "directory", "file"])
def test_a_link_takes_the_place_of_what_holds_no_data(world: World, standing: str):
    if standing == "link":
        world.target.symlink_to("/tmp")
    elif standing == "dangling":
        world.target.symlink_to("/nowhere")
    elif standing == "directory":
        world.target.mkdir()
    elif standing == "file":
        world.target.touch()
    world.publish()

    assert world.target.readlink() == world.source
    assert world.everything() == [str(world.target)]


@pytest.mark.expects_log("NodePublishVolume FAILED_PRECONDITION.*move them away|remove it by hand")
@pytest.mark.parametrize("standing", ["directory", "file"])
def test_data_is_never_replaced(world: World, standing: str):
    if standing == "directory":
        world.target.mkdir()
        (world.target / "precious").write_text("1")
    else:
        world.target.write_text("1")
    before = world.everything()
    with refusal(grpc.StatusCode.FAILED_PRECONDITION):
        world.publish()

    assert world.everything() == before
    assert world.plugin.store.publications() == ()


def test_the_log_has_the_words_that_fluids_own_test_looks_for(
    world: World, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    world.publish()

    assert any("Creating symlink" in message for message in caplog.messages)


def test_the_environment_can_ask_for_links(tmp_path: Path):
    with serving(tmp_path, method="symlink") as (plugin, client):
        world = World(tmp_path, plugin, client)
        world.publish(attributes={"node_publish_method": ""})

        assert world.target.is_symlink()


@pytest.mark.parametrize("standing", ["link", "dangling", "directory", "file", "nothing"])
def test_unpublish_removes_what_holds_no_data(world: World, standing: str):
    if standing in {"link", "dangling"}:
        world.publish()
    elif standing == "directory":
        world.target.mkdir()
    elif standing == "file":
        world.target.touch()
    if standing == "dangling":
        (world.source / "sub").rmdir()
        world.source.rmdir()
    for _ in range(3):
        world.unpublish()

    assert world.everything() == []
    assert world.plugin.store.publications() == ()


def test_unpublish_without_even_a_parent_succeeds(world: World):
    world.unpublish(world.pods / "gone" / "mount")


@pytest.mark.expects_log("NodeUnpublishVolume FAILED_PRECONDITION: .*'precious'")
def test_unpublish_never_deletes_files(world: World):
    world.target.mkdir()
    (world.target / "precious").write_text("1")
    with refusal(grpc.StatusCode.FAILED_PRECONDITION) as refused:
        world.unpublish()

    assert "'precious'" in refused.message
    assert (world.target / "precious").read_text() == "1"


# ---- What is refused leaves nothing behind


LONG = "x" * 256
BAD = {
    "no id": {"volume_id": ""},
    "no target": {"target_path": ""},
    "relative target": {"target_path": "pods/mount"},
    "target above": {"target_path": "/tmp/../etc/mount"},
    "target is root": {"target_path": "//"},
    "NUL": {"target_path": "/tmp/a\0b"},
    "long name": {"target_path": f"/tmp/{LONG}"},
    "long path": {"target_path": "/a" * 2048},
    "long unicode path": {"target_path": "/\N{SNOWMAN}" * 1024},
    "long id": {"volume_id": "v" * 4097},
    "relative staging": {"staging_target_path": "staging"},
    "no capability": {"volume_capability": None},
    "block": {
        "volume_capability": csi_pb2.VolumeCapability(
            block=csi_pb2.VolumeCapability.BlockVolume(),
            access_mode=Mode(mode=Mode.SINGLE_NODE_WRITER),
        )
    },
    "no access type": {
        "volume_capability": csi_pb2.VolumeCapability(
            access_mode=Mode(mode=Mode.SINGLE_NODE_WRITER)
        )
    },
    "mode unknown": {"volume_capability": capability(Mode.UNKNOWN)},
    "mode of a later version": {"volume_capability": capability(99)},
    "no fluid_path": {"attributes": {"fluid_path": ""}},
    "relative fluid_path": {"attributes": {"fluid_path": "runtime-mnt"}},
    "fluid_path above": {"attributes": {"fluid_path": "/runtime-mnt/.."}},
    "absolute sub path": {"attributes": {"fluid_sub_path": "/etc"}},
    "sub path above": {"attributes": {"fluid_sub_path": "a/../../etc"}},
    "method": {"attributes": {"node_publish_method": "teleport"}},
    "skipped check": {"attributes": {SKIP_CHECK: "Everything"}},
    "recover-writable": {"attributes": {"fuse.csi.fluid.io/recover-writable": "perhaps"}},
    "huge map": {"attributes": {"x": "y" * 65_536}},
}


@pytest.mark.expects_log("NodePublishVolume INVALID_ARGUMENT")
@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_a_bad_request_is_refused_and_leaves_nothing(world: World, changes: dict[str, Any]):
    with refusal(grpc.StatusCode.INVALID_ARGUMENT) as refused:
        world.publish(**changes)

    assert len(refused.message) < 1100
    assert world.everything() == []
    assert (world.plugin.store.publications(), world.plugin.changed) == ((), [])


@pytest.mark.expects_log("NodePublishVolume INVALID_ARGUMENT")
@pytest.mark.parametrize("inner", ["", "/sub", "/sub/mount"])
def test_a_target_within_its_own_source_is_refused(world: World, inner: str):
    with refusal(grpc.StatusCode.INVALID_ARGUMENT) as refused:
        world.publish(target_path=f"{world.source}{inner}")

    assert "lie within each other" in refused.message
    assert sorted(world.source.rglob("*")) == [world.source / "sub"]


NAMES = {
    "spaces": " a  b ",
    "newlines": "a\nb\n",
    "unicode": "\N{SNOWMAN} é \N{PILE OF POO}",
    "shell": "$(reboot);`id`'\"\\040 && | > <",
    "dots": "...",
    "255 bytes": "n" * 255,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_that_linux_takes_is_taken(world: World, name: str):
    target = world.pods / name / name
    (world.source / name).mkdir()
    world.publish(
        volume_id=name, target_path=str(target), attributes={"fluid_sub_path": f"{name}/./"}
    )

    assert target.readlink() == world.source / name
    world.unpublish(target, volume_id=name)
    assert not os.path.lexists(target)


def test_a_path_as_long_as_linux_takes_is_taken(world: World):
    room = 4_095 - len(str(world.pods)) - len("/mount")
    deep = Path(*[("d" * 200)] * (room // 201))
    target = world.pods / deep / "mount"
    target.parent.mkdir(parents=True)
    world.publish(target_path=str(target))

    assert target.is_symlink()
    world.unpublish(target)
    assert not os.path.lexists(target)


def test_one_target_has_one_record_however_it_is_spelt(world: World):
    (world.pods / "real").mkdir()
    (world.pods / "alias").symlink_to("real")
    world.publish(target_path=f"{world.pods}//real/./mount")
    world.publish(target_path=f"{world.pods}/alias/mount/")

    assert [row.target for row in world.plugin.store.publications()] == [f"{world.pods}/real/mount"]


def test_missing_parents_are_made(world: World):
    world.publish(target_path=str(world.pods / "a" / "b" / "mount"))

    assert (world.pods / "a" / "b" / "mount").is_symlink()


# ---- Waiting and concurrency


@pytest.mark.expects_log("NodePublishVolume UNAVAILABLE")
def test_a_deadline_is_answered_before_it_ends_with_what_is_missing(world: World):
    with refusal(grpc.StatusCode.UNAVAILABLE) as refused:
        world.publish(
            timeout=1.5, attributes={SKIP_CHECK: "", "fluid_path": str(world.source / "absent")}
        )

    assert "absent does not exist: no FUSE daemon has mounted there yet" in refused.message
    assert 0.3 < refused.seconds < 1.4
    assert world.everything() == []


@pytest.mark.expects_log("NodePublishVolume UNAVAILABLE: nothing is mounted at")
def test_a_plain_directory_is_not_taken_for_a_fuse_mount(world: World):
    with refusal(grpc.StatusCode.UNAVAILABLE):
        world.publish(timeout=1, attributes={SKIP_CHECK: "None"})

    assert world.everything() == []


@pytest.mark.expects_log("NodePublishVolume ABORTED: another operation", "ABORTED: .*unpublished")
def test_a_second_publish_of_a_target_is_aborted_and_unpublish_ends_the_first(
    world: World, pool: futures.Executor
):
    first = world.publish_later(pool)
    with refusal(grpc.StatusCode.ABORTED) as refused:
        world.publish()
    assert "try again when it has ended" in refused.message

    world.unpublish()
    with refusal(grpc.StatusCode.ABORTED):
        first.result(5)
    assert (world.everything(), world.plugin.store.publications()) == ([], ())


@pytest.mark.expects_log("UNAVAILABLE: 4 publishes wait for FUSE mounts already", "ABORTED")
def test_waiting_publishes_never_use_up_the_server(world: World, pool: futures.Executor):
    calls = [world.publish_later(pool, target_path=f"{world.pods}/{n}") for n in range(4)]
    with refusal(grpc.StatusCode.UNAVAILABLE) as refused:
        world.publish(
            target_path=f"{world.pods}/5",
            attributes={SKIP_CHECK: "", "fluid_path": str(world.source / "absent")},
        )

    assert refused.seconds < 1
    assert world.client.ready()
    world.publish()
    world.unpublish()
    for n, call in enumerate(calls):
        world.unpublish(world.pods / str(n))
        with refusal(grpc.StatusCode.ABORTED):
            call.result(5)


@pytest.mark.expects_log("NodePublishVolume ABORTED: the caller gave up")
def test_a_caller_that_gives_up_frees_its_place(world: World):
    attributes = {SKIP_CHECK: "", "fluid_path": str(world.source / "absent")}
    call = world.node.NodePublishVolume.future(world.request(attributes=attributes), timeout=20)
    wait_until(lambda: world.waiting, "the publish waits")
    call.cancel()

    wait_until(lambda: not world.waiting, "the publish gave up")
    wait_until(lambda: world.plugin.calls, "the call ended")
    world.publish()


@pytest.mark.expects_log("NodePublishVolume ABORTED: .*unpublished")
def test_unpublish_wins_over_a_publish_that_is_about_to_begin(world: World, pool: futures.Executor):
    with world.plugin.locks.hold(str(world.target)):  # as a heal would
        publish = pool.submit(world.publish)
        pause(0.2)
        unpublish = pool.submit(world.unpublish)
        pause(0.2)
    with refusal(grpc.StatusCode.ABORTED):
        publish.result(5)
    unpublish.result(5)

    assert (world.everything(), world.plugin.store.publications()) == ([], ())


@pytest.mark.expects_log("NodePublishVolume ABORTED: the caller gave up")
def test_stopping_ends_a_publish_that_waits(world: World, pool: futures.Executor):
    call = world.publish_later(pool)
    started = time.monotonic()
    world.plugin.server.stop(0.2)

    assert time.monotonic() - started < 1
    assert isinstance(call.exception(5), grpc.RpcError)
    wait_until(lambda: not world.waiting, "the publish gave up")
    assert world.everything() == []


def test_many_targets_are_published_and_unpublished_at_once(world: World, pool: futures.Executor):
    places = [world.pods / str(n) for n in range(100)]
    list(pool.map(lambda place: world.publish(target_path=str(place)), places))
    assert len(world.plugin.store.publications()) == 100

    list(pool.map(world.unpublish, places))
    assert (world.everything(), world.plugin.store.publications()) == ([], ())


@pytest.mark.expects_log("NodePublishVolume ABORTED")
def test_publish_and_unpublish_of_one_target_at_once_leave_one_truth(
    world: World, pool: futures.Executor
):
    barrier = threading.Barrier(8)

    def attempt(number: int) -> grpc.StatusCode:
        barrier.wait()
        call: Any = None
        try:
            world.publish() if number % 2 else world.unpublish()
        except grpc.RpcError as error:
            call = error
        return call.code() if call else grpc.StatusCode.OK

    for _ in range(20):
        results = set(pool.map(attempt, range(8)))
        assert results <= {grpc.StatusCode.OK, grpc.StatusCode.ABORTED}
        rows = [row.target for row in world.plugin.store.publications()]
        assert world.everything() == rows


# ---- Stage


class FakeKube:
    """Remembers the node's labels; knows one volume."""

    def __init__(self, *, on_demand: bool) -> None:
        self.labels: set[str] = set()
        self._on_demand = on_demand

    def label_of(self, volume: Volume, until: float) -> str:
        return "fluid.io/f-looked-up" if volume.volume_id == "vol-1" else ""

    def fuse_of(self, volume_id: str, until: float) -> Fuse | None:
        policy = "OnDemand" if self._on_demand else "OnRuntimeDeleted"
        return Fuse("fluid.io/f-looked-up", policy) if volume_id == "vol-1" else None

    def label_node(self, key: str, until: float) -> None:
        self.labels.add(key)

    def unlabel_node(self, key: str, until: float) -> None:
        self.labels.discard(key)


def stage(client: Client, volume_id: str = "vol-1", **changes: Any) -> None:
    fields: dict[str, Any] = {
        "volume_id": volume_id,
        "staging_target_path": "/staging",
        "volume_capability": capability(),
    } | changes
    client.node.NodeStageVolume(csi_pb2.NodeStageVolumeRequest(**fields))


def unstage(client: Client, **changes: Any) -> None:
    fields = {"volume_id": "vol-1", "staging_target_path": "/staging"} | changes
    client.node.NodeUnstageVolume(csi_pb2.NodeUnstageVolumeRequest(**fields))


@pytest.mark.parametrize(
    ("context", "volume_id", "labels"),
    [
        ({"mount_pod_node_selector_key": "fluid.io/f-a"}, "vol-1", {"fluid.io/f-a"}),
        ({}, "vol-1", {"fluid.io/f-looked-up"}),
        ({}, "vol-2", set()),
    ],
    ids=["attribute", "looked up", "unknown"],
)
def test_stage_labels_the_node(
    tmp_path: Path, context: dict[str, str], volume_id: str, labels: set[str]
):
    kube = FakeKube(on_demand=True)
    with serving(tmp_path, kube=kube) as (_, client):
        stage(client, volume_id, volume_context=context)
        stage(client, volume_id, volume_context=context)

    assert kube.labels == labels


@pytest.mark.parametrize(("on_demand", "left"), [(True, set()), (False, {"fluid.io/f-looked-up"})])
def test_unstage_removes_the_label_if_the_clean_policy_says_so(
    tmp_path: Path, on_demand: bool, left: set[str]
):
    kube = FakeKube(on_demand=on_demand)
    with serving(tmp_path, kube=kube) as (_, client):
        stage(client)
        unstage(client)
        unstage(client)

    assert kube.labels == left


@pytest.mark.expects_log("NodeUnstageVolume FAILED_PRECONDITION: volume vol-1 is still published")
def test_unstage_keeps_the_label_of_a_volume_in_use(tmp_path: Path):
    kube = FakeKube(on_demand=True)
    with serving(tmp_path, kube=kube) as (plugin, client):
        stage(client)
        World(tmp_path, plugin, client).publish()
        with refusal(grpc.StatusCode.FAILED_PRECONDITION):
            unstage(client)

    assert kube.labels == {"fluid.io/f-looked-up"}


def test_without_kubernetes_stage_says_once_that_it_labels_nothing(
    world: World, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    for _ in range(3):
        stage(world.client, volume_context={"mount_pod_node_selector_key": "fluid.io/f-a"})
        unstage(world.client)

    told = [message for message in caplog.messages if "without an API server" in message]
    assert len(told) == 1
    assert "fluid.io/f-a" in told[0]


@pytest.mark.expects_log("INVALID_ARGUMENT")
def test_stage_and_unstage_check_their_arguments(world: World):
    for changes in ({"volume_id": ""}, {"staging_target_path": ""}, {"volume_capability": None}):
        with refusal(grpc.StatusCode.INVALID_ARGUMENT):
            stage(world.client, **changes)
    for changes in ({"volume_id": ""}, {"staging_target_path": "relative"}):
        with refusal(grpc.StatusCode.INVALID_ARGUMENT):
            unstage(world.client, **changes)


# ---- Stats and health, as far as a plain directory goes


@pytest.mark.expects_log("NodeGetVolumeStats")
@pytest.mark.parametrize(
    ("volume_id", "path", "code"),
    [
        ("", "some/path", grpc.StatusCode.INVALID_ARGUMENT),
        ("vol-1", "", grpc.StatusCode.INVALID_ARGUMENT),
        ("vol-1", "some/path", grpc.StatusCode.NOT_FOUND),
        ("vol-1", "/nowhere/mount", grpc.StatusCode.NOT_FOUND),
        ("vol-2", "{target}", grpc.StatusCode.NOT_FOUND),
    ],
)
def test_stats_of_what_is_not_there(world: World, volume_id: str, path: str, code: grpc.StatusCode):
    world.publish()
    with refusal(code):
        world.node.NodeGetVolumeStats(
            csi_pb2.NodeGetVolumeStatsRequest(
                volume_id=volume_id, volume_path=path.format(target=world.target)
            )
        )


def test_stats_of_a_link_are_those_of_its_source(world: World):
    world.publish()
    answer = world.node.NodeGetVolumeStats(
        csi_pb2.NodeGetVolumeStatsRequest(volume_id="vol-1", volume_path=str(world.target))
    )
    found = os.statvfs(world.source)

    in_bytes, in_inodes = answer.usage
    assert (in_bytes.unit, in_inodes.unit) == (1, 2)
    assert in_bytes.total == found.f_blocks * found.f_frsize
    assert in_inodes.total == found.f_files
    assert 0 < in_bytes.used <= in_bytes.total


@pytest.mark.expects_log("NodeGetVolumeHealth INVALID_ARGUMENT")
def test_health_of_what_was_never_published_is_not_found_and_no_warning(world: World):
    with refusal(grpc.StatusCode.NOT_FOUND):
        world.node.NodeGetVolumeHealth(csi_pb2.NodeGetVolumeHealthRequest(volume_id="vol-1"))
    with refusal(grpc.StatusCode.INVALID_ARGUMENT):
        world.node.NodeGetVolumeHealth(csi_pb2.NodeGetVolumeHealthRequest())


def test_health_of_a_well_volume_is_empty(world: World):
    world.publish()
    answer = world.node.NodeGetVolumeHealth(csi_pb2.NodeGetVolumeHealthRequest(volume_id="vol-1"))

    assert answer.volume_health.volume_id == "vol-1"
    assert list(answer.volume_health.health_statuses) == []
