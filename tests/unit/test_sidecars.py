"""Which FUSE mounts the plugin heals in the place of an agent, and the lock that says so."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from recover.lease import Lease, LockFile
from recover.linux.mountinfo import Mount, MountTable
from recover.rows import Method
from recover.serverless.place import Place
from recover.serverless.sidecars import Sidecars
from recover.store import Store

ROOT = Mount(1, 0, "8:1", "/", "/", frozenset({"rw"}), 1, 0, "ext4", "/dev/sda")


class Host:
    """A mount root with one dataset's directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = str(root / "jindo" / "fuse")
        (root / "jindo").mkdir()
        self.place = Place(self.source, "demo-app")
        self.store = Store()
        self.sidecars = Sidecars(self.store, str(root))

    def table(self, *mounts: Mount) -> MountTable:
        return MountTable([ROOT, *mounts])

    def fuse(self, number: int = 5, *, on: int = 1, path: str = "", option: str = "ro") -> Mount:
        point = path or self.source
        return Mount(number, on, "0:5", "/", point, frozenset({option}), 5, 0, "fuse", "data")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.sidecars.close()


@pytest.mark.parametrize(("option", "read_only"), [("ro", True), ("rw", False)])
def test_a_mount_that_an_agent_guards_becomes_a_row(host: Host, option: str, read_only: bool):
    host.place.make()

    host.sidecars.update(host.table(host.fuse(option=option)))

    (row,) = host.store.publications()
    assert (row.source, row.target, row.method) == (host.source, host.source, Method.SIDECAR)
    assert row.read_only is read_only
    assert host.sidecars.is_settled


def test_a_mount_without_an_agent_is_nobodys(host: Host):
    host.sidecars.update(host.table(host.fuse()))

    assert not host.store.publications()


def test_a_mount_elsewhere_or_inside_of_another_fuse_mount_is_nobodys(host: Host, tmp_path: Path):
    host.place.make()
    outer = host.fuse(7, path=str(host.root / "jindo"))

    host.sidecars.update(host.table(outer, host.fuse(on=7)))
    Sidecars(host.store, "/somewhere/else").update(host.table(host.fuse()))

    assert not host.store.publications()


def test_while_an_agent_heals_the_plugin_does_not(host: Host):
    host.place.make()
    with Lease(host.place.node).hold():
        host.sidecars.update(host.table(host.fuse()))
        assert not host.store.publications()
        assert not host.sidecars.is_settled

    host.sidecars.update(host.table(host.fuse()))

    assert host.store.publications()


def test_while_the_plugin_heals_an_agent_does_not(host: Host):
    host.place.make()
    host.sidecars.update(host.table(host.fuse()))

    with Lease(host.place.node, wait_s=0.01).hold() as mine:
        assert not mine
    host.sidecars.close()
    with Lease(host.place.node, wait_s=0.01).hold() as mine:
        assert mine


def test_a_source_that_is_away_for_a_moment_stays_the_plugins(host: Host):
    host.place.make()
    host.sidecars.update(host.table(host.fuse()))

    host.sidecars.update(host.table())

    assert host.store.publications()


def test_the_row_goes_with_the_pod(host: Host):
    host.place.make()
    host.sidecars.update(host.table(host.fuse()))

    host.place.remove()
    host.sidecars.update(host.table())

    assert not host.store.publications()


def test_a_lock_file_that_was_made_anew_is_locked_anew(tmp_path: Path):
    path = tmp_path / "lock"
    lock = LockFile(path)
    taken = lock.take(), lock.is_held

    path.unlink()
    path.touch()

    assert (taken, lock.is_held) == ((True, True), False)
    lock.close()
