"""Whatever page of the file is lost, the store opens, shows no wrong row, and says so."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from recover.store import Store
from tests.unit.store.rows import generation, heal, opened, publication

PAGE = 4096
ROWS = 100


def pages(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each page's place in a file, and its content."""
    content = path.read_bytes()
    yield from ((at, content[at : at + PAGE]) for at in range(0, len(content), PAGE))


@pytest.fixture
def full(path: Path) -> Path:
    """Return a file with rows in each table, of many pages."""
    store = Store(path)
    for number in range(ROWS):
        store.put_publication(publication(number))
        store.put_generation(generation(dev=f"0:{number}"))
        store.record_heal(heal(number))
    store.close()
    return path


@pytest.mark.parametrize("kind", ["zeros", "random", "of another place"])
def test_of_a_file_with_a_lost_page_no_wrong_row_is_taken(full: Path, kind: str):
    right = set(Store.read(full).publications())
    assert len(right) == ROWS
    whole, chance = full.read_bytes(), random.Random(12)
    assert len(whole) > 10 * PAGE
    lost = {
        "zeros": lambda: bytes(PAGE),
        "random": lambda: chance.randbytes(PAGE),
        "of another place": lambda: whole[PAGE : 2 * PAGE],
    }[kind]

    for at, page in pages(full):
        if (instead := lost()) == page:
            continue
        broken = full.with_name(f"page-{at}.db")
        broken.write_bytes(whole[:at] + instead + whole[at + PAGE :])
        told: list[str] = []
        with opened(broken, told.append) as store:
            assert set(store.publications()) in (right, set()), at
            assert told == [store.problem]
            (kept,) = broken.parent.glob(f"{broken.name}.corrupt-*Z")
            assert str(kept) in store.problem
            store.put_publication(publication(ROWS))
        assert publication(ROWS) in Store.read(broken).publications()


def test_of_a_log_with_a_lost_page_what_was_before_is_taken(path: Path):
    """SQLite ends a -wal where a checksum is wrong; the kernel's mounts tell the rest."""
    with opened(path) as store:
        for number in range(12):
            store.put_publication(publication(number))
        database, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    expected = [{publication(n) for n in range(count)} for count in range(13)]
    killed = path.with_name("killed.db")

    for at in range(0, len(log), PAGE):
        for file in path.parent.glob("killed.db*"):
            file.unlink()
        killed.write_bytes(database)
        Path(f"{killed}-wal").write_bytes(log[:at] + bytes(PAGE) + log[at + PAGE :])
        with opened(killed) as store:
            assert set(store.publications()) in expected, at
            store.put_publication(publication(99))
            assert store.problem == "" or "kept as" in store.problem
        assert publication(99) in Store.read(killed).publications()


def test_a_page_that_is_lost_while_the_file_is_in_use_takes_nothing_from_the_memory(full: Path):
    for at, _ in pages(full):
        used = full.with_name(f"used-{at}.db")
        shutil.copy(full, used)
        with opened(used) as store:
            with used.open("r+b") as file:
                file.seek(at)
                file.write(bytes(PAGE))
            for number in range(ROWS, ROWS + 5):
                store.put_publication(publication(number))
                store.flush()
            assert len(store.publications()) == ROWS + 5, at
        with opened(used) as again:
            rows = {row.target for row in again.publications()}
            assert rows in (set(), {f"/t/{number}" for number in range(ROWS + 5)}), at
