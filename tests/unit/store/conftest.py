"""The path of a state file, and one that is filled."""

from pathlib import Path

import pytest

from tests.unit.store.rows import opened, publication


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def filled(path):
    with opened(path) as store:
        for number in range(100):
            store.put_publication(publication(number))
    return path
