"""The file: who may read it, when it is written, who reads it meanwhile."""

import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from recover.store import Store
from tests.unit.store.rows import dump, heal, opened, publication


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_only_root_can_read_the_files(path, umask):
    before = os.umask(umask)
    try:
        with opened(path) as store:
            store.put_publication(publication())
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)

    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


def test_an_old_file_that_others_can_read_is_closed_to_them(path):
    Store.open(path).close()
    path.chmod(0o644)

    with opened(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_missing_parent_is_made_for_root_alone(tmp_path):
    with opened(tmp_path / "a" / "b" / "state.db") as store:
        assert store.problem == ""
        assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_commit_waits_for_the_disk(path):
    """Without synchronous=FULL a power cut loses commits; no test here can cut the power."""
    with opened(path) as store:
        assert store._file is not None
        ((synchronous,),) = store._file._db.execute("PRAGMA synchronous")
        ((journal,),) = store._file._db.execute("PRAGMA journal_mode")

    assert (synchronous, journal) == (2, "wal")


def test_nobody_waits_for_the_disk_to_read(path):
    with opened(path) as store:
        store.put_publication(publication())
        with store._disk:  # a write that takes for ever
            assert store.publications() == (publication(),)
            assert store.heals() == ()


def test_a_durable_write_is_in_the_file_at_once(path):
    with opened(path) as store:
        for number in range(3):
            store.put_publication(publication(number))
            assert len(Store.read(path).publications()) == number + 1


def test_other_processes_read_while_the_plugin_writes(path):
    reader = (
        "import sys; from pathlib import Path; from recover.store import Store\n"
        "print(len(Store.read(Path(sys.argv[1])).publications()))"
    )
    command = [sys.executable, "-c", reader, str(path)]
    stop = threading.Event()

    def write(store: Store) -> int:
        number = 0
        while not stop.is_set():
            number += 1
            store.put_publication(publication(number))
        return number

    with opened(path) as store, ThreadPoolExecutor(1) as threads:
        store.put_publication(publication(0))
        writer = threads.submit(write, store)
        outputs = [subprocess.run(command, capture_output=True, check=True) for _ in range(5)]
        seen = [int(output.stdout) for output in outputs]
        stop.set()
        written = writer.result(10)

        assert store.problem == ""
    assert 0 < seen[0] <= seen[-1] <= written + 1


def test_a_reader_changes_nothing_in_the_file(path):
    with opened(path) as store:
        store.put_publication(publication(1))
    before = dump(path)

    reader = Store.read(path)
    reader.put_publication(publication(2))
    reader.record_heal(heal())
    reader.flush()
    reader.close()

    assert len(reader.publications()) == 2
    assert dump(path) == before


def test_reading_an_absent_file_says_so(path):
    with pytest.raises(FileNotFoundError):
        Store.read(path)
    assert not path.exists()


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_whoever_may_not_read_the_file_is_told_so(filled, closed):
    script = (
        "import sys; from pathlib import Path; from recover.store import Store\n"
        "try: Store.read(Path(sys.argv[1]))\n"
        "except Exception as error: print(repr(error))"
    )
    powerless = () if os.geteuid() else ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
    command = [*powerless, sys.executable, "-c", script, str(filled)]
    place = filled if closed == "file" else filled.parent
    place.chmod(0o000)
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        place.chmod(0o700)

    assert told.startswith("StateError")
    assert "run this as root" in told


def test_changes_of_many_threads_all_arrive(path):
    def change(number: int) -> None:
        store.put_publication(publication(number, source=f"/{number % 7}"))
        store.record_heal(heal(number))
        if number % 3 == 0:
            assert store.remove_publication(f"/t/{number}")
        assert len(store.publications()) <= 300

    with opened(path) as store, ThreadPoolExecutor(8) as threads:
        list(threads.map(change, range(300)))

        expected = {f"/t/{number}" for number in range(300) if number % 3}
        assert {row.target for row in store.publications()} == expected
    file = Store.read(path)
    assert {row.target for row in file.publications()} == expected
    assert sorted(row.at for row in file.heals(limit=999)) == list(range(300))
