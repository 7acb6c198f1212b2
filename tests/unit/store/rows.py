"""What the tests of the store share: rows, a store for a block, SQL behind its back."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from hypothesis import HealthCheck, settings

from recover.rows import Generation, Heal, Publication
from recover.store import Store

SHARED_TMP = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def publication(number: int = 0, source: str = "/s", at: float = 1.5) -> Publication:
    return Publication(f"/t/{number}", f"v{number}", source, published_at=at)


def generation(source: str = "/s", dev: str = "0:50") -> Generation:
    return Generation(source, dev, "/", "fuse.x", "x", "boot", 1.5)


def heal(number: int = 0, source: str = "/s") -> Heal:
    return Heal(source, float(number), "namespace", True, 3, 3, 1, 0.004, None)


@contextlib.contextmanager
def opened(path: Path, on_problem: Callable[[str], None] = lambda _: None) -> Iterator[Store]:
    with contextlib.closing(Store.open(path, on_problem)) as store:
        yield store


def edit(script: str):
    def change(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.executescript(script)

    return change


def dump(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())
