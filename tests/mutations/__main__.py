"""Try each mutation on a copy of this checkout; words choose those with a word in their name.

Exit code 0 if the named test failed on each copy.  A test that passes there proves nothing.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutations.table import TABLE, Mutation

ROOT = Path(__file__).parents[2]
_PARTS = ("csi_fluid", "recover", "tests", "pyproject.toml")
_TESTS_FAILED = 1  # of pytest's exit codes
_LIMIT_S = 300


def main(words: list[str]) -> int:
    chosen = [m for m in TABLE if not words or any(word in m.test + m.file for word in words)]
    survivors = 0
    for mutation in chosen:
        killed = _is_killed(mutation)
        survivors += not killed
        print(
            f"{'killed  ' if killed else 'SURVIVES'}  {mutation.promise}: {mutation.name}",
            flush=True,
        )
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations killed")
    return min(survivors, 1)


def _is_killed(mutation: Mutation) -> bool:
    with tempfile.TemporaryDirectory(prefix="csi-fluid-mutation-") as folder:
        for part in _PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, Path(folder, part))
        place = Path(folder, mutation.file)
        place.write_text(place.read_text().replace(mutation.line, mutation.instead))
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            mutation.test,
        ]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, check=False, timeout=_LIMIT_S
        )
    return done.returncode == _TESTS_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
