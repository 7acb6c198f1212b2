"""A part of the privileged suite on each other kernel: what differs between them."""

from pathlib import Path

import pytest

from tests.kernels import machine, matrix


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("name", ["5.10", "6.1", "6.12", "newest"])
def test_volumes_are_published_and_heal_on_it(name: str, tmp_path: Path):
    if name not in {kernel.name for kernel in machine.kernels()}:
        pytest.skip(f"needs Linux {name}: run '.ci/setup kernels', which fetches it")
    kernel = machine.find(name)

    found = {kernel.release: matrix.run(kernel, matrix.QUICK, tmp_path, {})}

    assert matrix.failures(found) == []
    assert len(found[kernel.release]) > len(matrix.QUICK)
