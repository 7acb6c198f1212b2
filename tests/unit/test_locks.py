"""One lock per key: busy keys are told, waits end, nothing is left behind."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from recover.errors import Busy
from recover.locks import Locks


def test_a_held_key_is_busy_for_others():
    locks = Locks()

    with locks.hold("/t"), pytest.raises(Busy, match="/t") as caught, locks.hold("/t"):
        pass

    assert caught.value.key == "/t"


def test_other_keys_stay_free():
    locks = Locks()

    with locks.hold("/a"), locks.hold("/b"):
        pass


def test_a_key_is_free_again_after_an_error():
    locks = Locks()

    with pytest.raises(ZeroDivisionError), locks.hold("/t"):
        raise ZeroDivisionError

    with locks.hold("/t"):
        pass


def test_a_wait_ends_when_the_holder_lets_go():
    locks = Locks()
    held, let_go, got = threading.Event(), threading.Event(), threading.Event()

    def holder():
        with locks.hold("/t"):
            held.set()
            let_go.wait(10)

    def waiter():
        with locks.hold("/t", wait_s=10):
            got.set()

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(holder)
        assert held.wait(10)
        second = threads.submit(waiter)
        assert not got.wait(0.05)
        let_go.set()
        first.result(10)
        second.result(10)
    assert got.is_set()


def test_a_wait_that_is_too_short_is_busy():
    locks = Locks()

    with locks.hold("/t"), pytest.raises(Busy), locks.hold("/t", wait_s=0.01):
        pass


def test_keys_that_nobody_holds_or_wants_take_no_memory():
    locks = Locks()
    with locks.hold("/t"):
        with pytest.raises(Busy), locks.hold("/t"):
            pass
        assert set(locks._held) == {"/t"}

    assert not locks._held


def test_never_two_threads_are_inside():
    locks = Locks()
    inside, most, entries = 0, 0, 0

    def enter(_turn):
        nonlocal inside, most, entries
        with locks.hold("/t", wait_s=30):
            inside += 1
            most = max(most, inside)
            entries += 1
            inside -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(enter, range(2_000)))

    assert (most, entries) == (1, 2_000)
    assert not locks._held
