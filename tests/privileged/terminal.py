"""A terminal on which a command runs, and what it showed: screen after screen."""

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence

from rich.text import Text

from tests.harness import until

_HOME = "\x1b[H"  # a screen is drawn from its first line on
_COLUMNS, _LINES = 118, 30


class Terminal:
    """Keeps the screens of a command that runs on it."""

    def __init__(self) -> None:
        self._said = bytearray()

    def read(self, fd: int) -> None:
        """Take what the command says until it ends."""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(fd, 65536):
                self._said += data

    @property
    def screens(self) -> list[Text]:
        """Return what was shown, screen by screen, each once it was drawn to its last line."""
        said = self._said.decode(errors="replace").replace("\r\n", "\n")
        drawn = (part for part in said.split(_HOME) if part.count("\n") == _LINES - 1)
        return [Text.from_ansi(part) for part in drawn]

    def await_words(self, words: str) -> Text:
        """Return the next screen that has these words, a regular expression."""
        first = len(self.screens)

        def found() -> Text | None:
            return next(
                (each for each in self.screens[first:] if re.search(words, each.plain)), None
            )

        try:
            return until(found, f"{words!r} on the screen", timeout_s=30.0)
        except TimeoutError as error:
            raise AssertionError(f"{words!r} is not in {self._said.decode()!r}") from error


@contextlib.contextmanager
def running(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[Terminal]:
    """Run a command on a terminal for a block, and end it as Ctrl-C does."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
    terminal = Terminal()
    with subprocess.Popen(command, env=environ, stdin=theirs, stdout=theirs, stderr=theirs) as it:
        os.close(theirs)
        reader = threading.Thread(target=terminal.read, args=(ours,))
        reader.start()
        try:
            yield terminal
        finally:
            it.send_signal(signal.SIGINT)
            it.wait()
            reader.join()
            os.close(ours)
