"""The state file on disks that are full, read-only, failing or gone: no row is lost."""

import contextlib
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recover.rows import Heal, Publication
from recover.store import Store

WRITER = """
import sys
from pathlib import Path
from recover.rows import Publication
from recover.store import Store
store = Store.open(Path(sys.argv[1]))
number = 0
while True:
    store.put_publication(Publication(f"/t/{number}", "v" * 400, "/s"))
    print(number, int(bool(store.problem)), flush=True)
    number += 1
"""


def publication(number: int) -> Publication:
    return Publication(f"/t/{number}", "v" * 400, "/s")


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, timeout=20)


@pytest.fixture
def disk(workdir: Path) -> Iterator[Path]:
    """Return a file system of 400 KiB."""
    place = workdir / "disk"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=400k", "small", place)
    yield place
    run("umount", place)


@pytest.fixture
def path(disk: Path) -> Path:
    return disk / "state.db"


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Leave not a single byte free for a while."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    yield
    ballast.unlink()


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    run("mount", "-o", "remount,ro", disk)
    yield
    run("mount", "-o", "remount,rw", disk)


def kill_a_writer(path: Path, lines: int) -> tuple[set[int], set[int]]:
    """Kill a writing process -9; return what it had put without trouble, and with trouble."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        output = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        output += process.stdout.readlines()
    words = [line.split() for line in output if line.endswith("\n")]
    kept = {int(number) for number, trouble in words if trouble == "0"}
    return kept, {int(number) for number, _ in words} - kept


def numbers(store: Store) -> set[int]:
    return {int(row.target.rpartition("/")[2]) for row in store.publications()}


def test_a_disk_that_fills_up_costs_nothing_but_the_promise(disk, path):
    told: list[str] = []
    store = Store.open(path, told.append)
    store.put_publication(publication(0))
    with full(disk):
        for number in range(1, 50):
            store.put_publication(publication(number))
        store.remove_publication("/t/0")
        store.flush()

        assert "free some space" in store.problem
        assert told == [store.problem]
        assert numbers(store) == set(range(1, 50))
        assert numbers(Store.read(path)) <= set(range(50))
    store.flush()

    assert told == [told[0], ""]
    assert numbers(Store.read(path)) == set(range(1, 50))
    store.close()


def test_a_full_disk_at_the_start_keeps_no_plugin_from_starting(disk, path):
    with contextlib.closing(Store.open(path)) as store:
        store.put_publication(publication(0))
    with full(disk):
        store = Store.open(path)
        assert store.problem
        assert numbers(store) == {0}
        store.put_publication(publication(1))
    store.flush()

    assert store.problem == ""
    assert numbers(Store.read(path)) == {0, 1}
    store.close()


def test_a_full_disk_at_the_very_first_start_is_survived_too(disk, path):
    with full(disk):
        store = Store.open(path)
        assert store.problem
        store.put_publication(publication(1))
    store.flush()

    assert store.problem == ""
    assert numbers(Store.read(path)) == {1}
    assert [file.name for file in disk.iterdir() if "corrupt" in file.name] == []
    store.close()


def test_a_kill_on_a_disk_that_filled_up_loses_nothing_that_was_promised(disk, path):
    kept, unwritten = kill_a_writer(path, 800)

    assert kept
    assert unwritten
    assert numbers(Store.read(path)) >= kept
    store = Store.open(path)
    assert numbers(store) >= kept
    store.put_publication(publication(9_999))
    assert "free some space" in store.problem  # its own file took all there was
    run("mount", "-o", "remount,size=4m", disk)
    store.flush()
    assert store.problem == ""
    assert numbers(Store.read(path)) >= kept | {9_999}
    store.close()


def test_a_read_only_disk_can_be_read_and_starts_from_what_it_has(disk, path):
    with contextlib.closing(Store.open(path)) as store:
        store.put_publication(publication(0))
        store.record_heal(Heal("/s", 1.0, "namespace", True, 1, 1, 1, 0.1, None))
    with read_only(disk):
        reader = Store.read(path)
        assert numbers(reader) == {0}
        assert reader.problem == ""

        store = Store.open(path)
        assert "writable" in store.problem
        assert (numbers(store), len(store.heals())) == ({0}, 1)
        store.put_publication(publication(1))
        store.flush()
    store.flush()

    assert store.problem == ""
    assert numbers(Store.read(path)) == {0, 1}
    store.close()


def test_the_wal_of_a_killed_plugin_is_read_from_a_read_only_disk(disk, path):
    kept, _ = kill_a_writer(path, 20)
    assert kept
    assert Path(f"{path}-wal").stat().st_size
    with read_only(disk):
        reader = Store.read(path)

        assert numbers(reader) >= kept
        assert reader.problem == ""


def test_a_read_only_copy_without_shm_is_read_as_far_as_possible(disk, path):
    with contextlib.closing(Store.open(path)) as store:
        store.put_publication(publication(0))
    with contextlib.closing(Store.open(path)) as store:
        store.put_publication(publication(1))
        wal = Path(f"{path}-wal").read_bytes()
        database = path.read_bytes()
    path.write_bytes(database)
    Path(f"{path}-wal").write_bytes(wal)
    with read_only(disk):
        reader = Store.read(path)

        assert (numbers(reader), bool(reader.problem)) in [({0, 1}, False), ({0}, True)]


def test_the_wal_of_a_killed_plugin_is_read_from_a_full_disk(disk, path):
    kept, _ = kill_a_writer(path, 20)
    assert kept
    with full(disk):
        assert numbers(Store.read(path)) >= kept


def test_writes_that_the_kernel_refuses_are_made_up_for(disk, path):
    """A limit on the size of files stands for a failing disk: write(2) gives EFBIG."""
    store = Store.open(path)
    store.put_publication(publication(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        store.put_publication(publication(1))
        assert store.problem
        assert numbers(store) == {0, 1}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.flush()

    assert store.problem == ""
    assert numbers(Store.read(path)) == {0, 1}
    store.close()


def test_a_disk_that_was_taken_away_is_noticed_and_the_file_written_again(disk, path):
    store = Store.open(path)
    store.put_publication(publication(0))
    run("umount", "--lazy", disk)
    store.put_publication(publication(1))
    store.flush()

    assert store.problem == ""
    assert numbers(Store.read(path)) == {0, 1}
    store.close()
    run("mount", "-t", "tmpfs", "again", disk)  # for the fixture to unmount
