"""The table that people read, and the JSON that programs read.  Pure but for `machine`."""

import dataclasses
import itertools
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench import rows as table
from tests.bench.numbers import Summary, figure
from tests.bench.rows import Row
from tests.bench.run import Results
from tests.bench.subjects import Spec

_SHOWN = tuple(table.STATISTICS)
_LEGEND = """\
n samples; p99 is the nearest rank, so the worst of fewer than 100; max the worst.
bare: p50 of the same system calls by a program that is told what to do, in the same run.
goals are those of the design; missed: by what factor."""


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What a report says about the run itself."""

    plugins: Sequence[Spec]
    quick: bool
    seed: int
    s: float
    machine: Mapping[str, Any]


def machine() -> dict[str, Any]:
    """Describe where and when this runs."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "cpu": _cpu(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "python": platform.python_version(),
        "fuse": _said("bindfs", "--version"),
        "load": os.getloadavg()[0],
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _said(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return f"no {command[0]}"
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def text(run: Run, results: Results) -> str:
    """Return the table with what goes before and after it."""
    has_other = len(run.plugins) > 1
    where = run.machine
    kind = f"{'quick' if run.quick else 'full'} run of {run.s:.0f} s"
    hardware = f"{where['cpus']} x {where['cpu']}"
    software = f"Linux {where['kernel']}, Python {where['python']}, {where['fuse']}"
    head = [
        f"csi-fluid bench: {kind}, seed {run.seed}, {where['time']}",
        f"{hardware}, {software}, load before the run {where['load']:.1f}",
        *(f"{spec.name}: {spec.command}" for spec in run.plugins),
    ]
    ratio = ["ratio: ours to the other's, p50 (layers: max)"] if has_other else []
    foot = [_LEGEND, *ratio, *_problems(results)]
    return "\n".join([*head, "", *_table(table.rows(results), has_other=has_other), "", *foot])


def _table(rows: Sequence[Row], *, has_other: bool) -> list[str]:
    statistics = list(table.STATISTICS.values())
    head = ["", "n", *statistics]
    if has_other:
        head += ["other n", *statistics, "ratio"]
    head += ["bare", "goal", "verdict"]
    lines: list[Sequence[str] | str] = [head]
    for section, members in itertools.groupby(rows, lambda row: row.metric.section):
        lines += [section, *(_cells(row, has_other=has_other) for row in members)]
    return aligned(lines, left={0, len(head) - 2, len(head) - 1})


def _cells(row: Row, *, has_other: bool) -> list[str]:
    cells = [f"  {row.metric.label}", *_figures(row.ours)]
    if has_other:
        cells += [*_figures(row.other), "" if row.ratio is None else figure(row.ratio)]
    bare = figure(row.bare.p50) if row.bare else ""
    return [*cells, bare, table.goal_text(row.metric.goal), table.verdict(row)]


def _figures(summary: Summary | None) -> list[str]:
    if summary is None:
        return ["-"] * (1 + len(_SHOWN))
    return [str(summary.n), *(figure(getattr(summary, name)) for name in _SHOWN)]


def aligned(lines: Iterable[Sequence[str] | str], *, left: set[int]) -> list[str]:
    """Write cells below each other, to the right but for the columns in left.

    A line that is one string is a heading: it is written as it is and gives no column its width.
    """
    lines = list(lines)
    cells = [line for line in lines if not isinstance(line, str)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [line if isinstance(line, str) else _line(line, widths, left).rstrip() for line in lines]


def _line(cells: Sequence[str], widths: Sequence[int], left: set[int]) -> str:
    return "  ".join(
        cell.ljust(width) if number in left else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )


def _problems(results: Results) -> list[str]:
    return [
        f"{experiment}: {subject} is out after {result.rounds} rounds: "
        f"{result.problem.splitlines()[-1]}"
        for experiment, subjects in results.items()
        for subject, result in subjects.items()
        if result.problem
    ]


def data(run: Run, results: Results) -> dict[str, Any]:
    """Return all that was measured, for JSON: rows as in the table, and every sample."""
    return {
        "machine": dict(run.machine),
        "quick": run.quick,
        "seed": run.seed,
        "s": run.s,
        "commands": {spec.name: spec.command for spec in run.plugins},
        "rows": [_row_data(row) for row in table.rows(results)],
        "experiments": {
            experiment: {name: dataclasses.asdict(result) for name, result in subjects.items()}
            for experiment, subjects in results.items()
        },
    }


def _row_data(row: Row) -> dict[str, Any]:
    return {
        "section": row.metric.section,
        "what": row.metric.label,
        "experiment": row.metric.experiment,
        "sample": row.metric.key,
        "goal": dict(row.metric.goal),
        "met": row.is_met,
        "ratio": row.ratio,
        **{
            name: dataclasses.asdict(summary) if (summary := getattr(row, name)) else None
            for name in (table.OURS, table.OTHER, table.BARE)
        },
    }
