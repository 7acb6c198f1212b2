"""The process connector; outside of a sandbox, because the kernel serves only its first namespaces.

Nothing here touches a mount.  In any other PID namespace the same tests expect the refusal.
"""

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from csi_fluid.testbed.waiting import until
from recover.linux import procevents, syscalls
from recover.linux.wakeups import Wake, WakeUps

IS_SERVED = int(os.readlink("/proc/self/ns/pid")[5:-1]) == procevents._INITIAL_PID_NS


def refuse(_: int) -> int:
    raise PermissionError(errno.EPERM, "refused by a seccomp filter")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def wakeups(request: pytest.FixtureRequest) -> Iterator[WakeUps]:
    made = WakeUps(pidfd_open=getattr(request, "param", refuse))
    yield made
    made.close()


def test_ends_of_processes_are_read_by_another_thread_than_subscribed(
    child: subprocess.Popen[bytes],
):
    made: list[procevents.ProcessExits] = []

    def subscribe() -> None:
        with contextlib.suppress(PermissionError):
            made.append(procevents.ProcessExits())

    thread = threading.Thread(target=subscribe)
    thread.start()
    thread.join()
    child.kill()
    seen: list[int] = []

    def sees_the_end() -> bool:
        seen.extend(made[0].read())
        return child.pid in seen

    assert bool(made) == IS_SERVED
    if made:
        until(sees_the_end, "the end of the child")
        made[0].close()


def test_they_stand_in_where_pidfds_are_refused(child: subprocess.Popen[bytes], wakeups: WakeUps):
    is_watched = wakeups._watch_process(child.pid, "0:99")
    child.kill()
    wakes: list[Wake] = []

    def is_woken() -> bool:
        wakes.append(wakeups.wait(5))
        return bool(wakes[-1].ended)

    assert is_watched == IS_SERVED
    assert wakeups.names[1] == ("process events" if IS_SERVED else "none for daemon exits")
    if is_watched:
        until(is_woken, "the end of the child")
        assert wakes[-1].ended == {"0:99"}
        assert wakes[-1].by == {"process events"}


@pytest.mark.parametrize("wakeups", [syscalls.pidfd_open, refuse], indirect=True)
def test_a_process_that_may_serve_several_superblocks_is_watched_once(
    child: subprocess.Popen[bytes], wakeups: WakeUps
):
    devs = {f"0:{number}" for number in range(90, 99)}
    before = len(os.listdir("/proc/self/fd"))

    watched = {wakeups._watch_process(child.pid, dev) for dev in devs}

    assert len(os.listdir("/proc/self/fd")) <= before + 1
    if watched == {True}:
        wakeups.forget(devs - {"0:90"})
        child.kill()
        until(lambda: wakeups.wait(5).ended == devs - {"0:90"}, "the end of the child")
    else:
        assert wakeups.names[1] == "none for daemon exits"


def test_an_end_that_is_told_in_both_ways_is_told_once(child: subprocess.Popen[bytes]):
    def open_one(pid: int) -> int:  # as at the limit of open files
        return syscalls.pidfd_open(pid) if pid == child.pid else refuse(pid)

    wakeups = WakeUps(pidfd_open=open_one)
    assert wakeups._watch_process(child.pid, "0:98")
    wakeups._watch_process(os.getpid(), "0:99")
    child.kill()
    ended: list[str] = []

    def is_over() -> bool:
        ended.extend(wakeups.wait(5).ended)
        return not wakeups._pidfds

    until(is_over, "the end of the child")
    assert ended == ["0:98"]
    wakeups.close()


def test_a_process_that_ended_before_it_was_watched_is_not_said_to_be_watched(
    child: subprocess.Popen[bytes], wakeups: WakeUps
):
    child.kill()
    child.wait()

    assert not wakeups._watch_process(child.pid, "0:99")


def test_outside_of_the_hosts_network_namespace_they_are_refused_in_silence():
    code = """
from recover.linux import procevents
try:
    procevents.ProcessExits()
except OSError:
    print("refused")
"""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-X", "dev", "-c", code],
        capture_output=True,
        check=True,
        timeout=20,
    )

    assert (done.stdout, done.stderr) == (b"refused\n", b"")
