"""What the plugins say of their datasets, as the rows of one table.  Pure.

The form is that of `csi-fluid status --json`; a field that this version does not know is left out,
one that a node's version does not have is as if it said nothing.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from recover.rows import Heal
from recover.states import State

AWAY = "no answer"
"""The state of a node that cannot be asked."""

_ORDER = (
    *(State.FAILING, State.HUNG, State.ABSENT, State.WAITING, State.STALE, State.SKIPPED),
    *(AWAY, State.HEALTHY),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A dataset on a node, or on several where it is healthy; since is in Unix seconds.

    pods counts the pods that use it there, copies its mounts, healthy those that answer.  advice
    says what to do, or for a node that cannot be asked why.
    """

    dataset: str
    nodes: tuple[str, ...]
    state: str
    since: float | None = None
    pods: int = 0
    copies: int = 0
    healthy: int = 0
    layers: int = 0
    last_heal: Heal | None = None
    source: str = ""
    advice: str = ""
    users: tuple[str, ...] = ()  # the pods, namespace/name

    @property
    def is_well(self) -> bool:
        """Return whether nothing is to be done."""
        return self.state == State.HEALTHY and not self.advice

    @property
    def urgency(self) -> tuple[int, float, str, tuple[str, ...]]:
        """Return what to sort by: what needs a person first, and of that the oldest.

        A state that is not known here is one of a newer plugin, and comes first of all.
        """
        rank = _ORDER.index(self.state) if self.state in _ORDER else -1
        begun = float("inf") if self.since is None else self.since
        return rank, begun, self.dataset, self.nodes


def rows(node: str, report: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of one node's report; one more for what is wrong with its plugin."""
    for found in report.get("datasets", ()):
        yield _row(node, found)
    if problems := report.get("problems"):
        yield Row("-", (node,), "plugin in trouble", advice="; ".join(problems))


def _row(node: str, found: Mapping[str, Any]) -> Row:
    users = {
        f"{each['pod_namespace']}/{each['pod_name']}"
        for each in found.get("publications", ())
        if each.get("pod_name")
    }
    heal = found.get("last_heal")
    return Row(
        dataset=found["dataset"],
        nodes=(node,),
        state=found["state"],
        since=found.get("since", found.get("broken_since")),
        pods=len(users) or len(found.get("publications", ())),
        copies=found.get("copies", 0),
        healthy=found.get("healthy", 0),
        layers=found.get("layers", 0),
        last_heal=_heal(heal) if heal else None,
        source=found.get("source", ""),
        advice=found.get("advice", ""),
        users=tuple(sorted(users)),
    )


def _heal(found: Mapping[str, Any]) -> Heal:
    known = {field.name for field in dataclasses.fields(Heal)}
    return Heal(**{name: value for name, value in found.items() if name in known})


def away(node: str, why: str) -> Row:
    """Return the row of a node that cannot be asked."""
    return Row("-", (node,), AWAY, advice=why)


def wanted(row: Row, namespace: str, dataset: str) -> bool:
    """Return whether a row is asked for; "" means any.  dataset is a name, or namespace/name.

    A row that is about no dataset is always wanted: what it hides may be.
    """
    if row.dataset == "-":
        return True
    return (not namespace or row.dataset.startswith(f"{namespace}/")) and (
        not dataset or row.dataset == dataset or row.dataset.endswith(f"/{dataset}")
    )


def table(found: Iterable[Row], *, every_node: bool = False) -> list[Row]:
    """Return rows in the order of what needs a person.

    Unless every_node, those of a dataset that is well are put together over its nodes.
    """
    ordered = sorted(found, key=lambda row: row.urgency)
    if every_node:
        return ordered
    trouble = [row for row in ordered if not row.is_well]
    well = sorted((row for row in ordered if row.is_well), key=lambda row: row.dataset)
    return trouble + [_together(list(some)) for _, some in groupby(well, lambda row: row.dataset)]


def _together(some: list[Row]) -> Row:
    if len(some) == 1:
        return some[0]
    heals = [row.last_heal for row in some if row.last_heal is not None]
    return Row(
        dataset=some[0].dataset,
        nodes=tuple(sorted(node for row in some for node in row.nodes)),
        state=some[0].state,
        since=max((row.since for row in some if row.since is not None), default=None),
        pods=sum(row.pods for row in some),
        copies=sum(row.copies for row in some),
        healthy=sum(row.healthy for row in some),
        layers=max(row.layers for row in some),
        last_heal=max(heals, key=lambda heal: heal.at, default=None),
        source=some[0].source,
        users=tuple(sorted(user for row in some for user in row.users)),
    )
