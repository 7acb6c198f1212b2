"""The sandbox itself: what it isolates, what it reports, and that it always ends."""

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csi_fluid.testbed.waiting import until
from tests import nested

VICTIMS = "tests/privileged/tools/victims.py"


@pytest.fixture
def shared(workdir: Path) -> Iterator[Path]:
    """Return a folder of a mount that passes on what is mounted in it."""
    subprocess.run(["mount", "-t", "tmpfs", "none", workdir], check=True)
    subprocess.run(["mount", "--make-shared", workdir], check=True)
    yield workdir
    subprocess.run(["umount", "--recursive", workdir], check=True)


@pytest.mark.parametrize(
    ("victim", "complaint"),
    [
        ("test_leaks_a_descriptor", "descriptor "),
        ("test_leaks_a_thread", "thread forgotten"),
        ("test_leaks_a_mount", "/leaked rw"),
        ("test_leaks_a_process", "sleep 1000"),
        ("test_kills_its_interpreter", "ended with status 3"),
        ("test_hangs", r"Timeout \(>1.0s\) from pytest-timeout"),
        # with the stack
        ("test_hangs_beyond_every_signal", "(?s)killed after 4 s.*in test_hangs_beyond_every"),
    ],
)
def test_misbehaviour_is_a_failure_that_names_the_cause(victim: str, complaint: str):
    status, output = nested.run(f"{VICTIMS}::{victim}")

    assert status == 1
    assert re.search(complaint, output)


def test_a_missing_need_is_a_skip_with_its_reason():
    status, output = nested.run(f"{VICTIMS}::test_needs_what_is_missing")

    assert status == 0
    assert "needs no-such-tool" in output


def test_a_missing_need_is_a_failure_where_all_is_required():
    status, output = nested.run(f"{VICTIMS}::test_needs_what_is_missing", REQUIRE_ALL="1")

    assert status == 1
    assert "needs no-such-tool" in output


def test_namespaces_and_work_folder_are_a_tests_own():
    namespaces = " ".join(os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid"))

    status, output = nested.run(
        f"{VICTIMS}::test_is_in_namespaces_of_its_own", OUTER_NAMESPACES=namespaces
    )

    assert status == 0, output


def test_what_others_mount_meanwhile_is_not_taken_for_a_tests(shared: Path):
    with ThreadPoolExecutor(1) as others:
        mounting = others.submit(mount_once_begun, shared)
        status, output = nested.run(
            f"{VICTIMS}::test_lasts_while_somebody_mounts", MEETING=str(shared)
        )

    mounting.result()
    assert status == 0, output


def mount_once_begun(meeting: Path) -> None:
    until((meeting / "begun").exists, "the begin of the victim", timeout_s=30)
    (meeting / "mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", meeting / "mounted"], check=True)
    (meeting / "told").touch()


def test_a_killed_orphan_is_reaped():
    orphan = subprocess.run(
        ["sh", "-c", "sleep 1000 >/dev/null & echo $!"], stdout=subprocess.PIPE, check=True
    )
    pid = int(orphan.stdout)

    os.kill(pid, 9)

    until(lambda: not Path(f"/proc/{pid}").exists(), f"{pid} is reaped")
