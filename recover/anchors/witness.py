"""A copy of our own that hangs off an anchor as an application's does: what arrives there arrived.

It serves where the namespaces of applications cannot be looked into.
"""

import contextlib
from collections.abc import Iterator

from recover.errors import Unverified
from recover.linux import hideout, mountinfo, mounts, probe
from recover.linux.hideout import Hideout
from recover.linux.mounts import Attributes

_PREFIX = "csi-fluid-view-"
_SLAVE = Attributes(frozenset(), "slave", keep=True)


class Witness:
    """A directory of this process on which a slave of an anchor stands for a moment."""

    def __init__(self) -> None:
        """Remove what a killed one left; the directory is made when first needed."""
        self._hideout: Hideout | None = None
        self.place = ""
        hideout.sweep(_PREFIX)

    @contextlib.contextmanager
    def of(self, path: str, root_fd: int) -> Iterator[None]:
        """Have a slave of what a path shows for a block; needs the context of a visit."""
        if self._hideout is None:
            self._hideout = Hideout(_PREFIX)
            place = self._hideout.path / "view"
            place.mkdir()
            self.place = str(place)
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
        if self._hideout is not None:
            self._hideout.close()
            self._hideout = None
