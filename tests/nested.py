"""A test in a pytest of its own, to see what that says of it."""

import os
import subprocess
import sys
from pathlib import Path

from tests import sandbox

_PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "pytest_timeout")


def run(test: str, **environment: str) -> tuple[int, str]:
    """Run a test by its node id, as outside of any sandbox; return exit status and output."""
    inherited = {k: v for k, v in os.environ.items() if k != sandbox.TOKEN}
    done = subprocess.run(
        [*_PYTEST, test],
        cwd=Path(__file__).parents[1],
        env=inherited | {"REQUIRE_ALL": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
