"""A kill at any moment, or a power cut, loses nothing that was acknowledged."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from csi_fluid.testbed.waiting import until
from recover.store import Store
from tests.unit.store.rows import opened, publication

WRITER = """
import sys
from pathlib import Path
from recover.rows import Heal, Publication
from recover.store import Store
store = Store.open(Path(sys.argv[1]))
assert store.problem == "", store.problem
number = 1 + max((int(p.target) for p in store.publications()), default=-1)
print("open", number, flush=True)
while True:
    store.put_publication(Publication(str(number), "v", "/s"))
    store.record_heal(Heal("/s", float(number), "x", True, 1, 1, 1, 0.0, None))
    if number >= 50:
        assert store.remove_publication(str(number - 50))
    print("done", number, flush=True)
    number += 1
"""


def run_writer_and_kill_it(path: Path, after: int) -> int:
    """Kill a writing process -9 after some lines of output; return the last number acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    words = [line.split() for line in lines if line.endswith("\n")]
    return max(int(number) - (word == "open") for word, number in words)


def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(path):
    for round_ in range(12):
        acknowledged = run_writer_and_kill_it(path, after=1 + 37 * round_ % 101)

        for _ in range(2):  # with the -wal that was left behind, then again
            found = Store.read(path)
            newest = max((int(row.target) for row in found.publications()), default=-1)
            assert newest in {acknowledged, acknowledged + 1}
            numbers = {int(row.target) for row in found.publications()}
            assert numbers >= set(range(max(newest - 49, 0), newest + 1))
            assert len(numbers) <= 51 + round_  # a kill between put and remove leaves one more
            assert found.problem == ""
            last_heal = max((row.at for row in found.heals()), default=-1)
            assert last_heal in {newest, newest - 1}


def files_of(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*") if file.name.isdigit()]


def test_a_kill_while_the_file_is_made_leaves_one_that_can_be_used(tmp_path):
    maker = (
        "import sys; from pathlib import Path; from recover.store import Store\n"
        "print(1, flush=True)\n"
        "for name in range(10**6): Store.open(Path(sys.argv[1], str(name)))"
    )
    for round_ in range(5):
        folder = tmp_path / str(round_)
        with subprocess.Popen(
            [sys.executable, "-c", maker, str(folder)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            until(lambda: files_of(folder), "the first file")  # noqa: B023
            select.select([process.stdout], [], [], round_ * 0.007)
            process.kill()

        files = files_of(folder)
        for file in files:
            with opened(file) as store:
                assert store.problem == ""
        assert files


def test_any_prefix_of_the_wal_is_a_state_that_once_was(tmp_path):
    """A power cut leaves some prefix of what was not synced yet, with rubbish behind it."""
    path = tmp_path / "state.db"
    with opened(path) as store:
        for number in range(6):
            store.put_publication(publication(number))
        database, wal = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    cut = tmp_path / "cut.db"
    seen = set()
    for length in (*range(0, len(wal), 499), len(wal)):
        for file in tmp_path.glob("cut.db*"):
            file.unlink()
        cut.write_bytes(database)
        Path(f"{cut}-wal").write_bytes(wal[:length] + os.urandom(700))
        with opened(cut) as store:
            assert store.problem == ""
            seen.add(len(store.publications()))
            assert {row.target for row in store.publications()} == {
                f"/t/{number}" for number in range(len(store.publications()))
            }
    assert seen == set(range(7))
