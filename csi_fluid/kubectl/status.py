"""`kubectl csi-fluid status`: every dataset of the cluster in one table."""

import contextlib
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from csi_fluid.cli import screen, times, usage
from csi_fluid.kubectl import agents, datasets, fleet, options, plugins
from csi_fluid.kubectl.datasets import Row
from csi_fluid.kubectl.plugins import Plugin

_EXAMPLES = """\
  kubectl csi-fluid status
  kubectl csi-fluid status -n default --dataset demo -o wide
  kubectl csi-fluid status -o json | jq '.[] | select(.state != "healthy")'"""
_REFRESH_S = 5.0
_MOST_NODES = 1  # named in a cell; more are counted


def run(argv: Sequence[str]) -> int:
    """Print the table, or follow it."""
    with _parser().read(argv) as asked:
        given = asked.given
        if given.watch:
            if given.output == "json" or not sys.stdout.isatty():
                raise usage.Misuse("status: --watch needs a terminal and no -o json; leave it out")
            return _watch(asked)
        found = collect(asked)
    if given.output == "json":
        print(json.dumps([dataclasses.asdict(row) for row in found], indent=2))
    else:
        console = screen.console()
        for part in render(found, time.time(), wide=given.output == "wide"):
            console.print(part, soft_wrap=isinstance(part, Text))
    return 0


def _parser() -> options.Parser:
    parser = options.Parser(
        "status", "[OPTIONS]", "Show every dataset on every node, what needs you first.", _EXAMPLES
    )
    parser.add_argument("-n", "--namespace", default="", help="datasets of this namespace")
    parser.add_argument("--dataset", default="", metavar="NAME", help="this dataset alone")
    parser.add_argument("--node", default="", metavar="NAME", help="this node alone")
    parser.add_argument("-o", "--output", choices=("json", "wide"), help="json, or each node")
    parser.add_argument("--watch", action="store_true", help="show it again every five seconds")
    return parser


def collect(asked: options.Asked) -> list[Row]:
    """Ask everybody; return the rows that are wanted, in the order of what needs a person.

    Raises usage.Failure where there is nobody to ask: no plugin, and no agent.
    """
    given = asked.given
    every = plugins.find(asked.api, asked.namespace, given.node)
    told = [*_of_nodes(asked, every), *agents.rows(asked.api, asked.limits, given.node)]
    if not every and not told:
        raise plugins.absence(asked.namespace, given.node)
    found = [row for row in told if datasets.wanted(row, given.namespace, given.dataset)]
    return datasets.table(found, every_node=given.output is not None)


def _of_nodes(asked: options.Asked, every: Sequence[Plugin]) -> Iterator[Row]:
    question = plugins.asking(asked.api, ("status", "--json"), asked.limits)
    replies = fleet.ask(every, question, asked.limits)
    if not asked.given.watch:  # two things that move are one too many
        replies = screen.counted(replies, len(every), "asking the nodes")
    for reply in replies:
        node = reply.asked.node
        if reply.error:
            yield datasets.away(node, reply.error)
        else:
            yield from datasets.rows(node, reply.answer or {})


def render(found: Sequence[Row], now: float, *, wide: bool = False) -> list[Table | Text]:
    """Return the table, and below it what is to be done."""
    more = ("source", "pods of") if wide else ()
    names = ("dataset", "node", "state", "for", "pods", "copies", "layers", "last heal", *more)
    table = Table(*names, box=None)
    for row in found:
        table.add_row(*_cells(row, now), *((row.source, " ".join(row.users)) if wide else ()))
    notes = [Text(screen.plain(note)) for note in _notes(found)]
    head = table if found else Text("No volume of a dataset is published in this cluster.")
    return [head, *([Text()] if notes else []), *notes]


def _cells(row: Row, now: float) -> tuple[Text, ...]:
    state = Text(row.state, "green" if row.is_well else "bold red")
    copies = Text(
        f"{row.healthy}/{row.copies}" if row.copies else "-",
        "" if row.healthy == row.copies else "yellow",
    )
    return (
        Text(screen.plain(row.dataset)),
        Text(row.nodes[0] if len(row.nodes) <= _MOST_NODES else f"{len(row.nodes)} nodes"),
        state,
        Text(times.ago(row.since, now)),
        Text(str(row.pods) if row.pods else "-"),
        copies,
        Text(str(row.layers) if row.layers else "-"),
        Text(times.last_heal(row.last_heal, now)),
    )


def _notes(found: Iterable[Row]) -> Iterator[str]:
    """Yield what is to be done, once however many nodes it is for."""
    about: dict[tuple[str, str], list[str]] = {}
    for row in found:
        if row.advice:
            about.setdefault((row.dataset, row.advice), []).extend(row.nodes)
    for (dataset, advice), nodes in about.items():
        where = screen.some(sorted(nodes))
        yield f"{where}: {advice}" if dataset == "-" else f"{dataset} on {where}: {advice}"


def _watch(asked: options.Asked) -> int:
    pause = threading.Event()  # never set: Ctrl-C ends the wait
    with contextlib.suppress(KeyboardInterrupt), Live(auto_refresh=False, screen=True) as live:
        while True:
            live.update(Group(*_present(asked)), refresh=True)
            pause.wait(_REFRESH_S)
    return 0


def _present(asked: options.Asked) -> Sequence[Table | Text]:
    """Return what is to be shown now; an API server that is away may come back."""
    try:
        return render(collect(asked), time.time())
    except usage.Failure as error:
        return [Text(str(error))]
