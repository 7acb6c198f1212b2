"""What goes between the plugin and its helper process: one JSON object in each line.

A call carries no credential: the helper knows by `who` which one to use.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from csi_fluid.kube.access import Who

MAX_LINE = 32 * 1024 * 1024  # bytes; a list of pods may be large
JSON = "application/json"
STRATEGIC = "application/strategic-merge-patch+json"


@dataclass(frozen=True, slots=True)
class Request:
    """A call to the API server; path includes the query."""

    who: Who
    method: str
    path: str
    body: Mapping[str, Any] | None = None
    content: str = JSON
    accept: str = JSON


@dataclass(frozen=True, slots=True)
class Response:
    """What came of a call: the HTTP status and the object, or status 0 and an error.

    Where the body was no JSON object, error says what came instead.
    """

    status: int
    body: Mapping[str, Any]
    error: str = ""


class Garbled(ValueError):
    """What came through the pipe is not of this form."""


def pack(number: int, timeout_s: float, request: Request) -> bytes:
    """Return the line of a numbered request."""
    return _line({"id": number, "timeout_s": timeout_s} | asdict(request))


def unpack(line: bytes) -> tuple[int, float, Request]:
    """Return number, time limit and request of a line; raises Garbled."""
    fields = _fields(line)
    try:
        return fields.pop("id"), fields.pop("timeout_s"), Request(**fields)
    except (KeyError, TypeError) as error:
        raise Garbled(f"not a request: {error}") from error


def pack_response(number: int, answer: Response) -> bytes:
    """Return the line of the answer to a numbered request."""
    return _line({"id": number} | asdict(answer))


def unpack_response(line: bytes) -> tuple[int, Response]:
    """Return the number and answer of a line; raises Garbled."""
    fields = _fields(line)
    try:
        return fields.pop("id"), Response(**fields)
    except (KeyError, TypeError) as error:
        raise Garbled(f"not an answer: {error}") from error


def lines(buffer: bytearray) -> Iterator[bytes]:
    """Take the whole lines out of a buffer; raises Garbled for one beyond all measure."""
    while (end := buffer.find(b"\n")) != -1:
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        yield line
    if len(buffer) > MAX_LINE:
        raise Garbled(f"a line of more than {MAX_LINE} bytes")


def _line(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _fields(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Garbled(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Garbled("not a JSON object")
    return fields
