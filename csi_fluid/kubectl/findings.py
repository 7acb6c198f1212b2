"""What was found on many nodes: what is alike together, what is wrong first.  Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_ORDER = {"missing": 0, "limited": 1, "no answer": 2, "ok": 9}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing as it is on some nodes ("" in nodes: it is the cluster's, and on none)."""

    what: str
    verdict: str
    seen: str
    follows: str = ""
    nodes: tuple[str, ...] = ()

    @property
    def is_well(self) -> bool:
        """Return whether nothing follows from it."""
        return self.verdict == "ok"


def of_node(node: str, report: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Return the findings of a node's `csi-fluid doctor --json`."""
    return [
        Finding(x["what"], x["verdict"], x["seen"], x.get("follows", ""), (node,)) for x in report
    ]


def together(found: Iterable[Finding]) -> list[Finding]:
    """Return findings with those that are alike on several nodes as one, what is wrong first."""
    nodes: dict[Finding, list[str]] = {}
    for each in found:
        alike = Finding(each.what, each.verdict, each.seen, each.follows)
        nodes.setdefault(alike, []).extend(each.nodes)
    whole = [
        Finding(x.what, x.verdict, x.seen, x.follows, tuple(sorted(where)))
        for x, where in nodes.items()
    ]
    return sorted(whole, key=lambda x: _ORDER.get(x.verdict, 0))


def versions(kind: str, by_node: Mapping[str, str], follows: str) -> list[Finding]:
    """Return the version that all nodes have, or each of those that differ."""
    nodes: dict[str, list[str]] = {}
    for node, version in by_node.items():
        nodes.setdefault(version, []).append(node)
    verdict, then = ("limited", follows) if len(nodes) > 1 else ("ok", "")
    return [
        Finding(kind, verdict, version, then, tuple(sorted(where)))
        for version, where in sorted(nodes.items(), key=lambda pair: len(pair[1]))
    ]
