"""The log of csi-fluid, read again: text lines as `csi_fluid.log` writes them.  Pure."""

import calendar
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

_LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)Z ([A-Z]+) +(.*)")
_FIELD = re.compile(r' ([a-z_]+)=("(?:[^"\\]|\\.)*"|[^\s"]+)')


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log: when in Unix seconds, how bad, what was said, and the fields after it."""

    at: float
    level: str
    message: str
    fields: dict[str, str]


def lines(text: str) -> Iterator[Line]:
    """Yield the lines of a log; what has another form, as a trace has, is left out."""
    for line in text.splitlines():
        if found := _LINE.fullmatch(line):
            at = calendar.timegm(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S")) + float(found[2])
            fields = {key: _value(value) for key, value in _FIELD.findall(found[4])}
            yield Line(at, found[3], _FIELD.sub("", found[4]), fields)


def _value(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') else text
