"""A copy of our own that hangs off an anchor as an application's does: what arrives there arrived.

It serves where the namespaces of applications cannot be looked into.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recover.errors import Unverified
from recover.linux import mountinfo, mounts, probe
from recover.linux.mounts import Attributes

_SLAVE = Attributes(frozenset(), "slave", keep=True)


class Witness:
    """A directory of this process on which a slave of an anchor stands for a moment."""

    def __init__(self) -> None:
        """Take nothing yet; the directory is made when first needed."""
        self.place = ""

    @contextlib.contextmanager
    def of(self, path: str, root_fd: int) -> Iterator[None]:
        """Have a slave of what a path shows for a block; needs the context of a visit."""
        self.place = self.place or tempfile.mkdtemp(prefix="csi-fluid-view-")
        try:
            with mounts.clone(path, "", _SLAVE) as slave:
                mounts.attach_bare(slave, self.place, root_fd)
            yield
        finally:
            mounts.unmount_all(self.place)

    def layers(self, live: str, root_fd: int) -> int:
        """Return how many mounts stand there; raises Unverified unless the superblock answers."""
        with mounts.closing(mounts.open_path(self.place, root_fd)) as fd:
            reply = probe.ask(fd)
        if not reply.alive or reply.dev != live:
            found = f"shows superblock {reply.dev}" if reply.alive else reply.answer.value
            raise Unverified(f"a copy as applications have it {found}; it should show {live}")
        return len(mountinfo.read().stack(self.place))

    def close(self) -> None:
        """Remove the directory."""
        if self.place:
            Path(self.place).rmdir()
            self.place = ""
