"""What became of each test on one kernel: written by pytest there, read here.

As a pytest plugin it writes a line of JSON for each test to the file that --results names.
"""

import json
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
    """Return the results in a file."""
    return tuple(Result(**json.loads(line)) for line in path.read_text("utf-8").splitlines())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the name of the file."""
    parser.addoption("--results", type=Path, required=True)


def pytest_configure(config: pytest.Config) -> None:
    """Begin to write."""
    config.pluginmanager.register(_Writer(config.getoption("--results")))


class _Writer:
    """Collects the phases of a test until the next one begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reports: list[pytest.TestReport] = []

    def pytest_runtest_logstart(self) -> None:
        self._reports = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

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
