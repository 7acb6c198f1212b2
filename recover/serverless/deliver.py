"""Bring a live mount to anchors, and see that it arrives where an application's copy would be."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from recover.anchors import anchor as anchors
from recover.anchors.anchor import Anchor
from recover.anchors.witness import Witness
from recover.errors import Error
from recover.linux import confinement
from recover.linux.mountinfo import Mount

_ERRORS = (Error, OSError)


@dataclass(slots=True)
class Delivery:
    """What arrived: layers in an application for each anchor, errors by path, when it was seen.

    last_at is in monotonic seconds, of the last anchor whose slave was seen to answer.
    """

    layers: list[int] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    last_at: float = 0.0


class Deliverer:
    """Delivers to the anchors of one mount point; visit runs a function with a time limit."""

    def __init__(self, visit: Callable[[Callable[[int], object]], None]) -> None:
        self._visit = visit
        self._witness = Witness()

    def deliver(self, behind: Sequence[Anchor], live: Mount, *, read_only: bool) -> Delivery:
        """Uncover every anchor before the first gets the live mount: one may hang off another."""
        delivery = Delivery()
        given_up = threading.Event()

        def act(root_fd: int) -> None:
            for anchor in behind:
                anchors.uncover(anchor.path, anchor.stack, root_fd)
            for anchor in behind:
                if not given_up.is_set():
                    self._bring(anchor, live, root_fd, delivery, read_only=read_only)

        try:
            self._visit(act)
        except _ERRORS as error:
            given_up.set()
            delivery.failed[live.mount_point] = confinement.told(error)
        return delivery

    def _bring(
        self, anchor: Anchor, live: Mount, root_fd: int, delivery: Delivery, *, read_only: bool
    ) -> None:
        read_only = read_only or anchor.base.read_only
        try:
            with self._witness.of(anchor.path, root_fd):
                with anchors.take(live.mount_point, live.dev, read_only=read_only) as copy:
                    anchors.bring(anchor.path, anchor.base, copy, root_fd)
                layers = self._witness.layers(live.dev, root_fd)
                seen_at = time.monotonic()
        except _ERRORS as error:
            delivery.failed[anchor.path] = confinement.told(error)
        else:
            delivery.layers.append(layers)
            delivery.last_at = seen_at

    def close(self) -> None:
        """Remove what was made in this container."""
        self._witness.close()
