"""What may have forbidden a call is told from the labels that runtimes really give."""

import errno
import os

import pytest

from recover.linux import confinement


@pytest.mark.parametrize(
    ("label", "module"),
    [
        ("system_u:system_r:container_t:s0:c123,c456", "SELinux"),
        ("system_u:system_r:spc_t:s0", "SELinux"),
        ("unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023", "SELinux"),
        ("cri-containerd.apparmor.d (enforce)", "AppArmor"),
        ("docker-default (enforce)", "AppArmor"),
        ("crio-default//&unconfined (mixed)", "AppArmor"),
    ],
)
def test_a_label_tells_its_module(label: str, module: str):
    told = confinement._of_label(label)

    assert told.startswith(module)
    assert label in told


@pytest.mark.parametrize("label", ["unconfined", ""])
def test_a_process_that_no_module_confines_is_not_forbidden_by_it(label: str):
    assert confinement._of_label(label) == ""


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EINVAL, errno.ENOSYS, errno.ENOTCONN])
def test_what_is_no_refusal_gets_no_hint(number: int):
    error = OSError(number, os.strerror(number), "/data")

    assert confinement.hint(error) == ""
    assert confinement.told(error) == str(error)


def test_an_error_without_words_is_told_by_its_type():
    assert confinement.told(TimeoutError()) == "TimeoutError"
