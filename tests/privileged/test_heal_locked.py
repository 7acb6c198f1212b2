"""A heal leaves nothing weaker than it found it; what cannot be kept is left dead, and told.

In a user namespace of its own the kernel locks what the root there found: it can neither be made
writable nor taken away.  What is mounted from outside by hand would not be locked.
"""

import errno
import subprocess
from pathlib import Path

import pytest

from recover import events
from recover.linux import mountinfo
from recover.linux.mountinfo import Mount
from tests import sandbox
from tests.harness import Dataset, Node, Propagation, idmap, until
from tests.harness.node import Container
from tests.harness.wirefuse import WireFuse
from tests.privileged.healing import Healing, whole

OWN_USERS = "exec unshare --user --map-root-user --mount --propagation unchanged sleep infinity"
OTHER_ROOT = 100_000


@pytest.fixture
def data(node: Node) -> Dataset:
    return node.dataset("demo", files={"a.txt": b"1", "sub/b.txt": b"1"}, read_only=False)


def locked(node: Node, volumes: dict[str, Path], propagation: Propagation) -> Container:
    """Start a container whose root is root of a user namespace of its own alone."""
    made = node.pod().container("main", volumes, propagation, command=["sh", "-c", OWN_USERS])
    until(lambda: Path(f"/proc/{made.pid}/comm").read_text() == "sleep\n", "its user namespace")
    return made


def made_writable(container: Container, path: str) -> bool:
    """Tell whether the container's root can write to what was read-only."""
    enter = ("nsenter", f"--target={container.pid}", "--user", "--preserve-credentials", "--mount")
    script = f"mount -o remount,bind,rw {path} && touch {path}/written"
    done = subprocess.run([*enter, "sh", "-c", script], capture_output=True, check=False)
    return done.returncode == 0


def test_what_arrives_is_locked_and_two_layers_at_the_most(
    node: Node, heal: Healing, data: Dataset
):
    target = heal.publish(node.pod(), data, read_only=True)
    main = locked(node, {"/data": target}, Propagation.HOST_TO_CONTAINER)

    for _ in range(4):
        heal.crash(data)

        heal.await_whole(data, main.sees, "/data")
        assert main.sees.layers("/data")[-1].read_only
        assert not made_writable(main, "/data")


@pytest.mark.usefixtures("visits")
def test_a_private_copy_that_would_not_be_locked_is_left_and_told(
    node: Node, heal: Healing, data: Dataset
):
    pod = node.pod()
    target = heal.publish(pod, data, read_only=True)
    main = locked(node, {"/data": target}, Propagation.NONE)
    other = pod.container("other", {"/data": target}, Propagation.NONE)
    assert not made_writable(main, "/data")

    heal.crash(data)

    (skipped,) = until(lambda: heal.ear.of(events.Skipped), "the copy is reported")
    assert "user namespace" in skipped.reason
    assert main.sees.error("/data") == errno.ENOTCONN
    assert not made_writable(main, "/data")
    assert whole(node, other.sees, "/data", data)
    assert whole(node, node.sees, target, data)


@pytest.mark.usefixtures("visits")
def test_a_read_only_volume_inside_of_one_stays_so(node: Node, heal: Healing, data: Dataset):
    """An emptyDir or configMap: what is mounted around it is not to be had without it."""
    inner = node.machine.folder("config-map")
    (inner / "kept").touch()
    subprocess.run(["mount", "--bind", "-o", "ro", inner, inner], check=True)
    volumes = {"/data": heal.publish(node.pod(), data, read_only=True), "/data/sub": inner}
    main = locked(node, volumes, Propagation.HOST_TO_CONTAINER)
    assert not made_writable(main, "/data/sub")

    heal.crash(data)

    until(lambda: heal.ear.of(events.Skipped), "the copy is reported")
    assert main.sees.error("/data") == errno.ENOTCONN
    assert not made_writable(main, "/data/sub")
    assert [place.name for place in inner.iterdir()] == ["kept"]
    subprocess.run(["umount", inner], check=True)


@pytest.mark.usefixtures("visits")
@pytest.mark.parametrize("propagation", [Propagation.NONE, Propagation.HOST_TO_CONTAINER])
def test_a_copy_that_shows_other_owners_never_shows_the_real_ones(
    node: Node, heal: Healing, propagation: Propagation
):
    sandbox.require(kernel=(6, 12))
    data = node.dataset("mapped", WireFuse)
    place = node.machine.folder("runtime")
    idmap.bind(heal.publish(node.pod(), data), place, OTHER_ROOT)
    main = node.pod().container("main", {"/data": place}, propagation)
    subprocess.run(["umount", "-l", place], check=True)
    file = Path("/proc", str(main.pid), "root", "data", "file")
    assert file.stat().st_uid == OTHER_ROOT

    heal.crash(data)

    (skipped,) = until(lambda: heal.ear.of(events.Skipped), "the copy is reported")
    assert "id-mapped" in skipped.reason
    assert main.sees.error("/data") == errno.ENOTCONN


@pytest.fixture
def mapped(node: Node) -> Dataset:
    sandbox.require(kernel=(6, 12))
    return node.dataset("mapped", WireFuse)


def with_users(node: Node, heal: Healing, data: Dataset) -> Container:
    """Start a container as runtimes do for hostUsers: false; root is OTHER_ROOT on the node."""
    place = node.machine.folder("runtime")
    idmap.bind(heal.publish(node.pod(), data, read_only=True), place, OTHER_ROOT)
    own = "exec unshare --user --mount --propagation unchanged sleep infinity"
    main = node.pod().container(
        "main", {"/data": place}, Propagation.HOST_TO_CONTAINER, command=["sh", "-c", own]
    )
    subprocess.run(["umount", "-l", place], check=True)
    until(lambda: Path(f"/proc/{main.pid}/comm").read_text() == "sleep\n", "its user namespace")
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{main.pid}/{name}").write_text(f"0 {OTHER_ROOT} 65536")
    assert owner_seen_by(main) == 0
    return main


def owner_seen_by(main: Container) -> int:
    """Return who owns the volume's file, as a process of the container is told."""
    enter = ("nsenter", f"--target={main.pid}", "--user", "--mount")
    done = subprocess.run(
        [*enter, "stat", "-c%u", "/data/file"], capture_output=True, check=True, text=True
    )
    return int(done.stdout)


@pytest.mark.usefixtures("visits")
def test_a_pod_with_users_of_its_own_and_mapped_owners_is_left_and_told(
    node: Node, heal: Healing, mapped: Dataset
):
    main = with_users(node, heal, mapped)

    heal.crash(mapped)

    skipped = until(lambda: heal.ear.of(events.Skipped), "the copy is reported")
    assert all("id-mapped" in s.reason or "user namespace" in s.reason for s in skipped)
    assert main.sees.error("/data") == errno.ENOTCONN
    assert not made_writable(main, "/data")


@pytest.mark.usefixtures("visits")
@pytest.mark.parametrize("heal", ["propagation"], indirect=True)
def test_where_it_is_not_seen_the_new_mount_arrives_and_its_owners_are_nobody(
    node: Node, heal: Healing, mapped: Dataset
):
    """Nothing tells the plugin without the host's processes that owners are mapped there."""
    main = with_users(node, heal, mapped)
    nobody = int(Path("/proc/sys/kernel/overflowuid").read_text())

    for _ in range(3):
        heal.crash(mapped)
        until(lambda: main.sees.error("/data") == 0, "the new mount has arrived")

        assert owner_seen_by(main) == nobody
        assert not made_writable(main, "/data")
        assert len(main.sees.layers("/data")) <= 2


@pytest.mark.parametrize("stack", [False, True], ids=["after unmounting", "on top"])
def test_nothing_is_made_a_slave_of_the_source(
    node: Node, heal: Healing, data: Dataset, *, stack: bool
):
    """It would see what a daemon mounts there later, as writable as that is."""
    pod = node.pod()
    target = heal.publish(pod, data, read_only=True)
    places = {"/data": target, "/part": pod.subpath(target, "sub")}
    if not stack:  # else the kernel itself hands the daemon's new mount on to such a copy
        places["/own"] = data.volume.source
    kinds = (Propagation.NONE, Propagation.HOST_TO_CONTAINER, Propagation.BIDIRECTIONAL)
    for kind in kinds:
        pod.container(kind.name.lower(), places, kind)

    for _ in range(2):
        heal.crash(data, stack=stack)

    source = node.sees.layers(data.volume.source)[-1]
    mounts = [m for process in Path("/proc").glob("[0-9]*") for m in mounts_of(process)]
    assert source.shared
    assert sum(mount.dev == source.dev for mount in mounts) > len(kinds) * len(places)
    assert not [mount for mount in mounts if mount.master == source.shared]


def mounts_of(process: Path) -> tuple[Mount, ...]:
    try:
        return mountinfo.read(int(process.name)).mounts
    except OSError:  # it ended
        return ()
