"""The process in a box that obeys the bench: one line of JSON asks, one or more answer.

The first line says which part with which subject, each further one asks for a round of it.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tests.bench import subjects, wire
from tests.bench.heal import Heal
from tests.bench.machine import Machine
from tests.bench.resources import Idle, Start
from tests.bench.rpcs import Rpcs
from tests.bench.seamless import ReadOn, Seamless

# What each sets up is there when it is made; its `round` measures once more.
PARTS: dict[str, Callable[..., Any]] = {
    "heal": Heal,
    "rpcs": Rpcs,
    "start": Start,
    "idle": Idle,
    "seamless": Seamless,
    "readon": ReadOn,
}


def _part(order: dict[str, Any], answers: IO[str]) -> Any:
    machine = Machine(Path(order["disk"]))
    arguments = order["arguments"]
    host_pid = arguments.pop("host_pid", True)
    subject = subjects.make(subjects.Spec(**order["subject"]), machine, host_pid=host_pid)
    say = lambda text: wire.tell(answers, say=text)  # noqa: E731
    return PARTS[order["part"]](machine, subject, say, **arguments)


def main() -> None:
    """Obey until the orders end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a child prints is no answer
    try:
        orders = wire.orders()
        part = _part(next(orders), answers)
        wire.tell(answers, result={})
        for order in orders:
            wire.tell(answers, result=part.round(**order))
    except Exception:  # noqa: BLE001  all of it is for the one who asked
        wire.tell(answers, error=traceback.format_exc())
        sys.exit(1)


if __name__ == "__main__":
    main()
