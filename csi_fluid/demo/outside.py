"""Start the demonstration in namespaces of its own, and see it end.

The process inside is the first of its PID namespace: when it ends, the kernel ends all others, and
the mounts go with the mount namespace.  It gets a session of its own and signals only from here,
because Ctrl-C in a terminal reaches a whole process group at once, daemons included.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from csi_fluid.demo import options

# Each link of the chain dies with the one before it, whatever ended that.
_NAMESPACES = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("--propagation", "private"),
)
_LOOK_S = 0.1
_PATIENCE_S = 5.0


def run(words: Sequence[str]) -> int:
    """Run the demonstration and return its exit code; 130 after Ctrl-C."""
    if problem := _problem(options.parse(words)):
        print(f"csi-fluid demo: {problem}", file=sys.stderr)
        return 1
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    process = subprocess.Popen(
        [*_NAMESPACES, sys.executable, "-m", "csi_fluid.demo", *words], start_new_session=True
    )
    return _see_end(process, asked)


def _problem(given: options.Options) -> str:
    if os.geteuid() != 0:
        return "mounting needs root: run it again with sudo"
    if not Path("/dev/fuse").exists():
        return "this machine has no /dev/fuse: run 'modprobe fuse'"
    folder = given.svg.absolute().parent if given.svg else Path("/")
    if not folder.is_dir() or folder.is_relative_to(options.WORKSPACE):
        return f"--svg: no picture can be written to {folder}; name another folder"
    return ""


def _see_end(process: subprocess.Popen[bytes], asked: threading.Event) -> int:
    end = float("inf")
    while True:
        try:
            status = process.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            if asked.is_set():
                end = min(end, time.monotonic() + _PATIENCE_S)
                _ask(process, signal.SIGTERM if time.monotonic() < end else signal.SIGKILL)
        else:
            return 130 if asked.is_set() and status else status


def _ask(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # Again and again: the kernel drops a signal that the first process of a namespace does not
    # handle (yet).  unshare itself blocks SIGTERM and waits for its child.
    os.killpg(process.pid, number)
