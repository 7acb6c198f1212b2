"""Calls that may hang: bounded, given up, counted, released, and their late values discarded."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from csi_fluid.testbed.waiting import until
from recover.errors import Crowded, Unanswered
from recover.linux import probe
from recover.linux.probe import Answer, Prober

SOON_S = 0.05  # for what hangs


class Stopped:
    """A daemon that does not answer until it goes on."""

    def __init__(self) -> None:
        self.calls = 0
        self._goes_on = threading.Event()

    def __call__(self) -> str:
        self.calls += 1
        self._goes_on.wait()
        return "late"

    def go_on(self) -> None:
        """Answer all calls from now on."""
        self._goes_on.set()


@pytest.fixture
def prober() -> Prober:
    return Prober(timeout_s=10, max_abandoned=3)


@pytest.fixture
def stopped(prober: Prober) -> Iterator[Stopped]:
    daemon = Stopped()
    yield daemon
    daemon.go_on()
    until(lambda: prober.abandoned == 0, "the given-up threads end")


def test_a_value_is_returned(prober: Prober):
    assert prober.run("key", lambda: 42) == 42
    assert prober.abandoned == 0


def test_what_the_call_raises_is_raised(prober: Prober):
    with pytest.raises(OSError, match="on purpose") as caught:
        prober.run("key", _raise(OSError(errno.EIO, "on purpose")))

    assert caught.value.errno == errno.EIO
    assert prober.abandoned == 0


def test_even_the_end_of_a_thread_is_raised(prober: Prober):
    with pytest.raises(SystemExit):
        prober.run("key", _raise(SystemExit(3)))


def test_a_call_that_hangs_is_given_up_in_time(prober: Prober, stopped: Stopped):
    prober.timeout_s = SOON_S
    began = time.monotonic()

    with pytest.raises(Unanswered) as caught:
        prober.run("key", stopped)

    assert SOON_S <= time.monotonic() - began < 10  # the machine may be busy
    assert (caught.value.what, caught.value.timeout_s) == ("key", SOON_S)
    assert prober.abandoned == 1
    assert prober.sleeps("key")


def test_a_time_limit_of_its_own_counts(prober: Prober, stopped: Stopped):
    began = time.monotonic()

    with pytest.raises(Unanswered):
        prober.run("key", stopped, 4 * SOON_S)

    assert time.monotonic() - began >= 4 * SOON_S


def test_while_a_call_sleeps_the_next_of_its_key_fails_at_once(prober: Prober, stopped: Stopped):
    with pytest.raises(Unanswered):
        prober.run("key", stopped, SOON_S)
    began = time.monotonic()

    with pytest.raises(Unanswered):
        prober.run("key", stopped, 60.0)

    assert time.monotonic() - began < 1
    assert stopped.calls == 1


def test_other_keys_are_not_held_up(prober: Prober, stopped: Stopped):
    with pytest.raises(Unanswered):
        prober.run("key", stopped, SOON_S)

    assert prober.run("other", lambda: 1) == 1


def test_once_the_daemon_answers_its_key_is_free_again(prober: Prober, stopped: Stopped):
    with pytest.raises(Unanswered):
        prober.run("key", stopped, SOON_S)

    stopped.go_on()
    until(lambda: not prober.sleeps("key"), "the thread ends")

    assert prober.run("key", lambda: 1) == 1


def test_given_up_calls_are_bounded(prober: Prober, stopped: Stopped):
    for key in range(3):
        with pytest.raises(Unanswered):
            prober.run(key, stopped, SOON_S)

    with pytest.raises(Crowded) as caught:
        prober.run("one more", stopped)

    assert caught.value.abandoned == prober.abandoned == 3
    assert stopped.calls == 3


def test_a_pod_that_makes_calls_hang_pays_alone(stopped: Stopped):
    prober = Prober(timeout_s=10, max_of_payer=2, max_of_pods=3)
    for key, payer in ((1, 7), (2, 7), (3, 8)):
        with pytest.raises(Unanswered):
            prober.run(key, stopped, SOON_S, payer=payer)

    with pytest.raises(Crowded) as its_own:
        prober.run("one more", stopped, payer=8 - 1)
    with pytest.raises(Crowded) as of_all:
        prober.run("of another pod", stopped, payer=9)

    assert (its_own.value.abandoned, of_all.value.abandoned) == (2, 3)
    assert prober.run("ours", lambda: 1) == 1
    stopped.go_on()
    until(lambda: prober.abandoned == 0, "the given-up threads end")
    assert prober.run("again", lambda: 1, payer=7) == 1


def test_calls_of_one_key_that_began_together_are_all_counted(prober: Prober, stopped: Stopped):
    together = threading.Barrier(2)

    def attempt(_: int) -> bool:
        together.wait()
        with pytest.raises(Unanswered):
            prober.run("key", stopped, 1.0)  # long enough for both to begin
        return True

    with ThreadPoolExecutor(2) as threads:
        assert all(threads.map(attempt, range(2)))

    assert prober.abandoned == stopped.calls == 2


@pytest.mark.parametrize("how", ["ends", "raises", "hangs", "is not started"])
def test_release_is_called_exactly_once(prober: Prober, stopped: Stopped, how: str):
    released: list[int] = []
    calls: dict[str, Callable[[], object]] = {
        "ends": lambda: 1,
        "raises": _raise(ValueError("on purpose")),
        "hangs": stopped,
        "is not started": stopped,
    }
    if how == "is not started":
        with pytest.raises(Unanswered):
            prober.run("key", stopped, SOON_S)

    if how == "ends":
        prober.run("key", calls[how], release=lambda: released.append(1))
    else:
        with pytest.raises((ValueError, Unanswered)):
            prober.run("key", calls[how], SOON_S, release=lambda: released.append(1))
    while_asleep = list(released)
    stopped.go_on()
    until(lambda: prober.abandoned == 0 and released, "the end")

    assert while_asleep == ([] if how == "hangs" else [1])
    assert released == [1]


def test_a_call_that_is_refused_in_the_crowd_is_released(prober: Prober, stopped: Stopped):
    released: list[int] = []
    give_up(prober, stopped, "a", "b", "c")

    with pytest.raises(Crowded):
        prober.run("one more", stopped, release=lambda: released.append(1))

    assert released == [1]


def test_a_value_that_comes_too_late_is_discarded(prober: Prober, stopped: Stopped):
    discarded: list[str] = []

    with pytest.raises(Unanswered):
        prober.run("key", stopped, SOON_S, discard=discarded.append)
    stopped.go_on()

    until(lambda: discarded, "the late value")
    assert discarded == ["late"]


def test_a_value_in_time_is_not_discarded(prober: Prober):
    discarded: list[int] = []

    prober.run("key", lambda: 1, discard=discarded.append)

    assert discarded == []


def test_after_a_late_error_there_is_nothing_to_discard(prober: Prober, stopped: Stopped):
    discarded: list[object] = []
    before = set(threading.enumerate())

    def fail() -> object:
        stopped()
        raise OSError(errno.ENOTCONN, "late")

    with pytest.raises(Unanswered):
        prober.run("key", fail, SOON_S, discard=discarded.append)
    stopped.go_on()

    until(lambda: before.issuperset(threading.enumerate()), "its thread ends")
    assert not discarded


def test_a_key_that_is_a_function_names_what_would_begin(prober: Prober, stopped: Stopped):
    give_up(prober, stopped, "first")

    with pytest.raises(Unanswered):
        prober.run(lambda: "first", stopped, SOON_S)

    assert stopped.calls == 1


def test_a_key_that_is_a_function_names_what_hangs(prober: Prober, stopped: Stopped):
    under_way = ["first"]

    def work() -> None:
        under_way[0] = "second"
        stopped()

    with pytest.raises(Unanswered) as caught:
        prober.run(lambda: under_way[0], work, SOON_S)

    assert caught.value.what == "second"
    assert prober.sleeps("second")
    assert not prober.sleeps("first")


@settings(max_examples=20, deadline=None)
@given(delays_ms=st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_every_call_either_returns_or_is_discarded(delays_ms: list[int]):
    """Around the time limit both may be about to happen; it is always exactly one."""
    prober = Prober(timeout_s=0.002, max_abandoned=100)
    ends = threading.Event()
    returned: list[int] = []
    discarded: list[int] = []

    def call(number: int, delay_ms: int) -> int:
        ends.wait(delay_ms / 1000)
        return number

    for number, delay_ms in enumerate(delays_ms):
        try:
            value = prober.run(
                number,
                lambda n=number, d=delay_ms: call(n, d),  # type: ignore[misc]
                discard=discarded.append,
            )
            returned.append(value)
        except Unanswered:
            continue
    ends.set()
    until(lambda: len(returned) + len(discarded) >= len(delays_ms), "every value is somewhere")

    assert sorted(returned + discarded) == list(range(len(delays_ms)))


def test_a_directory_answers_and_names_its_file_system(prober: Prober, tmp_path: Path):
    reply = prober.ask(str(tmp_path))

    number = tmp_path.stat().st_dev
    assert reply.alive
    assert reply.dev == f"{os.major(number)}:{os.minor(number)}"


@pytest.mark.parametrize("inner", ["absent", "file/below"])
def test_what_is_not_there_is_absent(prober: Prober, tmp_path: Path, inner: str):
    (tmp_path / "file").touch()

    assert prober.ask(str(tmp_path / inner)).answer is Answer.ABSENT


def test_a_path_whose_opening_sleeps_is_hung(prober: Prober, stopped: Stopped, tmp_path: Path):
    absent = str(tmp_path / "absent")  # for what is there the kernel need not be asked to wait
    give_up(prober, stopped, ("open", absent))

    assert prober.ask(absent).answer is Answer.HUNG


def test_a_path_whose_superblock_sleeps_is_hung(prober: Prober, stopped: Stopped, tmp_path: Path):
    give_up(prober, stopped, (str(tmp_path), prober.ask(str(tmp_path)).dev))

    assert prober.ask(str(tmp_path)).answer is Answer.HUNG


def test_a_stopped_daemon_does_not_stand_for_the_next_one_at_its_path(
    prober: Prober, stopped: Stopped, tmp_path: Path
):
    give_up(prober, stopped, (str(tmp_path), "0:0"))

    assert prober.ask(str(tmp_path)).alive


def test_in_the_crowd_every_path_is_hung(prober: Prober, stopped: Stopped, tmp_path: Path):
    give_up(prober, stopped, "a", "b", "c")

    assert prober.ask(str(tmp_path)).answer is Answer.HUNG


def test_a_path_without_an_end_is_an_error_not_a_death(prober: Prober, tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")

    reply = prober.ask(str(tmp_path / "loop" / "x"))

    assert (reply.answer, reply.errno) == (Answer.FAILING, errno.ELOOP)


def test_asking_leaves_no_descriptor(prober: Prober, tmp_path: Path):
    before = len(os.listdir("/proc/self/fd"))

    for name in ("", "absent"):
        prober.ask(str(tmp_path / name))

    assert len(os.listdir("/proc/self/fd")) == before


def test_only_the_errors_of_a_closed_connection_mean_death():
    assert frozenset({errno.ENOTCONN, errno.ECONNABORTED}) == probe.DEAD_ERRNOS


def give_up(prober: Prober, stopped: Stopped, *keys: object) -> None:
    """Let a call of each key sleep."""
    for key in keys:
        with pytest.raises(Unanswered):
            prober.run(key, stopped, SOON_S)


def _raise(error: BaseException) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail
