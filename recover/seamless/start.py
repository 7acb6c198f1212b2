"""Starts the holder or the reader and ends, so that they are nobody's children.

    python -m recover.seamless.start holder|reader SOCKET

They outlive the plugin, which would have to wait for children of its own.
"""

import os
import subprocess
import sys


def main() -> None:
    """Start one of them in a session of its own."""
    name, socket = sys.argv[1:]
    command = (sys.executable, "-m", f"recover.seamless.{name}", socket)
    subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    os._exit(0)  # nobody is to wait for it


if __name__ == "__main__":
    main()
