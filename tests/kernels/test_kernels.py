"""A part of the privileged suite on each other kernel: what differs between them."""

import pytest

from tests.kernels import machine, matrix


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["5.10", "6.1", "6.12", "newest"])
def test_volumes_are_published_and_heal_on_it(name: str):
    if name not in {kernel.name for kernel in machine.kernels()}:
        pytest.skip(f"needs Linux {name}: run '.ci/setup kernels', which fetches it")
    kernel = machine.find(name)

    found = {kernel.release: matrix.run(kernel, matrix.QUICK, {})}

    assert matrix.failures(found) == []
    assert len(found[kernel.release]) > len(matrix.QUICK)
