"""Is the FUSE mount behind a volume ready, and waiting until it is.

Ready means: the topmost mount at `fluid_path` is the one asked for, its daemon answered a forced
request just now, and the sub path is there.  Every look touches FUSE and so runs in a Prober, one
at a time for each source: a hung daemon costs one sleeping thread, however many publishes want it.
Waiting is for changes of the mount table (poll(2) on mountinfo), with a tick for what changes
without one.  The number of waiting calls is bounded, so that others always find a free thread.
"""

import contextlib
import errno
import functools
import os
import select
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from csi_fluid.errors import InvalidArgument, NotReady, Overloaded
from recover.errors import Busy, Covered, Crowded, Unanswered
from recover.linux import mountinfo, mounts, namespaces, probe, resolve
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Clone
from recover.linux.probe import Answer, Prober
from recover.locks import Locks

T = TypeVar("T")

MAX_WAITING = 64
_TICK_S = 1.0
_NAMED = 4  # the last parts of a source's path, which its dataset determines
_FLIGHTS = 10  # time limits to queue for a look at one source, whose daemon may be slow
_ALLOW = (
    "a daemon that is not root's must mount with the option allow_other, without which nobody else "
    "may look into its mount, and this plugin is somebody else"
)
_NEXT = "look at the FUSE pod of this dataset on this node"


@dataclass(frozen=True, slots=True)
class Content:
    """What a volume shows: a sub path ("" for all) of the FUSE mount at a canonical path.

    mount_type narrows down which mount counts; unchecked: whatever stands at path will do.
    """

    path: str
    sub_path: str = ""
    mount_type: str = ""
    unchecked: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A content that is ready: its superblock ("major:minor"), and where in it the volume is."""

    content: Content
    dev: str
    root: str
    read_only: bool  # by the flags of the mount, which a clone keeps
    mount: Mount

    @property
    def shown_path(self) -> str:
        """Return the path on this machine that the volume shows."""
        return str(Path(self.content.path, self.content.sub_path))


def _accept() -> None:
    """Let a caller wait on."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller waits: until a monotonic time, unless check raises Withdrawn before."""

    until: float
    check: Callable[[], None] = _accept

    @property
    def left_s(self) -> float:
        """Return the seconds left; raises Withdrawn when nobody waits any more."""
        self.check()
        return self.until - time.monotonic()


class Sources:
    """Looks at FUSE mounts, waits for them, clones them."""

    def __init__(self, prober: Prober, *, max_waiting: int = MAX_WAITING) -> None:
        self._prober = prober
        self._flights = Locks()
        self._max_waiting = max_waiting
        self._places = threading.BoundedSemaphore(max_waiting)
        self._known: dict[str, tuple[int, Mount]] = {}  # by path: unique id and facts

    def wait(self, content: Content, patience: Patience) -> Source:
        """Return the source as soon as it is ready.

        Raises NotReady when patience ends, or at once if the daemon hangs; Overloaded; Withdrawn.
        """
        if source := self._attempt(content, patience):
            return source
        if not self._places.acquire(blocking=False):
            raise Overloaded(
                f"{self._max_waiting} publishes wait for FUSE mounts already, "
                f"so that of {content.path} is not waited for; try again"
            )
        try:
            return self._wait(content, patience)
        finally:
            self._places.release()

    def _wait(self, content: Content, patience: Patience) -> Source:
        with contextlib.closing(_Changes()) as changes:  # made before the look: none is missed
            while True:
                if source := self._attempt(content, patience):
                    return source
                changes.wait(min(max(patience.left_s, 0), _TICK_S))

    def _attempt(self, content: Content, patience: Patience) -> Source | None:
        """Return the source, or None where waiting longer may help."""
        try:
            return self.look(content)
        except NotReady as error:
            if error.reason == "FuseHung":
                raise
            if patience.left_s <= 0:
                raise _kept_from_us(content) or error from error
            return None

    def look(self, content: Content) -> Source:
        """Return the source if it is ready now; raises NotReady, in bounded time."""
        try:
            # One look takes two time limits at most; those behind one that hung fail at once.
            with self._flights.hold(content.path, wait_s=_FLIGHTS * self._prober.timeout_s):
                return self._look(content)
        except (Unanswered, Busy) as error:
            raise self._hung(content) from error

    @contextlib.contextmanager
    def clone(self, source: Source, attributes: mounts.Attributes) -> Iterator[Clone]:
        """Own a detached copy of a source for a block; raises NotReady if it changed."""
        content = source.content

        def get() -> Clone:
            return mounts.clone(content.path, content.sub_path, attributes)

        with self.take(source, get, Clone.close) as clone:
            if mountinfo.superblock(clone.fd) != source.dev:
                raise _replaced(source.content.path)
            yield clone

    def take(
        self, source: Source, get: Callable[[], T], discard: Callable[[T], None] = lambda _: None
    ) -> T:
        """Return what get() takes of a source, in bounded time; raises NotReady if it changed.

        discard takes what came too late.
        """
        content = source.content
        try:
            if not content.sub_path:  # only the walk to a sub path asks the daemon
                return get()
            return self._prober.run((content.path, source.dev), get, discard=discard)
        except Unanswered as error:
            raise self._hung(content) from error
        except (FileNotFoundError, NotADirectoryError, Covered) as error:
            raise _replaced(source.shown_path) from error
        except OSError as error:
            if not content.sub_path:
                raise
            raise refused(source.shown_path, error) from error

    def answer_of(self, target: str, dev: str) -> Answer:
        """Ask the daemon behind a target that shows superblock dev, in bounded time."""
        try:
            return self._prober.run(("copy", dev), lambda: probe.ask_path(target)).answer
        except (Unanswered, Crowded):
            return Answer.HUNG

    def _look(self, content: Content) -> Source:
        path = content.path
        fd = probe.open_known(path, resolve.NO_LINKS)
        if fd is None:
            fd = self._prober.run(("open", path), lambda: _open(path), discard=os.close)
        with mounts.closing(fd):
            try:
                # It has the superblock: a stopped daemon must not stand for one mounted over it.
                key = path, mountinfo.superblock(fd)
            except OSError as error:
                raise refused(path, error) from error
            (reply,) = self._prober.ask_all(key, [fd])
            source = self._source(content, fd, reply)
            if content.sub_path:
                self._check_sub_path(key, content, os.dup(fd))
            return source

    def _check_sub_path(self, key: Hashable, content: Content, own_fd: int) -> None:
        check = functools.partial(_check_sub_path, own_fd, content)
        self._prober.run(key, check, release=lambda: os.close(own_fd))

    def _source(self, content: Content, fd: int, reply: probe.Reply) -> Source:
        if not reply.alive:
            raise _unanswered(content.path, reply)
        if not reply.is_directory:
            raise NotReady(
                "FuseNoDirectory",
                f"{content.path} is a file, and a volume is a directory: its FUSE daemon mounts "
                f"something else than a file system's root; {_NEXT}",
            )
        mount = self._mount(content.path, fd, reply)
        if not content.unchecked:
            _check(content, mount)
        within = content.path[len(mount.mount_point.rstrip("/")) :]  # "" but where unchecked
        root = os.path.normpath(f"{mount.inner_path}/{within}/{content.sub_path}")
        return Source(content, reply.dev, "/" + root.lstrip("/"), mount.read_only, mount)

    def _mount(self, path: str, fd: int, reply: probe.Reply) -> Mount:
        """Return the mount that path lies on, reading mountinfo once for each new mount there."""
        known = self._known.get(path)
        if known is not None and reply.mnt_id and known[0] == reply.mnt_id:
            return known[1]
        mount = mountinfo.read().by_id.get(mountinfo.mount_id(fd))
        if mount is None or (mount.is_fuse and mount.dev != reply.dev):  # the short id was reused
            raise _replaced(path)
        self._known[path] = reply.mnt_id, mount
        return mount

    def _hung(self, content: Content) -> NotReady:
        return NotReady(
            "FuseHung",
            f"the FUSE mount at {content.path} does not answer within "
            f"{self._prober.timeout_s:g} s: its daemon is stopped or its storage out of reach; "
            f"{_NEXT}",
        )


class _Changes:
    """Changes of this process's mount table since this was made: proc_pid_mountinfo(5)."""

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLPRI | select.POLLERR)

    def wait(self, timeout_s: float) -> None:
        self._poll.poll(timeout_s * 1000)

    def close(self) -> None:
        os.close(self._fd)


def _open(path: str) -> int:
    try:
        return mounts.open_path(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotReady(
            "FuseNotMounted",
            f"{path} does not exist: no FUSE daemon has mounted there yet; {_NEXT}",
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidArgument(
                f"{path} is a symbolic link; give the mount point itself"
            ) from error
        raise refused(path, error) from error  # a directory above it is on a dead mount itself


def _kept_from_us(content: Content) -> NotReady | None:
    """Return what is wrong if the node has a FUSE mount that this container does not get."""
    node = namespaces.node()
    if node == namespaces.home() or mountinfo.read().at(content.path) is not None:
        return None
    tail = "/" + "/".join(content.path.split("/")[-_NAMED:])  # it may lie elsewhere on the node
    try:
        mounted = [m.mount_point for m in mountinfo.read(node.pid) if m.is_fuse]
    except OSError:  # not ours to look at
        return None
    place = next((path for path in mounted if path.endswith(tail)), None)
    if place is None:
        return None
    return NotReady(
        "FuseNotMounted",
        f"nothing is mounted at {content.path} in this container, and on the node its FUSE mount "
        f"is at {place}: MOUNT_ROOT must name the directory in which the FUSE daemons mount, and "
        "that of the node must be mounted there with mountPropagation: HostToContainer (with "
        "Helm: runtime.mountRoot)",
    )


def _replaced(path: str) -> NotReady:
    return NotReady("FuseNotMounted", f"{path} was unmounted or replaced just now; try again")


def _unanswered(path: str, reply: probe.Reply) -> NotReady:
    if reply.answer is Answer.DEAD:
        return NotReady(
            "FuseNotConnected",
            f"the FUSE mount at {path} is dead ({os.strerror(reply.errno)}): its daemon ended and "
            f"has not mounted again; {_NEXT}",
        )
    step = _ALLOW if reply.errno in {errno.EACCES, errno.EPERM} else _NEXT
    return NotReady(
        "FuseFailing",
        f"the FUSE mount at {path} answers with an error ({os.strerror(reply.errno)}); {step}",
    )


def _check(content: Content, mount: Mount) -> None:
    if mount.mount_point != content.path:
        raise NotReady(
            "FuseNotMounted",
            f"nothing is mounted at {content.path}: its FUSE daemon is not up; {_NEXT}",
        )
    if not _is_wanted(mount, content.mount_type):
        raise NotReady(
            "FuseNotMounted",
            f"{content.path} shows a mount of {mount.fs_type} from {mount.source}, not of "
            f"{content.mount_type or 'FUSE'}; {_NEXT}",
        )


def _is_wanted(mount: Mount, mount_type: str) -> bool:
    """Match as Fluid does, anywhere in the line of mountinfo, but only that of a mount that counts.

    A type such as "nfs4" names a file system that is no FUSE; others are part of the mount's source
    ("JuiceFS:name") or of its path ("jindo").
    """
    if mount_type and mount_type in mount.fs_type:
        return True
    return mount.is_fuse and (mount_type in mount.source or mount_type in mount.mount_point)


def _check_sub_path(fd: int, content: Content) -> None:
    where = f"sub path {content.sub_path!r} under the FUSE mount at {content.path}"
    try:
        os.close(mounts.open_beneath(fd, content.sub_path, os.O_DIRECTORY))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotReady(
            "SubPathMissing", f"{where} does not exist or is no directory; make it in the dataset"
        ) from error
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EXDEV}:
            raise InvalidArgument(f"{where} leads over a symbolic link or another mount") from error
        raise refused(content.path, error) from error


def refused(path: str, error: OSError) -> NotReady:
    """Return what a daemon's refusal of a request means: an error of the daemon, never of ours."""
    answer = Answer.DEAD if error.errno in probe.DEAD_ERRNOS else Answer.FAILING
    return _unanswered(path, probe.Reply(answer, errno=error.errno or 0))
