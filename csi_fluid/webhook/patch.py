"""Changes of a pod as JSON Patch (RFC 6902)."""

from collections.abc import Mapping
from typing import Any

Operation = Mapping[str, Any]


def add_label(key: str, value: str) -> Operation:
    """Return the operation that gives a label to a pod that has others."""
    return _add(value, "metadata", "labels", key)


def insert(place: str, index: int, item: Mapping[str, Any]) -> Operation:
    """Return the operation that inserts an item into a list of the pod's spec."""
    return _add(item, "spec", place, str(index))


def append(place: str, item: Mapping[str, Any]) -> Operation:
    """Return the operation that adds an item at the end of a list of the pod's spec."""
    return _add(item, "spec", place, "-")


def _add(value: object, *path: str) -> Operation:
    return {"op": "add", "path": "".join(f"/{_escape(part)}" for part in path), "value": value}


def _escape(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")
