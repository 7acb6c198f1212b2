"""A part of the privileged suite on each other kernel, and under security modules that enforce."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.kernels import machine, matrix
from tests.kernels.machine import Machine
from tests.kernels.results import Result
from tests.kernels.security import MODULES

NAMES = ("5.10", "6.1", "6.12", "newest")
AT_ONCE = 2  # an emulated machine keeps hardly more than one processor busy
LIMIT_S = 1500.0  # for one of them
ENFORCED = ("tests/privileged/enforced.py",)

Found = Future[tuple[Result, ...]]

pytestmark = pytest.mark.timeout(2 * LIMIT_S + 300)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Found]]:
    """Run what belongs to each kernel and security module, two machines at a time."""
    kernels = {kernel.name: kernel for kernel in machine.kernels()}
    if missing := set(NAMES) - set(kernels):
        pytest.skip(f"needs Linux {sorted(missing)}: run '.ci/setup kernels', which fetches them")
    accelerator = machine.accelerator()
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def start(name: str, made: Machine, tests: Sequence[str], **variables: str) -> Found:
            out = tmp_path_factory.mktemp(name)
            return pool.submit(matrix.run, made, tests, out, variables, LIMIT_S)

        of_kernels = {
            name: start(name, Machine(kernels[name], accelerator), matrix.QUICK) for name in NAMES
        }
        of_modules = {
            name: start(name, module.machine(kernels, accelerator), ENFORCED, CONFINED_BY=name)
            for name, module in MODULES.items()
        }
        yield of_kernels | of_modules


@pytest.mark.parametrize("name", NAMES)
def test_volumes_are_published_and_heal_on_it(started: dict[str, Found], name: str):
    every = started[name].result()

    assert matrix.failures({name: every}) == []
    assert len(every) > len(matrix.QUICK)


@pytest.mark.parametrize("name", MODULES)
def test_it_forbids_and_is_blamed_and_pods_that_it_confines_heal(
    started: dict[str, Found], name: str
):
    every = started[name].result()

    assert [result.outcome for result in every] == ["passed"] * 3, every
