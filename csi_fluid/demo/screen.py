"""What the demonstration prints: steps, the pod's own output, events, a closing table.

Plain text where there is no terminal, no colour where none is wanted; safe to use from several
threads.
"""

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import grpc
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from csi_fluid.demo.watchers import Line
from csi_fluid.testbed.errors import BedError

_PICTURE_WIDTH = 92  # columns; readable at the width of a README
_WEB_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


class Screen:
    """One telling of the story; picture keeps what is printed for `save`."""

    def __init__(self, *, picture: bool) -> None:
        self._console = Console(
            record=picture, width=_PICTURE_WIDTH if picture else None, highlight=False
        )

    def title(self, text: str) -> None:
        """Print a headline."""
        self._console.print(Rule(f"[bold]{escape(text)}", style="cyan", align="left"))

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show that something is being done, then that it is done and how long it took."""
        begin = time.monotonic()
        with self._console.status(f"{escape(what)} ..."):
            yield
        took = duration(time.monotonic() - begin)
        self._console.print(f"[green]✔[/] {escape(what)} [dim]{took}[/]")

    def pod(self, line: Line) -> None:
        """Print a line that the pod wrote; the first of each round with the time of day."""
        clock = time.strftime("%H:%M:%S") if line.first else " " * 8
        text = (line.text, "red" if line.error else "")
        self._console.print(Text.assemble((f"{clock} ", "dim"), ("│ ", "cyan"), text))

    def event(self, text: str, *, style: str) -> None:
        """Print what happens outside the pod."""
        self._console.print(f"         [{style}]▶ {escape(text)}[/]")

    def table(self, title: str, rows: Mapping[str, tuple[str, str]]) -> None:
        """Print the result: for each name a value and what it means."""
        table = Table(title=title, box=box.ROUNDED, title_style="bold", show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(style="bold green", justify="right", no_wrap=True)
        table.add_column(style="dim")
        for name, (value, meaning) in rows.items():
            table.add_row(name, value, meaning)
        self._console.print(table)

    def end(self, text: str, *, good: bool) -> None:
        """Print how it ended."""
        mark, style = ("✔", "bold green") if good else ("✘", "bold red")
        self._console.print(f"[{style}]{mark} {escape(text)}[/]")

    def save(self, path: Path) -> None:
        """Write what was printed as an SVG picture; OSError when that cannot be."""
        path.write_text(picture(self._console, "csi-fluid demo"), encoding="utf-8")


def show(svg: Path | None, story: Callable[[Screen], bool], about: str = "") -> int:
    """Tell a story on a screen, and keep it as a picture if asked to; return the exit code.

    story returns whether it ended well; what went wrong on the way is printed after `about`.
    """
    screen = Screen(picture=svg is not None)
    try:
        is_good = story(screen)
        if svg is not None:
            screen.save(svg)
    except (BedError, OSError, subprocess.SubprocessError, grpc.RpcError) as error:
        screen.end(f"{about}{error}", good=False)
        return 1
    return 0 if is_good else 1


def picture(console: Console, title: str) -> str:
    """Return what a console recorded as an SVG picture, which loads nothing from elsewhere."""
    return _WEB_FONTS.sub("", console.export_svg(title=title))


def duration(seconds: float) -> str:
    """Return a time in words: "3.2 ms" or "2.51 s"."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
