"""The mount table of a process, parsed: proc_pid_mountinfo(5).

Pure but for `read`, which never touches a mounted file system and so never hangs.  Paths are str
with surrogate escapes (os.fsdecode), so any byte a container chose survives a round trip.
A table is a tree, not a list: which mount a path shows is found by walking from the root over
(parent id, mount point), because the order of lines is not the order of stacking (kernel 6.8 sorts
by unique id, and MOVE_MOUNT_BENEATH puts a younger mount below an older one).
"""

import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from typing import NamedTuple

from recover.linux import facilities, procself, syscalls

_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
_OUTSIDE = -1  # stands for every parent that the process does not see
MOST = 4096  # mounts of one dataset in one namespace; an ordinary pod has a few
DELETED = "//deleted"  # the kernel's suffix of a root whose directory was removed


class Mount(
    NamedTuple
):  # thousands are made on the way to a heal, at a third of a dataclass's cost
    """One line of mountinfo.

    dev is "major:minor" and names the superblock; root is the path inside it that this mount shows;
    shared and master are peer group ids, 0 for none; options belong to this mount alone, and
    superblock_read_only to all mounts of the superblock.
    """

    mnt_id: int
    parent_id: int
    dev: str
    root: str
    mount_point: str
    options: frozenset[str]
    shared: int
    master: int
    fs_type: str
    source: str
    superblock_read_only: bool = False

    @property
    def read_only(self) -> bool:
        """Tell whether this mount (not its superblock) is read-only."""
        return "ro" in self.options

    @property
    def is_mapped(self) -> bool:
        """Tell whether owners of files are shown as others: mount_setattr(2), MOUNT_ATTR_IDMAP."""
        return "idmapped" in self.options

    @property
    def inner_path(self) -> str:
        """Return the path within the superblock, without the mark of a removed directory."""
        return self.root.removesuffix(DELETED) or "/"

    @property
    def is_fuse(self) -> bool:
        """Tell whether a FUSE daemon serves this mount."""
        return is_fuse(self.fs_type)


def is_fuse(fs_type: str) -> bool:
    """Tell whether file systems of a type have a FUSE daemon (fuse, fuse.*, alifuse.*, ...)."""
    return "fuse" in fs_type.partition(".")[0] and fs_type != "fusectl"


class MountTable:
    """The mounts of one namespace as one process sees them.

    is_cut: there are more, which were left out of an excerpt.
    """

    def __init__(self, mounts: Iterable[Mount], *, is_cut: bool = False) -> None:
        self.mounts: tuple[Mount, ...] = tuple(mounts)
        self.is_cut = is_cut

    def __iter__(self) -> Iterator[Mount]:
        return iter(self.mounts)

    @cached_property
    def by_id(self) -> dict[int, Mount]:
        """Return the mounts by mount id."""
        return {mount.mnt_id: mount for mount in self.mounts}

    @cached_property
    def _on(self) -> dict[tuple[int, str], Mount]:
        known = self.by_id
        return {
            (
                m.parent_id if m.parent_id in known and m.parent_id != m.mnt_id else _OUTSIDE,
                m.mount_point,
            ): m
            for m in self.mounts
        }

    @cached_property
    def children(self) -> dict[int, tuple[Mount, ...]]:
        """Return the mounts that stand on each mount, by its id."""
        found: dict[int, list[Mount]] = {}
        for mount in self.mounts:
            found.setdefault(mount.parent_id, []).append(mount)
        return {parent: tuple(mounts) for parent, mounts in found.items()}

    def stack(self, path: str) -> tuple[Mount, ...]:
        """Return the mounts exactly at an absolute path, bottom first; empty where there is none.

        Mounts that something mounted over a parent directory hides are not found, as a path walk
        would not find them.
        """
        stack: list[Mount] = []
        for prefix in _prefixes(path):
            stack = self._climb(stack[-1].mnt_id if stack else _OUTSIDE, prefix) or stack[-1:]
        return tuple(stack) if stack and stack[-1].mount_point == path else ()

    def _climb(self, mnt_id: int, path: str) -> list[Mount]:
        """Return the mounts that stand at a path on a mount, each on the one before it."""
        stack: list[Mount] = []
        while (above := self._on.get((mnt_id, path))) and len(stack) < len(self.mounts):
            stack.append(above)
            mnt_id = above.mnt_id
        return stack

    def at(self, path: str) -> Mount | None:
        """Return the topmost mount exactly at path, or None."""
        stack = self.stack(path)
        return stack[-1] if stack else None

    def of_superblocks(self, devs: frozenset[str]) -> tuple[Mount, ...]:
        """Return the mounts of these superblocks."""
        return tuple(m for m in self.mounts if m.dev in devs)


def _prefixes(path: str) -> Iterator[str]:
    yield "/"
    end = path.find("/", 1)
    while end != -1:
        yield path[:end]
        end = path.find("/", end + 1)
    if path != "/":
        yield path


def parse(data: bytes, *, is_cut: bool = False) -> MountTable:
    """Parse the text of a mountinfo file; a line that is not of its form raises ValueError."""
    lines = (line for line in os.fsdecode(data).split("\n") if line)
    return MountTable(map(_parse_line, lines), is_cut=is_cut)


def excerpt(data: bytes, devs: frozenset[str], most: int = MOST) -> MountTable:
    """Parse the mounts of some superblocks, and what stands on those, out of a mountinfo file.

    Where a few mounts of many count this costs a fraction of `parse`.  At most so many of them: who
    may mount in a user namespace of his own can make any number, and the kernel tells the oldest
    first, which are those that were there when he began.
    """
    heads = [(*line.split(b" ", 3)[:3], line) for line in data.split(b"\n") if line]
    wanted = {dev.encode() for dev in devs}
    found = [mine for mine, _, dev, _ in heads if dev in wanted]
    is_cut = len(found) > most
    chosen = set(found[:most])
    size = -1
    while size != (size := len(chosen)) <= most:
        chosen.update([mine for mine, on, _, _ in heads if on in chosen])
    kept = [line for mine, _, _, line in heads if mine in chosen]
    return parse(b"\n".join(kept[: 2 * most]), is_cut=is_cut)


def leading_to(data: bytes, paths: Iterable[str]) -> MountTable:
    """Parse the mounts that a walk to one of these paths may pass, out of a mountinfo file."""
    places = {os.fsencode(prefix) for path in paths for prefix in _prefixes(path)}
    lines = data.split(b"\n")
    return parse(b"\n".join(line for line in lines if line and _place(line) in places))


def _place(line: bytes) -> bytes:
    field = line.split(b" ", 5)[4]
    return _OCTAL.sub(lambda match: bytes((int(match[1], 8),)), field) if b"\\" in field else field


def ids(data: bytes) -> frozenset[int]:
    """Return the ids of the mounts in a mountinfo file."""
    return frozenset(int(line.split(b" ", 1)[0]) for line in data.split(b"\n") if line)


@lru_cache(maxsize=256)  # there are few sets of options, however many mounts and tables
def _options(text: str) -> frozenset[str]:
    return frozenset(text.split(","))


def _parse_line(line: str) -> Mount:
    fields = line.split(" ")
    try:
        end = fields.index("-", 6)  # the optional fields end here
        shared = master = 0
        for tag in fields[6:end]:
            if tag.startswith("shared:"):
                shared = int(tag[7:])
            elif tag.startswith("master:"):
                master = int(tag[7:])
        return Mount(
            int(fields[0]),
            int(fields[1]),
            fields[2],
            _unescape(fields[3]),
            _unescape(fields[4]),
            _options(fields[5]),
            shared,
            master,
            _unescape(fields[end + 1]),
            _unescape(fields[end + 2]),
            fields[end + 3].partition(",")[0] == "ro",
        )
    except (ValueError, IndexError) as error:
        raise ValueError(f"not a line of mountinfo: {line!r}") from error


def _unescape(field: str) -> str:
    if "\\" not in field:
        return field
    return os.fsdecode(_OCTAL.sub(lambda match: bytes((int(match[1], 8),)), os.fsencode(field)))


def read_bytes(pid: int | str = "self") -> bytes:
    """Return the raw mountinfo of a process; ProcessLookupError or FileNotFoundError if gone."""
    # /proc/self is the thread group leader: its namespace, not one that another thread entered
    with open(f"/proc/{pid}/mountinfo", "rb", buffering=0) as file:
        return file.read()


def read(pid: int | str = "self") -> MountTable:
    """Return the mount table of a process; "self" is this process's own namespace."""
    return parse(read_bytes(pid))


def here() -> MountTable:
    """Return the mount table of the namespace that the calling thread is in, as in a visit."""
    return parse(procself.mountinfo())


def mount_id(fd: int) -> int:
    """Return the mount id behind a descriptor, without a request to its server."""
    if facilities.has("statx_mnt_id"):
        return _quick_look(fd).table_id
    return procself.mount_id(fd)


def identity(fd: int) -> tuple[int, str]:
    """Return what `mount_id` and `superblock` do, by one call where one tells both."""
    if facilities.has("statx_mnt_id"):
        found = _quick_look(fd)
        return found.table_id, found.dev
    return mount_id(fd), superblock(fd)


def superblock(fd: int) -> str:
    """Return "major:minor" of the superblock behind a descriptor, without asking its server."""
    if not facilities.has("statx_mnt_id"):  # so old may be one whose FUSE asks all the same
        mount = here().by_id.get(procself.mount_id(fd))
        if mount is not None:  # else it is a detached one
            return mount.dev
    return _quick_look(fd).dev


def _quick_look(fd: int) -> syscalls.Statx:
    # An empty mask with AT_STATX_DONT_SYNC: FUSE answers st_dev alone from memory (fs/fuse/dir.c,
    # 4.20+), and the kernel adds the mount id by itself (5.8+).  It needs no /proc.
    flags = syscalls.AT_EMPTY_PATH | syscalls.AT_STATX_DONT_SYNC | syscalls.AT_NO_AUTOMOUNT
    return syscalls.statx(fd, "", flags, 0)
