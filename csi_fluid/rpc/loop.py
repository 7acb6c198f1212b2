"""The event loop of gRPC's servers."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

_STOP_S = 1.0

Result = TypeVar("Result")


class Loop:
    """An event loop in a thread of its own, which sleeps while nobody calls."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rpc loop", daemon=True)

    def start(self) -> None:
        """Run until stop()."""
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the loop and return what it returns; raises what it raises."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        """End the loop; what still runs in it is left where it is."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_STOP_S)
        if not self._thread.is_alive():
            self._loop.close()
