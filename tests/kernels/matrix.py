"""The suite on every kernel, and the table that is made of what came out."""

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.kernels import machine, results
from tests.kernels.machine import Kernel, Machine
from tests.kernels.results import Result

TABLE = machine.PROJECT / "docs" / "kernels.md"
_MARK = "<!-- results -->"
_TIMEOUT_S = 10_800.0

# Parts of the table, by the files of tests/privileged and tests/sanity that belong to each.
PARTS = {
    "doctor, status, recover": ("commands",),
    "demo": ("demo",),
    "publish, unpublish": ("publish", "unpublish", "stats_health"),
    "mount surgery": ("mounts", "namespaces", "anchor"),
    "heals, by topology": ("heal_topologies", "heal_nested", "heal_fluid", "heal_propagation"),
    "many crashes": ("layers", "heal_crashes", "heal_restarts", "invariants"),
    "kill -9 of the plugin": ("heal_killed", "agent_killed", "state_faults"),
    "wake-ups, hung daemons": ("wakeups", "heal_hung", "abort"),
    "csi-sanity": ("csi_sanity",),
}
OTHERS = "the rest"

# What CI has time for on each kernel, emulated.
QUICK = (
    "tests/privileged/test_commands.py::test_doctor_finds_all_that_this_machine_has",
    "tests/privileged/test_publish.py::test_a_volume_is_shown_and_recorded",
    "tests/privileged/test_publish.py::test_a_sub_path_shows_only_itself",
    "tests/privileged/test_publish.py::test_a_read_only_volume_is_so_everywhere_from_the_first_instant",
    "tests/privileged/test_mounts.py::test_a_first_bind_keeps_the_flags_of_its_source_and_adds_its_own",
    "tests/privileged/test_mounts.py::test_a_clone_propagates_as_was_asked_for",
    "tests/privileged/test_mounts.py::test_a_swap_leaves_one_layer_however_many_there_were",
    "tests/privileged/test_mounts.py::test_covered_mounts_can_be_asked_and_stay_where_they_are",
    "tests/privileged/test_mounts.py::test_a_mount_may_be_put_in_late",
    "tests/privileged/test_layers.py::test_no_copy_has_more_than_two_layers_after_any_number_of_crashes[3]",
)


def run(kernel: Kernel, tests: Sequence[str], variables: Mapping[str, str]) -> tuple[Result, ...]:
    """Run tests on a kernel, their progress to ours, and return what became of them."""
    accelerator = machine.accelerator(kernel)
    print(f"Linux {kernel.release}, {accelerator}", file=sys.stderr, flush=True)
    patience = ("-p", "tests.kernels.patience") if accelerator == "tcg" else ()
    with tempfile.TemporaryDirectory(prefix="csi-out-") as folder:
        out = Path(folder)
        Machine(kernel, accelerator).run(
            [
                *(".venv/bin/python", "-m", "pytest", "-q", "--color=no", "--tb=short"),
                *("-p", "no:cacheprovider", *patience),
                *("-p", "tests.kernels.results", f"--results={machine.OUT / 'results'}", *tests),
            ],
            out,
            _TIMEOUT_S,
            **variables,
        )
        return results.read(out / "results")


def part_of(result: Result) -> str:
    """Return to which part of the table a test belongs."""
    return next((part for part, files in PARTS.items() if result.file in files), OTHERS)


def table(found: Mapping[str, Iterable[Result]]) -> str:
    """Return the table in Markdown: a row for each part, a column for each kernel's release."""
    cells = {release: _cells(tuple(every)) for release, every in found.items()}
    layers = sorted({name for column in cells.values() for name in column if "layers" in name})
    rows = [
        (row, *(column.get(row, "") for column in cells.values()))
        for row in (*PARTS, OTHERS, *layers)
        if any(row in column for column in cells.values())
    ]
    head = [("", *found), ("---",) * (1 + len(found))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (*head, *rows))


def _cells(every: Sequence[Result]) -> dict[str, str]:
    counts: dict[str, Counter[str]] = {}
    cells: dict[str, str] = {}
    for result in every:
        counts.setdefault(part_of(result), Counter())[result.outcome] += 1
        cells |= {name: str(number) for name, number in result.recorded.items()}
    for part, counted in counts.items():
        words = (f"{counted[o]} {o}" for o in ("passed", "failed", "skipped") if counted[o])
        cells[part] = ", ".join(words)
    return cells


def write(found: Mapping[str, Iterable[Result]]) -> None:
    """Put the table into docs/kernels.md, in the place of the one that is there."""
    text = TABLE.read_text("utf-8")
    before, _, after = text.split(_MARK)
    TABLE.write_text(f"{before}{_MARK}\n{table(found)}\n{_MARK}{after}", "utf-8")


def failures(found: Mapping[str, Iterable[Result]]) -> list[str]:
    """Return a line for each test that failed."""
    return [
        f"{release}: {re.sub('^tests/', '', result.name)}"
        for release, every in found.items()
        for result in every
        if result.outcome == "failed"
    ]
