"""The operation table of docs/seamless.md: written from the results of a run, read by the tests.

SEAMLESS_TABLE=/tmp/table make privileged ARGS="-k each_operation"
python -m tests.harness.optable /tmp/table
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs/seamless.md"
_BEGIN, _END = "<!-- operations: written by tests/harness/optable.py -->", "<!-- end -->"


def collect(daemon: str, found: Mapping[str, str]) -> None:
    """Keep the results of one daemon where SEAMLESS_TABLE says, if it does."""
    if place := os.environ.get("SEAMLESS_TABLE"):
        Path(place).mkdir(exist_ok=True)
        Path(place, daemon).write_text(json.dumps(found), encoding="utf-8")


def table(results: Mapping[str, Mapping[str, str]]) -> str:
    """Return the table of a page, a column for each daemon."""
    head = ["operation", *results]
    rows = [[name, *(found[name] for found in results.values())] for name in _names(results)]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _names(results: Mapping[str, Mapping[str, str]]) -> list[str]:
    return list(next(iter(results.values())))


def of_page(page: Path, daemon: str) -> dict[str, str]:
    """Return the column of a daemon, by operation."""
    between = page.read_text(encoding="utf-8").partition(_BEGIN)[2].partition(_END)[0]
    rows = [re.split(r" *\| *", line.strip("| ")) for line in between.strip().splitlines()]
    column = rows[0].index(daemon)
    return {row[0]: row[column] for row in rows[2:]}


def main() -> None:
    """Write the table into the page."""
    folder = Path(sys.argv[1])
    results = {path.name: json.loads(path.read_text("utf-8")) for path in sorted(folder.iterdir())}
    text = _PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    _PAGE.write_text(f"{before}{_BEGIN}\n\n{table(results)}\n\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
