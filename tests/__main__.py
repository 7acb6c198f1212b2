"""Runs pytest in one sandbox on this terminal, where its debugger can be used: `make debug`."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from tests import sandbox

# The shell is the first process of the PID namespace: it reaps orphans.
_INIT = 'mount -t tmpfs -o mode=0755 sandbox "$0" || exit 1; "$@"; exit $?'
_UNSHARE = (
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("--propagation", "private", "sh", "-c", _INIT),
)
_PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout=0")


def main(arguments: Sequence[str]) -> int:
    """Run pytest with these arguments and return its exit code."""
    folder = tempfile.mkdtemp(prefix="csi-")
    environ = os.environ | {sandbox.TOKEN: folder, "TMPDIR": folder}
    try:
        command = [*_UNSHARE, folder, *_PYTEST, *arguments]
        return subprocess.run(command, env=environ, check=False).returncode
    finally:
        os.rmdir(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
