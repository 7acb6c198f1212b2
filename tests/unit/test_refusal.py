"""The switch by which tests take facilities away."""

import errno
import os
import subprocess
import sys

import pytest

from recover.linux import facilities, refusal


def test_what_is_named_is_refused_as_a_kernel_without_it_answers():
    assert refusal.parse("openat2,move_mount_beneath") == {
        "openat2": errno.ENOSYS,
        "move_mount_beneath": errno.EINVAL,
    }


def test_an_answer_can_be_given():
    assert refusal.parse("open_tree=EPERM") == {"open_tree": errno.EPERM}
    assert refusal.parse("all,openat2=EPERM") == refusal.OPTIONAL | {"openat2": errno.EPERM}


def test_nothing_is_refused_unasked():
    assert refusal.parse("") == {}


@pytest.mark.parametrize("text", ["mount", "openat", "openat2=EWHAT"])
def test_what_cannot_be_refused_is_an_error(text):
    with pytest.raises((ValueError, AttributeError)):
        refusal.parse(text)


def test_each_facility_can_be_refused():
    assert [facility.name for facility in facilities.TABLE] == sorted(
        refusal.OPTIONAL, key=[facility.name for facility in facilities.TABLE].index
    )


@pytest.mark.parametrize("refused", [*refusal.OPTIONAL, "open_tree=EPERM", "openat2=EPERM"])
def test_a_facility_that_is_refused_is_lacking_and_no_other(refused):
    if os.geteuid() != 0:
        pytest.skip("needs root: most facilities are refused without")

    name = refused.partition("=")[0]
    with_it = {"move_mount": {"move_mount_beneath"}}.get(name, set())  # a flag of the call

    assert lacking(refused) == lacking("") | {name} | with_it


def lacking(refused: str) -> set[str]:
    """Return what a new process finds lacking."""
    script = (
        "from recover.linux import facilities\n"
        "print(*(f.name for f in facilities.TABLE if not facilities.has(f.name)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"CSI_FLUID_REFUSE": refused},
        capture_output=True,
        check=True,
        text=True,
        timeout=30,
    )
    return set(done.stdout.split())
