"""`until` waits for so long, but for a machine that stood still it does not."""

import itertools
from types import SimpleNamespace

import pytest

from csi_fluid.testbed import waiting


@pytest.fixture
def stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a minute go by between any two looks at the clock."""
    minutes = itertools.count(step=60.0)
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: next(minutes)))


@pytest.mark.usefixtures("stalls")
def test_a_machine_that_stands_still_is_waited_for():
    looks = itertools.count()

    assert waiting.until(lambda: next(looks) > 3, "the fourth look", timeout_s=1, every_s=0)


@pytest.mark.usefixtures("stalls")
def test_a_wait_for_nothing_has_an_end():
    with pytest.raises(TimeoutError, match="waited 1 s for nothing"):
        waiting.until(lambda: False, "nothing", timeout_s=1, every_s=0)
