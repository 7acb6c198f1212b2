"""Calls in another process: values, errors and descriptors on their way, and how each may end."""

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_fluid.testbed.waiting import until
from recover.errors import Unanswered, Unstarted
from recover.linux import message, probe, probehelper, procself, resolve, syscalls
from recover.linux.message import Descriptor
from recover.linux.probe import Answer, Prober
from recover.linux.probehelper import ProbeHelper
from tests.unit import errands


@pytest.fixture
def helper() -> Iterator[ProbeHelper]:
    """Return a helper that has made a call."""
    made = ProbeHelper()
    with contextlib.closing(made):
        made.call(errands.descriptors, (), None)
        yield made


@pytest.fixture
def prober(helper: ProbeHelper) -> Prober:
    return Prober(timeout_s=10, helper=helper)


def test_a_call_is_made_in_another_process(helper: ProbeHelper, prober: Prober):
    assert prober.call("key", os.getpid) == helper.pid != os.getpid()


def test_what_a_call_raises_is_raised_here(prober: Prober, tmp_path: Path):
    with pytest.raises(FileNotFoundError) as caught:
        prober.call("key", os.stat, f"{tmp_path}/absent")

    assert caught.value.filename == f"{tmp_path}/absent"


def test_a_time_out_that_a_daemon_answers_is_no_hang(prober: Prober):
    with pytest.raises(TimeoutError) as caught:
        prober.call("key", errands.fail, errno.ETIMEDOUT)

    assert not isinstance(caught.value, Unanswered)


def test_a_message_that_cannot_be_read_over_there_is_an_error_here(
    prober: Prober, helper: ProbeHelper
):
    before = helper.pid
    unknown = type("Unknown", (), {"__reduce__": lambda _: (int, ("no number",))})()

    with pytest.raises(ValueError, match="no number"):
        prober.call("key", print, unknown)

    assert helper.pid == before


def test_a_descriptor_is_lent_and_one_is_given(prober: Prober, tmp_path: Path):
    (tmp_path / "file").write_text("here")
    folder = os.open(tmp_path, os.O_PATH)
    before = prober.call("key", errands.descriptors)

    fd = prober.open("key", errands.open_in, Descriptor(folder), "file")

    assert os.read(fd, 10) == b"here"
    os.close(fd)
    os.close(folder)
    assert prober.call("key", errands.descriptors) == before


def test_a_call_that_hangs_is_given_up_and_its_key_sleeps_until_it_ends(
    helper: ProbeHelper, tmp_path: Path
):
    prober = Prober(timeout_s=0.2, helper=helper)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    with pytest.raises(Unanswered):
        prober.open("key", os.open, str(fifo), os.O_RDONLY)
    with pytest.raises(Unanswered):
        prober.call("key", os.getpid)
    assert prober.call("other", os.getpid, timeout_s=10)
    assert prober.abandoned == 1

    with fifo.open("wb"):
        until(lambda: not prober.sleeps("key"), "it has ended")
    assert prober.abandoned == 0


@pytest.mark.expects_log("went away; starting another")
def test_a_call_goes_on_in_a_new_process_where_the_old_one_went_away(
    prober: Prober, helper: ProbeHelper
):
    before = helper.pid
    os.kill(before, signal.SIGKILL)

    assert prober.call("key", os.getpid) == helper.pid != before


def test_calls_at_once_each_have_a_line(prober: Prober):
    together = threading.Barrier(8)

    def ask() -> None:
        together.wait()
        for _ in range(20):
            assert prober.ask("/").alive

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_closed_it_ends_its_process_and_what_waits_for_it(tmp_path: Path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    made = ProbeHelper()
    pid = made.call(os.getpid, (), None)

    def wait() -> None:
        with probehelper.bound(made), pytest.raises(Unstarted):
            probehelper.there(errands.read, str(fifo))

    thread = threading.Thread(target=wait)
    thread.start()
    with fifo.open("wb"):  # the call is under way
        made.close()
        thread.join(10)

    assert not thread.is_alive()
    until(lambda: has_ended(pid), "its process has ended")


def has_ended(pid: int) -> bool:
    """Tell whether a process is gone, or waits to be reaped, which a slow one is later."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_it_has_nothing_of_ours(helper: ProbeHelper, tmp_path: Path):
    with (tmp_path / "lock").open("wb"):
        made = ProbeHelper()
        with contextlib.closing(made):
            names = made.call(errands.descriptors, ("self",), None)
            of_the_line = made.call(errands.descriptors, (), None)

    assert set(names) == {"/dev/null", "socket"}
    assert of_the_line == ["socket"]
    assert helper.call(os.getcwd, (), None) == "/"


def test_what_a_prober_runs_here_asks_over_there(prober: Prober, helper: ProbeHelper):
    assert prober.run("key", lambda: probehelper.there(os.getpid)) == helper.pid
    assert probehelper.there(os.getpid) == os.getpid()


def test_a_walk_goes_over_there_if_the_kernel_has_not_all_of_it_in_memory(
    prober: Prober, tmp_path: Path
):
    (tmp_path / "a").mkdir()
    root = os.open(tmp_path, os.O_PATH)
    rules = resolve.NO_LINKS | syscalls.RESOLVE_BENEATH

    fds = [
        prober.run("key", lambda p=path: resolve.open_at(root, p, rules))  # type: ignore[misc]
        for path in ("a", "./a/../a")
    ]

    assert all(os.path.samestat(os.fstat(fd), (tmp_path / "a").stat()) for fd in fds)
    for fd in (root, *fds):
        os.close(fd)


def test_a_path_is_asked_there(prober: Prober, tmp_path: Path):
    assert prober.ask(str(tmp_path)).alive
    assert prober.ask(str(tmp_path / "absent")).answer is Answer.ABSENT
    assert prober.run("key", lambda: probe.ask_path(str(tmp_path))).alive


def test_more_paths_than_fit_into_a_message_are_all_asked(prober: Prober, tmp_path: Path):
    fd = os.open(tmp_path, os.O_PATH)
    with procself.closing(fd):
        replies = prober.ask_all("key", [fd] * (message.MOST_DESCRIPTORS + 3))

        assert len(replies) == message.MOST_DESCRIPTORS + 3
        assert all(reply.alive for reply in replies)
        assert len(probe.ask_some(fd, fd, within_s=0.0)) == 1  # a daemon that is slow gets time
