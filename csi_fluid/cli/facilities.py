"""What this kernel and these privileges allow, as lines for people: tried, not guessed.

First what a publish and a visit do, as a whole; then each thing that newer kernels have.
"""

import contextlib
import errno
import functools
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from recover.errors import Error
from recover.linux import (
    confinement,
    facilities,
    mountinfo,
    mounts,
    procevents,
    syscalls,
    workshop,
)
from recover.linux.facilities import Facility
from recover.linux.mounts import closing
from recover.linux.probe import Prober

_TIMEOUT_S = 10.0
_EXIT_WAIT_S = 1.0

Verdict = Literal["ok", "limited", "missing"]
"""There; absent, and something is given up; absent, and the plugin cannot work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what it is, the verdict, what was seen, and what follows from it."""

    what: str
    verdict: Verdict
    seen: str
    follows: str = ""


def find(prober: Prober) -> Iterator[Finding]:
    """Try everything and yield what was found."""
    yield _serving(prober)
    yield _entering(prober)
    yield from map(_tried, facilities.TABLE)
    yield _process_events()


def _tried(facility: Facility) -> Finding:
    lack = facilities.lack(facility.name)
    if lack is None:
        return Finding(facility.name, "ok", "works")
    if facility.needs and facilities.lack(facility.needs):
        seen = f"cannot be tried without {facility.needs}"
    elif confinement.is_refusal(lack):
        seen = f"not permitted: {_cause(*confinement.MOUNTING)}"
    else:
        seen = f"this kernel has not got it; Linux {facility.since} or newer has"
    return Finding(facility.name, "limited", seen, _without(facility))


def _without(facility: Facility) -> str:
    return f"{facility.instead}: {facility.follows}" if facility.follows else facility.instead


def _serving(prober: Prober) -> Finding:
    """Do what a publish does."""
    what = "mounting a volume"
    try:
        with tempfile.TemporaryDirectory(prefix="csi-fluid-doctor-") as folder:
            return _mounting(prober, what, folder)
    except OSError as error:  # only copies that need a scratch lie in one
        verdict: Verdict = "limited" if mounts.can_detach() else "missing"
        follows = "give this container a folder /tmp that can be written to"
        return Finding(what, verdict, f"not tried: {error.strerror}", follows)


def _mounting(prober: Prober, what: str, folder: str) -> Finding:
    trial = functools.partial(workshop.run, functools.partial(_mount, folder))
    try:
        prober.run("trial", trial, _TIMEOUT_S)
    except (Error, OSError) as error:
        follows = f"volumes cannot be served{_told(error, *confinement.MOUNTING)}"
        return Finding(what, "missing", f"fails: {_plain(error)}", follows)
    return Finding(what, "ok", f"works, {_way()}")


def _mount(folder: str) -> None:
    read_only = mounts.Attributes(frozenset({"ro"}), "slave-shared", keep=True)
    with (
        mounts.clone(folder, "", read_only) as clone,
        closing(mounts.open_path(folder)) as place,
    ):
        mounts.attach(clone, place)
    mount = mountinfo.here().at(folder)
    if mount is None or not mount.read_only:
        raise OSError(errno.EIO, "what was mounted read-only is not", folder)


def _way() -> str:
    if not mounts.can_detach():
        return "by mount(2) in a scratch"
    if not facilities.has("mount_setattr"):
        return "by clones that get their flags in a mount namespace that nobody sees"
    return "by clones"


def _entering(prober: Prober) -> Finding:
    what = "entering a mount namespace"
    follows = "containers cannot be entered: --strategy=propagation only"
    try:
        prober.run("setns", _enter_home, _TIMEOUT_S)
    except (Error, OSError) as error:
        told = _told(error, *confinement.MOUNTING, "CAP_SYS_CHROOT")
        return Finding(what, "limited", f"fails: {_plain(error)}", f"{follows}{told}")
    if missing := [name for name in ("open_tree", "move_mount") if facilities.lack(name)]:
        return Finding(what, "limited", f"of no use without {' and '.join(missing)}", follows)
    return Finding(what, "ok", "works")


def _plain(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _told(error: Exception, *needed: str) -> str:
    """Return what is to be said of an error's cause."""
    return f"; {_cause(*needed)}" if confinement.is_refusal(error) else ""


def _cause(*needed: str) -> str:
    unseen = "a security module that is not seen from here may forbid it"
    return confinement.cause(*needed) or unseen


def _enter_home() -> None:
    syscalls.unshare(syscalls.CLONE_FS)
    with closing(os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as home:
        syscalls.setns(home, syscalls.CLONE_NEWNS)


def _process_events() -> Finding:
    what = "process events"
    try:
        _see_an_exit()
    except OSError as error:
        return Finding(
            what,
            "limited",
            f"not told here: {error.strerror}",
            "only a stand-in for pidfd_open; needs the host's PID and network namespaces",
        )
    return Finding(what, "ok", "works")


def _see_an_exit() -> None:
    with contextlib.closing(procevents.ProcessExits()) as exits:
        child = subprocess.Popen(["true"])
        child.wait()
        waiting = select.poll()
        waiting.register(exits.fileno(), select.POLLIN)
        deadline = time.monotonic() + _EXIT_WAIT_S
        while (left_s := deadline - time.monotonic()) > 0:
            if waiting.poll(left_s * 1000) and child.pid in exits.read():
                return
    raise OSError(errno.ENOMSG, "no exit is told here")


def mount_below(path: str, pid: str = "self") -> mountinfo.Mount:
    """Return the mount that a path lies on; raises OSError where the path cannot be opened."""
    with closing(os.open(path, os.O_PATH | os.O_CLOEXEC)) as fd:
        return mountinfo.read(pid).by_id[mountinfo.mount_id(fd)]
