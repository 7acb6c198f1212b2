"""Run this checkout under other kernels, which `.ci/setup kernels` fetches."""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.kernels import machine, matrix

_EXAMPLES = """\
  python -m tests.kernels run 5.10 .venv/bin/csi-fluid doctor
  python -m tests.kernels test --kernel=5.10 -- -k subpath tests/privileged"""
_TIMEOUT_S = 7200.0
_HANDED_ON = ("CSI_FLUID_REFUSE",)


def main() -> int:
    """Do what the words say; return 1 if a test failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the machine ends with us
    parser = argparse.ArgumentParser(
        "python -m tests.kernels",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    names = [kernel.name for kernel in machine.kernels()]
    run = verbs.add_parser("run", help="run a command under one kernel")
    run.add_argument("kernel", choices=names)
    run.add_argument("command", nargs=argparse.REMAINDER)
    test = verbs.add_parser("test", help="run pytest under kernels; without words on what CI runs")
    test.add_argument("--kernel", action="append", choices=names, help="one of them (default: all)")
    test.add_argument("--go-on", action="store_true", help="leave out what passed the last time")
    test.add_argument(
        "--write", action="store_true", help=f"write {matrix.TABLE.name}, of all that was run here"
    )
    test.add_argument("tests", nargs="*", default=matrix.QUICK)
    given = parser.parse_args()
    variables = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    if given.verb == "run":
        return _run(given.kernel, given.command, variables)
    found = {
        matrix.column(kernel, variables): matrix.keep(
            kernel, given.tests, variables, go_on=given.go_on
        )
        for kernel in map(machine.find, given.kernel or names)
    }
    return _told(found, write=given.write)


def _run(name: str, command: list[str], variables: dict[str, str]) -> int:
    kernel = machine.find(name)
    made = machine.Machine(kernel, machine.accelerator())
    with tempfile.TemporaryDirectory(prefix="csi-out-") as out:
        return made.run(command, Path(out), _TIMEOUT_S, **variables)


def _told(found: matrix.Found, *, write: bool) -> int:
    if write:
        matrix.write(matrix.kept())
    print(matrix.table(found))
    failed = matrix.failures(found)
    print(*failed, sep="\n", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
