"""Tests that misbehave on purpose; only test_sandbox.py runs them, each by its name."""

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from csi_fluid.testbed.waiting import until
from tests import sandbox

KEPT: list[object] = []  # what a test must leak stays referenced here


def test_leaks_a_descriptor(workdir: Path):
    os.open(workdir, os.O_PATH)


def test_leaks_a_thread():
    thread = threading.Thread(target=threading.Event().wait, name="forgotten", daemon=True)
    thread.start()


def test_leaks_a_mount(workdir: Path):
    (workdir / "leaked").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", workdir / "leaked"], check=True)


def test_leaks_a_process():
    KEPT.append(subprocess.Popen(["sleep", "1000"], start_new_session=True))


@pytest.mark.timeout(1)
def test_hangs():
    threading.Event().wait()


@pytest.mark.timeout(1)
def test_hangs_beyond_every_signal():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    threading.Event().wait()


def test_kills_its_interpreter():
    os._exit(3)


def test_needs_what_is_missing():
    sandbox.require("no-such-tool")


def test_is_in_namespaces_of_its_own(workdir: Path):
    outer = os.environ["OUTER_NAMESPACES"].split()
    assert all(os.readlink(f"/proc/self/ns/{kind}") not in outer for kind in ("mnt", "pid"))
    subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)
    subprocess.run(["umount", "/mnt"], check=True)
    assert list(workdir.iterdir()) == []


def test_lasts_while_somebody_mounts():
    meeting = Path(os.environ["MEETING"])
    (meeting / "begun").touch()
    until((meeting / "told").exists, "the mount of somebody else")
