"""What became of each test on one kernel: written by pytest there, read here.

As a pytest plugin it appends a line of JSON for each test to the file that --results names, and
leaves out the tests that passed or were skipped by what is in it already.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from tests import sandbox


@dataclass(frozen=True, slots=True)
class Result:
    """One test: passed, failed or skipped, how long it took, and what it recorded."""

    name: str
    outcome: str
    seconds: float
    recorded: dict[str, int] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Return the stem of its file, without "test_"."""
        return Path(self.name.partition("::")[0]).stem.removeprefix("test_")


def read(path: Path) -> tuple[Result, ...]:
    """Return the last result of each test in a file; none where there is no file."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    found = (Result(**json.loads(line)) for line in lines)
    return tuple({result.name: result for result in found}.values())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the name of the file."""
    parser.addoption("--results", type=Path, required=True)


def pytest_configure(config: pytest.Config) -> None:
    """Begin to write."""
    config.pluginmanager.register(_Writer(config.getoption("--results")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is done."""
    kept = read(config.getoption("--results"))
    done = {result.name for result in kept if result.outcome != "failed"}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]


class _Writer:
    """Collects the phases of a test until the next one begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reports: list[pytest.TestReport] = []

    def pytest_runtest_logstart(self) -> None:
        self._reports = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)
        if report.failed and not sandbox.inside():  # a run takes hours: told when it happens
            sys.stderr.write(f"\n{report.nodeid}\n{report.longreprtext}\n")

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if sandbox.inside():  # a fork: what it reports comes to us
            return
        outcomes = {report.outcome for report in self._reports}
        outcome = next((o for o in ("failed", "skipped") if o in outcomes), "passed")
        seconds = sum(report.duration for report in self._reports)
        recorded = {str(k): int(str(v)) for r in self._reports for k, v in r.user_properties}
        result = Result(nodeid, outcome, round(seconds, 2), recorded)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
