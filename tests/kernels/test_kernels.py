"""A part of the privileged suite on each other kernel: what differs between them."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.kernels import machine, matrix
from tests.kernels.results import Result

NAMES = ("5.10", "6.1", "6.12", "newest")
AT_ONCE = 2  # an emulated machine keeps hardly more than one processor busy
LIMIT_S = 1500.0  # for one of them

Found = dict[str, Future[tuple[Result, ...]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    """Run the selection on each kernel that is here, two at a time."""
    kernels = {kernel.name: kernel for kernel in machine.kernels()}
    if missing := set(NAMES) - set(kernels):
        pytest.skip(f"needs Linux {sorted(missing)}: run '.ci/setup kernels', which fetches them")
    machine.accelerator()  # once, before both want to know
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            name: pool.submit(
                matrix.run, kernels[name], matrix.QUICK, tmp_path_factory.mktemp(name), {}, LIMIT_S
            )
            for name in NAMES
        }


@pytest.mark.timeout(2 * LIMIT_S + 300)
@pytest.mark.parametrize("name", NAMES)
def test_volumes_are_published_and_heal_on_it(found: Found, name: str):
    every = found[name].result()

    assert matrix.failures({name: every}) == []
    assert len(every) > len(matrix.QUICK)
