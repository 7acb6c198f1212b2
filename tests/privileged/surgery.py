"""Mounts put where a test wants them, and the thread context in which they can be taken away."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from recover.linux import mounts, namespaces
from recover.linux.mounts import Attributes
from recover.linux.probe import Prober

T = TypeVar("T")


def pile(
    source: Path, place: Path | str, layers: int = 1, attributes: Attributes | None = None
) -> None:
    """Mount clones on top of each other, private ones if not told else."""
    for _ in range(layers):
        with (
            mounts.clone(str(source), "", attributes or Attributes()) as clone,
            mounts.closing(mounts.open_path(str(place))) as at,
        ):
            mounts.attach(clone, at)


def at_home(func: Callable[..., T], *arguments: object) -> T:
    """Run a function in the thread context that unmounting by descriptor needs.

    The root descriptor is its last argument.
    """
    home = namespaces.home()
    return namespaces.visit(home, lambda root_fd: func(*arguments, root_fd), Prober())
