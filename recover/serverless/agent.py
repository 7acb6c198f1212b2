"""The serverless agent: a thread for each guarded mount point, woken up by the kernel.

Mount points share nothing but the bound of the prober, so a hung daemon delays no other one.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from recover import events
from recover.errors import Covered, Error
from recover.events import Observer
from recover.linux.wakeups import WakeUps
from recover.serverless.guard import Guard

_FAULT_S = 5.0
_AGAIN_S = 0.02
_STUCK_S = 60.0  # a pass takes milliseconds, and some probe timeouts where daemons hang

_log = logging.getLogger(__name__)


class _Watch:
    """Runs one guard whenever something happened, and after its own wait."""

    def __init__(self, guard: Guard, observer: Observer, wakeups: WakeUps) -> None:
        self.guard = guard
        self.passed_at = time.monotonic()
        self._observer = observer
        self._wakeups = wakeups
        self._watched = ""
        self._fault = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"guard {guard.target.mount_point}", daemon=True
        )

    @property
    def is_working(self) -> bool:
        """Return whether the thread lives and gets on."""
        return self._thread.is_alive() and time.monotonic() - self.passed_at < _STUCK_S

    @property
    def wakeups(self) -> tuple[str, ...]:
        return self._wakeups.names

    def start(self) -> None:
        self._thread.start()

    def stop(self, deadline: float) -> bool:
        """Stop after the step under way; False if it did not end in time."""
        self._stop.set()
        self._wakeups.poke()
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        if self._thread.is_alive():
            return False
        self._wakeups.close()
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            wait_s = self._pass()
            self.passed_at = time.monotonic()
            wake = self._wakeups.wait(wait_s, name_mounts=False)
            for by in wake.by:
                self._observer.tell(events.Woken(by))

    def _pass(self) -> float:
        guard = self.guard
        try:
            wait_s = guard.run()
            if guard.live != self._watched:  # only where the sidecar's processes can be seen
                self._watched = guard.live
                self._wakeups.forget(())
                self._wakeups.watch(guard.live)
        except Covered as change:  # another agent, or the client, was faster
            _log.debug("%s", change)
            return _AGAIN_S
        except Exception as error:  # noqa: BLE001  told, and tried again
            if str(error) != self._fault:
                self._fault = str(error)
                _log.warning("%s: %s; trying again", guard.target.mount_point, error, exc_info=True)
            return _FAULT_S
        self._fault = ""
        return wait_s


class Agent:
    """Guards mount points until it is stopped."""

    def __init__(
        self,
        guards: Iterable[Guard],
        observer: Observer,
        wake_ups: Callable[[], WakeUps] = WakeUps,
    ) -> None:
        self._watches = [_Watch(guard, observer, wake_ups()) for guard in guards]

    @property
    def wakeups(self) -> tuple[str, ...]:
        """Return the wake-up sources in use."""
        return self._watches[0].wakeups

    @property
    def is_working(self) -> bool:
        """Return whether every mount point is being looked at."""
        return all(watch.is_working for watch in self._watches)

    def start(self) -> None:
        """Begin."""
        for watch in self._watches:
            watch.start()

    def stop(self, timeout_s: float = 4.0, *, release_s: float | None = None) -> bool:
        """Stop; False if a pass did not end in time.

        The anchors stay for the next agent, or with release_s, where the pod is being deleted, are
        taken off the host, once the FUSE daemon ended or after so long.
        """
        deadline = time.monotonic() + timeout_s
        ended = [watch for watch in self._watches if watch.stop(deadline)]
        pause = threading.Event()  # never set
        deadline = time.monotonic() + (release_s or 0.0)
        for watch in ended:
            if release_s is not None:
                _release(watch.guard, deadline, pause.wait)
            watch.guard.close()
        return len(ended) == len(self._watches)


def _release(guard: Guard, deadline: float, pause: Callable[[float], object]) -> None:
    try:
        guard.release(deadline, pause)
    except (Error, OSError) as error:
        _log.warning(
            "%s could not be taken off the node: %s; unmount what is left there by hand",
            guard.place.folder,
            error,
        )
