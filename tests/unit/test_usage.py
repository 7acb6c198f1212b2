"""The numbers of statfs on the wire."""

from hypothesis import given, strategies as st

from csi_fluid.volumes.stats import Usage

NUMBERS = st.integers(min_value=0, max_value=2**80)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_any_numbers_fit_the_wire(total: int, free: int, available: int):
    usage = Usage.of(total, free, available)

    assert all(0 <= n < 2**63 for n in (usage.total, usage.available, usage.used))


def test_plain_numbers_are_kept():
    assert Usage.of(100, 30, 20) == Usage(total=100, available=20, used=70)
