"""`python -m tests.bench`: the command line of the bench.

Exit codes: 0 measured (goals may be missed), 1 something could not be measured, 2 used wrongly,
130 interrupted.
"""

import argparse
import compileall
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import experiments, report, rows
from tests.bench.progress import Progress
from tests.bench.run import Runner
from tests.bench.subjects import OURS, OURS_ALONE, Spec

_ROOT = Path(__file__).parents[2]
_NEEDED = ("bindfs", "fusermount3", "unshare", "nsenter", "setpriv")


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    groups = "".join(f"  {name:<9}{what}\n" for name, what in experiments.GROUPS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure csi-fluid in namespaces of its own; needs root.",
        epilog=f"what can be measured:\n{groups}\nexample:\n"
        "  make bench ARGS=\"--quick --against '/opt/fluid-csi start --v=5'\"",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under two minutes")
    parser.add_argument(
        "--only", type=_groups, default=(), metavar="WHAT,...", help="measure only these"
    )
    parser.add_argument(
        "--against",
        metavar="COMMAND",
        help="measure another plugin that takes Fluid's flags in the same run, in turn with ours; "
        "a script should exec it",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=_ROOT / "build" / "bench.json",
        metavar="PATH",
        help="write everything there (default: build/bench.json)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="decides the random phases (default: 1)"
    )
    return parser.parse_args(words)


def _groups(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in experiments.GROUPS]:
        raise argparse.ArgumentTypeError(
            f"there is no {unknown[0]!r}; there are {', '.join(experiments.GROUPS)}"
        )
    return names


def _missing(against: str | None) -> str:
    if os.geteuid() != 0:
        return "mounting needs root"
    if not Path("/dev/fuse").exists():
        return "this machine has no /dev/fuse: run 'modprobe fuse'"
    programs = [*_NEEDED, *shlex.split(against or "")[:1]]
    return ", ".join(f"{name} is not installed" for name in programs if not shutil.which(name))


def _interrupt(*_: object) -> None:
    """Interrupt what goes on, once: the boxes are closed on the way out."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the JSON; return the exit code."""
    given = _parse(words)
    if missing := _missing(given.against):
        sys.stderr.write(f"bench: {missing}\n")
        return 1
    for package in ("csi_fluid", "recover"):  # as pip does it: no start is to pay for compiling
        compileall.compile_dir(_ROOT / package, quiet=2)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    plugins = [Spec(rows.OURS, OURS, OURS_ALONE)]
    plugins += [Spec(rows.OTHER, given.against)] if given.against else []
    chosen = experiments.choose(quick=given.quick, only=given.only, seed=given.seed)
    where, began, interrupted = report.machine(), time.monotonic(), False
    with Progress(sys.stderr) as progress:
        runner = Runner(chosen, plugins, progress.show)
        try:
            runner.go()
        except KeyboardInterrupt:
            interrupted = True
    run = report.Run(plugins, given.quick, given.seed, time.monotonic() - began, where)
    sys.stdout.write(report.text(run, runner.results) + "\n")
    if interrupted:
        sys.stderr.write(f"bench: interrupted; {given.json} is not written\n")
        return 130
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(report.data(run, runner.results), indent=1) + "\n", "utf-8")
    failed = any(r.problem for of in runner.results.values() for r in of.values())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
