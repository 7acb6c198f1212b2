"""`csi-fluid status`: every dataset of this node, in a table for a tired person at night."""

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from csi_fluid import config
from csi_fluid.cli import holding, screen, times, usage, words
from recover import loop, survey
from recover.errors import StateError
from recover.linux.probe import Prober
from recover.linux.probehelper import ProbeHelper
from recover.seamless.client import Status
from recover.states import State
from recover.store import Store
from recover.survey import SourceReport

_EXAMPLES = """\
  csi-fluid status
  csi-fluid status --watch
  csi-fluid status --json | jq '.datasets[] | select(.state != "healthy")'"""
_COLOURS = {State.HEALTHY: "green", State.STALE: "yellow", State.SKIPPED: "yellow"}
_REFRESH_S = 2.0


@dataclass(frozen=True, slots=True)
class Report:
    """All that is shown: what was found, at which time, and what is wrong apart from it."""

    sources: tuple[SourceReport, ...]
    problems: tuple[str, ...]
    now: float
    held: Status = Status({})  # noqa: RUF009  nothing is held


def run(argv: Sequence[str]) -> int:
    """Print the table, or follow it."""
    parser = usage.Parser("status", "[OPTIONS]", "Show what is published and how it is.", _EXAMPLES)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--watch", action="store_true", help="show it again every two seconds")
    usage.add_options(parser, usage.named("state", "endpoint", "holder", *usage.HEALING))
    settings, given = usage.parse(parser, argv)
    if given.watch:
        if given.json or not sys.stdout.isatty():
            raise usage.Misuse("status: --watch needs a terminal and no --json; leave it out")
        return _watch(settings)
    report = screen.patiently("asking the FUSE daemons", lambda: look(settings))
    if given.json:
        print(json.dumps(as_data(report), indent=2))
    else:
        console = screen.console()
        for part in render(report):
            console.print(part, soft_wrap=isinstance(part, Text))
    return 0


def look(settings: config.Settings) -> Report:
    """Return what is true now; raises usage.Failure where there is no state file to read."""
    store = read_state(settings.state)
    strategy = loop.chosen_strategy(settings.strategy)
    held = holding.ask(settings)
    with contextlib.closing(ProbeHelper()) as helper:
        sources = survey.survey(
            store,
            Prober(timeout_s=settings.probe_timeout_s, helper=helper),
            strategy,
            anchors=settings.anchors,
            recover_writable=settings.recover_writable,
            held=held.dead,
        )
    problems = (store.problem, absence(settings.endpoint))
    return Report(sources, tuple(filter(None, problems)), time.time(), held)


def read_state(path: Path) -> Store:
    """Read the state file; raises usage.Failure with the next step."""
    try:
        return Store.read(path)
    except FileNotFoundError as error:
        raise usage.Failure(
            f"there is no state file {path}: no plugin has run with it; give that plugin's --state"
        ) from error
    except PermissionError as error:
        raise usage.Failure(f"state file {path} is not readable; run this as root") from error
    except (StateError, OSError) as error:
        raise usage.Failure(str(error)) from error


def absence(endpoint: str) -> str:
    """Return a sentence if no plugin listens at a unix socket, else ""."""
    path = endpoint.removeprefix("unix:")
    if path == endpoint:
        return ""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            return (
                f"none listens at {path} ({error.strerror}), so nothing is healed; start one, or "
                "say with --endpoint where it listens"
            )
    return ""


def render(report: Report) -> list[Table | Text]:
    """Return the table, and below it what is wrong and what to do."""
    table = Table("dataset", "state", "for", "copies", "layers", "last heal", box=None)
    for source in report.sources:
        table.add_row(*cells(source, report.now))
    notes = [Text(screen.plain(f"{name}: {text}")) for name, text in notes_of(report)]
    head = table if report.sources else Text("No volume is published on this node.")
    return [head, *([Text()] if notes else []), *notes]


def cells(source: SourceReport, now: float) -> tuple[Text, ...]:
    """Return a row of the table."""
    state = Text(source.state.value, _COLOURS.get(source.state, "bold red"))
    whole = source.healthy == source.copies
    copies = Text(f"{source.healthy}/{source.copies}", "" if whole else "yellow")
    layers = Text(str(source.layers), "yellow" if source.layers > 1 else "")
    heal = Text(times.last_heal(source.last_heal, now))
    dataset = Text(screen.plain(source.dataset))
    return dataset, state, Text(words.since(source, now)), copies, layers, heal


def notes_of(report: Report) -> Iterator[tuple[str, str]]:
    """Yield (about what, what is wrong and what to do)."""
    for source in report.sources:
        if text := holding.words(report.held.of(source.source)):
            yield source.dataset, text
        if advice := words.advice(source):
            yield source.dataset, advice
        heal = source.last_heal
        if heal is not None and not heal.ok:
            healed = f"{heal.healed} of {heal.copies} copies"
            yield source.dataset, f"the last heal reached {healed}: {heal.error}"
    yield from (("plugin", problem) for problem in report.problems)


def as_data(report: Report) -> dict[str, object]:
    """Return the report as JSON takes it; times are in Unix seconds."""
    datasets = [
        {
            "dataset": source.dataset,
            "source": source.source,
            "state": source.state.value,
            "since": words.begun(source),
            "broken_since": source.since,
            "copies": source.copies,
            "healthy": source.healthy,
            "layers": source.layers,
            "last_heal": asdict(source.last_heal) if source.last_heal else None,
            "publications": [asdict(publication) for publication in source.publications],
            "plan": [step.describe() for step in source.steps],
            "advice": words.advice(source),
            "held": asdict(report.held.of(source.source)),
        }
        for source in report.sources
    ]
    return {"at": report.now, "datasets": datasets, "problems": list(report.problems)}


def _watch(settings: config.Settings) -> int:
    pause = threading.Event()  # never set: Ctrl-C ends the wait
    with contextlib.suppress(KeyboardInterrupt), Live(auto_refresh=False, screen=True) as live:
        while True:
            live.update(Group(*render(look(settings))), refresh=True)
            pause.wait(_REFRESH_S)
    return 0
