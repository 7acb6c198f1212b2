"""Run a program and know its last words: what every child of the test bed has in common.

Children get a small environment of their own, so that proxies, credentials and locale of the
caller change nothing, and a session of their own, so that Ctrl-C in a terminal reaches only their
parent.
"""

import os
import select
import shutil
import subprocess
from pathlib import Path

from csi_fluid.testbed.errors import BedError
from csi_fluid.testbed.waiting import PACE

_STOP_S = PACE * 10.0


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a child."""
    return {"PATH": os.pathsep.join(os.get_exec_path()), "HOME": str(home), "LC_ALL": "C"}


def need(name: str) -> None:
    """Raise BedError unless a program is installed."""
    if shutil.which(name) is None:
        raise BedError(f"{name} is not installed: run 'apt-get install {name}'")


def run(*command: str | Path) -> str:
    """Run a short command and return its output; BedError tells what it said when it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=_STOP_S
    )
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        raise BedError(f"'{' '.join(map(str, command))}' failed: {text.strip()}")
    return text


def last_words(log: Path, lines: int = 5) -> str:
    """Return the end of what a program wrote to its log."""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    return "\n".join(text.splitlines()[-lines:]) or "it said nothing"


def stop(process: subprocess.Popen[bytes], *, timeout_s: float = _STOP_S) -> None:
    """Kill a program if it still runs, and wait until it is gone."""
    process.kill()
    process.wait(timeout_s)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def first_line(process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    """Return the first line that a program writes; empty when it ends, or says nothing in time."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], timeout_s)
    return process.stdout.readline() if ready else b""
