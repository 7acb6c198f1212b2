"""Ask many at once, each in a thread of its own, and wait for none longer than it is worth.

A thread that does not come back in time is given up: it ends with the process, and its place goes
to the next.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from csi_fluid.cli import usage

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Limits:
    """How many are asked at a time, and how long one of them may take in seconds."""

    at_once: int = 100
    each_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Reply(Generic[Q, A]):
    """Who was asked and what came back: an answer, or in error why there is none."""

    asked: Q
    answer: A | None = None
    error: str = ""


def ask(
    everybody: Sequence[Q], question: Callable[[Q], A], limits: Limits
) -> Iterator[Reply[Q, A]]:
    """Yield the reply of each, in the order in which they come.

    What a question raises as usage.Failure is the error of its reply; anything else is raised.
    """
    replies: queue.SimpleQueue[tuple[int, Reply[Q, A] | BaseException]] = queue.SimpleQueue()
    waiting = deque(enumerate(everybody))
    running: dict[int, tuple[Q, float]] = {}  # in the order of their deadlines

    def work(number: int, asked: Q) -> None:
        replies.put((number, _reply(asked, question)))

    while waiting or running:
        while waiting and len(running) < limits.at_once:
            number, asked = waiting.popleft()
            running[number] = asked, time.monotonic() + limits.each_s
            threading.Thread(target=work, args=(number, asked), daemon=True).start()
        number, (asked, deadline) = next(iter(running.items()))
        try:
            number, reply = replies.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            reply = Reply(asked, error=f"no answer within {limits.each_s:g} s")
        if isinstance(reply, BaseException):
            raise reply
        if running.pop(number, None) is not None:
            yield reply


def _reply(asked: Q, question: Callable[[Q], A]) -> Reply[Q, A] | BaseException:
    try:
        return Reply(asked, question(asked))
    except usage.Failure as error:
        return Reply(asked, error=str(error))
    except BaseException as error:  # noqa: BLE001  raised again by who asks
        return error
