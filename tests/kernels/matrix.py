"""The suite on every kernel, and the table that is made of what came out."""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.kernels import results
from tests.kernels.machine import OUT, PROJECT, Kernel, Machine, accelerator, kernels
from tests.kernels.results import Result

TABLE = PROJECT / "docs" / "kernels.md"
KEPT = PROJECT / ".cache" / "kernels"  # a folder for each release
_RESULTS = "results"
_MARK = "<!-- results -->"
_TIMEOUT_S = 6 * 3600.0  # all of tests/privileged, emulated
_EMULATED_PACE = 20

Found = Mapping[str, Iterable[Result]]  # by the columns of the table

# Parts of the table, by the files of tests/privileged and tests/sanity that belong to each.
PARTS = {
    "doctor, status, recover": ("commands",),
    "demo": ("demo",),
    "publish, unpublish": ("publish", "unpublish", "stats_health"),
    "mount surgery": ("mounts", "namespaces", "anchor"),
    "heals, by topology": ("heal_topologies", "heal_nested", "heal_fluid", "heal_propagation"),
    "many crashes": ("layers", "heal_crashes", "heal_restarts", "invariants"),
    "kill -9 of the plugin": ("heal_killed", "calls_killed", "agent_killed", "state_faults"),
    "wake-ups, hung daemons": ("wakeups", "heal_hung", "abort"),
    "SeamlessRecovery": ("crashes", "holding", "loads", "older_kernels", "operations"),
    "csi-sanity": ("csi_sanity",),
}
OTHERS = "the rest"

_SHOWS = "test_heal_topologies.py::test_every_copy_shows_the_new_mount_read_only"
_OLDER = "seamless/test_older_kernels.py"
_KILLED = "test_calls_killed.py::test_a_publish_as_a_link_killed_before_any_step"

# What CI has time for on each kernel, emulated.
QUICK = (
    *(
        f"tests/privileged/{test}"
        for test in (
            "test_commands.py::test_doctor_finds_all_that_this_machine_has",
            "test_demo.py::test_the_pod_lists_fails_and_lists_again[bindfs]",
            "test_publish.py::test_a_volume_is_shown_and_recorded",
            "test_publish.py::test_a_sub_path_shows_only_itself",
            "test_publish.py::test_a_read_only_volume_is_so_everywhere_from_the_first_instant",
            "test_publish.py::test_what_kubelet_publishes_again_is_left_as_it_is",
            "test_publish.py::test_a_dead_target_may_be_given_to_another_source",
            "test_publish.py::test_a_symlink_publish_shows_the_source",
            "test_unpublish.py::test_unpublish_removes_whatever_is_there",
            "test_mounts.py::test_a_first_bind_keeps_the_flags_of_its_source_and_adds_its_own",
            "test_mounts.py::test_a_clone_propagates_as_was_asked_for",
            "test_mounts.py::test_a_swap_leaves_one_layer_however_many_there_were",
            "test_mounts.py::test_covered_mounts_can_be_asked_and_stay_where_they_are",
            "test_mounts.py::test_a_mount_may_be_put_in_late",
            f"{_SHOWS}[host_to_container-after unmounting]",
            f"{_SHOWS}[host_to_container-on top of the dead mount]",
            f"{_SHOWS}[no_propagation-after unmounting]",
            f"{_SHOWS}[no_propagation-on top of the dead mount]",
            f"{_SHOWS}[subpath_directory-after unmounting]",
            f"{_SHOWS}[subpath_without_propagation-after unmounting]",
            "test_layers.py::test_no_copy_has_more_than_two_layers_after_any_number_of_crashes[3]",
            "test_heal_crashes.py::test_a_container_started_while_the_daemon_is_down_heals",
            _KILLED,
            f"{_OLDER}::test_what_the_dead_daemon_had_read_is_asked_again[path]",
            f"{_OLDER}::test_old_descriptors_read_on_after_two_crashes",
        )
    ),
    "tests/sanity/test_csi_sanity.py::test_the_conformance_suite_passes[bindMount]",
)


def run(
    machine: Machine,
    tests: Sequence[str],
    out: Path,
    variables: Mapping[str, str],
    timeout_s: float = _TIMEOUT_S,
) -> tuple[Result, ...]:
    """Run tests in a machine, their progress to ours, and return what became of them.

    What they say of themselves is added to a file in `out`; what passed by it is not run again.
    Raises subprocess.TimeoutExpired.
    """
    print(f"Linux {machine.kernel.release}, {machine.accelerator}", file=sys.stderr, flush=True)
    native = machine.accelerator == "kvm"
    patience = () if native else ("-p", "tests.kernels.patience")
    machine.run(
        [
            *(".venv/bin/python", "-m", "pytest", "-q", "--color=no", "--tb=short"),
            *("-p", "no:cacheprovider", *patience),
            *("-p", "tests.kernels.results", f"--results={OUT / _RESULTS}", *tests),
        ],
        out,
        timeout_s,
        CSI_FLUID_PACE=str(1 if native else _EMULATED_PACE),
        **variables,
    )
    return results.read(out / _RESULTS)


def keep(
    kernel: Kernel, tests: Sequence[str], variables: Mapping[str, str], *, go_on: bool
) -> tuple[Result, ...]:
    """Run tests as `run` does, in their column's folder of the checkout's cache.

    go_on: leave out what passed the last time.
    """
    out = KEPT / column(kernel, variables)
    out.mkdir(parents=True, exist_ok=True)
    if not go_on:
        (out / _RESULTS).unlink(missing_ok=True)
    return run(Machine(kernel, accelerator()), tests, out, variables)


def column(kernel: Kernel, variables: Mapping[str, str]) -> str:
    """Return the head of a column: the kernel's release, and what it was refused."""
    refused = [f"({names.replace(',', ' ')} refused)" for names in variables.values()]
    return " ".join((kernel.release, *refused))  # no commas: it names a folder that is served


def kept() -> dict[str, tuple[Result, ...]]:
    """Return what became of each test the last time, by the columns of the kernels here."""
    folders = (f for k in kernels() for f in sorted(KEPT.glob(f"{k.release}*")))
    found = {folder.name: results.read(folder / _RESULTS) for folder in folders}
    return {name: every for name, every in found.items() if every}


def part_of(result: Result) -> str:
    """Return to which part of the table a test belongs."""
    return next((part for part, files in PARTS.items() if result.file in files), OTHERS)


def table(found: Found) -> str:
    """Return the table in Markdown: a row for each part, a column for each of `found`."""
    cells = {head: _cells(tuple(every)) for head, every in found.items()}
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


def write(found: Found) -> None:
    """Put the table into docs/kernels.md, in the place of the one that is there."""
    text = TABLE.read_text("utf-8")
    before, _, after = text.split(_MARK)
    TABLE.write_text(f"{before}{_MARK}\n{table(found)}\n{_MARK}{after}", "utf-8")


def failures(found: Found) -> list[str]:
    """Return a line for each test that failed."""
    return [
        f"{head}: {re.sub('^tests/', '', result.name)}"
        for head, every in found.items()
        for result in every
        if result.outcome == "failed"
    ]
