"""Keep the node's updatedb(8) out of FUSE mounts, by its configuration: updatedb.conf(5).

A nightly walk through every file of every dataset would cost the storage dearly, and would hang on
a daemon that does.  The chart mounts the node's file, so it is written in place; nothing that it
says is taken out, and its first state is kept beside it.
"""

import logging
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from recover.linux.mounts import closing

FOLDER = Path("/host-etc")
"""Where the node's file is mounted, and a file for the copy of its first state."""

MARK = "# Modified by Fluid"  # Fluid's own, so that either plugin knows the other's work

_FILE = "updatedb.conf"
_BACKUPS = ("updatedb.conf.bak", "updatedb.conf.backup")  # what charts mount; what Fluid writes
_MAX_BYTES = 1 << 20

_log = logging.getLogger(__name__)


def with_values(text: str, wanted: Mapping[str, Iterable[str]]) -> str:
    """Return the text of updatedb.conf with the values that its variables lack.

    Nothing is removed or moved; a variable that is not there is added at the end.  The text comes
    back as it is when nothing lacks.  Raises ValueError where a variable is not of the form
    NAME = "values".
    """
    new = text
    for name, values in wanted.items():
        new = _with_variable(new, name, values)
    if new == text or text.startswith(MARK):
        return new
    return f"{MARK}\n{new}"


def _with_variable(text: str, name: str, values: Iterable[str]) -> str:
    line = re.search(rf"^[ \t]*{name}[ \t]*(?:=|$).*$", text, re.MULTILINE)
    found = re.search(r'=[ \t]*"([^"\n]*)"', line[0]) if line else None
    if line and not found:
        raise ValueError(f'{line[0].strip()!r} is not of the form {name} = "values"')
    present = found[1].split() if found else []
    lacking = " ".join(value for value in dict.fromkeys(values) if value not in present)
    if not lacking:
        return text
    if line and found:
        at = line.start() + found.end(1)
        return f"{text[:at]}{' ' if found[1].strip() else ''}{lacking}{text[at:]}"
    end = "" if text.endswith("\n") or not text else "\n"
    return f'{text}{end}{name}="{lacking}"\n'


def prune(fs_types: Iterable[str], paths: Iterable[str], folder: Path = FOLDER) -> None:
    """Have updatedb skip file systems and paths on this node; what prevents it is only told."""
    wanted = {"PRUNEFS": tuple(fs_types), "PRUNEPATHS": tuple(paths)}
    path = folder / _FILE
    try:
        with closing(_open(path, os.O_RDWR)) as fd:
            old = _read(fd)
            new = with_values(old, wanted)
            # The chart makes an empty file on a node that has none: such a node has no updatedb.
            if not old or new == old:
                return
            if not old.startswith(MARK):
                _back_up(folder, old)
            _write(fd, new)
    except FileNotFoundError:
        _log.debug("%s is not there: the node's updatedb is left as it is", path)
    except (OSError, ValueError) as error:
        values = "; ".join(f"{name}: {' '.join(given)}" for name, given in wanted.items())
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        _log.warning(
            "%s is left as it is: %s; let the node's updatedb skip FUSE mounts by hand (%s)",
            *(path, reason, values),
        )
    else:
        _log.info("updatedb of this node skips FUSE mounts from now on", extra={"file": path})


def _back_up(folder: Path, text: str) -> None:
    """Keep the first state in the file that is mounted for it; raises OSError."""
    there = (folder / name for name in _BACKUPS if (folder / name).exists())
    path = next(there, folder / _BACKUPS[-1])
    with closing(_open(path, os.O_WRONLY | os.O_CREAT)) as fd:
        _write(fd, text)


def _open(path: Path, flags: int) -> int:
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError(f"{path} is not a regular file")
    return fd


def _read(fd: int) -> str:
    data = os.pread(fd, _MAX_BYTES + 1, 0)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
    return os.fsdecode(data)


def _write(fd: int, text: str) -> None:
    """Replace what a file holds, in place: a mounted file cannot be replaced by another."""
    data = os.fsencode(text)
    at = 0
    while at < len(data):
        at += os.pwrite(fd, data[at:], at)
    os.ftruncate(fd, len(data))
    os.fsync(fd)
