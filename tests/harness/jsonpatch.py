"""A small applier of JSON Patch (RFC 6902), for add alone: all that the webhook may send."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

Json = dict[str, Any]


def apply(document: Json, operations: Iterable[Mapping[str, Any]]) -> Json:
    """Return the changed copy of a document; raises like an API server refuses."""
    changed = copy.deepcopy(document)
    for operation in operations:
        assert operation["op"] == "add", operation
        first, *parts = operation["path"].split("/")
        assert first == "", operation
        *way, last = (part.replace("~1", "/").replace("~0", "~") for part in parts)
        place: Any = changed
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if isinstance(place, list):
            index = len(place) if last == "-" else int(last)
            assert 0 <= index <= len(place), operation
            place.insert(index, copy.deepcopy(operation["value"]))
        else:
            place[last] = copy.deepcopy(operation["value"])
    return changed
