"""The lease to heal: one process at a time, all threads of it together, never waited for long."""

import contextlib
import fcntl
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recover.lease import Lease

# The child tells that it holds the lease, and gives it back when its standard input is closed.
HOLDER = """
import sys
from pathlib import Path
from recover.lease import Lease

with Lease(Path(sys.argv[1])).hold() as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that holds the lease, and end it."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "True\n"
            yield child
        finally:
            child.kill()


def is_held(path: Path) -> bool:
    """Tell whether a lock on the file is refused at once."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "heal.lock"


def test_a_process_may_heal_when_no_other_does(path):
    with Lease(path).hold() as held:
        assert held


def test_threads_of_a_process_share_the_lease(path):
    lease, answers = Lease(path), []

    def heal() -> None:
        with lease.hold() as held:
            answers.append(held)

    with lease.hold():
        thread = threading.Thread(target=heal)
        thread.start()
        thread.join()

    assert answers == [True]


def test_the_lease_is_held_until_the_last_thread_gives_it_back(path):
    lease = Lease(path)
    with lease.hold():
        with lease.hold():
            pass
        assert is_held(path)


def test_the_lease_is_free_when_the_last_thread_gave_it_back(path):
    lease = Lease(path)
    with lease.hold(), lease.hold():
        pass

    assert not is_held(path)


def test_the_lease_is_given_back_after_an_error(path):
    with contextlib.suppress(ZeroDivisionError), Lease(path).hold():
        raise ZeroDivisionError

    assert not is_held(path)


def test_a_process_does_not_get_what_another_holds_and_waits_two_seconds_for_it_at_the_most(path):
    with another_process(path) as other:
        other.send_signal(signal.SIGSTOP)
        before = time.monotonic()

        with Lease(path).hold() as held:
            waited_s = time.monotonic() - before

    assert not held
    assert 1.9 < waited_s < 10  # the machine may be busy


def test_a_process_that_was_killed_holds_nothing(path):
    with another_process(path) as other:
        other.kill()
        other.wait()

        with Lease(path).hold() as held:
            assert held


def test_a_lease_that_is_given_back_is_taken_by_who_waits(path):
    lease, answers = Lease(path), []

    def heal() -> None:
        with lease.hold() as held:
            answers.append(held)

    with another_process(path) as other:
        thread = threading.Thread(target=heal)
        thread.start()
        assert other.stdin is not None
        other.stdin.close()
        thread.join()

    assert answers == [True]


def test_where_nobody_else_can_heal_no_file_is_needed():
    with Lease(None).hold() as held:
        assert held


@pytest.mark.parametrize("place", ["absent/heal.lock", "file/heal.lock", ""])
def test_where_no_file_can_be_made_the_lease_is_not_held_and_that_is_no_error(tmp_path, place):
    (tmp_path / "file").touch()

    with Lease(tmp_path / place).hold() as held:
        assert not held


def test_the_file_is_its_owners_alone(path):
    with Lease(path).hold():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_symbolic_link_in_the_place_of_the_file_is_not_followed(path, tmp_path):
    path.symlink_to(tmp_path / "elsewhere")

    with Lease(path).hold():
        pass

    assert not (tmp_path / "elsewhere").exists()
