"""Say on stderr what goes on: on a terminal in one line, else a line now and then."""

import threading
import time
from typing import Self, TextIO

_EVERY_S = 1.0
_APART_S = 2.0  # between two lines that are no terminal's


class Progress:
    """Shows the latest text and how long it holds; a context manager, silent afterwards."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._text, self._since = "", time.monotonic()
        self._printed, self._printed_at = "", 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def show(self, text: str) -> None:
        """Say this from now on; costs nothing, whoever measures may call it."""
        if text != self._text:
            self._text, self._since = text, time.monotonic()

    def _run(self) -> None:
        while not self._over.wait(_EVERY_S):
            if self._is_terminal:
                held_s = time.monotonic() - self._since
                self._write(f"\r\033[K{self._text[:100]}  {held_s:.0f} s")
            else:
                self._print()
        if self._is_terminal:
            self._write("\r\033[K")

    def _print(self) -> None:
        now = time.monotonic()
        if self._text != self._printed and now - self._printed_at >= _APART_S:
            self._write(f"{self._text}\n")
            self._printed, self._printed_at = self._text, now

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
