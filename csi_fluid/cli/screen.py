"""The terminal: how wide it is, and something to look at while a command takes long."""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

T = TypeVar("T")

_QUIET_S = 2.0
_SOME = 3
_FILE_WIDTH = 160  # of a table that goes to a file or a pipe


def console() -> Console:
    """Return the console for data."""
    return Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)


def talk(text: str) -> None:
    """Say something beside the data: on stderr."""
    print(plain(text), file=sys.stderr)


def plain(text: str) -> str:
    """Return a text that cannot draw on a terminal: a path may hold any byte but zero."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def patiently(what: str, func: Callable[[], T]) -> T:
    """Return func(), or raise what it raises; after two seconds say on stderr what is going on."""
    outcome: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(func())
        except BaseException as error:  # noqa: BLE001  raised again by the caller
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_QUIET_S)
    if thread.is_alive():
        with Console(stderr=True).status(f"{what} ..."):
            thread.join()
    if errors:
        raise errors[0]
    return outcome[0]


def counted(steps: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield steps as they come; on a terminal show on stderr how many of them have come."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from steps
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(steps, total=total, description=what)


def some(names: Sequence[str]) -> str:
    """Return the first few of many names, and how many more there are."""
    shown = ", ".join(names[:_SOME])
    more = len(names) - _SOME
    return f"{shown} and {more} more" if more > 0 else shown
